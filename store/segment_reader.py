"""Reads a segment that somebody may still be writing, or that a broken disk has left behind."""

import hashlib
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from store import wal
from store.entry import Entry
from store.errors import StoreError
from store.segment import BUSY_S, COMPANIONS, crc_of, images_of

COLUMNS = "seq, target, id, row, image_sha256, image_at, image_bytes, crc"
ROW_BYTES = 16  # the least that a row takes: a file has no more rows than that
BROKEN = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)  # of what is in the file
PATIENCE = 200  # rows in a page are fewer: behind a broken one, the next is found


@dataclass(frozen=True, slots=True)
class Damage:
    """Something that was kept and cannot be read.

    Args:
        path: Of the file.
        what: `row`, `image` or `segment`.
        reason: For people.
        seq: Which row of the segment, from 1; None for all of it.
        id: Of the entry, where it is known.
    """

    path: Path
    what: str
    reason: str
    seq: int | None = None
    id: str | None = None

    def __str__(self) -> str:
        where = "" if self.seq is None else f", row {self.seq}"
        who = "" if self.id is None else f" ({self.id})"
        return f"{self.path}{where}{who}: {self.what}: {self.reason}"


class Unreadable(StoreError):
    """A segment that cannot be read now: no file handles, no memory, a disk that does not answer."""


class SegmentReader:
    """The entries of a segment as they are now.

    Args:
        path: `….sqlite`.
        patient: Raise `Unreadable` where it may be read later; else that is damage, too.
    """

    def __init__(self, path: Path, *, patient: bool = False) -> None:
        self.path = path.absolute()
        self._patient = patient

    def __iter__(self) -> Iterator[Entry | Damage]:
        """Yield every entry in its order, and a `Damage` for each that cannot be read.

        An entry whose image alone is damaged is yielded too, without it. A segment whose writer was killed
        before its first transaction has no entries, and no damage.

        Raises:
            Unreadable: See `patient`.
        """
        if (broken := wal.torn(self.path.with_name(self.path.name + COMPANIONS[0]))) is not None:
            yield Damage(self.path, "segment", f"{broken}: what was written behind it is lost")
        try:
            with closing(self._open()) as rows:
                if _is_empty(rows):
                    if self._image_bytes():
                        yield Damage(self.path, "segment", "its rows are gone")
                    return
                known = _ids(rows)
                for seq in range(1, min(_last(rows, known), self._most()) + 1):
                    yield from self._read(rows, seq, known.get(seq))
        except sqlite3.Error as error:
            self._check_patience(error)
            yield Damage(self.path, "segment", str(error))

    def find(self, table: str, entry_id: str) -> Entry | Damage | None:
        """Return one entry, or what is wrong with it; None where it is not here."""
        try:
            with closing(self._open()) as rows:
                where = "WHERE target = ? AND id = ?"
                found = rows.execute(f"SELECT seq FROM entry {where}", (table, entry_id)).fetchone()  # noqa: S608
                return None if found is None else next(self._read(rows, found[0], entry_id))
        except sqlite3.Error as error:
            if _is_gone(self.path) or "no such table" in str(error):
                return None  # shipped meanwhile, or not begun
            return Damage(self.path, "segment", str(error))

    def _open(self) -> sqlite3.Connection:
        rows = sqlite3.connect(f"{self.path.as_uri()}?mode=ro", uri=True, timeout=BUSY_S)
        rows.execute("BEGIN")  # one view for all that follows
        return rows

    def _read(self, rows: sqlite3.Connection, seq: int, entry_id: str | None) -> Iterator[Entry | Damage]:
        try:
            found = rows.execute(f"SELECT {COLUMNS} FROM entry WHERE seq = ?", (seq,)).fetchone()  # noqa: S608
        except (sqlite3.Error, UnicodeDecodeError) as error:
            self._check_patience(error)
            yield Damage(self.path, "row", str(error), seq, entry_id)
            return
        if found is None:
            yield Damage(self.path, "row", "it is missing", seq, entry_id)
            return
        _, table, this_id, row, sha256, at, length, crc = found
        place = None if at is None and length is None else (at, length)
        try:
            bare = Entry(table, this_id, row)
            intact = crc_of(seq, bare, sha256, place) == crc
        except (TypeError, ValueError, AttributeError):  # a column of another type
            intact = False
        if not intact:
            yield Damage(self.path, "row", "its CRC is another one", seq, entry_id)
            return
        if sha256 is None or place is None:
            yield bare
            return
        image = self._image(*place)
        if hashlib.sha256(image).hexdigest() == sha256:
            yield Entry(table, this_id, row, image, sha256)
            return
        reason = "it is torn" if len(image) < length else "its SHA-256 is another one"
        yield Damage(images_of(self.path), "image", reason, seq, this_id)
        yield bare

    def _image(self, at: int, length: int) -> bytes:
        """Return what there is of an image; its place is under the row's CRC."""
        parts: list[bytes] = []
        try:
            fd = os.open(images_of(self.path), os.O_RDONLY)
            try:
                # At most 2 GiB come at a time.
                while length and (part := os.pread(fd, length, at)):
                    parts.append(part)
                    at, length = at + len(part), length - len(part)
            finally:
                os.close(fd)
        except FileNotFoundError:
            return b""
        except OSError as error:
            self._check_patience(error)
        return b"".join(parts)

    def _check_patience(self, error: Exception) -> None:
        """Raise where the error is not about what was written, and may be gone the next time."""
        code = getattr(
            error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT if isinstance(error, ValueError) else None
        )
        if self._patient and (code is None or code & 0xFF not in BROKEN):
            raise Unreadable(f"{self.path}: {error}") from error

    def _image_bytes(self) -> int:
        with suppress(FileNotFoundError):
            return images_of(self.path).stat().st_size
        return 0

    def _most(self) -> int:
        log = self.path.with_name(self.path.name + COMPANIONS[0])
        logged = log.stat().st_size if log.exists() else 0
        return (self.path.stat().st_size + logged) // ROW_BYTES


def _is_empty(rows: sqlite3.Connection) -> bool:
    """Tell whether the writer was killed before it had made the table."""
    return not rows.execute("SELECT 1 FROM sqlite_master").fetchone()


def _is_gone(path: Path) -> bool:
    return not path.exists()


def _ids(rows: sqlite3.Connection) -> dict[int, str]:
    """Return the id of each row, as far as the index that knows it can be read."""
    found: dict[int, str] = {}
    with suppress(sqlite3.Error, UnicodeDecodeError):
        for seq, entry_id in rows.execute("SELECT seq, id FROM entry INDEXED BY entry_id WHERE target > ''"):
            found[seq] = entry_id
    return found


def _last(rows: sqlite3.Connection, known: dict[int, str]) -> int:
    """Return the number of the last row, by the index, by the table's end, and by looking for it.

    Each of the three may be what is broken.
    """
    last = max(known, default=0)
    with suppress(sqlite3.Error):
        last = max(last, rows.execute("SELECT max(seq) FROM entry").fetchone()[0] or 0)
    missed, seq = 0, last
    while missed < PATIENCE:
        seq += 1
        missed += 1
        with suppress(sqlite3.Error):
            if rows.execute("SELECT 1 FROM entry WHERE seq = ?", (seq,)).fetchone():
                last, missed = seq, 0
    return last
