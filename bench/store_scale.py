"""How far the tables carry: a million detection records, scanned, and looked up by id.

`python -m bench.store_scale` prints the rows; `docs/scale.md` goes on from them. Numbers are made up, the
schema, the writer and the compaction are the product's own. Scan and look-up run in a process of their own,
whose memory is what they need.
"""

import multiprocessing
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from bench.load import percentile
from bench.report import Row, table
from store import upkeep
from store.reader import Reader
from store.schema import PROPERTIES, arrow
from store.tables import Tables

ROWS = 1_000_000
DAYS = 4
COMMIT = 5_000  # rows; a shipper's commits are smaller, and compaction makes them one
EMBEDDING = 512  # bytes: 256 float16, as YOLOv8n has them
BOXES = 4.0  # of an image, in the mean
LOOKUPS = 300
START = datetime(2026, 11, 1, tzinfo=UTC)


def measure(progress: Callable[[str], None] = print) -> list[Row]:
    """Fill a store, compact it, read it."""
    with tempfile.TemporaryDirectory() as folder:
        progress(f"writing {ROWS:,} records")
        tables = Tables(folder)
        began, cpu = time.monotonic(), time.process_time()
        sample = _fill(tables)
        wrote_s, wrote_cpu = time.monotonic() - began, time.process_time() - cpu
        progress("compacting")
        began = time.monotonic()
        done = upkeep.compact(tables)
        compact_s = time.monotonic() - began
        size = sum(path.stat().st_size for path in Path(folder).rglob("*.parquet"))
        kept = _size(tables)
        rows = [
            Row(
                "a million records: written",
                ROWS / wrote_s,
                "records/s",
                f"{1e6 * wrote_cpu / ROWS:.0f} CPU-us each",
            ),
            Row(
                "a million records: compacted",
                compact_s,
                "s",
                f"{sum(one.before for one in done)} files to {sum(one.after for one in done)}",
            ),
            Row(
                "a million records: on the disk",
                kept / ROWS,
                "bytes each",
                f"{(size - kept) / 1e9:.1f} GB of old files until vacuum",
            ),
        ]
        progress("scanning, looking up")
        spawned = multiprocessing.get_context("spawn")
        with spawned.Pool(1) as pool:
            rows += pool.apply(_scan, (folder,))
        with spawned.Pool(1) as pool:
            rows += pool.apply(_look_up, (folder, sample))
    return rows


def _fill(tables: Tables) -> list[str]:
    made = np.random.default_rng(0)
    chance = random.Random(0)
    step = timedelta(days=DAYS) / ROWS
    sample: list[str] = []
    for number in range(0, ROWS, COMMIT):
        rows = _rows(made, START + number * step, step, COMMIT)
        ids = rows.column("inference_id").to_pylist()
        sample += chance.sample(ids, max(1, LOOKUPS * COMMIT // ROWS + 1))
        tables.append("detections", rows, {"made": number + 1})
    return chance.sample(sample, LOOKUPS)


def _rows(made: np.random.Generator, start: datetime, step: timedelta, count: int) -> pa.Table:
    """Return records one after another in time, their ids UUIDv7 of that time."""
    times = [start + index * step for index in range(count)]
    ids = [_uuid7(time, made) for time in times]
    lengths = made.poisson(BOXES, count)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    given: dict[str, Any] = {
        "inference_id": ids,
        "request_id": [one.replace("-", "") for one in ids],
        "ts": pa.array(times, pa.timestamp("us", tz="UTC")),
        "model_name": ["yolov8n"] * count,
        "model_version": ["f59b3d833e2f"] * count,
        "replica": [f"detection#Detection#{index % 2}" for index in range(count)],
        "source": [f"camera-{index % 50}" for index in range(count)],
        "settings": ['{"confidence":0.25,"iou":0.7,"max_detections":300,"classes":null}'] * count,
        "image_sha256": [made.bytes(32).hex() for _ in range(count)],
        "width": np.full(count, 640, np.int32),
        "height": np.full(count, 480, np.int32),
        "date": [time.date().isoformat() for time in times],
        "embedding": [made.bytes(EMBEDDING) for _ in range(count)],
        **{column.name: made.random(count) for column in PROPERTIES},
    }
    columns = []
    for field in arrow("detections"):
        if pa.types.is_list(field.type) and field.name != "tags":
            values = (
                made.random(offsets[-1]) if "float" in str(field.type) else made.integers(0, 80, offsets[-1])
            )
            columns.append(pa.ListArray.from_arrays(offsets, pa.array(values).cast(field.type.value_type)))
        elif field.name in given:
            columns.append(pa.array(given[field.name], field.type))
        else:
            columns.append(pa.nulls(count, field.type))
    return pa.Table.from_arrays(
        [column.cast(field.type) for column, field in zip(columns, arrow("detections"), strict=True)],
        schema=arrow("detections"),
    )


def _uuid7(at: datetime, made: np.random.Generator) -> str:
    number = int(at.timestamp() * 1e3) << 80 | 7 << 76 | int(made.integers(0, 1 << 12)) << 64
    number |= 2 << 62 | int(made.integers(0, 1 << 62))
    text = f"{number:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def _size(tables: Tables) -> int:
    opened = tables.open("detections")
    adds = pa.table(opened.get_add_actions(flatten=True)) if opened else pa.table({"size_bytes": [0]})
    return int(sum(adds.column("size_bytes").to_pylist()))


def _scan(folder: str) -> list[Row]:
    """Scan the property columns of all days, batch by batch."""
    pa.set_cpu_count(1)
    _forget_peak()
    before = _peak_mb()
    names = [column.name for column in PROPERTIES]
    rates = []
    for _ in range(3):
        began, cpu, values = time.monotonic(), time.process_time(), 0
        scanner = Reader(folder).window("detections", START, START + timedelta(days=DAYS + 1), names)
        if scanner is not None:
            for batch in scanner.to_reader():
                values += batch.num_rows * batch.num_columns
        rates.append((values / (time.process_time() - cpu), values / (time.monotonic() - began)))
    best = max(rates)
    return [
        Row(
            "a million records: scan of 13 columns",
            best[0] / 1e6,
            "million values/s/core",
            f"wall {best[1] / 1e6:.1f}; best of 3",
        ),
        Row(
            ".. memory at its most (RSS)",
            _peak_mb(),
            "MB",
            f"{before:.0f} before: Python, Arrow and delta-rs",
        ),
    ]


def _look_up(folder: str, ids: list[str]) -> list[Row]:
    """Look records up, as `GET …/inferences/{id}` does."""
    _forget_peak()
    reader = Reader(folder)
    reader.record("detections", ids[0])
    took = []
    for one in ids[1:]:
        began = time.monotonic()
        if reader.record("detections", one) is None:
            raise RuntimeError(f"{one} is not found")
        took.append((time.monotonic() - began) * 1e3)
    return [
        Row(
            "a million records: one by its id",
            statistics.median(took),
            "ms",
            f"p99 {percentile(took, 0.99):.1f} ms, of {len(took)}",
        ),
        Row(".. memory at its most (RSS)", _peak_mb(), "MB"),
    ]


def _peak_mb() -> float:
    """Return the most that this process has had resident since `_forget_peak`."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line]
    return int(line.split()[1]) * 1024 / 1e6


def _forget_peak() -> None:
    # A new process begins with the peak of the one that made it.
    Path("/proc/self/clear_refs").write_text("5")


if __name__ == "__main__":
    print(table(measure()))
