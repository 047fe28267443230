"""The shipper of a node: a named Ray actor that every replica of the node keeps alive.

Ray starts it again when it dies; where it is gone for good, the next look of any replica makes another.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import ray
from packaging.version import Version
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from store import conditional_puts, places, upkeep
from store.errors import StoreError
from store.shipper import Busy, Shipper, Turn, waiting
from store.tables import Tables
from telemetry import providers, schema
from telemetry.store import ShipperMetrics

log = logging.getLogger("glasshouse.store")

NAME = "glasshouse-shipper"
NAMESPACE = "glasshouse"
LOOK_S = 5.0  # between two looks of a replica
ANSWER_S = 30.0
PERIOD_S = 5.0  # between turns: a commit is some 50 CPU-ms a table
RETRY_S = 1.0
MAX_RETRY_S = 30.0
UPKEEP_S = 3600.0
SAY_S = 60.0


class ShipperActor:
    """Ships for ever. One a node.

    Args:
        version: Of the code.
    """

    def __init__(self, version: str) -> None:
        self._version = version
        self._asked: dict[str, Mapping[str, int]] = {}
        self._spools = places.spools()
        self._tables = Tables(places.store())
        self._shipper = Shipper(self._spools, self._tables)
        node = ray.get_runtime_context().get_node_id()
        self._telemetry = providers.start(schema.STORE, version=version, attributes={"ray.node.id": node})
        self._telemetry.attach("glasshouse")
        self._metrics = ShipperMetrics(self._telemetry.instruments, lambda: waiting(self._spools))
        self._said = -SAY_S
        self._upkeep_at = time.monotonic() + UPKEEP_S
        threading.Thread(target=self._work, name="shipper", daemon=True).start()

    def configure(self, application: str, retain_days: Mapping[str, int]) -> None:
        """Take the settings of an application; said again and again, as a restart forgets them.

        Args:
            application: Whose.
            retain_days: See `deployments.settings.Keeping`.
        """
        self._asked = {**self._asked, application: dict(retain_days)}

    def version(self) -> str:
        """Return which code it runs."""
        return self._version

    def pid(self) -> int:
        """Return its process id, for who looks after processes."""
        return os.getpid()

    def _work(self) -> None:
        retry_s = RETRY_S
        while True:
            try:
                conditional_puts.check(self._tables.uri)
                with self._shipper.alone():
                    while True:
                        turn = self._turn()
                        retry_s = RETRY_S
                        if not turn.more:
                            time.sleep(PERIOD_S)
            except Busy:  # the one before is still ending
                time.sleep(RETRY_S)
            except Exception as error:  # it must live: it is all that empties the spools
                self._failed(error)
                time.sleep(retry_s)
                retry_s = min(2 * retry_s, MAX_RETRY_S)

    def _turn(self) -> Turn:
        began = time.monotonic()
        turn = self._shipper.turn()
        self._metrics.cycle(time.monotonic() - began)
        for commit in turn.commits:
            self._metrics.committed(commit.table, commit.rows, commit.bytes)
        for kind, _ in turn.damages:
            self._metrics.damaged(kind)
        if turn.unreadable:
            self._metrics.failed("spool")
        if not turn.more and time.monotonic() >= self._upkeep_at:
            self._upkeep_at = time.monotonic() + UPKEEP_S
            self._keep_up()
        return turn

    def _keep_up(self) -> None:
        for done in upkeep.compact(self._tables):
            log.info("compacted %s of %s: %d files to %d", done.table, done.day, done.before, done.after)
        retain_days = longest(self._asked)
        removed = upkeep.retain(self._tables, retain_days, datetime.now(UTC), unattended=True)
        for table, days in removed.items():
            log.info("removed %s of %s: older than %d days", table, days, retain_days[table])
        upkeep.vacuum(self._tables)

    def _failed(self, error: Exception) -> None:
        self._metrics.failed("store" if isinstance(error, StoreError) else "spool")
        if time.monotonic() - self._said >= SAY_S:
            self._said = time.monotonic()
            log.error("nothing is shipped, records wait in the spools: %s", error, exc_info=error)


class Watch:
    """Keeps the shipper of this node alive and informed, from a replica.

    Args:
        version: See `ShipperActor`.
        application: See `ShipperActor.configure`.
        retain_days: See there.
        ensure: Looks once; for tests.
        look_s: Between two looks.
    """

    def __init__(
        self,
        version: str,
        application: str,
        retain_days: Mapping[str, int],
        ensure: Callable[[str], Any] | None = None,
        look_s: float = LOOK_S,
    ) -> None:
        self._ended = threading.Event()
        self._ensure = ensure or ensure_shipper
        self._version = version
        self._settings = (application, dict(retain_days))
        self._look_s = look_s
        threading.Thread(target=self._work, name="shipper-watch", daemon=True).start()

    def close(self) -> None:
        """Look no more; the shipper goes on. Idempotent."""
        self._ended.set()

    def _work(self) -> None:
        while True:
            try:
                # Each time: the shipper may be another process than at the last look.
                self._ensure(self._version).configure.remote(*self._settings)
            except Exception as error:  # Ray's control plane may be away for a while
                log.warning("the shipper of this node cannot be looked after: %s", error)
            if self._ended.wait(self._look_s):
                return


def ensure_shipper(version: str) -> Any:
    """Return the shipper of this node: started if need be, and again if it runs older code.

    Raises:
        ray.exceptions.GetTimeoutError: It does not answer.
    """
    node = ray.get_runtime_context().get_node_id()
    name = f"{NAME}-{node}"
    with suppress(ValueError):  # there is none
        found: Any = ray.get_actor(name, namespace=NAMESPACE)
        theirs: Any = ray.get(found.version.remote(), timeout=ANSWER_S)
        if not older(theirs, version):
            return found
        log.info("a newer shipper takes over: %s", version)
        ray.kill(found)
    return (
        ray.remote(ShipperActor)
        .options(
            name=name,
            namespace=NAMESPACE,
            get_if_exists=True,
            lifetime="detached",
            max_restarts=-1,
            num_cpus=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
        )
        .remote(version)
    )


def older(one: str, other: str) -> bool:
    """Tell whether a version comes before another."""
    return Version(one) < Version(other)


def longest(asked: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """Return for how many days each table is kept: one store, so the longest that an application asks for.

    Args:
        asked: Application to table to days; a table that an application does not name is none of its own
            concern.
    """
    days: dict[str, int] = {}
    for tables in asked.values():
        for table, count in tables.items():
            days[table] = max(count, days.get(table, 0))
    return days
