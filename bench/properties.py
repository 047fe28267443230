"""What the 13 image properties cost a thread: CPU of an image, with warm caches and right after the model.

`python -m bench.properties` prints the rows; COCO128, one by one, on one core. The budget is 2 CPU-ms at
640 x 480. In a replica they run beside the model: see `bench.store`.
"""

import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import cv2
import numpy as np
import numpy.typing as npt
import torch

from bench.detector import Plain
from bench.report import Row, table
from models.artifacts import ArtifactError, fetch
from models.images import decode
from models.properties import measure as measured
from models.properties import step_of, warm

Pixels = npt.NDArray[np.uint8]

REPEATS = 7
AFTER = 64  # forwards of 0.1 s
SIZE = (640, 480)  # width, height
LARGE = ((4000, 3000), (8000, 5000))


def measure(progress: Callable[[str], None] = print) -> list[Row]:
    """Measure warm, after a forward, and large."""
    try:
        sent, source = _coco128(), "COCO128"
    except ArtifactError:
        sent = [decode(fetch(name).read_bytes(), max_pixels=10**8) for name in ("bus.jpg", "zidane.jpg")]
        source = "bus.jpg and zidane.jpg: COCO128 cannot be fetched here"
    small = [np.asarray(cv2.resize(one, SIZE, interpolation=cv2.INTER_AREA), np.uint8) for one in sent]
    began = time.perf_counter()
    warm()
    ready = Row(
        "properties: ready after", time.perf_counter() - began, "s", "numba and its code, kept or not"
    )
    with _one_core():
        progress("warm")
        rows = [
            ready,
            _row("properties, as sent", "warm caches", _warm(sent), source),
            _row("properties, 640 x 480", "warm caches", _warm(small), source),
        ]
        progress(f"after {AFTER} forwards")
        rows.append(_row("properties, 640 x 480", "after a forward", _after_forwards(small), source))
        progress("large")
        return [*rows, *(_large(small[0], *size) for size in LARGE)]


def _coco128() -> list[Pixels]:
    paths = sorted(fetch("coco128").rglob("*.jpg"))
    return [decode(path.read_bytes(), max_pixels=10**8) for path in paths]


@contextmanager
def _one_core() -> Iterator[None]:
    cores, threads, of_opencv = os.sched_getaffinity(0), torch.get_num_threads(), cv2.getNumThreads()
    os.sched_setaffinity(0, {max(cores)})
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
        torch.set_num_threads(threads)
        cv2.setNumThreads(of_opencv)


def _cpu_ms(image: Pixels) -> float:
    began = time.thread_time()
    measured(image)
    return (time.thread_time() - began) * 1e3


def _warm(images: Sequence[Pixels]) -> list[float]:
    return [statistics.median(_cpu_ms(image) for _ in range(REPEATS)) for image in images]


@torch.inference_mode()
def _after_forwards(images: Sequence[Pixels]) -> list[float]:
    """Measure once after each forward of the default model, as a replica with one thread would."""
    model, pixels = Plain.load(torch.float32).model, torch.rand(1, 3, 640, 640)
    found = []
    for number in range(AFTER + 1):
        # A new copy, as if it had just been decoded.
        image = images[number % len(images)].copy()
        model(pixels)
        found.append(_cpu_ms(image))
    return found[1:]  # the first warms up


def _large(image: Pixels, width: int, height: int) -> Row:
    large = np.asarray(cv2.resize(image, (width, height)), np.uint8)
    found = statistics.median(_cpu_ms(large) for _ in range(REPEATS))
    note = f"by squares of {step_of(height, width)}; {1e6 * found / large.size * 3:.2g} ns a pixel"
    return Row(f"properties, {width} x {height}", found, "CPU-ms an image", note)


def _row(what: str, how: str, found: Sequence[float], source: str) -> Row:
    ordered = sorted(found)
    nine = ordered[int(0.9 * len(ordered))]
    note = f"median of {len(found)} images ({source}); 90 % take at most {nine:.2f}"
    return Row(f"{what}, {how}", statistics.median(found), "CPU-ms an image", note)


if __name__ == "__main__":
    print(table(measure()))
