"""Ratings as arrays, read from CSV or Parquet.

Knows names of columns, not data sets: MovieLens' own files, the canonical tables of `models/artifacts.py` and
a user's export are read alike. Whatever cannot be understood is an error that says where, never a guess.
"""

import csv
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

USER = ("user", "user_id", "userid")
ITEM = ("item", "item_id", "itemid", "movie", "movie_id", "movieid")
RATING = ("rating",)
TIME = ("ts", "timestamp", "time")
TITLE = ("title", "movie_title", "name")

_TITLE_FILES = ("titles.csv", "movies.csv", "titles.parquet", "movies.parquet")
_RATING_FILES = ("ratings.csv", "ratings.parquet")
_DELIMITERS = (",", "\t", ";")
_INT64 = np.iinfo(np.int64)
# The year 5138: what is later was meant in milliseconds.
_LAST_SECOND = 1e11
# Beyond this a float64 no longer tells neighbouring integers apart.
_EXACT_FLOAT = 2**53


class RatingsError(ValueError):
    """A file of ratings or titles cannot be used; the message names file, column and row."""


@dataclass(frozen=True, slots=True)
class Ratings:
    """Who rated what, how, and when; one entry a (user, item) pair, in the order of the file.

    Attributes:
        user_id: `(n,) int64`.
        item_id: `(n,) int64`.
        rating: `(n,) float32`, finite; 1 throughout where the file has none.
        ts: `(n,) int64`, seconds since 1970 UTC; 0 unknown.
        titles: item to title; need not name every item, and may name more.
    """

    user_id: NDArray[np.int64]
    item_id: NDArray[np.int64]
    rating: NDArray[np.float32]
    ts: NDArray[np.int64]
    titles: dict[int, str]

    def __post_init__(self) -> None:
        columns = {"user_id": np.int64, "item_id": np.int64, "rating": np.float32, "ts": np.int64}
        for name, dtype in columns.items():
            column = getattr(self, name)
            if column.dtype != dtype or column.shape != self.user_id.shape or column.ndim != 1:
                raise RatingsError(
                    f"{name} must be a {np.dtype(dtype)} vector as long as user_id ({len(self.user_id)}), "
                    f"not {column.dtype} of shape {column.shape}"
                )
        if not np.isfinite(self.rating).all():
            raise RatingsError(
                f"rating: entry {int(np.flatnonzero(~np.isfinite(self.rating))[0])} is not finite"
            )

    def __len__(self) -> int:
        return len(self.user_id)


def read_ratings(path: Path, titles: Path | None = None) -> Ratings:
    """Read ratings, and titles if there are any.

    Args:
        path: a CSV (comma, tab or semicolon, with a header) or Parquet file, or a folder with `ratings.csv`
            and perhaps `titles.csv` or `movies.csv`. Columns, in any case and order: user (`user`, `user_id`,
            `userId`) and item (`item`, `item_id`, `movie_id`, `movieId`); optional are `rating`, the time
            (`ts`, `timestamp`, `time`: seconds, or ISO 8601, in UTC unless it says otherwise) and `title`.
        titles: a file of items and titles; overrides what `path` says.

    Returns:
        One entry for each (user, item): of several the latest, and of equally late ones the last in the file.

    Raises:
        RatingsError: no file, no rows, a missing column, or a value that is not what its column says.
    """
    source, beside = _locate(path)
    table = _Table.read(source)
    columns = _Columns(
        table.integers(table.require("user", USER)),
        table.integers(table.require("item", ITEM)),
        table.ratings(table.find(RATING)),
        table.times(table.find(TIME)),
    )
    kept = columns.latest()
    named = _titles(table, columns.item)
    if (title_file := titles or beside) is not None:
        named |= _read_titles(title_file)
    return Ratings(columns.user[kept], columns.item[kept], columns.rating[kept], columns.ts[kept], named)


def _locate(path: Path) -> tuple[Path, Path | None]:
    if not path.is_dir():
        return path, None
    found = [path / name for name in _RATING_FILES if (path / name).is_file()]
    if not found:
        raise RatingsError(f"{path}: the folder has no {' or '.join(_RATING_FILES)}")
    beside = [path / name for name in _TITLE_FILES if (path / name).is_file()]
    return found[0], beside[0] if beside else None


def _read_titles(path: Path) -> dict[int, str]:
    table = _Table.read(path)
    items = table.integers(table.require("item", ITEM))
    table.require("title", TITLE)
    return _titles(table, items)


def _titles(table: "_Table", items: NDArray[np.int64]) -> dict[int, str]:
    column = table.find(TITLE)
    if column is None:
        return {}
    texts = table.frame[column]
    present = texts.notna().to_numpy(dtype=bool)
    return {
        int(item): text
        for item, text in zip(items[present], texts[present].astype(str).str.strip(), strict=True)
        if text
    }


@dataclass(frozen=True, slots=True)
class _Columns:
    user: NDArray[np.int64]
    item: NDArray[np.int64]
    rating: NDArray[np.float32]
    ts: NDArray[np.int64]

    def latest(self) -> NDArray[np.int64]:
        """The rows to keep, ascending: of each (user, item) the last by time, then by row."""
        # Stable: equally late ones stay in the order of the file.
        order = np.lexsort((self.ts, self.item, self.user))
        user, item = self.user[order], self.item[order]
        last = np.append((user[1:] != user[:-1]) | (item[1:] != item[:-1]), True)
        return np.sort(order[last])


@dataclass(frozen=True, slots=True)
class _Table:
    """The columns of one file, and errors that say where in it."""

    path: Path
    frame: pd.DataFrame

    @classmethod
    def read(cls, path: Path) -> "_Table":
        if not path.is_file():
            raise RatingsError(f"{path}: no such file")
        try:
            frame = _read_parquet(path) if _is_parquet(path) else _read_csv(path)
        except UnicodeDecodeError as error:
            raise RatingsError(f"{path}: is not UTF-8: {error}") from error
        except (pd.errors.ParserError, pa.ArrowException, csv.Error, OSError) as error:
            raise RatingsError(f"{path}: cannot be read: {error}") from error
        if frame.empty:
            raise RatingsError(f"{path}: has no rows")
        return cls(path, frame)

    def find(self, aliases: tuple[str, ...]) -> str | None:
        """The column that goes by one of these names, in any case; None if there is none."""
        found = [name for name in map(str, self.frame.columns) if name.strip().lower() in aliases]
        if len(found) > 1:
            raise RatingsError(f"{self.path}: columns {', '.join(found)} mean the same; keep one")
        return found[0] if found else None

    def require(self, meaning: str, aliases: tuple[str, ...]) -> str:
        """The same, or an error."""
        found = self.find(aliases)
        if found is None:
            present = ", ".join(map(str, self.frame.columns))
            raise RatingsError(f"{self.path}: no {meaning} column ({', '.join(aliases)}) among {present}")
        return found

    def integers(self, column: str) -> NDArray[np.int64]:
        """The column as int64; an error for a fraction, an empty cell, or what int64 cannot hold."""
        values = self.frame[column].to_numpy()
        if values.dtype.kind == "u":
            self._refuse(column, values > _INT64.max, "within int64")
        elif values.dtype.kind == "f":
            self._refuse(column, np.isnan(values), "an integer")
            self._refuse(column, values != np.rint(values), "an integer")
            self._refuse(column, np.abs(values) >= _EXACT_FLOAT, "an integer that a float holds exactly")
        elif values.dtype.kind != "i":
            parsed = [_integer(value) for value in values]
            self._refuse(column, np.array([number is None for number in parsed]), "an integer within int64")
            values = np.array(parsed)
        return values.astype(np.int64)

    def ratings(self, column: str | None) -> NDArray[np.float32]:
        """The column as finite float32; ones without a column."""
        if column is None:
            return np.ones(len(self.frame), np.float32)
        numbers = self._numbers(column)
        largest = np.finfo(np.float32).max
        self._refuse(column, ~(np.abs(numbers) <= largest), "a finite number")
        return numbers.astype(np.float32)

    def times(self, column: str | None) -> NDArray[np.int64]:
        """The column in whole seconds UTC, fractions dropped; zeros without a column and for empty cells."""
        if column is None:
            return np.zeros(len(self.frame), np.int64)
        numbers = self._numbers(column)
        if np.isnan(numbers).all():
            return self._dates(column)
        given = self.frame[column].notna().to_numpy(dtype=bool)
        self._refuse(column, given & np.isnan(numbers), "a time in seconds, as others of the column are")
        self._refuse(column, np.abs(numbers) > _LAST_SECOND, "a time in seconds (milliseconds?)")
        return np.where(given, np.floor(numbers), 0).astype(np.int64)

    def _dates(self, column: str) -> NDArray[np.int64]:
        values = self.frame[column]
        dates = pd.to_datetime(values, utc=True, format="ISO8601", errors="coerce")
        given = values.notna().to_numpy(dtype=bool)
        self._refuse(
            column, given & dates.isna().to_numpy(dtype=bool), "seconds since 1970 or an ISO 8601 time"
        )
        seconds = dates.dt.tz_localize(None).to_numpy(dtype="datetime64[s]").astype(np.int64)
        return np.where(given, seconds, 0)

    def _numbers(self, column: str) -> NDArray[np.float64]:
        """The column as float64, NaN for what is no number; dates and booleans are none."""
        values = self.frame[column]
        if values.dtype.kind in "bM":
            return np.full(len(values), np.nan)
        return pd.to_numeric(values, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)

    def _refuse(self, column: str, bad: NDArray[np.bool_], what: str) -> None:
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            value = self.frame[column].iloc[row]
            said = "an empty cell" if pd.isna(value) else repr(str(value))
            raise RatingsError(f"{self.path}: column {column}, data row {row + 1}: {said} is not {what}")


def _is_parquet(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PAR1"


def _read_parquet(path: Path) -> pd.DataFrame:
    # Without pandas' own metadata, which would hide a column that was an index when it was written.
    frame: pd.DataFrame = pq.ParquetFile(path).read().replace_schema_metadata(None).to_pandas()
    coded = [name for name, dtype in frame.dtypes.items() if isinstance(dtype, pd.CategoricalDtype)]
    return frame.astype({name: frame[name].cat.categories.dtype for name in coded})


def _read_csv(path: Path) -> pd.DataFrame:
    with path.open(encoding="utf-8-sig", newline="") as file:
        header = file.readline()
        delimiter = max(_DELIMITERS, key=header.count)
        names = next(csv.reader([header], delimiter=delimiter), [])
        first = next(csv.reader(file, delimiter=delimiter), names)
    if len(set(names)) != len(names):
        raise RatingsError(f"{path}: the header names a column twice: {', '.join(names)}")
    if not names:
        raise RatingsError(f"{path}: is empty")
    if len(first) > len(names):
        # pandas would take the first column of such a file for an index, and shift every value by one.
        raise RatingsError(f"{path}: data row 1 has {len(first)} fields, the header {len(names)}")
    texts = {name: str for name in names if name.strip().lower() in TITLE}
    return pd.read_csv(
        path,
        sep=delimiter,
        encoding="utf-8-sig",
        dtype=texts,
        keep_default_na=False,
        na_values={name: [""] for name in names},
        low_memory=False,
    )


def _integer(value: object) -> int | None:
    if not re.fullmatch(r"\s*[+-]?[0-9]{1,19}\s*", str(value)):
        return None
    number = int(str(value))
    return number if _INT64.min <= number <= _INT64.max else None
