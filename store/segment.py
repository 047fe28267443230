"""A segment of a spool: rows in SQLite, images one after another in a file beside it.

An image is on the disk before the row that names it is: a row that can be read has its image. What lies
behind the last image that a row names belongs to a transaction that never was, and is written over.

Images stay out of SQLite because there they are written twice, into the log and from there into the file
(docs/adr/0009).

While it is written, nobody else opens a segment for writing, and its writer's process never opens one of
SQLite's files by itself: closing it would let go of SQLite's locks, which POSIX keeps by process.
"""

import errno
import os
import sqlite3
import zlib
from collections.abc import Sequence
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

from store.entry import Entry
from store.errors import NotDurable

SUFFIX = ".sqlite"
IMAGES = ".images"
COMPANIONS = ("-wal", "-shm")
TRIAL_BYTES = 65_536
BUSY_S = 5.0  # a reader never blocks a writer; a copy or a backup may, for a moment
CREATE = """
    CREATE TABLE IF NOT EXISTS entry (
        seq INTEGER PRIMARY KEY, target TEXT NOT NULL, id TEXT NOT NULL, row BLOB NOT NULL,
        image_sha256 TEXT, image_at INTEGER, image_bytes INTEGER, crc INTEGER NOT NULL
    );
    CREATE UNIQUE INDEX IF NOT EXISTS entry_id ON entry (target, id);
"""
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
INSERT = "INSERT INTO entry VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
# What an entry itself is to blame for: an id that is there already, text that is none, a row without end.
REFUSED = (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.InterfaceError, ValueError, OverflowError)

Place = tuple[int, int]


class Durability(StrEnum):
    """What an entry outlives once `append` has returned."""

    FULL = "full"  # the machine, its power cut
    NORMAL = "normal"  # the process, killed
    OFF = "off"  # nothing: the system's own crash may even break the file


class Segment:
    """Takes entries, one transaction a call. One thread at a time.

    Args:
        path: `….sqlite`; made where it is not there.
        durability: Of each `append`.

    Raises:
        NotDurable: The files cannot be made; none of them is left.
    """

    def __init__(self, path: Path, durability: Durability = Durability.FULL) -> None:
        self.path = path
        self.entries = 0
        self.bytes = 0
        self._durability = durability
        self._image_end = 0
        self._images = -1
        self._rows: sqlite3.Connection | None = None
        try:
            self._images = os.open(images_of(path), os.O_CREAT | os.O_RDWR, 0o640)
            self._rows = _open(path, durability)
            if durability is Durability.FULL:
                sync_folder(path.parent)
        except (OSError, sqlite3.Error) as error:
            reason = self._not_durable(error)
            self.close()
            for file in files_of(path):
                with suppress(OSError):
                    file.unlink()
            raise reason from error

    def append(self, entries: Sequence[Entry]) -> None:
        """Keep all of these, or none; they are durable when it returns.

        Raises:
            NotDurable: None of them is kept, nor will be. The segment may be tried again where `reason` is
                `full` or `refused`.
        """
        if self._rows is None:
            raise NotDurable("closed", f"{self.path}: the segment is closed.")
        logged = self._log_bytes()
        try:
            places = self._write_images(entries)
            rows = [
                _row(self.entries + number, entry, place)
                for number, (entry, place) in enumerate(zip(entries, places, strict=True), start=1)
            ]
            with self._rows:  # commits, or rolls back
                self._rows.execute("BEGIN IMMEDIATE")
                self._rows.executemany(INSERT, rows)
        except (OSError, sqlite3.Error, *REFUSED) as error:
            self._forget(logged)
            raise self._not_durable(error) from error
        self.entries += len(entries)
        self._image_end += sum(length for _, length in filter(None, places))
        self.bytes = self._image_end + self._log_bytes() + _size(self.path)

    def close(self) -> None:
        """Let the files go. Idempotent."""
        rows, self._rows = self._rows, None
        if rows is not None:
            with suppress(sqlite3.Error):  # a full disk: the log stays, and is read with the rest
                rows.close()
        images, self._images = self._images, -1
        if images >= 0:
            os.close(images)

    def _forget(self, logged: int) -> None:
        """Cut away what a refused transaction has left.

        The frame that commits it may stand in the log already, when its sync or the shared memory failed:
        whoever opens the log after a kill would find it there, and keep what was refused.
        """
        with suppress(OSError):
            os.truncate(_log_of(self.path), logged)
        with suppress(OSError):  # the space may be what others need
            os.ftruncate(self._images, self._image_end)

    def _log_bytes(self) -> int:
        return _size(_log_of(self.path))

    def _write_images(self, entries: Sequence[Entry]) -> list[Place | None]:
        """Return `(offset, bytes)` of each entry's image, all of them on the disk."""
        places: list[Place | None] = []
        end = self._image_end
        for entry in entries:
            if entry.image is None:
                places.append(None)
                continue
            _write(self._images, entry.image, end)
            places.append((end, len(entry.image)))
            end += len(entry.image)
        if end > self._image_end and self._durability is Durability.FULL:
            os.fdatasync(self._images)
        return places

    def _not_durable(self, error: Exception) -> NotDurable:
        if isinstance(error, REFUSED):
            return NotDurable("refused", f"{self.path}: it can never be kept: {error}")
        full = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
        if full or self._no_space(error):
            return NotDurable(
                "full", f"{self.path.parent}: no space left; make room, the rest goes by itself."
            )
        return NotDurable("broken", f"{self.path}: {error}")

    def _no_space(self, error: Exception) -> bool:
        """Tell whether space is missing; SQLite says "I/O error" where its shared memory cannot grow."""
        if isinstance(error, OSError):
            return error.errno in NO_SPACE
        if self._images < 0:
            return False
        try:
            _write(self._images, bytes(TRIAL_BYTES), self._image_end)
            os.fdatasync(self._images)
        except OSError as trial:
            return trial.errno in NO_SPACE
        finally:
            with suppress(OSError):
                os.ftruncate(self._images, self._image_end)
        return False


def images_of(path: Path) -> Path:
    """Return where the images of a segment are."""
    return path.with_suffix(IMAGES)


def files_of(path: Path) -> list[Path]:
    """Return all files that a segment may have, the one with the rows first."""
    return [path, *(path.with_name(path.name + end) for end in COMPANIONS), images_of(path)]


def bytes_of(path: Path) -> int:
    """Return what a segment takes on the disk, all of its files."""
    return sum(_size(file) for file in files_of(path))


def crc_of(seq: int, entry: Entry, image_sha256: str | None, place: Place | None) -> int:
    """Return the CRC-32 of all that a row of a segment says."""
    crc = zlib.crc32(f"{seq}\0{entry.table}\0{entry.id}\0{image_sha256}\0{place}\0".encode())
    return zlib.crc32(entry.row, crc)


def sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk; a file without its name is not there after a power cut.

    Raises:
        OSError: The disk failed.
    """
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _row(seq: int, entry: Entry, place: Place | None) -> tuple[object, ...]:
    crc = crc_of(seq, entry, entry.image_sha256, place)
    return seq, entry.table, entry.id, entry.row, entry.image_sha256, *(place or (None, None)), crc


def _open(path: Path, durability: Durability) -> sqlite3.Connection:
    rows = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        rows.execute("PRAGMA journal_mode = WAL")
        rows.execute(f"PRAGMA synchronous = {durability.value}")
        # Only the end moves rows from the log into the file: so what the log holds only grows, and what a
        # refused transaction has left in it can be cut away.
        rows.execute("PRAGMA wal_autocheckpoint = 0")
        rows.executescript(CREATE)
    except BaseException:
        rows.close()
        raise
    return rows


def _log_of(path: Path) -> Path:
    return path.with_name(path.name + COMPANIONS[0])


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def _write(fd: int, data: bytes, at: int) -> None:
    left = memoryview(data)
    while left:
        written = os.pwrite(fd, left, at)
        left, at = left[written:], at + written
