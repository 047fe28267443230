"""`python -m store.docs` prints what is kept as Markdown: `docs/records.md`."""

import sys
from collections.abc import Iterator

import pyarrow as pa

from store.schema import PARTITION, TABLES, Column
from store.tables import KEYS

HEAD = """\
# Records

Printed from `store/schema.py` by `python -m store.docs > docs/records.md`; do not edit.

Every answer leaves a record before it leaves: first in the replica's spool (`var/spool`, on the disk by the
time the answer is sent), some seconds later in a Delta Lake table (`var/store`, or wherever `GLASSHOUSE_STORE`
says, an `s3://` address too). `python -m store ls` shows what is there, `python -m store verify` proves that it
is all there, whole, and once.

| what | how |
| --- | --- |
| one record | `GET /detect/inferences/{id}`, `GET /recommend/inferences/{id}`; the id is in the answer, in `X-Inference-ID`, and in the log line |
| its image | `GET /detect/inferences/{id}/image` |
| say what is true | `POST /detect/inferences/{id}/feedback` with `{"correct": false, "boxes": […], "note": "…"}`; `POST /recommend/inferences/{id}/feedback` with `{"clicked": [50]}` |
| say what users did | `POST /recommend/interactions` with `[{"user_id": 1, "movie_id": 50, "rating": 4.5}]` |
| a window, in Python | `Reader(store()).window("detections", since, until, ["ts", "brightness"]).to_table()` (`store.reader`, `store.places`) |
| in Polars | `pl.scan_delta("var/store/detections").filter(pl.col("date") == "2026-11-26")` |
| in DuckDB | `rows = DeltaTable("var/store/detections").to_pyarrow_dataset()`, then `duckdb.sql("select source, count(*) from rows group by source")` |

What is lost, and when, is a choice in `serve_config.yaml`, under `args: store:` of both applications:

| key | default | |
| --- | --- | --- |
| `records` | `all` | `none`: nothing is kept |
| `on_error` | `refuse` | a record that cannot be kept makes its answer a 503 with `Retry-After`; `serve`: it is answered, and counted in `store_spool_entries_total{error_type}` |
| `durability` | `full` | what a record outlives: `full` a power cut, `normal` its process killed, `off` nothing |
| `images` | `1.0` | share of the images that is kept, chosen by their hash: the same image always or never |
| `spool_bytes`, `spool_age_s` | 20 GB, 7 days | a replica that has more waiting, or for longer, takes no more |
| `retain_days` | none | `{detections: 30, images: 7}`: days that stay; a table without is kept for good |

A record is never rewritten. Tables grow by columns only, all of them nullable: a row from before has null there.
Several nodes may share a store whose storage honours conditional puts (`If-None-Match`); another is refused.
What the shipper cannot read it sets aside under `var/spool/damaged`, names in the log, and counts in
`store_damages_total`.

What it costs (`python -m bench.store`: one replica, records on and off in turns, 95 % intervals; images of 118 kB
at 640 x 480; Intel Xeon, 2 cores, 2026-11-26):

| CPU-ms an image | one by one, 14 a second | 8 clients, in batches |
| --- | --- | --- |
| records made, written, synced | 1.01 (0.99 to 1.03) | 0.34 (0.34 to 0.35) |
| the event loop | 0.16 (0.08 to 0.23) | 0.15 (0.13 to 0.18) |
| together, what the spool adds; budget 0.5 | **1.16** (1.08 to 1.25), missed | **0.50** (0.47 to 0.52) |
| the 13 properties; budget 2.0 | 1.63 (1.61 to 1.65) | 1.33 (1.32 to 1.34) |
| more in the threads that decode and run the model, beside the others | -0.15 (-0.34 to 0.05) | 0.37 (0.31 to 0.42) |
| the shipper, beside it | 0.9 % of a core | 2.4 % of a core |

One transaction a batch, with two syncs, is what an image alone pays for alone. With 16 clients a replica answers
0.957 (0.93 to 0.99) of the images a second that it answers without records: 23.2 of 24.3.
"""


def page() -> str:
    """Return the page."""
    return "\n".join(lines()) + "\n"


def lines() -> Iterator[str]:
    """Yield the page, line by line."""
    yield from HEAD.splitlines()
    for table, columns in TABLES.items():
        yield from (
            "",
            f"## {table}",
            "",
            f"Key: `{KEYS[table]}`. Partition: `{PARTITION}`, the key's day (UTC).",
        )
        if table == "images":
            yield "The day is that of a record that has the image; an image of two days is there twice."
        yield from ("", "| column | type | |", "| --- | --- | --- |")
        yield from map(_column, columns)


def _column(column: Column) -> str:
    return f"| `{column.name}` | {_type(column.type)} | {column.says} |"


def _type(kind: pa.DataType) -> str:
    return str(kind).replace("list<element: ", "list<").replace("list<item: ", "list<")


if __name__ == "__main__":
    sys.stdout.write(page())
