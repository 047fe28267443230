"""Upkeep of the tables: beside one another, after a kill, with a clock that jumps."""

import os
import re
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from store import upkeep
from store.rows import day_of, rows
from store.tables import CLAIM_S, Claimed, NotShipped, Tables
from tests.records import detection

DAY = timedelta(days=1)


@pytest.fixture
def store(tmp_path: Path) -> str:
    """A store with one day of ten small files."""
    tables = Tables(str(tmp_path / "store"))
    for number in range(10):
        tables.append("detections", rows("detections", [detection(number)]), {"one": number + 1})
    return tables.uri


def ids(store: str) -> Counter[str]:
    """How often each id is there."""
    opened = Tables(store).open("detections")
    assert opened is not None
    return Counter(opened.to_pyarrow_table().column("inference_id").to_pylist())


def test_two_compactions_at_once_double_nothing(store: str) -> None:
    """Shippers of two nodes compact the same day of the same store: each row is there once."""
    started = threading.Barrier(2)
    done: list[upkeep.Compacted] = []

    def work() -> None:
        tables = Tables(store)
        tables.open("detections")
        started.wait()
        done.extend(upkeep.compact(tables, least=2))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(ids(store).values()) == {1}
    assert [(one.before, one.after) for one in done] == [(10, 1)]


def test_who_changes_a_table_is_alone(store: str) -> None:
    """While one process changes a table another is told so, appends go on, and afterwards it may."""
    one, other = Tables(store), Tables(store)

    def meanwhile(_: object) -> None:
        other.append("detections", rows("detections", [detection(99)]), {"two": 1})
        with pytest.raises(Claimed, match="changed by another process"):
            other.change("detections", lambda _: None)

    one.change("detections", meanwhile)
    assert len(ids(store)) == 11
    assert other.change("detections", lambda _: "changed") == "changed"


@pytest.mark.parametrize(("age_s", "free"), [(60, False), (CLAIM_S + 60, True), (-400 * 86_400, True)])
def test_a_claim_of_the_dead_ends(
    store: str, monkeypatch: pytest.MonkeyPatch, age_s: int, free: bool
) -> None:
    """One that was killed in mid-change holds the table for hours, not for good; nor does a wrong clock."""
    killed = Tables(store)
    monkeypatch.setattr(killed, "_let_go", lambda _: None)
    now = time.time()
    monkeypatch.setattr("store.tables.time.time", lambda: now - age_s)
    killed.change("detections", lambda _: None)
    monkeypatch.setattr("store.tables.time.time", lambda: now)
    if free:
        assert Tables(store).change("detections", lambda _: True)
    else:
        with pytest.raises(Claimed):
            Tables(store).change("detections", lambda _: None)


def test_what_is_left_for_later_is_not_said_to_be_done(store: str) -> None:
    """Retention that another process stands in the way of removes nothing, and says so."""
    later = datetime.now(UTC) + 40 * DAY
    Tables(store).append("detections", rows("detections", [detection(99, at=later)]), {"two": 1})

    def meanwhile(_: object) -> None:
        assert upkeep.outdated(Tables(store), "detections", 30, later)
        assert upkeep.retain(Tables(store), {"detections": 30}, later) == {}

    Tables(store).change("detections", meanwhile)
    assert len(ids(store)) == 11


def test_a_clock_that_jumped_ahead_removes_nothing(store: str) -> None:
    """Unattended, the first day of a clock a year ahead makes no other old; a person's list has them."""
    ahead = datetime.now(UTC) + 400 * DAY
    tables = Tables(store)
    tables.append("detections", rows("detections", [detection(99, at=ahead)]), {"two": 1})
    assert upkeep.outdated(tables, "detections", 30, ahead, unattended=True) == []
    today = day_of(detection(0).id)
    assert upkeep.outdated(tables, "detections", 30, ahead) == [today]
    tables.append("detections", rows("detections", [detection(98, at=ahead + DAY)]), {"two": 2})
    assert upkeep.outdated(tables, "detections", 30, ahead + DAY, unattended=True) == [today]


@pytest.mark.parametrize("forgotten", [False, True])
def test_what_compaction_took_out_goes(store: str, forgotten: bool) -> None:
    """Its files go after a day; where nobody vacuumed until the log had forgotten them, after a week."""
    tables = Tables(store)
    upkeep.compact(tables, least=2)
    upkeep.vacuum(tables)
    assert len(_files(store)) == 11, "for who is reading them"
    _took_out(store, (8 if forgotten else 2) * DAY)
    if forgotten:
        fresh = Tables(store).open("detections")
        assert fresh is not None
        fresh.create_checkpoint()
        for entry in Path(store, "detections", "_delta_log").glob("*.json"):
            if int(entry.stem) < fresh.version():
                entry.unlink()
        _age(_files(store), 8 * DAY)
    upkeep.vacuum(Tables(store))
    assert len(_files(store)) == 1
    assert len(ids(store)) == 10


def test_what_a_killed_writer_left_goes(store: str) -> None:
    """A file that no log knows of stays for a week: somebody may be about to commit it."""
    orphan = _files(store)[0].with_name("part-00000-of-one-that-was-killed.parquet")
    orphan.write_bytes(b"PAR1")
    _age([orphan], 2 * DAY)
    upkeep.vacuum(Tables(store))
    assert orphan.exists()
    _age([orphan], 8 * DAY)
    upkeep.vacuum(Tables(store))
    assert not orphan.exists()
    assert len(ids(store)) == 10


def test_rows_that_are_partly_in_are_not_added(store: str) -> None:
    """Two shippers at the same spools: the second, who knows less than the table, adds nothing."""
    with pytest.raises(NotShipped, match="another shipper"):
        Tables(store).append("detections", rows("detections", [detection(50)]), {"one": 10, "new": 1})
    assert len(ids(store)) == 10


def _files(store: str) -> list[Path]:
    return list(Path(store, "detections").glob("date=*/*.parquet"))


def _age(files: list[Path], by: timedelta) -> None:
    then = time.time() - by.total_seconds()
    for file in files:
        os.utime(file, (then, then))


def _took_out(store: str, ago: timedelta) -> None:
    """Make the log say that files were taken out so long ago."""
    then = int((time.time() - ago.total_seconds()) * 1000)
    log = Path(store, "detections", "_delta_log")
    for entry in log.glob("*.json"):
        said = re.sub(r'"deletionTimestamp":\d+', f'"deletionTimestamp":{then}', entry.read_text())
        entry.write_text(said)
    for checkpoint in [*log.glob("*.parquet"), *log.glob("_last_checkpoint")]:
        checkpoint.unlink()
