"""The Delta Lake tables: opened, made, added to exactly once.

A commit says of each spool up to which segment it holds its rows (Delta's `txn` actions), so whoever comes
back after a crash, or does not know whether a commit went through, asks the table.
"""

import logging
import os
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import pyarrow as pa
from deltalake import (
    ColumnProperties,
    CommitProperties,
    DeltaTable,
    Transaction,
    WriterProperties,
    write_deltalake,
)
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from store.errors import StoreError
from store.places import SCHEME
from store.schema import PARTITION, arrow

log = logging.getLogger("glasshouse.store")

ATTEMPTS = 8
FIRST_BACKOFF_S = 0.05
CHECKPOINT_EVERY = "100"  # commits: without, opening a table reads each of them
LOG_RETENTION = "interval 1 days"
# How long the log knows of files that it has taken out: longer than `store.upkeep` leaves them for readers.
TOMBSTONES = "interval 7 days"
# One change of a table at a time: delta-rs lets two compactions both commit, and each row is there twice.
CLAIM = "upkeep"
CLAIM_S = 6 * 3600  # of a process that was killed; a day of images takes minutes
# A look-up by id reads one group and all footers: smaller groups make these longer, and scans slower.
GROUP_ROWS = 4_096
KEYS = {
    "detections": "inference_id",
    "recommendations": "inference_id",
    "feedback": "feedback_id",
    "interactions": "interaction_id",
    "images": "image_sha256",
}
Value = TypeVar("Value")


class NotShipped(StoreError):
    """A table cannot be read or written; whoever asked may ask again."""


class Claimed(StoreError):
    """Another process is compacting a table, or removing from it; nothing was done."""


class Tables:
    """The tables of one store. One thread at a time.

    Args:
        uri: A folder, or a URL (`s3://bucket/prefix`); credentials are taken from the environment, by the
            names that the cloud's own tools use.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")
        self.options = options_of(uri)
        self._open: dict[str, DeltaTable] = {}

    def path(self, table: str) -> str:
        """Return where a table is."""
        return f"{self.uri}/{table}"

    def open(self, table: str) -> DeltaTable | None:
        """Return a table as it is now; None where nothing was ever written to it.

        Raises:
            NotShipped: It cannot be read.
        """
        try:
            return self._current(table)
        except TableNotFoundError:
            self._open.pop(table, None)
            return None
        except (DeltaError, OSError) as error:
            self._open.pop(table, None)
            raise NotShipped(f"{self.path(table)} cannot be read: {error}") from error

    def shipped(self, table: str, spool: str) -> int:
        """Return up to which segment of a spool the rows are in; 0 where none is.

        Raises:
            NotShipped: The table cannot be read.
        """
        opened = self.open(table)
        return 0 if opened is None else opened.transaction_version(spool) or 0

    def append(self, table: str, rows: pa.Table, segments: Mapping[str, int]) -> None:
        """Add rows, once, whatever happened to an attempt before.

        Args:
            table: Which.
            rows: By its schema.
            segments: Of each spool that rows are from: the last segment that is in with them.

        Raises:
            NotShipped: It cannot be written, or another shipper was at some of these spools; nothing of
                it is in.
        """
        commit = CommitProperties(
            app_transactions=[Transaction(spool, number) for spool, number in segments.items()]
        )
        for attempt in range(1, ATTEMPTS + 1):
            opened = self._made(table)
            # Also before the first attempt: two shippers may have read the same spool.
            there = [(opened.transaction_version(spool) or 0) >= number for spool, number in segments.items()]
            if all(there):
                return
            if any(there):
                raise NotShipped(f"{self.path(table)}: another shipper ships from the same spools.")
            try:
                write_deltalake(
                    opened,
                    rows,
                    mode="append",
                    schema_mode="merge",
                    writer_properties=writer_properties(table),
                    commit_properties=commit,
                )
            except (DeltaError, OSError) as error:
                self._open.pop(table, None)
                if attempt == ATTEMPTS:
                    raise NotShipped(f"{self.path(table)} cannot be written: {error}") from error
                log.info("%s: tried again after: %s", table, error)
                time.sleep(FIRST_BACKOFF_S * 2**attempt)
            else:
                return

    def change(self, table: str, work: Callable[[DeltaTable], Value]) -> Value | None:
        """Run upkeep on a table, alone: who appends goes on, others who change it wait; None: no table.

        Raises:
            Claimed: Another process is at it, or a commit was quicker.
            NotShipped: It cannot be read or written.
        """
        opened = self.open(table)
        if opened is None:
            return None
        try:
            self._claim(opened)
            try:
                return work(opened)
            finally:
                self._let_go(opened)
        except CommitFailedError as error:
            raise Claimed(f"{self.path(table)} is being changed by another process: {error}") from error
        except (DeltaError, OSError) as error:
            raise NotShipped(f"{self.path(table)} cannot be changed: {error}") from error
        finally:
            self._open.pop(table, None)

    def _claim(self, opened: DeltaTable) -> None:
        """Say in the table's log that it is being changed; of two at once, delta-rs refuses the second."""
        now = int(time.time())
        claimed = opened.transaction_version(CLAIM) or 0
        # One of a clock that is ahead must not hold for ever.
        if abs(now - claimed) < CLAIM_S:
            raise Claimed(
                f"{opened.table_uri} is being changed by another process since {now - claimed} s; "
                f"the claim of one that was killed ends after {CLAIM_S // 3600} h."
            )
        _note(opened, now)

    def _let_go(self, opened: DeltaTable) -> None:
        try:
            opened.update_incremental()
            _note(opened, 0)
        except (DeltaError, OSError) as error:
            log.warning("%s: claimed until %d s from now: %s", opened.table_uri, CLAIM_S, error)

    def _current(self, table: str) -> DeltaTable:
        opened = self._open.get(table)
        if opened is None:
            opened = self._open[table] = DeltaTable(self.path(table), storage_options=self.options)
        else:
            opened.update_incremental()
        return opened

    def _made(self, table: str) -> DeltaTable:
        opened = self.open(table)
        if opened is not None:
            return opened
        try:
            self._open[table] = DeltaTable.create(
                self.path(table),
                arrow(table),
                mode="ignore",  # another shipper may be making it
                partition_by=[PARTITION],
                configuration={
                    "delta.checkpointInterval": CHECKPOINT_EVERY,
                    "delta.logRetentionDuration": LOG_RETENTION,
                    "delta.deletedFileRetentionDuration": TOMBSTONES,
                },
                storage_options=self.options,
            )
            return self._current(table)
        except (DeltaError, OSError) as error:
            self._open.pop(table, None)
            opened = self.open(table)
            if opened is not None:
                return opened
            raise NotShipped(f"{self.path(table)} cannot be made: {error}") from error


def _note(opened: DeltaTable, claimed_at: int) -> None:
    empty = opened.schema().to_arrow()
    write_deltalake(
        opened,
        pa.schema(empty).empty_table(),
        mode="append",
        commit_properties=CommitProperties(app_transactions=[Transaction(CLAIM, claimed_at)]),
    )


def options_of(uri: str) -> dict[str, str]:
    """Return what delta-rs has to know to reach a store, besides what it reads in the environment."""
    if not uri.startswith(("s3://", "s3a://")):
        return {}
    given = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    if given.get("AWS_ENDPOINT_URL", "").startswith("http" + SCHEME):
        given.setdefault("AWS_ALLOW_HTTP", "true")
    # Two writers that both put version 7: the second is refused, and takes 8.
    return {"conditional_put": "etag", **given}


def writer_properties(table: str) -> WriterProperties:
    """Return how Parquet files of a table are written."""
    columns = {KEYS[table]: ColumnProperties(dictionary_enabled=False)}  # no id comes twice
    if table == "images":
        # Compressed already, each another one; and their statistics would be images.
        columns["bytes"] = ColumnProperties(dictionary_enabled=False, statistics_enabled="NONE")
    return WriterProperties(
        compression="ZSTD",
        compression_level=3,
        max_row_group_size=64 if table == "images" else GROUP_ROWS,
        column_properties=columns,
    )
