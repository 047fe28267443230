"""What keeps the tables quick and as long as they may be: compaction, retention, vacuum."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import partial

import pyarrow as pa
from deltalake import DeltaTable

from store.schema import PARTITION, TABLES
from store.tables import Tables, writer_properties

FILES = 8  # small ones in a day, from which on they are made one
SMALL_BYTES = 32_000_000
TARGET_BYTES = 128_000_000
RETENTION_HOURS = 24  # as `store.tables.FILE_RETENTION` says


@dataclass(frozen=True, slots=True)
class Compacted:
    """One day of one table: so many files before, so many after."""

    table: str
    day: str
    before: int
    after: int


def compact(tables: Tables, *, least: int = FILES) -> list[Compacted]:
    """Make the small files of each day one; rows and their order stay, and who reads goes on reading.

    Args:
        tables: Of the store.
        least: Small files that a day must have, >= 2.

    Raises:
        NotShipped: A table cannot be read or written.
    """
    done = []
    for table in TABLES:
        for day, files in sorted(_small_files(tables, table).items()):
            if files >= least:
                made = tables.change(table, partial(_compact, table=table, day=day))
                if made is not None:
                    done.append(Compacted(table, day, *made))
    return done


def retain(tables: Tables, days: Mapping[str, int], now: datetime) -> dict[str, list[str]]:
    """Remove the days of a table that are older than its number of days; return which.

    Counted from the newest record, where that is older than now: a clock that has jumped ahead removes
    nothing.

    Args:
        tables: Of the store.
        days: Table to days, >= 1; a table without is kept for good.
        now: The time.

    Raises:
        NotShipped: A table cannot be read or written.
    """
    removed = {}
    for table, keep in days.items():
        old = outdated(tables, table, keep, now)
        if old:
            tables.change(table, partial(_delete, last=old[-1]))
            removed[table] = old
    return removed


def outdated(tables: Tables, table: str, keep: int, now: datetime) -> list[str]:
    """Return the days of a table that `retain` would remove."""
    opened = tables.open(table)
    found = [] if opened is None else sorted(days_of(opened))
    if not found:
        return []
    # A row of tomorrow is one of a wrong clock, and does not make the others old.
    newest = max((day for day in found if day <= now.date().isoformat()), default=found[-1])
    last = min(now.date(), date.fromisoformat(newest))
    first_kept = (last - timedelta(days=keep - 1)).isoformat()
    return [day for day in found if day < first_kept]


def vacuum(tables: Tables) -> dict[str, int]:
    """Delete files that no table has had for a day, and old entries of their logs; return how many files.

    Raises:
        NotShipped: A table cannot be read or written.
    """
    return {table: tables.change(table, _vacuum) or 0 for table in TABLES}


def days_of(opened: DeltaTable) -> Counter[str]:
    """Return how many files each day of a table has."""
    adds = pa.table(opened.get_add_actions(flatten=True))
    return Counter(adds.column(f"partition.{PARTITION}").to_pylist()) if adds.num_rows else Counter()


def _small_files(tables: Tables, table: str) -> Counter[str]:
    opened = tables.open(table)
    if opened is None:
        return Counter()
    adds = pa.table(opened.get_add_actions(flatten=True))
    if not adds.num_rows:
        return Counter()
    pairs = zip(
        adds.column(f"partition.{PARTITION}").to_pylist(), adds.column("size_bytes").to_pylist(), strict=True
    )
    return Counter(day for day, size in pairs if size < SMALL_BYTES)


def _compact(opened: DeltaTable, table: str, day: str) -> tuple[int, int]:
    before = days_of(opened)[day]
    opened.optimize.compact(
        partition_filters=[(PARTITION, "=", day)],
        target_size=TARGET_BYTES,
        max_concurrent_tasks=1,
        writer_properties=writer_properties(table),
    )
    return before, days_of(opened)[day]


def _delete(opened: DeltaTable, last: str) -> None:
    opened.delete(f"{PARTITION} <= '{last}'")


def _vacuum(opened: DeltaTable) -> int:
    removed = opened.vacuum(retention_hours=RETENTION_HOURS, dry_run=False)
    opened.create_checkpoint()
    opened.cleanup_metadata()
    return len(removed)
