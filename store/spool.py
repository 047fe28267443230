"""The durable queue of one replica: a folder of segments, of which the last may be being written.

`<spool>/<name>/00000001.sqlite`, and its images beside it. The name is the spool's identity in the tables'
transactions, so no two ever have the same. Who writes holds the lock on `owner`; the kernel lets go of it
when the process ends, however it ends, and then the spool may be adopted. The number of the segment being
written stands in the same file.
"""

import errno
import fcntl
import os
import re
import shutil
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from uuid_utils import uuid7

from store.entry import Entry
from store.errors import NotDurable
from store.segment import IMAGES, NO_SPACE, SUFFIX, Durability, Segment, bytes_of, files_of, sync_folder

OWNER = "owner"
DIGITS = 8
NUMBER = re.compile(rf"\d{{{DIGITS}}}")
LOOK_S = 1.0


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
    """Takes entries until it is closed. One thread at a time, in the process that made it.

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
        self._looked = (float("-inf"), 0)  # when, and at how many
        self._sum = (0, float("inf"))
        self._segment: Segment | None = None
        self._begun = 0.0
        self._pid = os.getpid()
        self._owner = -1
        try:
            _make(self.folder)
            self._owner = own(self.folder)
            self._say_current(0)
            sync_folder(self.folder)
        except OSError as error:
            self.close()
            shutil.rmtree(self.folder, ignore_errors=True)
            reason = "full" if error.errno in NO_SPACE else "broken"
            raise NotDurable(reason, f"{self.folder}: {error.strerror}") from error
        _open.add(self)

    @property
    def resting(self) -> bool:
        """Whether no segment with entries is open."""
        return self._segment is None or not self._segment.entries

    def append(self, entries: Sequence[Entry]) -> None:
        """Keep all of these, or none; they are durable when it returns.

        Raises:
            NotDurable: None of them is kept: `full` disk, `bounds` of the spool, `broken` file, entries that
                are `refused` for good. After `broken`, and where the folder was removed, `gone` tells
                whether another spool is needed.
        """
        if self._owner < 0 or self._pid != os.getpid():
            raise NotDurable("closed", f"{self.folder}: the spool is closed.")
        if self.gone():
            raise NotDurable("broken", f"{self.folder}: the folder was removed.")
        self.rotate()
        self._check(self.depth())
        try:
            self._current().append(entries)
        except NotDurable as error:
            if error.reason == "broken":
                # The next entries find a new file. These do not: where it broke in mid-commit they may be
                # in the old one, and would be there twice.
                self._set_aside()
            raise

    def gone(self) -> bool:
        """Tell whether somebody has removed this spool: what is written to it would be lost."""
        return self._owner >= 0 and os.fstat(self._owner).st_nlink == 0

    def rotate(self) -> None:
        """Close the segment that is full or old enough, so that it can be shipped."""
        if self._segment is None or self._pid != os.getpid():
            return
        old = self._clock() - self._begun >= self.limits.segment_s
        if self._segment.entries and (old or self._segment.bytes >= self.limits.segment_bytes):
            self._set_aside()

    def depth(self) -> Depth:
        """Return what waits; what has been shipped meanwhile is not counted any more. Any thread."""
        segment, begun, now = self._segment, self._begun, self._clock()
        size, oldest = self._closed(now)
        if segment is not None and segment.entries and segment.path not in self._waiting:
            size, oldest = size + segment.bytes, min(oldest, begun)
        return Depth(size, max(0.0, now - oldest))

    def _closed(self, now: float) -> tuple[int, float]:
        """Return the bytes of the segments that wait, and when the oldest was begun; looked at once a second.

        Where nobody ships there are ten thousand of them a day, and every entry would ask for each.
        """
        looked_at, known = self._looked
        if now - looked_at < LOOK_S and known == len(self._waiting):
            return self._sum[0], min(self._sum[1], now)
        found = []
        for path, one in self._waiting.copy().items():
            if path.exists():
                found.append(one)
            else:
                self._waiting.pop(path, None)
        self._sum = sum(size for _, size in found), min((begun for begun, _ in found), default=now)
        self._looked = now, len(self._waiting)
        return self._sum

    def close(self) -> None:
        """Close the segment and give the spool up, for others to ship. Idempotent."""
        if self._owner < 0:
            return
        if self._pid == os.getpid():
            self._set_aside()
        os.close(self._owner)
        self._owner = -1

    def _let_go(self) -> None:
        """In a forked child: the lock is the parent's, who would keep it after the parent is killed."""
        if self._owner >= 0:
            os.close(self._owner)
            self._owner = -1

    def _current(self) -> Segment:
        if self._segment is None:
            number = self._number + 1
            self._say_current(number)
            segment = Segment(self.folder / f"{number:0{DIGITS}d}{SUFFIX}", self._durability)
            self._number = number
            self._begun = self._clock()  # before the other: `depth` reads both
            self._segment = segment
        return self._segment

    def _set_aside(self) -> None:
        segment = self._segment
        if segment is None:
            return
        segment.close()
        if segment.entries:
            # Smaller than it was: its log is in the file now.
            self._waiting[segment.path] = (self._begun, bytes_of(segment.path))
        self._segment = None
        with suppress(OSError):  # it stays with us until the process ends
            self._say_current(0)

    def _say_current(self, number: int) -> None:
        """Say which segment is not to be shipped yet, before it is there; 0: none."""
        os.pwrite(self._owner, f"{number:0{DIGITS}d}".encode(), 0)

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
        FileNotFoundError: The spool is gone.
        OSError: The file cannot be made.
    """
    path = folder / OWNER
    fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o640)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(fd), path.stat()):
            raise FileNotFoundError(errno.ENOENT, "the spool was removed meanwhile", str(folder))
    except BaseException:
        os.close(fd)
        raise
    return fd


def segments(folder: Path) -> list[Path]:
    """Return the segments of one spool, in their order."""
    return sorted(path for path in folder.glob(f"*{SUFFIX}") if NUMBER.fullmatch(path.stem))


def strays(folder: Path) -> list[Path]:
    """Return what somebody has put into a spool that looks like a segment, and has no number."""
    return sorted(path for path in folder.glob(f"*{SUFFIX}") if not NUMBER.fullmatch(path.stem))


def shippable(folder: Path) -> list[Path]:
    """Return the segments that an owner who is alive will never write to again, in their order.

    Where nobody has the lock, and the caller takes it, these are `segments`.
    """
    found = segments(folder)  # first: what is opened from now on is not among them
    try:
        current = int((folder / OWNER).read_text(encoding="ascii") or 0)
    except FileNotFoundError:
        return []
    return [path for path in found if not current or int(path.stem) < current]


def remove(segment: Path) -> None:
    """Remove a segment that has been shipped; the rows first: without their log they look broken."""
    for file in files_of(segment):
        with suppress(FileNotFoundError):
            file.unlink()
    with suppress(FileNotFoundError):
        sync_folder(segment.parent)


def sweep(folder: Path) -> None:
    """Remove what a `remove` that was killed has left; for the holder of the lock."""
    for images in folder.glob(f"*{IMAGES}"):
        segment = images.with_suffix(SUFFIX)
        if not segment.exists():
            remove(segment)


def _make(folder: Path) -> None:
    """Make a folder and those above it, so that all their names outlive a power cut."""
    missing = [folder]
    while not missing[-1].parent.exists():
        missing.append(missing[-1].parent)
    folder.mkdir(parents=True)
    for made in reversed(missing):
        sync_folder(made.parent)


_open: "weakref.WeakSet[Spool]" = weakref.WeakSet()


def _after_fork() -> None:
    for spool in list(_open):
        spool._let_go()


os.register_at_fork(after_in_child=_after_fork)
