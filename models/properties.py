"""Thirteen numbers that describe an image, by which drift is found: exact, in one pass over its pixels.

Gray is 0.2125 R + 0.7154 G + 0.0721 B (scikit-image's weights), kept in whole ten-thousandths of a level, so
that sums are exact. Laplacian: the four neighbours less four times the pixel, where all four are there.
The formulas of aspect, area, brightness, contrast and the three shares are those of Deepchecks' image
properties; saturation is OpenCV's 8-bit one.
"""

import functools
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

PROPERTY_NAMES = (
    "aspect",
    "area",
    "brightness",
    "contrast",
    "red",
    "green",
    "blue",
    "log_sharpness",
    "entropy",
    "saturation",
    "noise",
    "blockiness",
    "clipping",
)
Pixels = npt.NDArray[np.uint8]

MAX_PIXELS = 640 * 640  # a larger image is reduced by whole steps until it has no more
LEVEL = 10_000  # gray is counted in these parts of a level
RED, GREEN, BLUE = 2125, 7154, 721
DARK, LIGHT = 8 * LEVEL, 247 * LEVEL  # beyond them, gray is clipped
COARSE_BITS = 11  # the median of the Laplacian is looked for in bins of 2**11 first, then exactly
COARSE = (4 * 255 * LEVEL >> COARSE_BITS) + 1
# The median of the size of a normal deviate, and the spread of a Laplacian of independent pixels.
NORMAL_MEDIAN, LAPLACIAN_GAIN = 0.6745, math.sqrt(20)
TINY = 1e-6
_local = threading.local()


@dataclass(frozen=True, slots=True, eq=False)
class Properties:
    """What was measured.

    Attributes:
        values: `(13,) float64`, in the order of `PROPERTY_NAMES`.
        step: Side in pixels of the squares whose means were measured; 1: every pixel. Aspect and area are
            always those of the image as sent.
    """

    values: npt.NDArray[np.float64]
    step: int


def measure(image: Pixels, step: int | None = None) -> Properties:
    """Measure one image, on any thread, without holding the interpreter's lock.

    Args:
        image: `(h, w, 3) uint8` RGB, not empty.
        step: Side of the squares that are averaged first; None: as small as `MAX_PIXELS` allows.

    Raises:
        ValueError: It is not such an image, or the step not from 1 to its shorter side.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise ValueError(f"an image is (h, w, 3) uint8 and not empty, not {image.shape} {image.dtype}.")
    height, width = image.shape[:2]
    if step is None:
        step = step_of(height, width)
    if not 1 <= step <= min(height, width):
        raise ValueError(f"step is {step}; it is from 1 to {min(height, width)} for this image.")
    count, median = _kernels()
    counted = _Counted(*count(np.ascontiguousarray(_reduce(image, step)), *_tables(), _sizes()))
    middle = median(_sizes()[: counted.inside], counted.coarse.sum(0))
    return Properties(_values(height, width, counted, middle), step)


def step_of(height: int, width: int) -> int:
    """Return the smallest step that leaves at most `MAX_PIXELS` pixels, as far as the shorter side allows."""
    step = max(1, math.isqrt(max(0, height * width - 1) // MAX_PIXELS))
    while (height // step) * (width // step) > MAX_PIXELS and step < min(height, width):
        step += 1
    return min(step, height, width)


def warm() -> None:
    """Compile, or load what was compiled before: seconds the first time on a machine."""
    measure(np.zeros((8, 16, 3), np.uint8))


@dataclass(frozen=True, slots=True)
class _Counted:
    """Sums over the pixels; gray and its differences in parts of a level."""

    pixels: int
    gray: int
    gray_squared: float
    histogram: npt.NDArray[np.int64]
    red: float
    green: float
    coloured: int
    saturation: int
    inside: int
    laplacian: int
    laplacian_squared: float
    coarse: npt.NDArray[np.int32]
    steps: int
    block_steps: int
    width: int
    height: int
    clipped: int


def _reduce(image: Pixels, step: int) -> Pixels:
    """Return the means of squares; what is left over at the right and the bottom is left out."""
    if step == 1:
        return image
    height, width = (side // step for side in image.shape[:2])
    whole = np.ascontiguousarray(image[: height * step, : width * step])
    reduced = cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(reduced, np.uint8)


def _values(height: int, width: int, counted: _Counted, median: float) -> npt.NDArray[np.float64]:
    pixels = counted.pixels
    mean = counted.gray / pixels
    variance = max(0.0, counted.gray_squared / pixels - mean * mean)
    red, green = counted.red / pixels, counted.green / pixels
    inside = max(1, counted.inside)
    sharpness = counted.laplacian_squared / inside - (counted.laplacian / inside) ** 2
    shares = counted.histogram[counted.histogram > 0] / pixels
    all_steps = counted.steps / max(1, counted.height * (counted.width - 1))
    block_steps = counted.block_steps / max(1, counted.height * ((counted.width - 1) // 8))
    return np.array(
        [
            height / width,
            height * width,
            mean / LEVEL,
            math.sqrt(variance) / LEVEL,
            red,
            green,
            counted.coloured / pixels - red - green,
            math.log1p(max(0.0, sharpness) / LEVEL**2),
            # Adding 0.0 turns the -0.0 of a single colour into 0.
            float(-(shares * np.log2(shares)).sum()) + 0.0,
            counted.saturation / pixels,
            median / LEVEL / (NORMAL_MEDIAN * LAPLACIAN_GAIN),
            block_steps / LEVEL / (all_steps / LEVEL + TINY),
            counted.clipped / pixels,
        ]
    )


@functools.cache
def _tables() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int32]]:
    """Return 1 / (R + G + B), 0 for black; and OpenCV's divisors of saturation, in 4,096ths."""
    sums = np.arange(3 * 255 + 1)
    inverse = np.divide(1.0, sums, out=np.zeros(len(sums)), where=sums > 0)
    values = np.arange(256)
    divisors = np.divide(255 << 12, values, out=np.zeros(256), where=values > 0)
    return inverse, np.rint(divisors).astype(np.int32)


@functools.cache
def _kernels() -> tuple[Callable[..., tuple[Any, ...]], Callable[..., float]]:
    import numba  # noqa: PLC0415 - most of a second, and only where images are measured

    # Sums of floats may be taken in another order: that is what lets them be taken eight at a time.
    compiled = numba.njit(nogil=True, cache=True, fastmath={"reassoc"})
    return compiled(_count), compiled(_median)


def _sizes() -> npt.NDArray[np.int32]:
    """Return this thread's room for the Laplacian; new memory for each image costs as much as the sums."""
    room: npt.NDArray[np.int32] | None = getattr(_local, "sizes", None)
    if room is None:
        room = _local.sizes = np.empty(MAX_PIXELS, np.int32)
    return room


def _count(  # noqa: PLR0915 - one pass over the pixels is what makes it quick
    image: Pixels,
    inverse: npt.NDArray[np.float64],
    divisors: npt.NDArray[np.int32],
    sizes: npt.NDArray[np.int32],
) -> tuple[Any, ...]:
    """Go through the lines once; every loop over a line is one that the compiler can take many at a time."""
    height, width = image.shape[0], image.shape[1]
    r, g, b = np.zeros(width, np.uint8), np.zeros(width, np.uint8), np.zeros(width, np.uint8)
    rows = np.zeros((3, width), np.int32)  # gray of this line and of the two before
    levels = np.zeros(width, np.uint8)
    # Four of each: neighbours are often equal, and adding to one number twice in a row waits for itself.
    histograms = np.zeros((4, 256), np.int64)
    coarse = np.zeros((4, COARSE), np.int32)
    inside = max(0, height - 2) * max(0, width - 2)
    gray: Any = 0
    coloured: Any = 0
    saturation: Any = 0
    clipped: Any = 0
    laplacian: Any = 0
    steps: Any = 0
    block_steps: Any = 0
    gray_squared, red, green, laplacian_squared = 0.0, 0.0, 0.0, 0.0
    for y in range(height):
        line = rows[y % 3]
        for x in range(width):
            r[x], g[x], b[x] = image[y, x, 0], image[y, x, 1], image[y, x, 2]
        for x in range(width):
            level = np.int32(RED) * r[x] + np.int32(GREEN) * g[x] + np.int32(BLUE) * b[x]
            line[x] = level
            levels[x] = level // np.int32(LEVEL)
        row: Any = 0
        beyond: Any = 0
        for x in range(width):
            row += line[x]
            gray_squared += float(line[x]) * float(line[x])
            beyond += (line[x] < DARK) | (line[x] > LIGHT)
        gray += row
        clipped += beyond
        row = 0
        for x in range(width):
            total = np.int32(r[x]) + np.int32(g[x]) + np.int32(b[x])
            row += total > 0
            share = inverse[total]
            red += r[x] * share
            green += g[x] * share
        coloured += row
        row = 0
        for x in range(width):
            highest, lowest = max(r[x], g[x], b[x]), min(r[x], g[x], b[x])
            row += (np.int32(highest - lowest) * divisors[highest] + np.int32(2048)) >> 12
        saturation += row
        for x in range(width):
            histograms[x & 3, levels[x]] += 1
        row = 0
        for x in range(1, width):
            row += abs(line[x] - line[x - 1])
        steps += row
        for x in range(8, width, 8):
            block_steps += abs(line[x] - line[x - 1])
        if y >= 2:
            above, middle = rows[(y - 2) % 3], rows[(y - 1) % 3]
            out = sizes[(y - 2) * max(0, width - 2) : (y - 1) * max(0, width - 2)]
            row = 0
            for x in range(1, width - 1):
                value = above[x] + line[x] + middle[x - 1] + middle[x + 1] - np.int32(4) * middle[x]
                row += value
                laplacian_squared += float(value) * float(value)
                out[x - 1] = abs(value)
            laplacian += row
            for x in range(width - 2):
                coarse[x & 3, out[x] >> COARSE_BITS] += 1
    return (
        height * width,
        gray,
        gray_squared,
        histograms.sum(0),
        red,
        green,
        coloured,
        saturation,
        inside,
        laplacian,
        laplacian_squared,
        coarse,
        steps,
        block_steps,
        width,
        height,
        clipped,
    )


def _median(sizes: npt.NDArray[np.int32], coarse: npt.NDArray[np.int64]) -> float:
    """Return the exact median of what has been counted in coarse bins; 0 of nothing."""
    count = len(sizes)
    if not count:
        return 0.0
    # The two middle ones of an even number, twice the middle one of an odd number; mostly of one bin.
    fine = np.zeros(1 << COARSE_BITS, np.int32)
    median, looked_at, before = 0.0, -1, 0
    for rank in ((count - 1) // 2, count // 2):
        below, place = 0, 0
        while below + coarse[place] <= rank:
            below += coarse[place]
            place += 1
        if place != looked_at:
            looked_at, before = place, below
            fine[:] = 0
            for size in sizes:
                if size >> COARSE_BITS == place:
                    fine[size & ((1 << COARSE_BITS) - 1)] += 1
        reached, exact = before, 0
        while reached + fine[exact] <= rank:
            reached += fine[exact]
            exact += 1
        median += ((place << COARSE_BITS) + exact) / 2
    return median
