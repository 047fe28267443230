"""The contract's part about records: on their way through the spools, and into the tables."""

from telemetry.attributes import DAMAGE, NOT_DURABLE, TABLE, UNSHIPPED
from telemetry.metric import Kind, Metric
from telemetry.services import SERVING, STORE

# --- each replica -------------------------------------------------------------------------------

SPOOL_ENTRIES = Metric(
    "store.spool.entries",
    Kind.COUNTER,
    "{entry}",
    "Records, feedback and interactions that are on the disk, and those that are not, by why.",
    (NOT_DURABLE,),
    services=SERVING,
)
SPOOL_SIZE = Metric(
    "store.spool.size",
    Kind.UPDOWNCOUNTER,
    "By",
    "What waits in this replica's spool to be shipped.",
    services=SERVING,
    observed=True,
)
SPOOL_AGE = Metric(
    "store.spool.age",
    Kind.GAUGE,
    "s",
    "Since the oldest segment that waits in this replica's spool was begun; 0 where none does.",
    services=SERVING,
    observed=True,
)

# --- the shipper of each node -------------------------------------------------------------------

WAITING_SIZE = Metric(
    "store.waiting.size",
    Kind.UPDOWNCOUNTER,
    "By",
    "What waits in all spools of the node, those of replicas that are gone included.",
    services=(STORE,),
    observed=True,
)
WAITING_AGE = Metric(
    "store.waiting.age",
    Kind.GAUGE,
    "s",
    "Since the oldest segment that waits in any spool of the node was last written to; 0 where none does.",
    services=(STORE,),
    observed=True,
)
COMMITS = Metric(
    "store.commits",
    Kind.COUNTER,
    "{commit}",
    "Commits to a table.",
    (TABLE,),
    services=(STORE,),
)
ROWS = Metric(
    "store.rows",
    Kind.COUNTER,
    "{row}",
    "Rows committed to a table.",
    (TABLE,),
    services=(STORE,),
)
IO = Metric(
    "store.io",
    Kind.COUNTER,
    "By",
    "Bytes of rows and images committed to a table, before compression.",
    (TABLE,),
    services=(STORE,),
)
FAILURES = Metric(
    "store.failures",
    Kind.COUNTER,
    "{failure}",
    "Turns of the shipper that ended early; what was not shipped waits for the next.",
    (UNSHIPPED,),
    services=(STORE,),
)
DAMAGED = Metric(
    "store.damages",
    Kind.COUNTER,
    "{damage}",
    "What was kept and cannot be read or trusted; each is named in the log, and set aside.",
    (DAMAGE,),
    services=(STORE,),
)
CYCLE = Metric(
    "store.cycle.duration",
    Kind.HISTOGRAM,
    "s",
    "One turn of the shipper over all spools of its node.",
    services=(STORE,),
)

METRICS: tuple[Metric, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
