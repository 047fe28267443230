"""Is all that was kept there, whole, and once? Everything that is wrong is named.

Reads every file of the tables, one row group at a time, and every segment that waits.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from store.schema import PARTITION, TABLES
from store.segment_reader import Damage, SegmentReader
from store.shipper import DAMAGED, shippable_of
from store.tables import KEYS, Tables

IMAGES = "images"
BATCH = 1_024
COLLISION_FREE = 16  # bytes of a hash by which ids are compared: a day has them all in memory


@dataclass(frozen=True, slots=True)
class Wrong:
    """Something that is wrong.

    Args:
        where: A table and day, a file, or a segment.
        what: For people.
        file: Of the table, by its path in it, where a whole file cannot be read.
    """

    where: str
    what: str
    file: str | None = None

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


@dataclass(slots=True)
class Verified:
    """What was looked at.

    Args:
        rows: By table.
        files: Of all tables.
        waiting: Entries in spools.
        wrong: What is wrong; empty where nothing is.
    """

    rows: dict[str, int]
    files: int
    waiting: int
    wrong: list[Wrong]


def verify(
    tables: Tables,
    spools: Path,
    days: Callable[[str], bool] = lambda _: True,
    progress: Callable[[Sequence[Any], str], Iterator[Any]] = lambda items, _: iter(items),
) -> Verified:
    """Look at everything.

    Args:
        tables: Of the store.
        spools: Of this node.
        days: Which days of the tables to look at.
        progress: Wraps what is gone through, told what it is.

    Raises:
        NotShipped: A table's log cannot be read.
    """
    done = Verified({}, 0, 0, [])
    images: dict[str, set[bytes]] = {}
    needed: dict[str, dict[bytes, str]] = {}
    for table in (IMAGES, *(name for name in TABLES if name != IMAGES)):
        for day, files in sorted(_files(tables, table, days).items()):
            _Day(tables, table, day, done, images, needed).look(progress(files, f"{table} {day}"))
    _compare(images, needed, done)
    for segment in progress(shippable_of(spools), "spools"):
        for one in SegmentReader(segment):
            if isinstance(one, Damage):
                done.wrong.append(Wrong("spool", str(one)))
            else:
                done.waiting += 1
    for folder in sorted((spools / DAMAGED).glob("*/*.sqlite")):
        done.wrong.append(Wrong("spool", f"{folder}: set aside by the shipper; its log says why"))
    return done


@dataclass(frozen=True, slots=True)
class _File:
    path: str
    rows: int | None


def _files(tables: Tables, table: str, days: Callable[[str], bool]) -> dict[str, list[_File]]:
    opened = tables.open(table)
    if opened is None:
        return {}
    adds = pa.table(opened.get_add_actions(flatten=True))
    found: dict[str, list[_File]] = {}
    for row in adds.select(["path", "num_records", f"partition.{PARTITION}"]).to_pylist():
        day = row[f"partition.{PARTITION}"]
        if days(day):
            found.setdefault(day, []).append(_File(unquote(row["path"]), row["num_records"]))
    return found


@dataclass(slots=True)
class _Day:
    """One day of one table."""

    tables: Tables
    table: str
    day: str
    done: Verified
    images: dict[str, set[bytes]]
    needed: dict[str, dict[bytes, str]]

    @property
    def name(self) -> str:
        return f"{self.table} {self.day}"

    def look(self, files: Iterator[_File]) -> None:
        ids: list[np.ndarray[Any, Any]] = []
        for file in files:
            self.done.files += 1
            try:
                ids.append(self._read(file))
            except (OSError, pa.ArrowException) as error:
                said = str(error).splitlines()[0]
                self.done.wrong.append(Wrong(self.name, f"{file.path} cannot be read: {said}", file.path))
        every = np.concatenate(ids) if ids else np.empty(0, f"S{COLLISION_FREE}")
        self.done.rows[self.table] = self.done.rows.get(self.table, 0) + len(every)
        # An image may be there twice (a shipper that began anew); a record may not.
        if self.table != IMAGES and (twice := len(every) - len(np.unique(every))):
            self.done.wrong.append(Wrong(self.name, f"{twice} ids are there more than once"))

    def _read(self, file: _File) -> "np.ndarray[Any, Any]":
        columns = [KEYS[self.table]]
        columns += {"images": ["bytes"], "detections": ["image_sha256"]}.get(self.table, [])
        ids: list[bytes] = []
        with self._open(file.path) as opened:
            for batch in opened.iter_batches(BATCH, columns=columns):
                for row in batch.to_pylist():
                    ids.append(_short(row[KEYS[self.table]]))
                    self._look_at(row)
        if file.rows is not None and file.rows != len(ids):
            said = f"{file.path} has {len(ids)} rows, its table's log says {file.rows}"
            self.done.wrong.append(Wrong(self.name, said))
        return np.array(ids, f"S{COLLISION_FREE}")

    def _look_at(self, row: dict[str, Any]) -> None:
        if self.table == IMAGES:
            name = row["image_sha256"]
            if hashlib.sha256(row["bytes"]).hexdigest() != name:
                self.done.wrong.append(Wrong(self.name, f"image {name} has other bytes than its name says"))
            self.images.setdefault(self.day, set()).add(_short(name))
        elif self.table == "detections" and row["image_sha256"] is not None:
            self.needed.setdefault(self.day, {})[_short(row["image_sha256"])] = row["inference_id"]

    def _open(self, path: str) -> pq.ParquetFile:
        if "://" in self.tables.uri:
            from deltalake.fs import DeltaStorageHandler  # noqa: PLC0415 - only where it is no folder

            handler = DeltaStorageHandler(self.tables.path(self.table), self.tables.options)
            return pq.ParquetFile(pa.fs.PyFileSystem(handler).open_input_file(path))
        return pq.ParquetFile(os.path.join(self.tables.path(self.table), path))  # noqa: PTH118 - keeps "%"


def _compare(images: dict[str, set[bytes]], needed: dict[str, dict[bytes, str]], done: Verified) -> None:
    """Every record's image is there, or none of its day is kept (`store.images`, `retain_days`)."""
    for day, names in needed.items():
        if day not in images:
            continue
        for missing in names.keys() - images[day]:
            done.wrong.append(Wrong(f"detections {day}", f"{names[missing]} has no image in `images`"))


def set_aside(tables: Tables, wrong: Sequence[Wrong]) -> list[Path]:
    """Move files that cannot be read out of their tables, where somebody may try to save them.

    Args:
        tables: Of a store in a folder.
        wrong: What `verify` found.

    Returns:
        Where they are now.

    Raises:
        NotShipped: A table cannot be written.
    """
    moved: list[Path] = []
    for table in TABLES:
        mine = [one.file for one in wrong if one.file is not None and one.where.startswith(f"{table} ")]
        for file in mine:
            there = Path(tables.path(table), file)
            kept = Path(tables.uri, DAMAGED, table, file)
            kept.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):
                there.replace(kept)
                moved.append(kept)
        if mine:
            # Takes the files that are not there any more out of the table's log.
            tables.change(table, lambda opened: opened.repair())
    return moved


def _short(name: str) -> bytes:
    """Return what a name is compared by: a UUID's own bytes, or the first of a hash."""
    return hashlib.blake2b(name.encode(), digest_size=COLLISION_FREE).digest()
