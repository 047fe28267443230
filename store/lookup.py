"""One record by its id, wherever it is: in a spool of this node, or in its table.

The spools first: a segment is removed only after its rows are in the table, so what is in neither was
never kept, or waits on another node.
"""

import base64
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from store.entry import Entry
from store.reader import Reader
from store.rows import day_of
from store.schema import PARTITION, arrow
from store.segment_reader import Damage, SegmentReader
from store.spool import segments


@dataclass(frozen=True, slots=True)
class Found:
    """A record.

    Args:
        columns: By name, as `store.schema` has them; timestamps with their zone.
        image: Bytes of the file, where it came with the record; else it is in the table `images`.
    """

    columns: dict[str, Any]
    image: bytes | None = None


class Lookup:
    """Reads spools and tables; every method blocks, for milliseconds.

    Args:
        spools: Folder of this node's spools.
        reader: Of the tables.
    """

    def __init__(self, spools: Path, reader: Reader) -> None:
        self._spools = spools
        self._reader = reader

    def record(self, table: str, entry_id: str) -> Found | None:
        """Return a record; None where it is neither on this node's way nor in the table.

        Raises:
            ValueError: `entry_id` is not a UUIDv7.
            StoreError: The table cannot be read.
        """
        entry = self.waiting(table, entry_id)
        if entry is not None:
            return Found({**decode(table, entry.row), PARTITION: day_of(entry_id)}, entry.image)
        columns = self._reader.record(table, entry_id)
        return None if columns is None else Found(columns)

    def waiting(self, table: str, entry_id: str) -> Entry | None:
        """Return what waits in a spool of this node under this id."""
        for spool in self._spools.iterdir() if self._spools.is_dir() else ():
            # The last first: what was kept a moment ago is asked for most.
            for segment in reversed(segments(spool)):
                found = SegmentReader(segment).find(table, entry_id)
                if found is not None and not isinstance(found, Damage):
                    return found
        return None

    def image(self, found: Found) -> bytes | None:
        """Return the image of a detection; None where it is not kept."""
        if found.image is not None:
            return found.image
        return self._reader.image(found.columns["image_sha256"], found.columns["date"])

    def feedback(self, inference_id: str) -> list[dict[str, Any]]:
        """Return what was said of an answer and is in the table, the oldest first."""
        return self._reader.feedback(inference_id)


def decode(table: str, row: bytes) -> dict[str, Any]:
    """Return the columns of an entry's row as the table would have them, those it lacks as None."""
    given: dict[str, Any] = orjson.loads(row)
    return {field.name: _value(given.get(field.name), field.type) for field in arrow(table)}


def _value(value: Any, kind: pa.DataType) -> Any:
    if value is None:
        return None
    if pa.types.is_timestamp(kind):
        return datetime.fromisoformat(value)
    return base64.b64decode(value) if pa.types.is_binary(kind) else value
