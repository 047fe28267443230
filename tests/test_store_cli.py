"""`python -m store`: what is kept, whether it is whole, and for how long."""

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from store import upkeep
from store.__main__ import main
from store.entry import Entry
from store.reader import Reader
from store.rows import day_of, image_rows, rows
from store.spool import Spool
from store.tables import Tables
from store.verify import verify
from tests.records import detection, feedback

NOW = datetime.now(UTC)


@pytest.fixture
def entries() -> list[Entry]:
    """Records of today and of a hundred days ago."""
    return [detection(number, at=NOW - timedelta(days=100 * (number % 2))) for number in range(20)]


@pytest.fixture
def home(tmp_path: Path, entries: list[Entry], monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A store with these in ten commits, and one record in a spool."""
    monkeypatch.setenv("GLASSHOUSE_HOME", str(tmp_path))
    monkeypatch.delenv("GLASSHOUSE_STORE", raising=False)
    tables = Tables(str(tmp_path / "store"))
    for number in range(0, 20, 2):
        part = entries[number : number + 2]
        tables.append("images", image_rows(part), {"one": number + 1})
        tables.append("detections", rows("detections", part), {"one": number + 1})
    spool = Spool(tmp_path / "spool", "detection")
    spool.append([detection(99)])
    spool.close()
    yield tmp_path


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    """Run a command with `--json`."""
    capsys.readouterr()
    code = main([*arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_ls(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By table and day: rows, files, bytes, and what waits; for people and as JSON."""
    code, said = run(capsys, "ls")
    detections = [day for day in said["days"] if day["table"] == "detections"]
    assert (code, [(day["rows"], day["files"]) for day in detections]) == (0, [(10, 10), (10, 10)])
    assert said["waiting_bytes"] > 0
    assert main(["ls"]) == 0
    out = capsys.readouterr().out
    assert "detections" in out
    assert "in spools:" in out


def test_an_answer_may_be_spoken_of_twice(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two people's feedback on one answer is whole; the same feedback twice is not."""
    answer = detection(1).id
    said = [feedback(answer), feedback(answer)]
    tables = Tables(str(home / "store"))
    tables.append("feedback", rows("feedback", said), {"one": 1})
    assert run(capsys, "verify")[0] == 0
    tables.append("feedback", rows("feedback", said[1:]), {"one": 2})
    code, found = run(capsys, "verify")
    assert (code, len(found["wrong"])) == (1, 1)
    assert "more than once" in found["wrong"][0]


def test_a_whole_store_is_whole(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is wrong, everything was looked at, and the exit code says so."""
    code, said = run(capsys, "verify")
    assert (code, said["wrong"]) == (0, [])
    assert said["rows"] == {"images": 20, "detections": 20}
    assert said["waiting"] == 1
    assert main(["verify"]) == 0
    assert "all of it is there" in capsys.readouterr().out


def test_a_corrupt_file_is_named_and_set_aside(
    home: Path, entries: list[Entry], capsys: pytest.CaptureFixture[str]
) -> None:
    """A Parquet file with zeros in it: named; set aside, it costs its own rows, and the rest is read."""
    file = sorted((home / "store" / "detections").glob(f"date={day_of(entries[0].id)}/*.parquet"))[0]
    file.write_bytes(file.read_bytes()[:200] + bytes(500))
    code, said = run(capsys, "verify")
    assert code == 1
    assert [file.name in line for line in said["wrong"]] == [True]
    code, said = run(capsys, "verify", "--set-aside")
    assert code == 1
    assert Path(said["set_aside"][0]).stat().st_size == 700
    assert not file.exists()
    code, said = run(capsys, "verify")
    assert (code, said["rows"]["detections"]) == (0, 19)
    found = [Reader(str(home / "store")).record("detections", one.id) for one in entries]
    assert sum(one is None for one in found) == 1


def test_what_verify_finds(home: Path, entries: list[Entry]) -> None:
    """A record twice, an image with other bytes, an image that is missing: each is named."""
    tables = Tables(str(home / "store"))
    tables.append("detections", rows("detections", entries[:1]), {"two": 1})
    lost = detection(50)
    tables.append("detections", rows("detections", [lost]), {"two": 2})
    wrong = image_rows([detection(51)])
    names = wrong.column("image_sha256").to_pylist()
    tables.append("images", wrong.set_column(0, wrong.schema.field(0), [["0" * 64]]), {"two": 3})
    said = [str(one) for one in verify(tables, home / "spool").wrong]
    assert len(said) == 3, names
    assert "1 ids are there more than once" in str(said)
    assert f"{lost.id} has no image" in str(said)
    assert "0" * 64 in str(said)


def test_damage_in_a_spool_is_named(home: Path) -> None:
    """A spool that cannot be read is part of what is verified."""
    (segment,) = (home / "spool").glob("*/*.sqlite")
    data = bytearray(segment.read_bytes())
    data[data.index(b'"request_id"') + 3] ^= 1
    segment.write_bytes(data)
    (wrong,) = verify(Tables(str(home / "store")), home / "spool").wrong
    assert "its CRC is another one" in str(wrong)


def test_compaction_keeps_every_row(
    home: Path, entries: list[Entry], capsys: pytest.CaptureFixture[str]
) -> None:
    """Ten files of a day become one; rows, images and what was shipped stay, through checkpoints as well."""
    tables = Tables(str(home / "store"))
    code, said = run(capsys, "compact")
    assert code == 0
    after = {(one["table"], one["before"], one["after"]) for one in said["compacted"]}
    assert after == {("detections", 10, 1), ("images", 10, 1)}
    assert verify(tables, home / "spool").wrong == []
    assert [tables.shipped(table, "one") for table in ("detections", "images")] == [19, 19]
    opened = tables.open("detections")
    assert opened is not None
    opened.create_checkpoint()
    assert Tables(str(home / "store")).shipped("detections", "one") == 19
    tables.append("detections", rows("detections", [detection(70)]), {"one": 19})
    assert sum(verify(tables, home / "spool").rows.values()) == 40, "shipped twice"


def test_retention_removes_whole_days(
    home: Path, entries: list[Entry], capsys: pytest.CaptureFixture[str]
) -> None:
    """It says what would go, and removes it when told to; a clock that jumped ahead removes nothing."""
    code, said = run(capsys, "retain", "--days", "30")
    assert (code, said["done"]) == (0, False)
    old = day_of(entries[1].id)
    assert said["removed"] == {"detections": [old], "images": [old]}
    tables = Tables(str(home / "store"))
    ahead = NOW + timedelta(days=3_000)
    assert upkeep.outdated(tables, "detections", 200, ahead) == []
    code, said = run(capsys, "retain", "--days", "30", "--yes")
    assert said["done"]
    assert verify(tables, home / "spool").rows == {"images": 10, "detections": 10}
    assert main(["retain", "--days", "0"]) == 2
    assert "at least 1 day" in capsys.readouterr().err


def test_errors_say_what_to_do(tmp_path: Path) -> None:
    """No store yet, a time that is none, a command that is none: a sentence each, and exit code 2."""
    for arguments, said in (
        (["ls", "--store", str(tmp_path / "none")], "nothing is kept there yet"),
        (["verify", "--since", "soon"], "is no time"),
        (["look"], "invalid choice"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "store", *arguments], capture_output=True, text=True, check=False
        )
        assert done.returncode == 2
        assert said in done.stderr
        assert "Traceback" not in done.stderr
