"""Reads a segment that somebody may still be writing, or that a broken disk has left behind."""

import hashlib
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from store.entry import Entry
from store.segment import BUSY_S, crc_of, images_of

COLUMNS = "seq, target, id, row, image_sha256, image_at, image_bytes, crc"


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


class SegmentReader:
    """The entries of a segment as they are now.

    Args:
        path: `….sqlite`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __iter__(self) -> Iterator[Entry | Damage]:
        """Yield every entry in its order, and a `Damage` for each that cannot be read.

        An entry whose image alone is damaged is yielded too, without it.
        """
        try:
            with closing(self._open()) as rows:
                known = _ids(rows)
                for seq in range(1, max(known, default=0) + 1):
                    yield from self._read(rows, seq, known.get(seq))
        except sqlite3.Error as error:
            yield Damage(self.path, "segment", str(error))

    def find(self, table: str, entry_id: str) -> Entry | None:
        """Return one entry; None where it is not here, or damaged."""
        try:
            with closing(self._open()) as rows:
                where = "WHERE target = ? AND id = ?"
                found = rows.execute(f"SELECT seq FROM entry {where}", (table, entry_id)).fetchone()  # noqa: S608
                if found is None:
                    return None
                return next(
                    (one for one in self._read(rows, found[0], entry_id) if isinstance(one, Entry)), None
                )
        except sqlite3.Error:
            return None

    def _open(self) -> sqlite3.Connection:
        rows = sqlite3.connect(f"{self.path.as_uri()}?mode=ro", uri=True, timeout=BUSY_S)
        rows.execute("BEGIN")  # one view for all that follows
        return rows

    def _read(self, rows: sqlite3.Connection, seq: int, entry_id: str | None) -> Iterator[Entry | Damage]:
        try:
            found = rows.execute(f"SELECT {COLUMNS} FROM entry WHERE seq = ?", (seq,)).fetchone()  # noqa: S608
        except (sqlite3.Error, UnicodeDecodeError) as error:
            yield Damage(self.path, "row", str(error), seq, entry_id)
            return
        if found is None:
            yield Damage(self.path, "row", "it is missing", seq, entry_id)
            return
        _, table, this_id, row, sha256, at, length, crc = found
        try:
            bare = Entry(table, this_id, row)
            intact = crc_of(seq, bare, sha256) == crc
        except (TypeError, ValueError, AttributeError):  # a column of another type
            intact = False
        if not intact:
            yield Damage(self.path, "row", "its CRC is another one", seq, entry_id)
            return
        if sha256 is None:
            yield bare
            return
        image = self._image(at, length)
        if hashlib.sha256(image).hexdigest() == sha256:
            yield Entry(table, this_id, row, image, sha256)
            return
        reason = "it is torn" if len(image) < length else "its SHA-256 is another one"
        yield Damage(images_of(self.path), "image", reason, seq, this_id)
        yield bare

    def _image(self, at: int, length: int) -> bytes:
        with suppress(OSError, TypeError, OverflowError, ValueError):
            fd = os.open(images_of(self.path), os.O_RDONLY)
            try:
                return os.pread(fd, length, at)
            finally:
                os.close(fd)
        return b""


def _ids(rows: sqlite3.Connection) -> dict[int, str | None]:
    """Return the id of each row, None where the index that knows it is broken too.

    Raises:
        sqlite3.Error: There is nothing to be read.
    """
    last = rows.execute("SELECT max(seq) FROM entry").fetchone()[0] or 0
    found: dict[int, str | None] = dict.fromkeys(range(1, last + 1))
    with suppress(sqlite3.Error, UnicodeDecodeError):
        found.update(rows.execute("SELECT seq, id FROM entry INDEXED BY entry_id WHERE target > ''"))
    return found
