"""MovieLens in the forms it is published in, turned into one canonical pair of tables.

Canonical form, UTF-8, lines ended by a line feed:

- `ratings.csv`: header `user,item,rating,ts`; integers, the rating without trailing zeros (`3`, `3.5`), `ts`
  in seconds UTC; sorted by user, item, ts.
- `titles.csv`: header `item,title`; sorted by item; the title as GroupLens writes it, with its year and its
  article behind (`Postman, The (1997)`), without blanks around it.

Ratings are the same bytes whatever the source: the wheels' files give back GroupLens' own `u.data` and
`ratings.dat` to the byte, which their published sha256 shows. Of titles that is not known: the wheel of
100k holds title and year apart (joined again here), the one of 1M was recoded. So titles are verified by the
sha256 of the source file they were read from, and may differ between sources in a character here and there.
"""

import csv
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

Rating = tuple[int, int, str, int]

# Of the numbers 1 to 3952, MovieLens 1M leaves these out. The wheel of 1M names films by title, in the order
# of their numbers; with these gaps it gives GroupLens' ratings.dat, byte for byte.
_GAPS_1M = """
    91 221 323 622 646 677 686 689 740 817 883 995 1048 1072 1074 1182 1195 1229 1239 1338 1402 1403 1418
    1435 1451 1452 1469 1478 1481 1491 1492 1505 1506 1512 1521 1530 1536 1540 1560 1576 1607 1618 1634 1637
    1638 1691 1700 1712 1736 1737 1745 1751 1761 1763 1766 1775 1778 1786 1790 1800 1802 1803 1808 1813 1818
    1823 1828 1838 3815
"""
_LAST_1M = 3952


def convert_official_100k(source: Path, target: Path) -> None:
    """Read `u.data` and `u.item` (latin-1, `|` between fields) in `source`; write the canonical pair."""
    ratings = (_rating(*fields) for fields in _rows(source / "u.data", "ascii", "\t"))
    titles = ((int(item), title) for item, title, *_ in _rows(source / "u.item", "latin-1", "|"))
    _write(target, ratings, titles)


def convert_archive_1m(source: Path, target: Path) -> None:
    """Read `ratings.dat` and `movies.dat` (latin-1, `::`) inside `ml-1m.zip`; write the canonical pair."""
    with zipfile.ZipFile(source / "ml-1m.zip") as archive:
        ratings = archive.read("ml-1m/ratings.dat").decode("ascii").splitlines()
        films = archive.read("ml-1m/movies.dat").decode("latin-1").split("\n")
    titles = (line.rstrip("\r").split("::")[:2] for line in films if line)
    _write(
        target,
        (_rating(*line.split("::")) for line in ratings),
        ((int(item), title) for item, title in titles),
    )


def convert_wheel_100k(source: Path, target: Path) -> None:
    """Read `ml-100k.inter` and `ml-100k.item` (tabs; title and year apart); write the canonical pair."""
    interactions = _rows(source / "ml-100k.inter", "utf-8", "\t")
    items = _rows(source / "ml-100k.item", "utf-8", "\t")
    next(interactions)
    next(items)
    ratings = (_rating(*fields) for fields in interactions)
    _write(target, ratings, ((int(item), _with_year(title, year)) for item, title, year, _ in items))


def convert_wheel_1m(source: Path, target: Path) -> None:
    """Read `ml-1m.inter` and `ml-1m.item` (films named by title, users `1m_…`); write the canonical pair."""
    items = _rows(source / "ml-1m.item", "utf-8", "\t")
    next(items)
    gaps = set(map(int, _GAPS_1M.split()))
    numbers = (number for number in range(1, _LAST_1M + 1) if number not in gaps)
    number_of = {title: number for number, (title, *_) in zip(numbers, items, strict=True)}
    interactions = _rows(source / "ml-1m.inter", "utf-8", "\t")
    next(interactions)
    ratings = (
        _rating(user.removeprefix("1m_"), str(number_of[title]), rating, ts)
        for user, title, rating, ts in interactions
    )
    _write(target, ratings, ((number, title) for title, number in number_of.items()))


def _rows(path: Path, encoding: str, delimiter: str) -> Iterator[list[str]]:
    # Not the csv module: none of these formats quotes, and titles hold quotation marks.
    with path.open(encoding=encoding, newline=None) as lines:
        for line in lines:
            yield line.rstrip("\n").split(delimiter)


def _rating(user: str, item: str, rating: str, ts: str) -> Rating:
    return int(user), int(item), f"{float(rating):g}", int(ts)


def _with_year(title: str, year: str) -> str:
    # Film 267 has neither; the wheel writes the word wrongly, twice.
    return "unknown" if title == year == "unkonwn" else f"{title} ({year})"


def _write(target: Path, ratings: Iterable[Rating], titles: Iterable[tuple[int, str]]) -> None:
    with (target / "ratings.csv").open("w", encoding="utf-8", newline="") as out:
        out.write("user,item,rating,ts\n")
        out.writelines(f"{user},{item},{rating},{ts}\n" for user, item, rating, ts in sorted(ratings))
    with (target / "titles.csv").open("w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(("item", "title"))
        writer.writerows((item, title.strip()) for item, title in sorted(titles))
