"""What becomes of records, as metrics: of a replica's spool, and of a node's shipper."""

from collections.abc import Callable

from telemetry import attributes, schema_store
from telemetry.instruments import Instruments, guarded


class SpoolMetrics:
    """One per replica. Every method is quick, safe from any thread, and never breaks an answer.

    Args:
        instruments: Of this process.
        depth: Returns the bytes that wait and the age in seconds of the oldest; called at each export.
    """

    def __init__(self, instruments: Instruments, depth: Callable[[], tuple[float, float]]) -> None:
        self.strict = instruments.strict
        self._kept = instruments.series(schema_store.SPOOL_ENTRIES)
        self._lost = {
            reason: instruments.series(schema_store.SPOOL_ENTRIES, {attributes.NOT_DURABLE.name: reason})
            for reason in attributes.NOT_DURABLE.values
        }
        instruments.observe(schema_store.SPOOL_SIZE, lambda: [(depth()[0], {})])
        instruments.observe(schema_store.SPOOL_AGE, lambda: [(depth()[1], {})])

    @guarded
    def kept(self, entries: int) -> None:
        """Count entries that are on the disk."""
        self._kept.put(entries)

    @guarded
    def lost(self, entries: int, reason: str) -> None:
        """Count entries that are not, see `telemetry.attributes.NOT_DURABLE`."""
        self._lost[reason].put(entries)


class ShipperMetrics:
    """One per shipper; as above.

    Args:
        instruments: Of this process.
        waiting: Returns the bytes that wait on the node and the age in seconds of the oldest.
    """

    def __init__(self, instruments: Instruments, waiting: Callable[[], tuple[float, float]]) -> None:
        self.strict = instruments.strict
        self._commits = instruments.family(schema_store.COMMITS, attributes.TABLE)
        self._rows = instruments.family(schema_store.ROWS, attributes.TABLE)
        self._io = instruments.family(schema_store.IO, attributes.TABLE)
        self._failures = instruments.family(schema_store.FAILURES, attributes.UNSHIPPED)
        self._damaged = instruments.family(schema_store.DAMAGED, attributes.DAMAGE)
        self._cycle = instruments.series(schema_store.CYCLE)
        instruments.observe(schema_store.WAITING_SIZE, lambda: [(waiting()[0], {})])
        instruments.observe(schema_store.WAITING_AGE, lambda: [(waiting()[1], {})])

    @guarded
    def committed(self, table: str, rows: int, size: int) -> None:
        """Count a commit to a table: its rows, and their bytes before compression."""
        self._commits.of(table).put(1)
        self._rows.of(table).put(rows)
        self._io.of(table).put(size)

    @guarded
    def failed(self, what: str) -> None:
        """Count a turn that ended early, see `telemetry.attributes.UNSHIPPED`."""
        self._failures.of(what).put(1)

    @guarded
    def damaged(self, kind: str) -> None:
        """Count something that cannot be read or trusted, see `telemetry.attributes.DAMAGE`."""
        self._damaged.of(kind).put(1)

    @guarded
    def cycle(self, seconds: float) -> None:
        """Record how long a turn took."""
        self._cycle.put(seconds)
