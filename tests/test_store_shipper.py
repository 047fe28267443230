"""The shipper: every entry is in its table once, whatever is killed, damaged, or in a hurry."""

import errno
import hashlib
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from store.entry import Entry
from store.rows import rows
from store.segment import images_of
from store.shipper import DAMAGED, Busy, Shipper, Turn, spools_of
from store.spool import OWNER, Spool, SpoolLimits, segments
from store.tables import NotShipped, Tables
from tests.records import detection, interaction

SMALL = SpoolLimits(segment_bytes=20_000)


def kept(spools: Path, entries: Sequence[Entry], limits: SpoolLimits = SMALL) -> Path:
    """Put entries into a spool whose owner is gone, four a transaction; return the spool."""
    spool = Spool(spools, "detection", limits)
    for number in range(0, len(entries), 4):
        spool.append(entries[number : number + 4])
    spool.close()
    settle(spool.folder)
    return spool.folder


def settle(spool: Path) -> None:
    """Let some seconds pass since it was made."""
    os.utime(spool / OWNER, (0, 0))


def ship(spools: Path, store: Path) -> list[Turn]:
    """Ship until nothing is left that could be."""
    shipper = Shipper(spools, Tables(str(store)))
    turns: list[Turn] = []
    with shipper.alone():
        while not turns or turns[-1].more:
            turns.append(shipper.turn())
    return turns


def table(store: Path, name: str) -> pa.Table:
    """Return all rows of a table."""
    opened = Tables(str(store)).open(name)
    assert opened is not None
    return opened.to_pyarrow_table()


def ids(store: Path, name: str = "detections", key: str = "inference_id") -> Counter[str]:
    """Return how often each id is in a table."""
    return Counter(table(store, name).column(key).to_pylist())


def test_what_was_kept_is_in_the_tables(tmp_path: Path) -> None:
    """Every column comes back to the last bit, every image byte by byte, and the spool is gone."""
    sent = [detection(number) for number in range(40)]
    others = [interaction(number) for number in range(5)]
    kept(tmp_path / "spool", [*sent, *others])
    ship(tmp_path / "spool", tmp_path / "store")
    found = table(tmp_path / "store", "detections")
    assert found.sort_by("inference_id").to_pylist() == rows("detections", sent).to_pylist()
    images = table(tmp_path / "store", "images").to_pylist()
    assert {one["image_sha256"]: one["bytes"] for one in images} == {
        one.image_sha256: one.image for one in sent
    }
    assert ids(tmp_path / "store", "interactions", "interaction_id") == Counter(one.id for one in others)
    assert not spools_of(tmp_path / "spool")


def test_a_live_spool_is_shipped_but_for_what_is_written(tmp_path: Path) -> None:
    """Of a spool in use the closed segments go, the open one stays; when it is closed, it goes too."""
    spool = Spool(tmp_path / "spool", "detection")
    first, second = detection(0), detection(1)
    spool.append([first])
    spool._set_aside()
    spool.append([second])
    ship(tmp_path / "spool", tmp_path / "store")
    assert ids(tmp_path / "store") == Counter([first.id])
    assert len(segments(spool.folder)) == 1
    spool._set_aside()
    ship(tmp_path / "spool", tmp_path / "store")
    assert ids(tmp_path / "store") == Counter([first.id, second.id])
    assert not segments(spool.folder)
    spool.append([detection(2)])
    spool.close()


def test_the_same_image_is_kept_once(tmp_path: Path) -> None:
    """A picture that comes again, in one turn or in the next, is one row of `images`."""
    same = [detection(7) for _ in range(6)]
    kept(tmp_path / "spool", same[:5])
    shipper = Shipper(tmp_path / "spool", Tables(str(tmp_path / "store")))
    with shipper.alone():
        shipper.turn()
        kept(tmp_path / "spool", same[5:])
        shipper.turn()
    assert len(ids(tmp_path / "store")) == 6
    assert table(tmp_path / "store", "images").num_rows == 1


KILLED = """
import os, signal, sys
from pathlib import Path
from store.shipper import Shipper
from store.tables import Tables
shipper = Shipper(Path(sys.argv[1]), Tables(sys.argv[2]))
left = int(sys.argv[3])
STEPS = "os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.listdir", "sqlite3.connect", "commit"
def count(event, arguments):
    global left
    left -= event in STEPS
    if left <= 0:
        left = 10**9  # killing is a step, too
        os.kill(os.getpid(), signal.SIGKILL)
append = Tables.append
def appended(*arguments):
    sys.audit("commit")
    append(*arguments)
    sys.audit("commit")
Tables.append = appended
with shipper.alone():
    sys.addaudithook(count)
    while shipper.turn().more:
        pass
print("ended")
"""


def test_killed_anywhere_it_resumes(tmp_path: Path) -> None:
    """Killed before any of its steps, again and again, it leaves every row in its table once."""
    sent = [detection(number) for number in range(48)]
    for number in range(3):
        kept(tmp_path / "spool", sent[number * 16 : number * 16 + 16])
    damaged = segments(spools_of(tmp_path / "spool")[1])[0]
    os.truncate(images_of(damaged), images_of(damaged).stat().st_size - 10)
    kills = 0
    # Ever a few steps later: among them before, between and after the commits, and between two removals.
    for step in range(2, 1_000, 4):
        command = [sys.executable, "-c", KILLED, str(tmp_path / "spool"), str(tmp_path / "store"), str(step)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if "ended" in done.stdout:
            break
        assert done.returncode == -signal.SIGKILL
        kills += 1
    print(f"{kills} kills")
    assert kills >= 10
    ship(tmp_path / "spool", tmp_path / "store")
    assert ids(tmp_path / "store") == Counter(one.id for one in sent)
    images = {one["image_sha256"]: one["bytes"] for one in table(tmp_path / "store", "images").to_pylist()}
    assert all(hashlib.sha256(data).hexdigest() == name for name, data in images.items())
    missing = {one.image_sha256 for one in sent} - images.keys()
    assert len(missing) == 1
    assert not spools_of(tmp_path / "spool")
    assert [path.name for path in (tmp_path / "spool" / DAMAGED).glob("*/*.sqlite")] == [damaged.name]


def test_one_shipper_a_node(tmp_path: Path) -> None:
    """A second shipper of the same spools is told that there is one."""
    tables = Tables(str(tmp_path / "store"))
    with Shipper(tmp_path, tables).alone(), pytest.raises(Busy), Shipper(tmp_path, tables).alone():
        pass
    with Shipper(tmp_path, tables).alone():
        pass


def test_a_table_that_cannot_be_written_keeps_the_spool(tmp_path: Path) -> None:
    """Where the store is broken nothing is removed; when it is well again, everything is shipped."""
    sent = [detection(number) for number in range(8)]
    spool = kept(tmp_path / "spool", sent)
    (tmp_path / "store").write_text("not a folder")
    with pytest.raises(NotShipped, match="images cannot be"):
        ship(tmp_path / "spool", tmp_path / "store")
    assert segments(spool)
    (tmp_path / "store").unlink()
    ship(tmp_path / "spool", tmp_path / "store")
    assert ids(tmp_path / "store") == Counter(one.id for one in sent)


def test_damage_costs_itself_alone(tmp_path: Path) -> None:
    """A broken row, a torn image, a file that is none: each is named and set aside, the rest is shipped."""
    sent = [detection(number) for number in range(40)]
    spool = kept(tmp_path / "spool", sent)
    paths = segments(spool)
    assert len(paths) > 4
    data = bytearray(paths[0].read_bytes())
    data[data.index(sent[1].row) + 30] ^= 1
    paths[0].write_bytes(data)
    os.truncate(images_of(paths[1]), images_of(paths[1]).stat().st_size - 10)
    lost = Counter(one.id for one in _entries(paths[2]))
    paths[2].write_bytes(b"not a database" * 1_000)
    (turn,) = ship(tmp_path / "spool", tmp_path / "store")
    assert sorted(kind for kind, _ in turn.damages) == ["image", "row", "segment"]
    assert sent[1].id in str(turn.damages)
    there = Counter(one.id for one in sent if one.id != sent[1].id) - lost
    assert ids(tmp_path / "store") == there
    aside = sorted(path.name for path in (tmp_path / "spool" / DAMAGED).glob("*/*.sqlite"))
    assert aside == [path.name for path in paths[:3]]
    assert not spools_of(tmp_path / "spool")


def _entries(path: Path) -> list[Entry]:
    from store.segment_reader import SegmentReader  # noqa: PLC0415 - one test looks inside

    return [one for one in SegmentReader(path) if isinstance(one, Entry)]


def test_a_segment_that_cannot_be_read_now_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without file handles nothing is taken for damaged, and none of its spool is passed over."""
    sent = [detection(number) for number in range(12)]
    spool = kept(tmp_path / "spool", sent)
    paths = segments(spool)
    shipper = Shipper(tmp_path / "spool", Tables(str(tmp_path / "store")))
    real = os.open

    def fails(path: Any, *arguments: Any, **more: Any) -> int:
        if path == images_of(paths[1]):
            raise OSError(errno.EMFILE, "too many open files")
        return real(path, *arguments, **more)

    with shipper.alone():
        with monkeypatch.context() as patch:
            patch.setattr(os, "open", fails)
            turn = shipper.turn()
        assert (turn.damages, turn.unreadable, turn.segments) == ([], 1, 1)
        assert segments(spool) == paths[1:]
        while shipper.turn().more:
            pass
    assert ids(tmp_path / "store") == Counter(one.id for one in sent)
    assert table(tmp_path / "store", "images").num_rows == 12


def test_a_row_of_no_table_costs_itself_alone(tmp_path: Path) -> None:
    """A row with a column that its table has not, or of no table, is set aside; the others are shipped."""
    good, strange = detection(0), detection(1, colour="red")
    other = Entry("paintings", detection(2).id, b"{}")
    kept(tmp_path / "spool", [good, strange, other])
    (turn,) = ship(tmp_path / "spool", tmp_path / "store")
    assert [kind for kind, _ in turn.damages] == ["row", "row"]
    assert strange.id in str(turn.damages)
    assert "paintings" in str(turn.damages)
    assert ids(tmp_path / "store") == Counter([good.id])


def test_a_clock_that_jumped_is_named(tmp_path: Path) -> None:
    """Rows of a wrong time are kept under their own day, and the jump is named, ahead, behind and back."""
    now = datetime.now(UTC)
    jumps = [now + timedelta(days=400), now - timedelta(days=400)]
    for jump in jumps:
        kept(tmp_path / "spool", [detection(1, at=jump)], SpoolLimits())
    kept(tmp_path / "spool", [detection(2, at=now), detection(3, at=now - timedelta(hours=1))], SpoolLimits())
    (turn,) = ship(tmp_path / "spool", tmp_path / "store")
    said = [text for kind, text in turn.damages if kind == "clock"]
    assert [word for word in ("ahead of", "behind", "before that") if word in str(said)] == [
        "ahead of",
        "behind",
        "before that",
    ]
    assert len(said) == 3
    days = table(tmp_path / "store", "detections").column("date").to_pylist()
    assert {jump.date().isoformat() for jump in jumps} < set(days)
    assert len(days) == 4


WRITER = """
import sys
from pathlib import Path
from tests.test_store_shipper import ship
ship(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def test_nodes_share_a_store(tmp_path: Path) -> None:
    """Four nodes that ship into one store at the same time all get in, once."""
    sent = [detection(number) for number in range(32)]
    nodes = [tmp_path / f"node-{number}" for number in range(4)]
    for number, node in enumerate(nodes):
        kept(node, sent[number::4])
    command = [sys.executable, "-c", WRITER]
    writers = [subprocess.Popen([*command, str(node), str(tmp_path / "store")]) for node in nodes]
    assert [writer.wait(120) for writer in writers] == [0] * 4
    assert ids(tmp_path / "store") == Counter(one.id for one in sent)
