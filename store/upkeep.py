"""What keeps the tables quick and as long as they may be: compaction, retention, vacuum."""

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import partial
from itertools import pairwise
from typing import TypeVar

import pyarrow as pa
from deltalake import DeltaTable

from store.schema import PARTITION, TABLES
from store.tables import Claimed, Tables, writer_properties

log = logging.getLogger("glasshouse.store")
Value = TypeVar("Value")

FILES = 8  # small ones in a day, from which on they are made one
SMALL_BYTES = 32_000_000
TARGET_BYTES = 128_000_000
READERS_HOURS = 24  # for which a file that was taken out stays, for whoever is reading
# For which a file stays that no table knows of: its writer may be about to commit it.
WRITERS_HOURS = 7 * 24
LONELY_DAYS = 7


@dataclass(frozen=True, slots=True)
class Compacted:
    """One day of one table: so many files before, so many after."""

    table: str
    day: str
    before: int
    after: int


def compact(tables: Tables, *, least: int = FILES) -> list[Compacted]:
    """Make the small files of each day one; the rows stay, and who reads goes on reading.

    Args:
        tables: Of the store.
        least: Small files that a day must have, >= 2.

    A table that another process is at is left for the next time.

    Raises:
        NotShipped: A table cannot be read or written.
    """
    done = []
    for table in TABLES:
        for day, files in sorted(_small_files(tables, table).items()):
            if files >= least:
                made = _left(tables, table, partial(_compact, table=table, day=day))
                if made is not None:
                    done.append(Compacted(table, day, *made))
    return done


def retain(
    tables: Tables, days: Mapping[str, int], now: datetime, *, unattended: bool = False
) -> dict[str, list[str]]:
    """Remove the days of a table that are older than its number of days; return which.

    A table that another process is at is left for the next time.

    Args:
        tables: Of the store.
        days: Table to days, >= 1; a table without is kept for good.
        now: The time.
        unattended: See `outdated`.

    Raises:
        NotShipped: A table cannot be read or written.
    """
    removed = {}
    for table, keep in days.items():
        old = outdated(tables, table, keep, now, unattended=unattended)
        done = _left(tables, table, partial(_delete, last=old[-1])) if old else None
        if done:
            removed[table] = old
    return removed


def outdated(tables: Tables, table: str, keep: int, now: datetime, *, unattended: bool = False) -> list[str]:
    """Return the days of a table that `retain` would remove.

    Counted from the newest record, where that is older than now: where nothing comes in, nothing goes.

    Args:
        tables: Of the store.
        table: Which.
        keep: Days, >= 1.
        now: The time.
        unattended: Nobody has looked at the list. Then a day with no other in the `LONELY_DAYS` before it
            (in `keep`, where that is more) makes no other old: it may be one of a clock that has jumped
            ahead. From its second day on, such a clock cannot be told from a right one.

    Raises:
        NotShipped: The table cannot be read.
    """
    opened = tables.open(table)
    found = [] if opened is None else sorted(days_of(opened))
    # A row of tomorrow is one of a wrong clock, and does not make the others old.
    past = [day for one in found if (day := date.fromisoformat(one)) <= now.date()]
    if unattended:
        reach = timedelta(days=max(keep, LONELY_DAYS))
        past = [day for before, day in pairwise(past) if day - before <= reach]
    if not past:
        return []
    first_kept = (past[-1] - timedelta(days=keep - 1)).isoformat()
    return [day for day in found if day < first_kept]


def vacuum(tables: Tables) -> dict[str, int]:
    """Delete files that no table has had for a day, and old entries of their logs; return how many files.

    A file that no table ever had, of a writer that was killed, is deleted after a week.

    Raises:
        NotShipped: A table cannot be read or written.
    """
    return {table: _left(tables, table, _vacuum) or 0 for table in TABLES}


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


def _delete(opened: DeltaTable, last: str) -> bool:
    opened.delete(f"{PARTITION} <= '{last}'")
    return True


def _vacuum(opened: DeltaTable) -> int:
    removed = opened.vacuum(READERS_HOURS, dry_run=False, enforce_retention_duration=False)
    removed += opened.vacuum(WRITERS_HOURS, dry_run=False, full=True)
    opened.create_checkpoint()
    opened.cleanup_metadata()
    return len(removed)


def _left(tables: Tables, table: str, work: Callable[[DeltaTable], Value]) -> Value | None:
    try:
        return tables.change(table, work)
    except Claimed as error:
        log.info("left for later: %s", error)
        return None
