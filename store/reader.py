"""Reading the tables: a window, a record, an image.

What was written before a column was added has null there; what a later version added is there too.
"""

import threading
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from store.rows import IMAGES, day_of
from store.schema import PARTITION, arrow
from store.tables import KEYS, NotShipped, Tables

# An id is made a moment before or after its `ts`, by another clock if a replica's was set.
MARGIN = timedelta(hours=1)


class Reader:
    """Reads one store; any thread.

    Args:
        uri: Of the store, see `Tables`.
    """

    def __init__(self, uri: str) -> None:
        self._tables = Tables(uri)
        self._lock = threading.Lock()  # around the tables: a dataset, once made, is anybody's

    def window(
        self, table: str, since: datetime, until: datetime, columns: list[str] | None = None
    ) -> ds.Scanner | None:
        """Return the rows whose `ts` is in `[since, until)`: only their days and these columns are read.

        Args:
            table: One with a `ts`: all but `images`.
            since: With its zone.
            until: With its zone.
            columns: None: all.

        Returns:
            A scanner (`to_table()`, `to_reader()`, `count_rows()`); None where the table was never written.

        Raises:
            NotShipped: The table cannot be read.
        """
        days = [(PARTITION, ">=", _day(since - MARGIN)), (PARTITION, "<=", _day(until + MARGIN))]
        dataset = self._dataset(table, days)
        if dataset is None:
            return None
        kind = dataset.schema.field("ts").type
        inside = (pc.field("ts") >= pa.scalar(since, kind)) & (pc.field("ts") < pa.scalar(until, kind))
        return dataset.scanner(columns=columns, filter=inside)

    def record(self, table: str, entry_id: str) -> dict[str, Any] | None:
        """Return one row by its id, from the files of its day that may have it.

        Raises:
            ValueError: The id is not a UUIDv7.
            NotShipped: The table cannot be read.
        """
        dataset = self._dataset(table, [(PARTITION, "=", day_of(entry_id))])
        return None if dataset is None else _first(dataset, pc.field(KEYS[table]) == entry_id)

    def image(self, sha256: str, day: str) -> bytes | None:
        """Return an image by the hash of its bytes and the day of a record that has it.

        Raises:
            NotShipped: The table cannot be read.
        """
        dataset = self._dataset(IMAGES, [(PARTITION, "=", day)])
        found = None if dataset is None else _first(dataset, pc.field("image_sha256") == sha256)
        return None if found is None else found["bytes"]

    def images(self, sha256: list[str], since: datetime, until: datetime) -> ds.Scanner | None:
        """Return the rows of `images` with these hashes, of these days.

        Raises:
            NotShipped: The table cannot be read.
        """
        days = [(PARTITION, ">=", _day(since - MARGIN)), (PARTITION, "<=", _day(until + MARGIN))]
        dataset = self._dataset(IMAGES, days)
        return None if dataset is None else dataset.scanner(filter=pc.field("image_sha256").isin(sha256))

    def feedback(self, inference_id: str) -> list[dict[str, Any]]:
        """Return what was said of an answer, the oldest first; it came on its day or later.

        Raises:
            ValueError: The id is not a UUIDv7.
            NotShipped: The table cannot be read.
        """
        dataset = self._dataset("feedback", [(PARTITION, ">=", day_of(inference_id))])
        if dataset is None:
            return []
        found: list[dict[str, Any]] = dataset.to_table(
            filter=pc.field("inference_id") == inference_id
        ).to_pylist()
        return sorted(found, key=lambda row: row["feedback_id"])

    def _dataset(self, table: str, days: list[tuple[str, str, str]]) -> ds.Dataset | None:
        with self._lock:
            opened = self._tables.open(table)
            if opened is None:
                return None
            there = pa.schema(opened.schema().to_arrow())
            schema = pa.unify_schemas([arrow(table), there], promote_options="permissive")
            try:
                return opened.to_pyarrow_dataset(schema=schema, file_pruning_predicate=days)
            except (OSError, ValueError) as error:
                raise NotShipped(f"{self._tables.path(table)} cannot be read: {error}") from error


def _first(dataset: ds.Dataset, condition: pc.Expression) -> dict[str, Any] | None:
    try:
        found = dataset.head(1, filter=condition, use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise NotShipped(
            f"a file of the table is damaged: {error}; `python -m store verify` names it"
        ) from error
    return found.to_pylist()[0] if found.num_rows else None


def _day(time: datetime) -> str:
    return time.date().isoformat()
