"""What disks, kills and forks do to a spool: nothing is lost unnamed, nothing refused comes back."""

import asyncio
import errno
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from store.entry import Entry, encode
from store.errors import NotDurable
from store.segment import Durability, Segment, images_of
from store.segment_reader import Damage, SegmentReader
from store.spool import Spool, SpoolLimits, own, remove, segments, shippable, sweep
from store.writer import Write, Writer
from tests.loop import run
from tests.poll import poll_until_async
from tests.test_store_spool import damage, entry

PAGE = 4_096
ROWS = 60
PLACE = ("image_at", "image_bytes", "image_sha256")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed segment of many pages."""
    segment = Segment(tmp_path_factory.mktemp("segment") / "00000001.sqlite")
    for batch in range(ROWS // 10):
        segment.append([entry(batch * 10 + number, image_bytes=200) for number in range(10)])
    segment.close()
    return segment.path


def copied(segment: Path, folder: Path) -> Path:
    """Copy a closed segment to where it may be broken."""
    for file in (segment, images_of(segment)):
        shutil.copy(file, folder / file.name)
    return folder / segment.name


@pytest.mark.parametrize("page", range(1, 16))
def test_every_page_costs_only_its_own(written: Path, tmp_path: Path, page: int) -> None:
    """Zeros over any page but the first: every row is read or named, and most are read."""
    path = copied(written, tmp_path)
    data = bytearray(path.read_bytes())
    assert len(data) == 16 * PAGE
    data[page * PAGE : (page + 1) * PAGE] = bytes(PAGE)
    path.write_bytes(data)
    found = list(SegmentReader(path))
    kept = {one.id for one in found if isinstance(one, Entry)}
    lost = damage(found)
    assert all(one == entry(int(one.id[3:]), image_bytes=200) for one in found if isinstance(one, Entry))
    assert len(kept) + len([one for one in lost if one.what == "row"]) >= ROWS or lost
    root = page in _inner_pages(written)
    assert root or len(kept) >= ROWS - 12, f"{len(kept)} of {ROWS} rows are read"


def _inner_pages(path: Path) -> set[int]:
    """The pages from which the rows' own are found: without them there is nothing to be found."""
    with sqlite3.connect(path) as rows:
        return {rows.execute("SELECT rootpage FROM sqlite_master WHERE name = 'entry'").fetchone()[0] - 1}


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("seq", -1),
        ("seq", 10**15),
        *((column, value) for column in PLACE for value in (None, -1, 10**15, "text")),
    ],
)
def test_a_place_that_is_wrong_is_found(written: Path, tmp_path: Path, column: str, value: Any) -> None:
    """An image's offset, length or name, or a row's number, that is not what was written, is named."""
    path = copied(written, tmp_path)
    with sqlite3.connect(path) as rows:
        rows.execute(f"UPDATE entry SET {column} = ? WHERE seq = 5", (value,))  # noqa: S608
    rows.close()
    found = list(SegmentReader(path))
    assert len([one for one in found if isinstance(one, Entry)]) == ROWS - 1
    assert damage(found)


KILLED = """
import os, signal, sys
from pathlib import Path
from store.spool import Spool
from tests.test_store_spool import entry
spool = Spool(Path(sys.argv[1]), "detection")
for batch in range(8):
    spool.append([entry(batch * 4 + number) for number in range(4)])
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_flipped_bit_in_the_log_of_a_killed_writer(tmp_path: Path) -> None:
    """SQLite would forget all transactions behind it: it is named, and what lies before it is read."""
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    (spool,) = tmp_path.iterdir()
    (path,) = segments(spool)
    log = path.with_name(path.name + "-wal")
    assert [one.id for one in SegmentReader(path) if isinstance(one, Entry)] == [
        entry(number).id for number in range(32)
    ]
    data = bytearray(log.read_bytes())
    data[data.index(entry(17).row) + 40] ^= 4
    log.write_bytes(data)
    found = list(SegmentReader(path))
    assert [one.what for one in damage(found)] == ["segment"]
    assert "its log is broken at frame" in str(damage(found)[0])
    kept = [one.id for one in found if isinstance(one, Entry)]
    assert kept == [entry(number).id for number in range(16)]


REFUSED = """
import os, signal, sys, sqlite3
from pathlib import Path
import store.segment
from store.errors import NotDurable
from store.spool import Spool
from tests.test_store_spool import entry
spool = Spool(Path(sys.argv[1]), "detection")
spool.append([entry(0)])
rows = spool._segment._rows
class Failing:
    '''The disk takes all of the transaction, and fails when SQLite has it synced.'''
    def __getattr__(self, name):
        return getattr(rows, name)
    def __enter__(self):
        return self
    def __exit__(self, *_):
        rows.execute("COMMIT")
        raise sqlite3.OperationalError("disk I/O error")
spool._segment._rows = Failing()
try:
    spool.append([entry(1)])
except NotDurable as error:
    print(error.reason, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_was_refused_does_not_come_back(tmp_path: Path) -> None:
    """A commit that failed after its last frame was in the log is cut out: after a kill it is not there."""
    done = subprocess.run(
        [sys.executable, "-c", REFUSED, str(tmp_path)], stdout=subprocess.PIPE, text=True, check=False
    )
    assert done.stdout.strip() == "broken"
    (spool,) = tmp_path.iterdir()
    assert [one.id for one in SegmentReader(segments(spool)[0]) if isinstance(one, Entry)] == [entry(0).id]


@pytest.mark.parametrize(("durability", "level"), [("full", 2), ("normal", 1), ("off", 0)])
def test_durability_is_sqlites(tmp_path: Path, durability: str, level: int) -> None:
    """Each word is SQLite's own, on the connection that writes."""
    segment = Segment(tmp_path / "00000001.sqlite", Durability(durability))
    assert segment._rows is not None
    assert segment._rows.execute("PRAGMA synchronous").fetchone() == (level,)
    assert segment._rows.execute("PRAGMA wal_autocheckpoint").fetchone() == (0,)
    segment.close()


def test_the_folders_names_are_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every folder that a spool makes is named on the disk, before an entry is: a power cut takes none."""
    synced: list[Path] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        synced.append(Path(f"/proc/self/fd/{fd}").readlink())
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    spool = Spool(tmp_path / "a" / "b", "detection")
    assert synced[:3] == [tmp_path, tmp_path / "a", tmp_path / "a" / "b"]
    assert spool.folder in synced
    spool.append([entry(0)])
    assert synced.count(spool.folder) == 2
    spool.close()


def test_a_spool_that_was_removed_takes_nothing(tmp_path: Path) -> None:
    """What would be written into a folder that is gone is refused, and the next spool is another one."""

    async def test() -> None:
        one = Writer(lambda: Spool(tmp_path / "spool", "detection"), "spool")
        await one.put(entry(0))
        shutil.rmtree(tmp_path / "spool")
        await one.put(entry(1))
        spool = Path(one._spool.folder if one._spool else "")
        assert [each.id for each in SegmentReader(segments(spool)[0]) if isinstance(each, Entry)] == [
            entry(1).id
        ]
        one.close()

    run(test)
    spool = Spool(tmp_path / "other", "detection")
    shutil.rmtree(tmp_path / "other")
    with pytest.raises(NotDurable, match="removed"):
        spool.append([entry(0)])


def test_an_age_that_was_shipped_does_not_block(tmp_path: Path) -> None:
    """A spool whose open segment is too old closes it first, so that it can be shipped."""
    now = [0.0]
    spool = Spool(tmp_path, "detection", SpoolLimits(segment_s=1, max_age_s=60), clock=lambda: now[0])
    spool.append([entry(0)])
    now[0] = 100.0
    with pytest.raises(NotDurable, match="waits since"):
        spool.append([entry(1)])
    (path,) = shippable(spool.folder)
    remove(path)
    now[0] = 101.0  # it looks once a second
    spool.append([entry(1)])
    spool.close()


def test_a_segment_at_rest_is_closed_whoever_gave_up(tmp_path: Path) -> None:
    """Also where the size has closed one meanwhile, and where the last who waited has gone."""

    async def test() -> None:
        limits = SpoolLimits(segment_s=0.2, segment_bytes=50_000)
        one = Writer(lambda: Spool(tmp_path, "detection", limits), "spool")
        for number in range(20):
            await one.put(entry(number, image_bytes=20_000))
        last = asyncio.create_task(one.put(entry(99)))
        await asyncio.sleep(0)
        last.cancel()
        (spool,) = tmp_path.iterdir()  # noqa: ASYNC240

        async def closed() -> bool:
            return shippable(spool) == segments(spool)

        await poll_until_async(closed, "every segment is closed")
        one.close()

    run(test)


def test_an_entry_that_is_to_blame_is_alone(tmp_path: Path) -> None:
    """An id that is there already, or no text, fails its own caller; those beside it are kept."""
    writes: list[Write] = []

    async def test() -> None:
        one = Writer(lambda: Spool(tmp_path, "detection"), "spool", writes.append)
        await one.put(entry(0))
        strange = Entry("detections", "\ud800", encode({}))
        results = await asyncio.gather(
            one.put(entry(1)), one.put(entry(0)), one.put(strange), one.put(entry(2)), return_exceptions=True
        )
        assert [getattr(result, "reason", None) for result in results] == [None, "refused", "refused", None]
        one.close()

    run(test)
    (spool,) = tmp_path.iterdir()
    found = [one.id for one in SegmentReader(segments(spool)[0]) if isinstance(one, Entry)]
    assert found == [entry(number).id for number in range(3)]


def test_a_forked_child_keeps_no_lock(tmp_path: Path) -> None:
    """A child that outlives its parent neither writes to the spool nor keeps it from being adopted."""
    code = """
import os, sys, time
from pathlib import Path
from store.errors import NotDurable
from store.spool import Spool
from tests.test_store_spool import entry
spool = Spool(Path(sys.argv[1]), "detection")
spool.append([entry(0)])
if os.fork() == 0:
    try:
        spool.append([entry(1)])
    except NotDurable as error:
        print(error.reason, os.getpid(), flush=True)
    time.sleep(60)
os.wait3(os.WNOHANG)
sys.stdin.read()
os.kill(os.getpid(), 9)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout
        assert parent.stdin
        reason, child = parent.stdout.readline().split()
        parent.stdin.close()
        parent.wait()
        (spool,) = tmp_path.iterdir()
        try:
            os.close(own(spool))
        finally:
            os.kill(int(child), signal.SIGKILL)
    assert reason == "closed"


def test_a_disk_that_hangs_lets_the_process_end() -> None:
    """A write that never returns does not keep the interpreter from ending."""
    code = """
import asyncio, tempfile, time
from pathlib import Path
from store.spool import Spool
from store.writer import Writer
from tests.test_store_spool import entry
class Hung(Spool):
    def append(self, entries):
        time.sleep(1000)
async def main():
    one = Writer(lambda: Hung(Path(tempfile.mkdtemp()), "detection"), "spool")
    waiting = asyncio.create_task(one.put(entry(0)))
    await asyncio.sleep(0.2)
    one.close(timeout_s=0.1)
    waiting.cancel()
asyncio.run(main())
"""
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
    assert time.monotonic() - began < 20


def test_files_that_a_killed_removal_left_are_swept(tmp_path: Path, written: Path) -> None:
    """Images and logs without their rows go; a whole segment stays."""
    path = copied(written, tmp_path)
    orphan = tmp_path / "00000007.images"
    orphan.write_bytes(b"left")
    sweep(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [images_of(path).name, path.name]


@pytest.mark.parametrize(
    ("number", "reason"), [(errno.ENOSPC, "full"), (errno.EDQUOT, "full"), (errno.EIO, "broken")]
)
def test_why_a_disk_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, reason: str) -> None:
    """No space and no quota are `full`, and go by themselves; the rest is `broken`. No folder is left."""
    spool = Spool(tmp_path, "detection")
    spool.append([entry(0)])

    def fails(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", fails)
        with pytest.raises(NotDurable) as refusal:
            spool.append([entry(1)])
        assert refusal.value.reason == reason
        before = list(tmp_path.iterdir())
        with pytest.raises(NotDurable) as refusal:
            Spool(tmp_path, "detection")
        assert refusal.value.reason == reason
        assert list(tmp_path.iterdir()) == before
    spool.append([entry(1)])
    spool.close()
    found = [one for path in segments(spool.folder) for one in SegmentReader(path)]
    assert [one.id for one in found if not isinstance(one, Damage)] == [entry(0).id, entry(1).id]


def test_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A spool may be named from where one stands."""
    monkeypatch.chdir(tmp_path)
    spool = Spool(Path("here"), "detection")
    spool.append([entry(0)])
    assert list(SegmentReader(segments(spool.folder)[0])) == [entry(0)]
    spool.close()


def test_a_lookup_tells_damage(written: Path, tmp_path: Path) -> None:
    """A record whose image is damaged is not taken for one without an image."""
    path = copied(written, tmp_path)
    os.truncate(images_of(path), 0)
    found = SegmentReader(path).find("detections", entry(3).id)
    assert isinstance(found, Damage)
    assert SegmentReader(tmp_path / "none.sqlite").find("detections", entry(3).id) is None


def test_depth_counts_everything_once(tmp_path: Path) -> None:
    """Open and closed segments are counted, shipped ones are not, and a closed spool counts what waits."""
    now = [0.0]
    spool = Spool(tmp_path, "detection", SpoolLimits(segment_bytes=10_000), clock=lambda: now[0])
    for number in range(12):
        spool.append([entry(number)])
    on_disk = sum(file.stat().st_size for file in spool.folder.iterdir() if file.suffix != "")
    assert spool.depth().bytes == pytest.approx(on_disk, rel=0.3)
    first = segments(spool.folder)[0]
    before = spool.depth().bytes
    remove(first)
    now[0] = 1.0
    assert spool.depth().bytes < before
    spool.close()
    for path in segments(spool.folder):
        remove(path)
    now[0] = 2.0
    assert spool.depth().bytes == 0


def test_a_record_that_cannot_be_made_is_alone(tmp_path: Path) -> None:
    """What raises while it is made fails its own caller; those beside it are kept."""

    def broken() -> list[Entry]:
        raise KeyError("no such column")

    async def test() -> None:
        one = Writer(lambda: Spool(tmp_path, "detection"), "spool")
        results = await asyncio.gather(
            one.put(entry(0)), one.put_made(broken), one.put_made(lambda: [entry(1)]), return_exceptions=True
        )
        assert [getattr(result, "reason", None) for result in results] == [None, "refused", None]
        one.close()

    run(test)
    (spool,) = tmp_path.iterdir()
    assert len(list(SegmentReader(segments(spool)[0]))) == 2
