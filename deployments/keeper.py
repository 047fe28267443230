"""What an answer leaves behind, kept before it leaves: this application's side of the store.

A record that cannot be kept makes its answer a 503 (`store.on_error: refuse`), or is counted (`serve`).
While nothing can be kept, requests are refused at the door, and the disk is tried once a second.
"""

import asyncio
import logging
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from deployments.errors import NotKept
from deployments.settings import Keeping
from store import places
from store.entry import Entry
from store.errors import NotDurable
from store.lookup import Lookup
from store.reader import Reader
from store.segment import Durability
from store.spool import Depth, Spool, SpoolLimits
from store.writer import Write, Writer
from telemetry.instruments import Instruments
from telemetry.store import SpoolMetrics

log = logging.getLogger("glasshouse.store")

RETRY_S = 1.0
RETRY_AFTER_S = 5.0
TRIAL_BYTES = 1_000_000  # what a batch may need
SAY_S = 60.0
LASTING = ("full", "bounds", "broken")  # what is wrong with the disk, not with the entry or the replica


class Keeper:
    """One per replica; lives on the event loop that constructs it.

    Args:
        application: Names the spool.
        settings: What to do, see `Keeping`.
        instruments: Of this process.
        replica: As Ray Serve calls it.
        spools: Folder of this node's spools; None: where `store.places` says.
    """

    def __init__(
        self,
        application: str,
        settings: Keeping,
        instruments: Instruments,
        *,
        replica: str = "",
        spools: Path | None = None,
    ) -> None:
        self.replica = replica
        self.settings = settings
        self._application = application
        self._spools = spools or places.spools()
        self.lookup = Lookup(self._spools, Reader(places.store()))
        self._limits = SpoolLimits(max_bytes=settings.spool_bytes, max_age_s=settings.spool_age_s)
        self._problem: NotDurable | None = None
        self._said = -SAY_S
        self._trial: asyncio.Task[None] | None = None
        self._writer = Writer(self._open, "spool", self._wrote)
        self._metrics = SpoolMetrics(instruments, self._depth)

    @property
    def refuses(self) -> bool:
        """Whether an answer without a record is none."""
        return self.settings.on_error == "refuse"

    def keeps_image(self, sha256: str) -> bool:
        """Tell whether the image of this name is kept; the same everywhere, so that it is kept once."""
        return int(sha256[:8], 16) < self.settings.images * 2**32

    def check(self) -> None:
        """Refuse before any work is done what could not be kept afterwards.

        Raises:
            NotKept: Nothing can be kept at present.
        """
        if self.refuses and self._problem is not None:
            raise _not_kept(self._problem)

    async def keep(self, *entries: Entry) -> None:
        """Return when these are durable; or, where `on_error` is `serve`, when they are lost and counted.

        Raises:
            NotKept: None of them is kept.
        """
        await self.keep_made(lambda: entries)

    async def keep_made(self, make: Callable[[], Sequence[Entry]]) -> None:
        """Do the same with entries that are made beside the event loop.

        Raises:
            NotKept: None of them is kept.
        """
        try:
            await self._writer.put_made(make)
        except NotDurable as error:
            if self.refuses:
                raise _not_kept(error) from error

    def problem(self) -> str | None:
        """Return why nothing can be kept; None where it can."""
        return None if self._problem is None else f"records cannot be kept: {self._problem}"

    def close(self) -> None:
        """Keep no more; what is being written is. Idempotent."""
        if self._trial is not None:
            with suppress(RuntimeError):  # the loop is gone
                self._trial.cancel()
        self._writer.close()

    def _open(self) -> Spool:
        return Spool(self._spools, self._application, self._limits, Durability(self.settings.durability))

    def _depth(self) -> tuple[float, float]:
        depth = self._writer.depth()
        return float(depth.bytes), depth.oldest_s

    def _wrote(self, write: Write) -> None:
        if write.failed is None:
            self._metrics.kept(write.entries)
            return
        self._metrics.lost(write.entries, write.failed.reason)
        self._say(write.failed)
        if write.failed.reason in LASTING and self._problem is None:
            self._problem = write.failed
            self._trial = asyncio.get_running_loop().create_task(self._recover())

    def _say(self, error: NotDurable) -> None:
        """One line a minute: with a full disk there would be one a request, on the same disk."""
        if time.monotonic() - self._said >= SAY_S:
            self._said = time.monotonic()
            log.error("records cannot be kept (%s): %s", error.reason, error)

    async def _recover(self) -> None:
        """Try until it can be kept again."""
        while self._problem is not None:
            await asyncio.sleep(RETRY_S)
            self._problem = await asyncio.to_thread(self._try)
        self._said = -SAY_S
        log.warning("records can be kept again")

    def _try(self) -> NotDurable | None:
        """Return what is still wrong with the disk, or with how much waits."""
        try:
            _write_something(self._spools)
        except OSError as error:
            return NotDurable("broken", f"{self._spools}: {error.strerror}")
        return _beyond(self._writer.depth(), self._limits)


def _write_something(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(os.urandom(TRIAL_BYTES))  # zeros may be free of charge on some disks
        file.flush()
        os.fsync(file.fileno())


def _beyond(depth: Depth, limits: SpoolLimits) -> NotDurable | None:
    if depth.bytes < limits.max_bytes and depth.oldest_s < limits.max_age_s:
        return None
    return NotDurable("bounds", f"{depth.bytes:,} bytes wait, since {depth.oldest_s:,.0f} s")


def _not_kept(error: NotDurable) -> NotKept:
    # Which disk, and how full, is in the log: nothing internal leaks.
    return NotKept(
        f"The record of this answer cannot be kept ({error.reason}), so there is none; try again later.",
        retry_after_s=RETRY_AFTER_S,
    )
