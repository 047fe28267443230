"""From entries to the rows of a table."""

from base64 import b64decode
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID

import orjson
import pyarrow as pa

from store.entry import Entry
from store.schema import TABLES, arrow

IMAGES = "images"


def day_of(entry_id: str) -> str:
    """Return the day of an id, `YYYY-MM-DD` in UTC: the partition of its row.

    Raises:
        ValueError: It is not a UUIDv7.
    """
    return time_of(entry_id).date().isoformat()


def time_of(entry_id: str) -> datetime:
    """Return the time that a UUIDv7 tells, to the millisecond (RFC 9562 §5.7).

    Raises:
        ValueError: It is not a UUIDv7.
    """
    known = UUID(entry_id)
    if known.version != 7:
        raise ValueError(f"{entry_id} is not a UUIDv7.")
    try:
        return datetime.fromtimestamp((known.int >> 80) / 1e3, UTC)
    except (OverflowError, ValueError, OSError):  # after the year 9999: no clock, but a valid id
        return datetime.combine(date.max, datetime.min.time(), UTC)


def rows(table: str, entries: Sequence[Entry]) -> pa.Table:
    """Return the rows of these entries, in the order of their ids.

    Args:
        table: Of all of them.
        entries: At least one.

    Raises:
        ValueError: A row has a column that the table does not have, or a value that its column cannot have.
    """
    entries = sorted(entries, key=lambda entry: entry.id)
    given: list[dict[str, Any]] = [orjson.loads(entry.row) for entry in entries]
    schema = arrow(table)
    if unknown := {name for row in given for name in row} - set(schema.names):
        raise ValueError(f"{table} has no column {', '.join(sorted(unknown))}.")
    days = pa.array([day_of(entry.id) for entry in entries], pa.string())
    columns = [_column([row.get(column.name) for row in given], column.type) for column in TABLES[table]]
    return pa.Table.from_arrays([*columns, days], schema=schema)


def image_rows(entries: Iterable[Entry]) -> pa.Table:
    """Return the rows of `images` for these records, one for each image of a day."""
    found: dict[tuple[str, str], bytes] = {}
    for entry in entries:
        if entry.image is not None and entry.image_sha256 is not None:
            found[day_of(entry.id), entry.image_sha256] = entry.image
    schema = arrow(IMAGES)
    names = sorted(found)
    columns = [[sha256 for _, sha256 in names], [found[name] for name in names], [day for day, _ in names]]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)


def _column(values: list[Any], kind: pa.DataType) -> pa.Array:
    if pa.types.is_timestamp(kind):
        return pa.array(values, pa.string()).cast(kind)
    if pa.types.is_binary(kind):
        return pa.array([None if value is None else b64decode(value) for value in values], kind)
    return pa.array(values, kind)
