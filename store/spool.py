"""The durable queue of one replica: a folder of segments, of which the last is being written.

`<spool>/<name>/00000001.sqlite`, and its images beside it. The name is the spool's identity in the tables'
transactions, so no two ever have the same. Who writes holds the lock on `owner`; the kernel lets go of it
when the process ends, however it ends, and then the spool may be adopted.
"""

import fcntl
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from uuid_utils import uuid7

from store.entry import Entry
from store.errors import NotDurable
from store.segment import SUFFIX, Durability, Segment, files_of

OWNER = "owner"


@dataclass(frozen=True, slots=True)
class SpoolLimits:
    """How much may wait, and how it is cut.

    Args:
        max_bytes: On the disk in this spool; beyond it, nothing is taken.
        max_age_s: Of the oldest entry that waits; beyond it, nothing is taken.
        segment_bytes: A segment with as many is closed.
        segment_s: A segment as old is closed, when the next entry comes or `rotate` is called.
    """

    max_bytes: int = 20_000_000_000
    max_age_s: float = 7 * 86_400.0
    segment_bytes: int = 64_000_000
    segment_s: float = 5.0


@dataclass(frozen=True, slots=True)
class Depth:
    """What waits in a spool: bytes on the disk, and seconds since its oldest segment was begun."""

    bytes: int
    oldest_s: float


class Spool:
    """Takes entries until it is closed. One thread at a time.

    Args:
        folder: Of all spools of this node.
        application: Begins the name, for people.
        limits: How much may wait.
        durability: Of each `append`.
        clock: Seconds that only go forward; for tests.

    Raises:
        NotDurable: The folder cannot be made or written.
    """

    def __init__(
        self,
        folder: Path,
        application: str,
        limits: SpoolLimits | None = None,
        durability: Durability = Durability.FULL,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = f"{application}-{uuid7()}"
        self.folder = folder / self.name
        self.limits = limits or SpoolLimits()
        self._durability = durability
        self._clock = clock
        self._number = 0
        self._waiting: dict[Path, tuple[float, int]] = {}  # closed: when begun, bytes
        self._segment: Segment | None = None
        self._begun = 0.0
        try:
            self.folder.mkdir(parents=True)
            self._owner = own(self.folder)
        except OSError as error:
            raise NotDurable("broken", f"{self.folder}: {error.strerror}") from error

    def append(self, entries: Sequence[Entry]) -> None:
        """Keep all of these, or none; they are durable when it returns.

        Raises:
            NotDurable: None of them is kept: `full` disk, `bounds` of the spool, `broken` file.
        """
        self._check(self.depth())
        self.rotate()
        try:
            self._current().append(entries)
        except NotDurable as error:
            if error.reason == "broken":
                # The next entries find a new file. These do not: where it broke in mid-commit they may be
                # in the old one, and would be there twice.
                self._set_aside()
            raise

    def rotate(self) -> None:
        """Close the segment that is full or old enough, so that it can be shipped."""
        if self._segment is None:
            return
        old = self._clock() - self._begun >= self.limits.segment_s
        if self._segment.entries and (old or self._segment.bytes >= self.limits.segment_bytes):
            self._set_aside()

    def depth(self) -> Depth:
        """Return what waits; what has been shipped meanwhile is not counted any more. Any thread."""
        waiting, segment, begun, now = self._waiting.copy(), self._segment, self._begun, self._clock()
        found = []
        for path, known in waiting.items():
            if path.exists():
                found.append(known)
            else:
                self._waiting.pop(path, None)
        if segment is not None and segment.entries:
            found.append((begun, segment.bytes))
        return Depth(sum(size for _, size in found), now - min((begun for begun, _ in found), default=now))

    def close(self) -> None:
        """Close the segment and give the spool up, for others to ship. Idempotent."""
        if self._owner < 0:
            return
        self._set_aside()
        os.close(self._owner)
        self._owner = -1

    def _current(self) -> Segment:
        if self._owner < 0:
            raise NotDurable("closed", f"{self.folder}: the spool is closed.")
        if self._segment is None:
            segment = Segment(self.folder / f"{self._number + 1:08d}{SUFFIX}", self._durability)
            self._number += 1
            self._begun = self._clock()  # before the other: `depth` reads both
            self._segment = segment
        return self._segment

    def _set_aside(self) -> None:
        segment, self._segment = self._segment, None
        if segment is None:
            return
        segment.close()
        self._waiting[segment.path] = (self._begun, segment.bytes)

    def _check(self, depth: Depth) -> None:
        if depth.bytes >= self.limits.max_bytes:
            said = f"{depth.bytes:,} bytes wait, {self.limits.max_bytes:,} are allowed"
        elif depth.oldest_s >= self.limits.max_age_s:
            said = f"an entry waits since {depth.oldest_s:,.0f} s, {self.limits.max_age_s:,.0f} are allowed"
        else:
            return
        raise NotDurable("bounds", f"{self.folder}: {said}: is the shipper at work?")


def own(folder: Path) -> int:
    """Take the lock of a spool; return what to close to give it up.

    Raises:
        BlockingIOError: Somebody else has it.
        OSError: The file cannot be made.
    """
    fd = os.open(folder / OWNER, os.O_CREAT | os.O_RDWR, 0o640)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(fd)
        raise
    return fd


def segments(folder: Path) -> list[Path]:
    """Return the segments of one spool, in their order."""
    return sorted(folder.glob(f"*{SUFFIX}"))


def remove(segment: Path) -> None:
    """Remove a segment that has been shipped; the rows first: without their log they look broken."""
    for file in files_of(segment):
        with suppress(FileNotFoundError):
            file.unlink()
