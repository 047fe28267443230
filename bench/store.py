"""What it costs that every answer leaves a record: CPU of an image, and images a second, on and off in turns.

`python -m bench.store` prints the rows. The spool's part is the spool's own thread, and what the event loop
and the threads that decode spend more with it; the properties have a thread of their own.
"""

import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.cluster import cpu_s, one_detector
from bench.interleaved import MODEL, RATE, REST, SMALL, Mean, Replica, added, photo, switched
from bench.load import closed_loop
from bench.report import Row, table
from launch.deploy import deploy
from launch.ports import Ports
from launch.ray_head import SHIPPER, RayHead
from models import artifacts

PAIRS = 60
TURN_S = 2.0
CLIENTS = 16
BATCH_CLIENTS = 8
THROUGHPUT_PAIRS = 12
THROUGHPUT_S = 8.0
SIZE = (480, 640)


def measure(progress: Callable[[str], None] = print) -> list[Row]:
    """Measure both."""
    with _running(progress) as (head, config):
        progress(f"{PAIRS} times {TURN_S:g} s with and without records")
        deploy(head, switched(config))
        rows = _cost(head)
        progress(f"{THROUGHPUT_PAIRS} times {THROUGHPUT_S:g} s of {CLIENTS} clients with and without records")
        deploy(head, switched(config, {}))
        return [*rows, *_throughput(head)]


@contextmanager
def _running(progress: Callable[[str], None]) -> Iterator[tuple[RayHead, dict[str, Any]]]:
    with tempfile.TemporaryDirectory() as folder:
        head = RayHead(
            Path(folder) / "run",
            Ports.free(),
            environ={"GLASSHOUSE_HOME": folder, "GLASSHOUSE_TELEMETRY": "off"},
        )
        try:
            progress("starting")
            head.start()
            yield head, one_detector(head.ports.serve)
        finally:
            head.stop()


def _cost(head: RayHead) -> list[Row]:
    image = photo(*SIZE)
    shape = (
        f"bus.jpg at {SIZE[1]} x {SIZE[0]}, {len(image) / 1000:.0f} kB; model at {SMALL['image_size']} pixels"
    )
    return [
        *_cost_of(head, image, 0, f"one by one, {RATE:g} a second", shape),
        *_cost_of(head, image, BATCH_CLIENTS, f"{BATCH_CLIENTS} clients, in batches", shape),
    ]


def _cost_of(head: RayHead, image: bytes, clients: int, how: str, shape: str) -> list[Row]:
    groups = {"model": MODEL, "spool": ("spool",), "properties": ("properties",)}
    replica = Replica(head, "store", image, groups, clients)
    for side in ("on", "off"):  # what is done once
        replica.ask(side, 5.0)
    shipper = [one for one in head.processes() if one.cmdline()[:1] == [SHIPPER]]
    before, began = cpu_s(shipper), time.monotonic()
    pairs = replica.pairs(PAIRS, TURN_S)
    shipped = (cpu_s(shipper) - before) / (time.monotonic() - began)
    turns = f"{PAIRS} pairs of {TURN_S:g} s"
    off_ms = statistics.fmean(sum(off.values()) for _, off in pairs)
    return [
        Row(f"detect, {how}: CPU without records", off_ms, "ms an image", shape),
        added(pairs, "spool", REST).row(".. that the spool adds, with what the event loop has to do", turns),
        added(pairs, "spool").row("..... in the spool's thread: records made, written, synced", turns),
        added(pairs, REST).row("..... in the event loop and the rest", turns),
        added(pairs, "model").row(".. more in the threads that decode and run the model", turns),
        added(pairs, "properties").row(".. of the 13 properties", turns),
        Row(".. of the shipper, beside it", 100 * shipped, "% of a core", "on half of the time"),
    ]


def _throughput(head: RayHead) -> list[Row]:
    replica = Replica(head, "store", artifacts.fetch("bus.jpg").read_bytes(), {})
    rates: dict[str, list[float]] = {"on": [], "off": []}
    for number in range(-1, THROUGHPUT_PAIRS):
        for side in ("on", "off") if number % 2 else ("off", "on"):
            replica.switch(side)
            load = closed_loop(head.url, lambda _: replica.call, clients=CLIENTS, duration_s=THROUGHPUT_S)
            began = time.monotonic()
            good = [one for one in asyncio.run(load) if one.status == 200]
            if number >= 0:  # the first pair warms up
                rates[side].append(len(good) / (time.monotonic() - began))
    ratios = [on / off for on, off in zip(rates["on"], rates["off"], strict=True)]
    of = f"{THROUGHPUT_PAIRS} pairs of {THROUGHPUT_S:g} s, {CLIENTS} clients, bus.jpg, default model"
    return [
        Row("detect: images a second, no records", statistics.fmean(rates["off"]), "1/s", of),
        Row("detect: images a second, every record kept", statistics.fmean(rates["on"]), "1/s", of),
        Mean.of(ratios).row(".. the second over the first", of, "of 1"),
    ]


if __name__ == "__main__":
    print(table(measure()))
