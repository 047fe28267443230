"""A segment of a spool: rows in SQLite, images one after another in a file beside it.

An image is on the disk before the row that names it is: a row that can be read has its image. What lies
behind the last image that a row names belongs to a transaction that never was, and is written over.

Images stay out of SQLite because there they are written twice, into the log and from there into the file
(docs/adr/0009).
"""

import errno
import os
import shutil
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
FULL_BYTES = 65_536
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
        NotDurable: The files cannot be made.
    """

    def __init__(self, path: Path, durability: Durability = Durability.FULL) -> None:
        self.path = path
        self.entries = 0
        self.bytes = 0
        self._durability = durability
        self._image_end = 0
        try:
            self._images = os.open(images_of(path), os.O_CREAT | os.O_RDWR, 0o640)
        except OSError as error:
            raise _not_durable(path, error) from error
        try:
            self._rows = _open(path, durability)
            if durability is Durability.FULL:
                _sync_folder(path.parent)
        except (OSError, sqlite3.Error) as error:
            os.close(self._images)
            raise _not_durable(path, error) from error

    def append(self, entries: Sequence[Entry]) -> None:
        """Keep all of these, or none; they are durable when it returns.

        Raises:
            NotDurable: None of them is kept. The segment may be tried again if `reason` is `full`.
        """
        try:
            places = self._write_images(entries)
            rows = [
                _row(self.entries + number, entry, place)
                for number, (entry, place) in enumerate(zip(entries, places, strict=True), start=1)
            ]
            with self._rows:  # commits, or rolls back
                self._rows.execute("BEGIN IMMEDIATE")
                self._rows.executemany(INSERT, rows)
        except (OSError, sqlite3.Error) as error:
            with suppress(OSError):  # the space may be what others need
                os.ftruncate(self._images, self._image_end)
            raise _not_durable(self.path, error) from error
        self.entries += len(entries)
        self._image_end += sum(length for _, length in filter(None, places))
        self.bytes = self._image_end + self._bytes_of_rows()

    def _bytes_of_rows(self) -> int:
        """Return what the rows take on the disk, SQLite's log included."""
        return sum(file.stat().st_size for file in files_of(self.path)[:2] if file.exists())

    def close(self) -> None:
        """Let the files go. Idempotent."""
        if self._images < 0:
            return
        with suppress(sqlite3.Error):  # a full disk: the log stays, and is read with the rest
            self._rows.close()
        os.close(self._images)
        self._images = -1

    def _write_images(self, entries: Sequence[Entry]) -> list[tuple[int, int] | None]:
        """Return `(offset, bytes)` of each entry's image, all of them on the disk."""
        places: list[tuple[int, int] | None] = []
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


def images_of(path: Path) -> Path:
    """Return where the images of a segment are."""
    return path.with_suffix(IMAGES)


def files_of(path: Path) -> list[Path]:
    """Return all files that a segment may have, the one with the rows first, its log second."""
    return [path, *(path.with_name(path.name + end) for end in COMPANIONS), images_of(path)]


def crc_of(seq: int, entry: Entry, image_sha256: str | None) -> int:
    """Return the CRC-32 of all that a row of a segment says but where its image is."""
    crc = zlib.crc32(f"{seq}\0{entry.table}\0{entry.id}\0{image_sha256}\0".encode())
    return zlib.crc32(entry.row, crc)


def _row(seq: int, entry: Entry, place: tuple[int, int] | None) -> tuple[object, ...]:
    at, length = place or (None, None)
    crc = crc_of(seq, entry, entry.image_sha256)
    return seq, entry.table, entry.id, entry.row, entry.image_sha256, at, length, crc


def _open(path: Path, durability: Durability) -> sqlite3.Connection:
    rows = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        rows.execute("PRAGMA journal_mode = WAL")
        rows.execute(f"PRAGMA synchronous = {durability.value}")
        rows.executescript(CREATE)
    except BaseException:
        rows.close()
        raise
    return rows


def _write(fd: int, data: bytes, at: int) -> None:
    left = memoryview(data)
    while left:
        written = os.pwrite(fd, left, at)
        left, at = left[written:], at + written


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _not_durable(path: Path, error: OSError | sqlite3.Error) -> NotDurable:
    code = getattr(error, "sqlite_errorcode", None)
    full = code == sqlite3.SQLITE_FULL or (isinstance(error, OSError) and error.errno in NO_SPACE)
    if full or _no_space(path.parent):  # SQLite calls it an I/O error where its shared memory cannot grow
        return NotDurable("full", f"{path.parent}: no space left; make room, the rest goes by itself.")
    return NotDurable("broken", f"{path}: {error}")


def _no_space(folder: Path) -> bool:
    with suppress(OSError):
        return shutil.disk_usage(folder).free < FULL_BYTES
    return False
