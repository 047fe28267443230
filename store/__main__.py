"""`python -m store ls | verify | compact | retain`: what is kept, whether it is whole, and for how long."""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
from tqdm import tqdm

from store import places, upkeep, verify
from store.errors import StoreError
from store.rows import time_of
from store.schema import PARTITION, TABLES
from store.shipper import spools_of, waiting
from store.spool import segments
from store.tables import KEYS, NotShipped, Tables
from store.times import parse_time

RAN, WRONG, FAILED = 0, 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0: it ran, 1: something is wrong with what is kept, 2: it could not run."""
    parser = _parser()
    asked = parser.parse_args(arguments)
    try:
        tables = Tables(asked.store)
        if "://" not in asked.store and not Path(asked.store).is_dir() and asked.command != "verify":
            parser.exit(
                FAILED, f"{asked.store}: nothing is kept there yet; send a request, or name another.\n"
            )
        run = {"ls": _ls, "verify": _verify, "compact": _compact, "retain": _retain}[asked.command]
        return run(tables, asked)
    except (StoreError, ValueError) as error:
        print(f"store: {error}", file=sys.stderr)
        return FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m store", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--store", default=places.store(), help="folder or URL; default %(default)s")
    common.add_argument("--json", action="store_true", help="one object on standard output")
    commands.add_parser("ls", parents=[common], help="what is kept, by table and day")
    looks = commands.add_parser("verify", parents=[common], help="is all of it there, whole, and once?")
    looks.add_argument("--since", type=_day, help="only days from here on: a time, or 7d")
    looks.add_argument("--until", type=_day, help="only days before this one")
    looks.add_argument(
        "--set-aside", action="store_true", help="take files that cannot be read out of the tables"
    )
    commands.add_parser("compact", parents=[common], help="make the small files of each day one")
    keeps = commands.add_parser("retain", parents=[common], help="remove days that are too old")
    keeps.add_argument("--days", type=int, required=True, help="how many days stay, >= 1")
    keeps.add_argument("--table", action="append", choices=list(TABLES), help="default: all of them")
    keeps.add_argument("--yes", action="store_true", help="remove; else it is only said what would be")
    return parser


def _day(text: str) -> str:
    try:
        return parse_time(text).date().isoformat()
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _ls(tables: Tables, asked: argparse.Namespace) -> int:
    found = [day for table in TABLES for day in _days(tables, table)]
    spools = [_spool(path) for path in spools_of(places.spools())]
    size, age = waiting(places.spools())
    if asked.json:
        print(json.dumps({"store": tables.uri, "days": found, "spools": spools, "waiting_bytes": size}))
        return RAN
    print(f"{tables.uri}\n")
    print(f"{'table':16} {'day':10} {'rows':>12} {'files':>6} {'size':>10}  first     last (UTC)")
    for one in found:
        print(
            f"{one['table']:16} {one['day']:10} {one['rows']:12,} {one['files']:6,} {_size(one['bytes']):>10}"
            f"  {one['first'] or '':8}  {one['last'] or '':8}"
        )
    if not found:
        print("no rows yet")
    print(f"\nin spools: {_size(size)}" + (f", the oldest for {age:.0f} s" if size else ""))
    for one in spools:
        print(f"  {one['spool']}: {one['segments']} segments")
    return RAN


def _days(tables: Tables, table: str) -> list[dict[str, Any]]:
    opened = tables.open(table)
    if opened is None:
        return []
    adds = pa.table(opened.get_add_actions(flatten=True))
    found: dict[str, dict[str, Any]] = {}
    for row in adds.to_pylist():
        day = row[f"partition.{PARTITION}"]
        one = found.setdefault(
            day, {"table": table, "day": day, "rows": 0, "files": 0, "bytes": 0, "first": None, "last": None}
        )
        one["rows"] += row["num_records"] or 0
        one["files"] += 1
        one["bytes"] += row["size_bytes"]
        low, high = row.get(f"min.{KEYS[table]}"), row.get(f"max.{KEYS[table]}")
        if table != "images" and low and high:
            times = [time_of(one_id).strftime("%H:%M:%S") for one_id in (low, high)]
            one["first"] = min(filter(None, (one["first"], times[0])))
            one["last"] = max(filter(None, (one["last"], times[1])))
    return [found[day] for day in sorted(found)]


def _spool(path: Path) -> dict[str, Any]:
    return {"spool": path.name, "segments": len(segments(path))}


def _verify(tables: Tables, asked: argparse.Namespace) -> int:
    def days(day: str) -> bool:
        return (asked.since or "") <= day and (asked.until is None or day < asked.until)

    done = verify.verify(tables, places.spools(), days, _progress)
    moved: list[Path] = []
    if asked.set_aside:
        if "://" in tables.uri:
            raise NotShipped(
                "--set-aside works where the store is a folder; elsewhere, move the files by hand."
            )
        moved = verify.set_aside(tables, done.wrong)
    if asked.json:
        wrong = [str(one) for one in done.wrong]
        print(
            json.dumps(
                {
                    "store": tables.uri,
                    "rows": done.rows,
                    "files": done.files,
                    "waiting": done.waiting,
                    "wrong": wrong,
                    "set_aside": [str(path) for path in moved],
                }
            )
        )
        return WRONG if wrong else RAN
    for one in done.wrong:
        print(one)
    for path in moved:
        print(f"set aside: {path}")
    rows = ", ".join(f"{count:,} {table}" for table, count in done.rows.items()) or "no rows"
    said = f"{len(done.wrong)} things are wrong" if done.wrong else "all of it is there, whole, and once"
    print(f"{rows} in {done.files:,} files, {done.waiting:,} entries in spools: {said}.")
    return WRONG if done.wrong else RAN


def _compact(tables: Tables, asked: argparse.Namespace) -> int:
    done = upkeep.compact(tables, least=2)
    removed = upkeep.vacuum(tables)
    if asked.json:
        days = [
            {"table": one.table, "day": one.day, "before": one.before, "after": one.after} for one in done
        ]
        print(json.dumps({"store": tables.uri, "compacted": days, "files_removed": removed}))
        return RAN
    for one in done:
        print(f"{one.table} {one.day}: {one.before} files, now {one.after}")
    if not done:
        print("nothing to compact")
    print("the old files stay for a day, for who is reading them")
    return RAN


def _retain(tables: Tables, asked: argparse.Namespace) -> int:
    if asked.days < 1:
        raise ValueError("--days: at least 1 day stays.")
    keep = dict.fromkeys(asked.table or TABLES, asked.days)
    now = datetime.now(UTC)
    if asked.yes:
        removed = upkeep.retain(tables, keep, now)
        upkeep.vacuum(tables)
    else:
        removed = {table: days for table in keep if (days := upkeep.outdated(tables, table, asked.days, now))}
    if asked.json:
        print(json.dumps({"store": tables.uri, "removed": removed, "done": asked.yes}))
        return RAN
    for table, days in removed.items():
        print(f"{table}: {', '.join(days)}")
    if not removed:
        print(f"nothing is older than {asked.days} days")
    elif not asked.yes:
        print("these would be removed; add --yes to do it")
    return RAN


def _progress(items: Sequence[Any], what: str) -> Iterator[Any]:
    return iter(tqdm(items, what, unit="file", leave=False, disable=None, file=sys.stderr))


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


if __name__ == "__main__":
    sys.exit(main())
