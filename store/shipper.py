"""From the spools of a node into the tables: every entry once, whatever is killed at whichever moment.

A turn takes the segments that nobody writes to any more, adds their rows to the tables, the images first,
and removes them. What a commit holds stands in the commit itself, so a turn that was cut off anywhere is
simply done again: rows that are in are left out, and segments whose rows are all in are removed.
"""

import fcntl
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from store.entry import Entry
from store.rows import IMAGES, image_rows, rows, time_of
from store.schema import TABLES
from store.segment import bytes_of, files_of, sync_folder
from store.segment_reader import Damage, SegmentReader, Unreadable
from store.spool import OWNER, own, remove, segments, shippable, strays, sweep
from store.tables import Tables

log = logging.getLogger("glasshouse.store")

LOCK = "shipper.lock"
DAMAGED = "damaged"
# Of one turn; a segment has 64 MB and its last batch, so memory is bounded by about four times as much.
TURN_BYTES = 64_000_000
# Images of the last turns that are in already: a camera that sends the same picture, a probe.
REMEMBERED = 100_000
# A record waits for days where nobody ships; an hour ahead of this node's clock, one of two is wrong.
SETTLED_S = 2.0
ORPHANED_S = 60.0
TRIES = 12  # turns, a minute: then a segment that cannot be read is set aside
AHEAD = timedelta(hours=1)
BEHIND = timedelta(days=30)
BACK = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Commit:
    """What one commit put into a table.

    Args:
        table: Which.
        rows: How many.
        bytes: Of rows and images, before compression.
    """

    table: str
    rows: int
    bytes: int


@dataclass(slots=True)
class Turn:
    """What one turn did.

    Args:
        segments: How many were shipped and removed.
        commits: To the tables.
        damages: What could not be read, or could not be trusted, with its kind.
        unreadable: How many segments could not be read now, and are tried again.
        more: Whether segments are left that could be shipped.
    """

    segments: int = 0
    commits: list[Commit] = field(default_factory=list)
    damages: list[tuple[str, str]] = field(default_factory=list)
    unreadable: int = 0
    more: bool = False


class Busy(Exception):
    """Another process ships the spools of this node."""


class Shipper:
    """Ships the spools of one node; one at a time, see `alone`.

    Args:
        spools: Folder of the spools.
        tables: Where to.
        clock: The time, for tests.
    """

    def __init__(
        self, spools: Path, tables: Tables, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._spools = spools
        self._tables = tables
        self._clock = clock
        self._tries: dict[Path, int] = {}
        self._strays: set[Path] = set()
        self._known: dict[tuple[str, str], None] = {}  # day and hash of images that are in, the oldest first

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold this node's spools.

        Raises:
            Busy: Another process does.
        """
        self._spools.mkdir(parents=True, exist_ok=True)
        fd = os.open(self._spools / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o640)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Busy(f"{self._spools} is being shipped by another process.") from None
            yield
        finally:
            os.close(fd)

    def turn(self) -> Turn:
        """Ship what can be, up to `TURN_BYTES`; inside `alone`.

        Raises:
            NotShipped: A table cannot be read or written; all that was not shipped waits.
            OSError: A spool cannot be read.
        """
        turn = Turn()
        with _Adopted() as adopted:
            read = self._read(self._choose(adopted, turn), turn)
            self._check_clocks(read, turn)
            self._ship(read, turn)
            for one in read:
                self._finish(one, turn)
            adopted.remove_empty()
        return turn

    def _choose(self, adopted: "_Adopted", turn: Turn) -> list[Path]:
        chosen: list[Path] = []
        size = 0
        for spool in spools_of(self._spools):
            self._name_strays(spool)
            for path in adopted.shippable(spool):
                if size and size + bytes_of(path) > TURN_BYTES:
                    turn.more = True
                    break
                size += bytes_of(path)
                chosen.append(path)
        return chosen

    def _name_strays(self, spool: Path) -> None:
        for path in strays(spool):
            if path not in self._strays:
                self._strays.add(path)
                log.warning("%s is no segment, and is left where it is: only numbers are shipped", path)

    def _read(self, chosen: Sequence[Path], turn: Turn) -> list["_Read"]:
        read: list[_Read] = []
        stuck: set[Path] = set()
        for path in chosen:
            # What a table has of a spool is told by one number: none may be passed over.
            if path.parent in stuck:
                continue
            tries = self._tries.get(path, 0) + 1
            try:
                read.append(_Read.read(path, patient=tries < TRIES))
                self._tries.pop(path, None)
            except Unreadable as error:
                log.warning("left for the next turn: %s", error)
                self._tries[path] = tries
                stuck.add(path.parent)
                turn.unreadable += 1
        return read

    def _ship(self, read: Sequence["_Read"], turn: Turn) -> None:
        # A record that can be found has its image: images first.
        for table in (IMAGES, *(name for name in TABLES if name != IMAGES)):
            self._ship_table(table, [one for one in read if one.has(table)], turn)

    def _ship_table(self, table: str, read: Sequence["_Read"], turn: Turn) -> None:
        if not read:
            return
        shipped = {spool: self._tables.shipped(table, spool) for spool in {one.spool for one in read}}
        new = [one for one in read if one.number > shipped[one.spool]]
        for one in read:
            # The turn that shipped it may have been cut off before it could name what does not fit.
            if one.number <= shipped[one.spool]:
                one.leave_out_what_does_not_fit(table)
        entries = _once(entry for one in new for entry in one.of(table))
        if table == IMAGES:
            entries = [entry for entry in entries if not self._is_in(entry)]
        if not entries:
            return
        try:
            made = image_rows(entries) if table == IMAGES else rows(table, entries)
        except (ValueError, TypeError, OverflowError):
            for one in new:
                one.leave_out_what_does_not_fit(table)
            self._ship_table(table, [one for one in new if one.has(table)], turn)
            return
        last: dict[str, int] = {}
        for one in new:
            last[one.spool] = max(one.number, last.get(one.spool, 0))
        self._tables.append(table, made, last)
        turn.commits.append(Commit(table, made.num_rows, made.nbytes))
        if table == IMAGES:
            self._remember(made.select(["date", "image_sha256"]).to_pylist())

    def _is_in(self, entry: Entry) -> bool:
        day = time_of(entry.id).date().isoformat()
        return (day, entry.image_sha256 or "") in self._known

    def _remember(self, images: Sequence[Mapping[str, str]]) -> None:
        for one in images:
            self._known[one["date"], one["image_sha256"]] = None
        while len(self._known) > REMEMBERED:
            del self._known[next(iter(self._known))]

    def _finish(self, read: "_Read", turn: Turn) -> None:
        """Remove a segment whose rows are in; keep the files of one that could not be read whole."""
        if not read.damages:
            remove(read.path)
            turn.segments += 1
            return
        for damage in read.damages:
            log.error("set aside: %s", damage)
            turn.damages.append((damage.what, str(damage)))
        set_aside(read.path, self._spools / DAMAGED)
        turn.segments += 1

    def _check_clocks(self, read: Sequence["_Read"], turn: Turn) -> None:
        """Name times that this node's clock cannot explain; their rows are shipped all the same."""
        now = self._clock()
        for one in read:
            before: datetime | None = None
            for entry in one.entries:
                at = time_of(entry.id)
                wrong = _wrong(at, before, now)
                if wrong is not None:
                    said = (
                        f"{one.path}: {entry.id}: its time is {at.isoformat()}, {wrong}: a clock has jumped"
                    )
                    log.error("%s; the row is kept under its own day", said)
                    turn.damages.append(("clock", said))
                    break  # one line a segment
                before = at


@dataclass(frozen=True, slots=True)
class _Read:
    """A segment, read."""

    path: Path
    entries: list[Entry]
    damages: list[Damage]

    @classmethod
    def read(cls, path: Path, *, patient: bool) -> "_Read":
        entries: list[Entry] = []
        damages: list[Damage] = []
        for one in SegmentReader(path, patient=patient):
            if isinstance(one, Damage):
                damages.append(one)
            elif not _belongs(one):
                damages.append(Damage(path, "row", f"there is no table for it: {one.table!r}", id=one.id))
            else:
                entries.append(one)
        return cls(path, entries, damages)

    @property
    def spool(self) -> str:
        return self.path.parent.name

    @property
    def number(self) -> int:
        return int(self.path.stem)

    def has(self, table: str) -> bool:
        return any(True for _ in self.of(table))

    def leave_out_what_does_not_fit(self, table: str) -> None:
        """Take out the rows that the table cannot have, and name them."""
        for entry in [entry for entry in self.of(table) if not _fits(entry)]:
            self.entries.remove(entry)
            self.damages.append(Damage(self.path, "row", f"no row of {table}", id=entry.id))

    def of(self, table: str) -> Iterator[Entry]:
        """Return the entries that a table has rows of."""
        for entry in self.entries:
            if entry.image is not None if table == IMAGES else entry.table == table:
                yield entry


class _Adopted:
    """The spools whose owners are gone, held for a turn."""

    def __init__(self) -> None:
        self._locks: dict[Path, int] = {}

    def __enter__(self) -> "_Adopted":
        return self

    def __exit__(self, *_: object) -> None:
        for fd in self._locks.values():
            os.close(fd)
        self._locks.clear()

    def shippable(self, spool: Path) -> list[Path]:
        """Return a spool's segments that nobody writes to any more."""
        try:
            # One that is being made has no owner for a moment.
            # (A time ahead of ours is one of a clock that was set back since.)
            if 0 <= time.time() - (spool / OWNER).stat().st_mtime < SETTLED_S:
                return shippable(spool)
            self._locks[spool] = own(spool)
        except BlockingIOError:
            return shippable(spool)
        except FileNotFoundError:
            return self._orphaned(spool)
        sweep(spool)
        return segments(spool)

    def _orphaned(self, spool: Path) -> list[Path]:
        """Take over a spool whose `owner` somebody has removed; its replica has left it at the next entry."""
        with suppress(FileNotFoundError, BlockingIOError):
            if segments(spool) and time.time() - spool.stat().st_mtime >= ORPHANED_S:
                log.warning("%s has no owner file: adopted", spool)
                self._locks[spool] = own(spool)
                return segments(spool)
        return []

    def remove_empty(self) -> None:
        """Remove the spools that are held and have nothing left."""
        for spool in list(self._locks):
            if not segments(spool) and not strays(spool):
                # With its lock held: nobody can have begun to write here.
                shutil.rmtree(spool, ignore_errors=True)


def spools_of(folder: Path) -> list[Path]:
    """Return the spools of a node, the oldest first."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if (path / OWNER).exists() or segments(path)]
    return sorted(found, key=lambda path: path.name.partition("-")[2])


def shippable_of(folder: Path) -> list[Path]:
    """Return all segments of a node that nobody writes to at the moment; keeps no lock."""
    with _Adopted() as adopted:
        return [path for spool in spools_of(folder) for path in adopted.shippable(spool)]


def waiting(folder: Path, now_s: float | None = None) -> tuple[int, float]:
    """Return the bytes that wait in all spools of a node, and seconds since the oldest was last written."""
    now_s = time.time() if now_s is None else now_s
    size, oldest = 0, now_s
    for spool in spools_of(folder):
        for path in segments(spool):
            with suppress(FileNotFoundError):
                size += bytes_of(path)
                oldest = min(oldest, path.stat().st_mtime)
    return size, max(0.0, now_s - oldest)


def set_aside(segment: Path, damaged: Path) -> None:
    """Move the files of a segment where nobody ships them, the rows last: until then it is found again."""
    folder = damaged / segment.parent.name
    folder.mkdir(parents=True, exist_ok=True)
    for file in reversed(files_of(segment)):
        with suppress(FileNotFoundError):
            file.replace(folder / file.name)
    sync_folder(folder)
    with suppress(FileNotFoundError):
        sync_folder(segment.parent)


def _once(entries: Iterable[Entry]) -> list[Entry]:
    """Return the entries without repetitions of an id."""
    return list({(entry.table, entry.id): entry for entry in entries}.values())


def _belongs(entry: Entry) -> bool:
    """Tell whether there is a table for it, and a day in its id."""
    with suppress(ValueError):
        time_of(entry.id)
        return entry.table in TABLES and entry.table != IMAGES
    return False


def _fits(entry: Entry) -> bool:
    with suppress(ValueError, TypeError, OverflowError):
        rows(entry.table, [entry])
        return True
    return False


def _wrong(at: datetime, before: datetime | None, now: datetime) -> str | None:
    if at > now + AHEAD:
        return f"{at - now} ahead of this node"
    if at < now - BEHIND:
        return f"{now - at} behind this node"
    if before is not None and at < before - BACK:
        return f"{before - at} before that of the row in front of it"
    return None
