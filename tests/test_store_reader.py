"""Reading the tables: windows, records, images; old rows and new ones; as users would, too."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from store import docs
from store.entry import Entry
from store.lookup import decode
from store.reader import Reader
from store.rows import day_of, image_rows, rows, time_of
from store.schema import TABLES, arrow
from store.tables import Tables
from store.times import parse_time
from tests.records import detection

NOON = datetime(2026, 11, 26, 12, tzinfo=UTC)
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def entries() -> list[Entry]:
    """Records of three days, one every six hours."""
    return [detection(number, at=NOON + timedelta(hours=6 * number)) for number in range(12)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, entries: list[Entry]) -> Path:
    """A store with these, in several files."""
    folder = tmp_path_factory.mktemp("store")
    tables = Tables(str(folder))
    for number in range(0, 12, 3):
        part = entries[number : number + 3]
        tables.append("images", image_rows(part), {"spool": number + 1})
        tables.append("detections", rows("detections", part), {"spool": number + 1})
    return folder


def test_a_window_is_half_open(store: Path, entries: list[Entry]) -> None:
    """From `since` on, before `until`, across midnight, and only the columns asked for."""
    scanner = Reader(str(store)).window(
        "detections", NOON + timedelta(hours=6), NOON + timedelta(hours=24), ["inference_id", "brightness"]
    )
    assert scanner is not None
    found = scanner.to_table()
    assert found.column_names == ["inference_id", "brightness"]
    assert sorted(found.column("inference_id").to_pylist()) == [one.id for one in entries[1:4]]


def test_other_days_are_not_read(store: Path, entries: list[Entry], tmp_path: Path) -> None:
    """With the files of the other days gone, a window of one day, and a record of it, are still read."""
    day = day_of(entries[0].id)
    hidden = [path for path in (store / "detections").glob("date=*") if path.name != f"date={day}"]
    assert len(hidden) == 3
    for path in hidden:
        path.rename(tmp_path / path.name)
    try:
        reader = Reader(str(store))
        scanner = reader.window("detections", NOON, NOON + timedelta(hours=1))
        assert scanner is not None
        assert scanner.count_rows() == 1
        assert reader.record("detections", entries[1].id) is not None
    finally:
        for path in hidden:
            (tmp_path / path.name).rename(path)


def test_a_record_by_its_id(store: Path, entries: list[Entry]) -> None:
    """Every column as it was kept; an id that nobody has gives none; what is no UUIDv7 is an error."""
    reader = Reader(str(store))
    for one in entries:
        found = reader.record("detections", one.id)
        assert found == rows("detections", [one]).to_pylist()[0]
        assert one.image_sha256 is not None
        assert reader.image(one.image_sha256, day_of(one.id)) == one.image
    assert reader.record("detections", detection(99, at=NOON).id) is None
    assert reader.image("0" * 64, day_of(entries[0].id)) is None
    with pytest.raises(ValueError, match="UUID"):
        reader.record("detections", "4c7d3d0e-0000-4000-8000-000000000000")


def test_images_by_hash(store: Path, entries: list[Entry]) -> None:
    """Several images at once."""
    names = [one.image_sha256 or "" for one in entries[:3]]
    scanner = Reader(str(store)).images(names, NOON, NOON + timedelta(days=1))
    assert scanner is not None
    found = {row["image_sha256"]: row["bytes"] for row in scanner.to_table().to_pylist()}
    assert found == {one.image_sha256: one.image for one in entries[:3]}


def test_nothing_is_there_yet(tmp_path: Path, entries: list[Entry]) -> None:
    """Before the first record there is no window, no record, no image, and no error."""
    reader = Reader(str(tmp_path / "none"))
    assert reader.window("detections", NOON, NOON + timedelta(days=1)) is None
    assert reader.record("detections", entries[0].id) is None
    assert reader.image("0" * 64, "2026-11-26") is None
    assert reader.feedback(entries[0].id) == []


def test_old_rows_and_new_ones(tmp_path: Path, entries: list[Entry]) -> None:
    """A table from before a column, and one from after our time: both are read, and added to."""
    old = rows("detections", entries[:1]).drop_columns(["lift", "map_gap"])
    path = str(tmp_path / "detections")
    write_deltalake(path, old, partition_by=["date"])
    reader = Reader(str(tmp_path))
    found = reader.record("detections", entries[0].id)
    assert found is not None
    assert (found["lift"], found["width"]) == (None, 640)
    tables = Tables(str(tmp_path))
    tables.append("detections", rows("detections", entries[1:2]), {"spool": 1})
    newer = rows("detections", entries[2:3]).append_column("colour", pa.array(["red"]))
    write_deltalake(path, newer, mode="append", schema_mode="merge")
    tables.append("detections", rows("detections", entries[3:4]), {"spool": 2})
    colours = {}
    for one in entries[:4]:
        row = reader.record("detections", one.id)
        assert row is not None
        colours[one.id] = row["colour"]
    assert colours == {entries[0].id: None, entries[1].id: None, entries[2].id: "red", entries[3].id: None}


def test_every_table_is_in_the_documentation() -> None:
    """`docs/records.md` is what the schema prints: `python -m store.docs > docs/records.md`."""
    assert (ROOT / "docs" / "records.md").read_text(encoding="utf-8") == docs.page()
    for table, columns in TABLES.items():
        assert f"## {table}" in docs.page()
        assert all(f"| `{column.name}` |" in docs.page() for column in columns)


def test_duckdb_reads_the_table(store: Path) -> None:
    """One line, over the Arrow dataset."""
    detections = DeltaTable(str(store / "detections")).to_pyarrow_dataset()  # noqa: F841 - DuckDB finds it
    found = duckdb.sql("select source, count(*) from detections group by source order by source")
    assert found is not None
    assert found.fetchall() == [("camera-0", 4), ("camera-1", 4), ("camera-2", 4)]


def test_polars_reads_the_table(store: Path, entries: list[Entry]) -> None:
    """One line, lazily."""
    scan = pl.scan_delta(str(store / "detections"))
    found = scan.filter(pl.col("date") == "2026-11-26").select("height").collect()
    assert sorted(found["height"].to_list()) == [480, 481]


def test_a_row_waiting_is_a_row_kept(entries: list[Entry]) -> None:
    """What a look-up makes of a spool's row is what the table makes of it."""
    for one in entries:
        (kept,) = rows("detections", [one]).to_pylist()
        waiting = decode("detections", one.row)
        floats = {field.name for field in arrow("detections") if "float" in str(field.type)}
        assert {name: kept[name] for name in kept.keys() - floats - {"date"}} == {
            name: waiting[name] for name in kept.keys() - floats - {"date"}
        }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-26T12:00:00Z", NOON),
        ("2026-11-26T13:00:00+01:00", NOON),
        ("2026-11-26", NOON - timedelta(hours=12)),
        ("90s", NOON - timedelta(seconds=90)),
        ("1h", NOON - timedelta(hours=1)),
        ("7d", NOON - timedelta(days=7)),
        ("1.5h", NOON - timedelta(minutes=90)),
    ],
)
def test_times(text: str, expected: datetime) -> None:
    """RFC 3339, days, and how long ago."""
    assert parse_time(text, NOON) == expected


@pytest.mark.parametrize("text", ["", "yesterday", "7 d", "2026-13-01", "-1h", "99999999999999d"])
def test_what_is_no_time(text: str) -> None:
    """Anything else is refused in a sentence."""
    with pytest.raises(ValueError, match=r"is no time|longer ago"):
        parse_time(text, NOON)


def test_the_time_of_an_id() -> None:
    """To the millisecond, whatever the id; an id of the year 10,889 does no harm."""
    assert time_of(detection(1, at=NOON).id) == NOON
    assert day_of("ffffffff-ffff-7fff-bfff-ffffffffffff") == "9999-12-31"
