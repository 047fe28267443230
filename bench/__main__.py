"""`python -m bench`: the measured table of the README, as text and as JSON."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from bench import detector, properties, recommender, serving, store, store_scale, telemetry
from bench.report import Row, machine, table, write_json
from store.places import home

PARTS: dict[str, Callable[[], list[Row]]] = {
    "serving": serving.measure,
    "detector": detector.measure,
    "properties": properties.measure,
    "recommender": recommender.measure,
    "telemetry": telemetry.measure,
    "store": store.measure,
    "store_scale": store_scale.measure,
}


def main(arguments: list[str] | None = None) -> int:
    """Measure what is asked for, print it, and write it; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; default all")
    parser.add_argument("--json", type=Path, default=home() / "reports" / "bench.json")
    options = parser.parse_args(arguments)
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    seen_on, rows = machine(), []
    print(seen_on.text(), flush=True)
    for part in options.parts or PARTS:
        print(f"\n{part} …", flush=True)
        measured = PARTS[part]()
        print("\n" + table(measured), flush=True)
        rows += measured
    write_json(options.json, seen_on, rows)
    print(f"\nas JSON: {options.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
