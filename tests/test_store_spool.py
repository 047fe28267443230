"""The spool: what was taken can be read again, whatever happened to the process, the disk or the files."""

import hashlib
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import orjson
import pytest

from store.entry import Entry, encode
from store.errors import NotDurable
from store.segment import Durability, Segment, files_of, images_of
from store.segment_reader import Damage, SegmentReader
from store.spool import Spool, SpoolLimits, own, remove, segments
from tests.poll import poll_until


def entry(number: int, *, image_bytes: int = 3_000) -> Entry:
    """Return an entry that is told from its neighbours by every byte."""
    image = np.random.default_rng(number).bytes(image_bytes) if image_bytes else None
    sha256 = hashlib.sha256(image).hexdigest() if image else None
    row = encode({"number": number, "score": [number / 7] * 40})
    return Entry("detections", f"id-{number:06d}", row, image, sha256)


def read(spool_folder: Path) -> list[Entry | Damage]:
    """Return all that is in a spool."""
    return [one for path in segments(spool_folder) for one in SegmentReader(path)]


def damage(found: list[Entry | Damage]) -> list[Damage]:
    """Return what could not be read."""
    return [one for one in found if isinstance(one, Damage)]


@pytest.mark.parametrize("durability", Durability)
def test_what_goes_in_comes_out(tmp_path: Path, durability: Durability) -> None:
    """Entries come back in their order and byte by byte, before and after the spool is closed."""
    spool = Spool(tmp_path, "detection", durability=durability)
    sent = [entry(number, image_bytes=1_000 * (number % 3)) for number in range(40)]
    spool.append(sent[:1])
    spool.append(sent[1:17])
    spool.append(sent[17:])
    assert read(spool.folder) == sent
    spool.close()
    assert read(spool.folder) == sent


def test_numbers_keep_every_bit() -> None:
    """Float32 columns come back from a row as they were, and bytes as base64."""
    values = np.random.default_rng(0).standard_normal(1_000).astype(np.float32)
    row = orjson.loads(encode({"values": values, "embedding": b"\x00\xff"}))
    assert np.array_equal(np.array(row["values"], np.float32), values)
    assert row["embedding"] == "AP8="


def test_a_spool_is_cut_by_age_and_by_size(tmp_path: Path) -> None:
    """A segment is closed when it is old or large enough, and the next entry goes into a new one."""
    now = [0.0]
    limits = SpoolLimits(segment_s=5, segment_bytes=200_000)
    spool = Spool(tmp_path, "detection", limits, clock=lambda: now[0])
    spool.append([entry(0)])
    now[0] = 5.0
    spool.append([entry(1)])
    assert len(segments(spool.folder)) == 2
    spool.append([entry(2, image_bytes=200_000)])
    spool.append([entry(3)])
    assert len(segments(spool.folder)) == 3
    assert [one.id for one in read(spool.folder) if isinstance(one, Entry)] == [entry(n).id for n in range(4)]


def test_a_spool_that_nobody_ships_refuses(tmp_path: Path) -> None:
    """Beyond its bytes or its age a spool takes nothing, and takes again once segments were shipped."""
    now = [0.0]
    limits = SpoolLimits(max_bytes=400_000, max_age_s=60, segment_s=1)
    spool = Spool(tmp_path, "detection", limits, clock=lambda: now[0])
    spool.append([entry(0, image_bytes=390_000)])
    with pytest.raises(NotDurable, match="bytes wait") as refusal:
        spool.append([entry(1)])
    assert refusal.value.reason == "bounds"
    spool_path = segments(spool.folder)[0]
    now[0] = 2.0
    spool.rotate()
    remove(spool_path)
    spool.append([entry(1)])
    now[0] = 70.0
    with pytest.raises(NotDurable, match="waits since 68 s"):
        spool.append([entry(2)])


def test_a_lookup_finds_one_entry(tmp_path: Path) -> None:
    """An entry is found by table and id while its segment is being written; another table has its own ids."""
    spool = Spool(tmp_path, "detection")
    spool.append([entry(number) for number in range(10)])
    reader = SegmentReader(segments(spool.folder)[0])
    assert reader.find("detections", entry(7).id) == entry(7)
    assert reader.find("recommendations", entry(7).id) is None
    assert reader.find("detections", "unknown") is None


def test_an_owner_is_alone(tmp_path: Path) -> None:
    """A spool in use cannot be adopted; a closed one can."""
    spool = Spool(tmp_path, "detection")
    with pytest.raises(BlockingIOError):
        own(spool.folder)
    spool.close()
    os.close(own(spool.folder))
    with pytest.raises(NotDurable, match="closed"):
        spool.append([entry(0)])


WRITER = """
import sys
from pathlib import Path
from store.spool import Spool, SpoolLimits
from tests.test_store_spool import entry
spool = Spool(Path(sys.argv[1]), "detection", SpoolLimits(segment_bytes=60_000))
for batch in range(10_000):
    spool.append([entry(batch * 4 + number) for number in range(4)])
    print(batch, flush=True)
"""


def test_a_killed_writer_loses_nothing(tmp_path: Path) -> None:
    """After kill -9 in mid-write, whatever `append` had returned for is there once, whole, and adoptable."""
    for kill in range(5):
        folder = tmp_path / str(kill)
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout
            said = [writer.stdout.readline() for _ in range(20 + kill)]
            writer.send_signal(signal.SIGKILL)
            said += writer.stdout.readlines()
        batches = len([line for line in said if line.endswith("\n")])
        (spool,) = folder.iterdir()
        poll_until(partial(_adopted, spool), "the dead writer's lock is free")
        found = read(spool)
        assert batches >= 20
        # The batch that was being written may be there or not; half of it may not.
        assert found == [entry(number) for number in range(len(found))]
        assert len(found) in (batches * 4, batches * 4 + 4)


def _adopted(spool: Path) -> bool:
    try:
        os.close(own(spool))
    except BlockingIOError:
        return False
    return True


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A closed segment of 200 entries."""
    segment = Segment(tmp_path / "00000001.sqlite")
    for batch in range(20):
        segment.append([entry(batch * 10 + number) for number in range(10)])
    segment.close()
    return segment.path


def test_a_corrupt_page_costs_its_own_rows(written: Path) -> None:
    """Zeros over one page of rows: those rows are named by id, and every other one survives."""
    page = _page_of_row(written, 100)
    with written.open("r+b") as file:
        file.seek(page * 4096)
        file.write(bytes(4096))
    found = list(SegmentReader(written))
    lost = damage(found)
    assert 1 <= len(lost) <= 10
    assert {one.what for one in lost} == {"row"}
    missing = {one.id for one in lost}
    kept = [one for one in found if isinstance(one, Entry)]
    assert entry(99).id in missing
    assert kept == [entry(number) for number in range(200) if entry(number).id not in missing]


def _page_of_row(path: Path, seq: int) -> int:
    marker = entry(seq - 1).row
    at = path.read_bytes().index(marker)
    return at // 4096


def test_a_flipped_bit_is_found(written: Path) -> None:
    """One bit of one row: its CRC tells, though SQLite does not."""
    data = bytearray(written.read_bytes())
    data[data.index(entry(50).row) + 20] ^= 1
    written.write_bytes(data)
    found = list(SegmentReader(written))
    assert [(one.id, one.reason) for one in damage(found)] == [(entry(50).id, "its CRC is another one")]
    assert len(found) == 200


def test_a_torn_image_file_costs_its_images(written: Path) -> None:
    """The tail of the images is gone: their rows survive without them, and each is named."""
    images = images_of(written)
    os.truncate(images, images.stat().st_size - 4_000)
    found = list(SegmentReader(written))
    torn = damage(found)
    assert [(one.what, one.id) for one in torn] == [("image", entry(198).id), ("image", entry(199).id)]
    rows = [one for one in found if isinstance(one, Entry)]
    assert [one.row for one in rows] == [entry(number).row for number in range(200)]
    assert [one.image is None for one in rows] == [False] * 198 + [True] * 2


@pytest.mark.parametrize("content", [b"", b"not a database" * 1000])
def test_what_is_no_segment_is_said(tmp_path: Path, content: bytes) -> None:
    """A file that never was one, or was cut to nothing, is one damage and no crash."""
    path = tmp_path / "00000001.sqlite"
    path.write_bytes(content)
    images_of(path).write_bytes(b"of rows that are gone")
    (found,) = SegmentReader(path)
    assert isinstance(found, Damage)
    assert found.what == "segment"
    assert str(path) in str(found)


def test_a_segment_that_was_not_begun_is_no_damage(tmp_path: Path) -> None:
    """A writer that was killed while it made the files leaves nothing to read, and nothing wrong."""
    path = tmp_path / "00000001.sqlite"
    path.write_bytes(b"")
    images_of(path).write_bytes(b"")
    assert list(SegmentReader(path)) == []
    with sqlite3.connect(path) as rows:
        rows.execute("PRAGMA journal_mode = WAL")
    assert list(SegmentReader(path)) == []


def test_a_broken_file_is_left_and_the_next_one_taken(tmp_path: Path) -> None:
    """A segment that breaks under the writer refuses once; what follows goes into a new one."""
    spool = Spool(tmp_path, "detection")
    spool.append([entry(0)])
    with sqlite3.connect(segments(spool.folder)[0]) as other:
        other.execute("DROP TABLE entry")
    with pytest.raises(NotDurable, match="no such table") as refusal:
        spool.append([entry(1)])
    assert refusal.value.reason == "broken"
    spool.append([entry(1)])
    assert len(segments(spool.folder)) == 2
    assert list(SegmentReader(segments(spool.folder)[1])) == [entry(1)]


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB; the tests run as root, as Ray does in a container."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_refuses_and_recovers(tiny_disk: Path) -> None:
    """On a full disk nothing is half kept; when there is room again, the same spool takes entries."""
    spool = Spool(tiny_disk, "detection")
    kept = 0
    with pytest.raises(NotDurable, match="no space left") as refusal:
        for kept in range(1_000):
            spool.append([entry(kept, image_bytes=20_000)])
    assert refusal.value.reason == "full"
    assert 40 < kept < 110
    for _ in range(20):
        with pytest.raises(NotDurable, match="no space left"):
            spool.append([entry(5_000, image_bytes=200_000)])
    assert read(spool.folder) == [entry(number, image_bytes=20_000) for number in range(kept)]
    subprocess.run(["mount", "-o", "remount,size=8m", str(tiny_disk)], check=True)
    spool.append([entry(kept, image_bytes=20_000)])
    assert read(spool.folder) == [entry(number, image_bytes=20_000) for number in range(kept + 1)]
    spool.close()


def test_a_shipped_segment_leaves_nothing(written: Path) -> None:
    """Removing a segment removes all of its files; twice is once."""
    remove(written)
    remove(written)
    assert not [file for file in files_of(written) if file.exists()]


def test_a_corrupt_index_costs_no_row(written: Path) -> None:
    """Zeros over every page of the index: all rows are read all the same."""
    data = bytearray(written.read_bytes())
    with sqlite3.connect(written) as rows:
        root = rows.execute("SELECT rootpage FROM sqlite_master WHERE name = 'entry_id'").fetchone()[0]
    data[(root - 1) * 4096 : root * 4096] = bytes(4096)
    written.write_bytes(data)
    assert list(SegmentReader(written)) == [entry(number) for number in range(200)]
