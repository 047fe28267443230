"""What may be handed in as ratings, what it becomes, and how each thing wrong with it is said."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from models import artifacts
from models.ratings import Ratings, RatingsError, read_ratings
from tests.photos import fetched

FILMS = "item,title\n10,Alien\n20,Heat\n"


def _file(folder: Path, text: str, name: str = "ratings.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "header",
    [
        "user,item,rating,ts",
        "user_id,item_id,rating,timestamp",
        "userId,movieId,rating,timestamp",
        "userid\tmovieid\trating\ttime",
        "USER;movie_id;Rating;TS",
        "\ufeffuser,item,rating,ts",
    ],
)
def test_every_spelling_of_the_columns_is_read(tmp_path: Path, header: str) -> None:
    """Names in any case, comma, tab or semicolon, and a byte order mark give the same ratings."""
    delimiter = next(mark for mark in ";\t," if mark in header)
    rows = [("1", "10", "3.5", "978300760"), ("2", "20", "5", "978302109")]
    path = _file(tmp_path, "\r\n".join([header, *(delimiter.join(row) for row in rows)]) + "\r\n")

    read = read_ratings(path)

    assert (read.user_id.tolist(), read.item_id.tolist()) == ([1, 2], [10, 20])
    assert (read.rating.tolist(), read.ts.tolist()) == ([3.5, 5.0], [978300760, 978302109])
    assert (np.dtype(np.int64), np.dtype(np.float32)) == (read.ts.dtype, read.rating.dtype)


def test_a_folder_brings_its_titles(tmp_path: Path) -> None:
    """A folder of ratings and titles is read as one, titles as they stand and only where there is one."""
    _file(tmp_path, "user,item\n1,10\n1,30\n")
    _file(tmp_path, 'item,title\n10,"Good, the Bad, The"\n20,007\n30,\n40,NA\n', "titles.csv")

    assert read_ratings(tmp_path).titles == {10: "Good, the Bad, The", 20: "007", 40: "NA"}


def test_titles_of_digits_stay_as_they_are(tmp_path: Path) -> None:
    """A file of titles that all look like numbers loses no leading zero."""
    path = _file(tmp_path, "user,item,title\n1,10,007\n1,20,1984\n")

    assert read_ratings(path).titles == {10: "007", 20: "1984"}


def test_titles_may_stand_beside_the_ratings_or_in_a_file_of_their_own(tmp_path: Path) -> None:
    """A title column is read, and the file of titles that is named has the last word."""
    path = _file(tmp_path, "user,item,title\n1,10,Aliens\n1,30,Ran\n")

    assert read_ratings(path).titles == {10: "Aliens", 30: "Ran"}
    assert read_ratings(path, _file(tmp_path, FILMS, "t.csv")).titles == {10: "Alien", 20: "Heat", 30: "Ran"}


def test_without_rating_and_time_every_pair_counts_one(tmp_path: Path) -> None:
    """Implicit feedback has rating 1 and time 0."""
    read = read_ratings(_file(tmp_path, "item,user\n10,1\n20,1\n"))

    assert (read.rating.tolist(), read.ts.tolist()) == ([1.0, 1.0], [0, 0])


def test_of_two_ratings_of_a_pair_the_latest_stands(tmp_path: Path) -> None:
    """The latest by time wins, the last in the file among equals, and the file's order is kept."""
    rows = ["2,10,1,50", "1,10,4,200", "1,10,2,100", "1,20,1,7", "1,20,5,7"]
    read = read_ratings(_file(tmp_path, "user,item,rating,ts\n" + "\n".join(rows) + "\n"))

    assert list(zip(read.user_id.tolist(), read.item_id.tolist(), read.rating.tolist(), strict=True)) == [
        (2, 10, 1.0),
        (1, 10, 4.0),
        (1, 20, 5.0),
    ]


@pytest.mark.parametrize(
    ("time", "seconds"),
    [
        ("2001-01-01T00:00:00Z", 978307200),
        ("2001-01-01 01:00:00.75+01:00", 978307200),
        ("2001-01-01", 978307200),
        ("978307200", 978307200),
        ("978307200.9", 978307200),
        ("-1", -1),
        ("", 0),
    ],
)
def test_times_are_seconds_utc(tmp_path: Path, time: str, seconds: int) -> None:
    """Seconds and ISO 8601 come out as whole seconds UTC, and nothing as zero."""
    read = read_ratings(_file(tmp_path, f"user,item,ts\n1,10,{time}\n"))

    assert [seconds] == read.ts.tolist()


def test_identifiers_stay_exact_to_the_end_of_int64(tmp_path: Path) -> None:
    """Identifiers that a float would round come out as they went in."""
    ids = [2**63 - 1, -(2**63), 2**53 + 1]
    rows = "".join(f"{number},{number}\n" for number in ids)

    assert ids == read_ratings(_file(tmp_path, f"user,item\n{rows}")).user_id.tolist()


@pytest.mark.parametrize(
    "item",
    [
        pa.array([10, 20, 30], pa.int16()),
        pa.array([10, 20, 30], pa.uint64()),
        pa.array([10, 20, 30], pa.float64()),
        pa.array(["10", "20", "30"]),
        pa.array(["10", "20", "30"]).dictionary_encode(),
        pa.array([10, 20, 30]).dictionary_encode(),
    ],
    ids=lambda array: str(array.type),
)
def test_parquet_of_any_type_is_read(tmp_path: Path, item: pa.Array) -> None:
    """Integers, whole floats, coded and textual ones are identifiers; dates are times, and none is 0."""
    ts = pa.array([datetime(2001, 1, 1, tzinfo=UTC), None, datetime(1970, 1, 1, 0, 1, tzinfo=UTC)])
    pq.write_table(pa.table({"user": [1, 2, 4], "item": item, "ts": ts}), tmp_path / "ratings.parquet")

    read = read_ratings(tmp_path)

    assert (read.user_id.tolist(), read.item_id.tolist()) == ([1, 2, 4], [10, 20, 30])
    assert read.ts.tolist() == [978307200, 0, 60]


def test_a_float_that_may_have_been_rounded_is_no_identifier(tmp_path: Path) -> None:
    """Floats beyond 2^53, which stand for several integers each, are refused."""
    pq.write_table(pa.table({"user": [1.0, 2.0**53 + 2], "item": [1, 2]}), tmp_path / "ratings.parquet")

    with pytest.raises(RatingsError, match="column user, data row 2"):
        read_ratings(tmp_path)


def test_an_index_that_pandas_wrote_is_a_column(tmp_path: Path) -> None:
    """A frame indexed by user is read like one that has users in a column."""
    frame = pd.DataFrame({"user": [4, 1, 2], "item": [10, 20, 30]}).set_index("user")
    frame.to_parquet(tmp_path / "ratings.parquet")

    assert read_ratings(tmp_path).user_id.tolist() == [4, 1, 2]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("", "is empty", id="empty"),
        pytest.param("user,item\n", "has no rows", id="no-rows"),
        pytest.param("user,rating\n1,2\n", "no item column", id="no-item"),
        pytest.param("1\t10\t3\t0\n1\t20\t3\t0\n", "no user column", id="no-header"),
        pytest.param("user,user_id,item\n1,1,10\n", "user, user_id mean the same", id="two-users"),
        pytest.param("user,item,item\n1,1,10\n", "names a column twice", id="twice"),
        pytest.param("user,item\n1,10\n,20\n", "column user, data row 2: an empty cell", id="empty-cell"),
        pytest.param("user,item\n1,10\n2,1.5\n", "column item, data row 2: '1.5'", id="fraction"),
        pytest.param("user,item\n1,10\nx,20\n", "column user, data row 2: 'x'", id="word"),
        pytest.param("user,item\n1,9223372036854775808\n", "column item, data row 1", id="beyond-int64"),
        pytest.param("user,item\n1,99999999999999999999\n", "column item, data row 1", id="beyond-uint64"),
        pytest.param("user,item\ntrue,10\n", "column user, data row 1: 'True'", id="boolean"),
        pytest.param("user,item,rating\n1,10,\n", "column rating, data row 1: an empty cell", id="no-rating"),
        pytest.param("user,item,rating\n1,10,nan\n", "column rating, data row 1", id="nan"),
        pytest.param("user,item,rating\n1,10,5\n1,20,inf\n", "column rating, data row 2", id="infinite"),
        pytest.param("user,item,rating\n1,10,1e39\n", "column rating, data row 1", id="beyond-float32"),
        pytest.param("user;item;rating\n1;10;3,5\n", "column rating, data row 1: '3,5'", id="decimal-comma"),
        pytest.param("user,item,ts\n1,10,soon\n", "column ts, data row 1: 'soon'", id="no-time"),
        pytest.param("user,item,ts\n1,10,5\n1,20,soon\n", "column ts, data row 2: 'soon'", id="mixed-times"),
        pytest.param("user,item,ts\n1,10,978307200000\n", "milliseconds?", id="milliseconds"),
        pytest.param("user,item\n1,10,3\n", "data row 1 has 3 fields, the header 2", id="first-row-too-long"),
        pytest.param("user,item\n1,10\n1,20,3\n", "line 3", id="row-too-long"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    """Each thing wrong with a file is a RatingsError that names the file, and column and row if it can."""
    path = _file(tmp_path, text)

    with pytest.raises(RatingsError) as caught:
        read_ratings(path)

    assert (str(path) in str(caught.value), said in str(caught.value)) == (True, True), str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "no such file"), (b"user,item\n1,\xff\n", "not UTF-8"), (b"PAR1 and no more", "cannot be read")],
)
def test_a_file_that_is_none_is_said_so(tmp_path: Path, content: bytes | None, said: str) -> None:
    """A missing file, another encoding and a broken Parquet file are told apart."""
    path = tmp_path / "ratings.csv"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(RatingsError, match=said):
        read_ratings(path)


@pytest.mark.parametrize(
    ("rating", "ts"),
    [
        pytest.param(np.ones(1, np.float32), np.zeros(2, np.int64), id="length"),
        pytest.param(np.ones(2, np.float64), np.zeros(2, np.int64), id="type-of-rating"),
        pytest.param(np.ones(2, np.float32), np.zeros(2, np.float64), id="type-of-time"),
        pytest.param(np.array([1, np.inf], np.float32), np.zeros(2, np.int64), id="infinite"),
    ],
)
def test_ratings_are_checked_when_made(rating: NDArray[Any], ts: NDArray[Any]) -> None:
    """Arrays of unequal length, of another type or with infinities cannot be made into Ratings."""
    ids = np.array([1, 2], np.int64)

    with pytest.raises(RatingsError):
        Ratings(ids, ids, rating, ts, {})


@pytest.mark.data
def test_the_default_ratings_are_movielens_100k() -> None:
    """MovieLens 100k is 100 000 ratings from 1 to 5 by 943 users of 1 682 films, all with titles."""
    read = read_ratings(artifacts.fetch("movielens-100k"))

    assert (len(read), len(np.unique(read.user_id)), len(np.unique(read.item_id))) == (100_000, 943, 1682)
    assert (read.rating.min(), read.rating.max(), len(read.titles)) == (1.0, 5.0, 1682)


@pytest.mark.data
def test_grouplens_own_files_are_read_as_they_are() -> None:
    """MovieLens latest-small, a folder of GroupLens' own CSV files, is 100 836 ratings with 9 742 titles."""
    read = read_ratings(fetched("movielens-latest-small"))

    assert (len(read), len(read.titles), read.titles[1]) == (100_836, 9742, "Toy Story (1995)")
