"""The sums behind `models.properties`, line by line; compiled by numba, so imported only when needed.

Each loop goes along one line, over slices and whole lines: the compiler then takes many pixels at a time
(an index such as `x - 1` might be negative, as far as it knows, and it would take them one by one). Sums of
floats may be taken in another order for the same reason; their last digits depend on the processor.
"""

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from models.artifacts import default_cache
from models.lock import alone

LEVEL = 10_000  # gray is counted in these parts of a level
RED, GREEN, BLUE = 2125, 7154, 721
DARK, LIGHT = 8 * LEVEL, 247 * LEVEL  # beyond them, gray is clipped
FINE_BITS = 11  # the median is looked for in bins of 2**11 first, then exactly in one of them
FINE = 1 << FINE_BITS
COARSE = (4 * 255 * LEVEL >> FINE_BITS) + 1

PATIENCE_S = 60.0  # how long another process may compile before this one does so itself

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int32]
Compiled = tuple[Callable[..., tuple[Any, ...]], Callable[..., float]]

settings: Any = numba.config
log = logging.getLogger("glasshouse.properties")


def load() -> Compiled:
    """Return `count` and `median`, compiled: seconds the first time on a machine, then from a folder.

    The folder is `NUMBA_CACHE_DIR`, else `$XDG_CACHE_HOME/glasshouse/numba`: the source may lie where nobody
    may write. Processes that start together compile once. Where the folder does not work, nothing is kept.
    """
    folder: Path | str = "the user's cache"
    try:
        # Raises where a user has no home.
        folder = Path(settings.CACHE_DIR or default_cache(os.environ).parent / "numba")
        folder.mkdir(parents=True, exist_ok=True)
        with alone(folder / ".compile.lock", lambda: None, _patience()):
            return _load(folder)
    # Not writable, full, damaged after a power cut (it is pickled): whatever it is, images must be measured.
    except Exception:
        log.warning("compiled code cannot be kept in %s: it is compiled anew", folder, exc_info=True)
        return _load(None)


def _load(folder: Path | None) -> Compiled:
    # An image may be read-only: of another type to numba, which would compile again, amid a request.
    image = numba.types.Array(numba.uint8, 3, "C", readonly=True)
    ints, longs = numba.int32[::1], numba.int64[::1]
    before = settings.CACHE_DIR
    # Read where a function is declared; there is no argument for it.
    settings.CACHE_DIR = str(folder or "")
    try:
        return (
            jit(count, signature=[(image, ints, ints)], cache=folder is not None),
            jit(median, signature=[(ints, longs)], cache=folder is not None),
        )
    finally:
        settings.CACHE_DIR = before


def _patience() -> Callable[[], None]:
    until = time.monotonic() + PATIENCE_S

    def wait() -> None:
        if time.monotonic() > until:
            raise TimeoutError(f"another process has been compiling for {PATIENCE_S:g} s")
        time.sleep(0.05)

    return wait


def jit(function: Callable[..., Any], *, signature: Any = None, **options: Any) -> Callable[..., Any]:
    """Declare that a function is compiled, and does not hold the interpreter's lock."""
    declare = numba.njit(signature, nogil=True, fastmath={"reassoc"}, error_model="numpy", **options)
    compiled: Callable[..., Any] = declare(function)
    return compiled


def _part(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile it into who calls it: 4,000 calls an image are a tenth of the time."""
    return jit(function, inline="always")


@_part
def _split(line: Bytes, r: Bytes, g: Bytes, b: Bytes) -> None:
    for x in range(len(r)):
        r[x], g[x], b[x] = line[3 * x], line[3 * x + 1], line[3 * x + 2]


@_part
def _gray(r: Bytes, g: Bytes, b: Bytes, gray: Ints, levels: Bytes) -> tuple[int, float, int]:
    """Fill `gray` and its whole `levels`; return the sum, the sum of squares, and how many are clipped."""
    for x in range(len(r)):
        value = np.int32(np.int32(RED) * r[x] + np.int32(GREEN) * g[x] + np.int32(BLUE) * b[x])
        gray[x] = value
        levels[x] = np.uint32(value) // np.uint32(LEVEL)
    total: Any = 0
    clipped: Any = 0
    squares = 0.0
    for value in gray:
        total += value
        squares += float(value) * float(value)
        clipped += np.int32((value < np.int32(DARK)) | (value > np.int32(LIGHT)))
    return total, squares, clipped


@_part
def _shares(r: Bytes, g: Bytes, b: Bytes) -> tuple[float, float, int]:
    """Return the sums of R and of G over R + G + B, and how many pixels are not black."""
    red, green = 0.0, 0.0
    coloured: Any = 0
    for x in range(len(r)):
        total = np.int32(np.int32(r[x]) + np.int32(g[x]) + np.int32(b[x]))
        coloured += np.int32(total > 0)
        share = 1.0 / float(max(total, np.int32(1)))
        red += r[x] * share
        green += g[x] * share
    return red, green, coloured


@_part
def _saturation(r: Bytes, g: Bytes, b: Bytes, divisors: Ints) -> int:
    total: Any = 0
    for x in range(len(r)):
        highest, lowest = max(r[x], g[x], b[x]), min(r[x], g[x], b[x])
        total += np.int32((np.int32(highest - lowest) * divisors[highest] + np.int32(2048)) >> 12)
    return int(total)


@_part
def _steps(gray: Ints) -> tuple[int, int]:
    """Return the sums of the steps between neighbours: of all, and of those at every eighth column."""
    left, right = gray[:-1], gray[1:]
    every: Any = 0
    for x in range(len(right)):
        every += abs(np.int32(right[x] - left[x]))
    eighth: Any = 0
    for x in range(7, len(right), 8):
        eighth += abs(np.int32(right[x] - left[x]))
    return every, eighth


@_part
def _laplacian(above: Ints, gray: Ints, below: Ints, sizes: Ints) -> tuple[int, float]:
    """Fill `sizes` with the Laplacian's; return the sum and the sum of squares of the Laplacian itself."""
    up, down, left, middle, right = above[1:-1], below[1:-1], gray[:-2], gray[1:-1], gray[2:]
    total: Any = 0
    squares = 0.0
    for x in range(len(sizes)):
        value = np.int32(up[x] + down[x] + left[x] + right[x] - np.int32(4) * middle[x])
        total += value
        squares += float(value) * float(value)
        sizes[x] = abs(value)
    return total, squares


@_part
def _tally(values: npt.NDArray[Any], shift: Any, counts: Ints) -> None:
    """Count the values by bin. `counts` has four of each: to add to one number twice in a row is to wait."""
    one, two, three, four = counts[0], counts[1], counts[2], counts[3]
    whole = len(values) // 4 * 4
    for x in range(0, whole, 4):
        one[values[x] >> shift] += np.int32(1)
        two[values[x + 1] >> shift] += np.int32(1)
        three[values[x + 2] >> shift] += np.int32(1)
        four[values[x + 3] >> shift] += np.int32(1)
    for x in range(whole, len(values)):
        one[values[x] >> shift] += np.int32(1)


def count(image: Bytes, divisors: Ints, sizes: Ints) -> tuple[Any, ...]:
    """Go through the lines once.

    Args:
        image: `(h, w, 3)`, C-contiguous.
        divisors: `(256,)`: of saturation, in 4,096ths.
        sizes: Room for the sizes of the Laplacian, `(h - 2) * (w - 2)`.

    Returns:
        The fields of `models.properties._Counted`, in their order.
    """
    height, width = image.shape[0], image.shape[1]
    r, g, b = np.zeros(width, np.uint8), np.zeros(width, np.uint8), np.zeros(width, np.uint8)
    rows = np.zeros((3, width), np.int32)  # gray of this line and of the two before
    levels = np.zeros(width, np.uint8)
    histogram = np.zeros((4, 256), np.int32)
    coarse = np.zeros((4, COARSE), np.int32)
    inner = max(0, width - 2)
    gray, clipped, coloured, saturation, steps, block_steps, laplacian = 0, 0, 0, 0, 0, 0, 0
    gray_squared, red, green, laplacian_squared = 0.0, 0.0, 0.0, 0.0
    for y in range(height):
        line = rows[y % 3]
        _split(image[y].reshape(-1), r, g, b)
        total, squares, beyond = _gray(r, g, b, line, levels)
        gray, gray_squared, clipped = gray + total, gray_squared + squares, clipped + beyond
        more_red, more_green, lit = _shares(r, g, b)
        red, green, coloured = red + more_red, green + more_green, coloured + lit
        saturation += _saturation(r, g, b, divisors)
        _tally(levels, 0, histogram)
        every, eighth = _steps(line)
        steps, block_steps = steps + every, block_steps + eighth
        if y >= 2 and inner:
            out = sizes[(y - 2) * inner : (y - 1) * inner]
            total, squares = _laplacian(rows[(y - 2) % 3], rows[(y - 1) % 3], line, out)
            laplacian, laplacian_squared = laplacian + total, laplacian_squared + squares
            _tally(out, FINE_BITS, coarse)
    return (
        gray,
        gray_squared,
        clipped,
        red,
        green,
        coloured,
        saturation,
        histogram.sum(0),
        steps,
        block_steps,
        laplacian,
        laplacian_squared,
        coarse.sum(0),
    )


def median(sizes: Ints, coarse: npt.NDArray[np.int64]) -> float:
    """Return the exact median of what has been counted in coarse bins; 0 of nothing."""
    count = len(sizes)
    if not count:
        return 0.0
    # The two middle ones of an even number, twice the middle one of an odd number; mostly of one bin.
    fine = np.zeros(FINE, np.int32)
    found, looked_at, before = 0.0, -1, 0
    for rank in ((count - 1) // 2, count // 2):
        below, place = 0, 0
        while below + coarse[place] <= rank:
            below += coarse[place]
            place += 1
        if place != looked_at:
            looked_at, before = place, below
            fine[:] = 0
            for size in sizes:
                if size >> FINE_BITS == place:
                    fine[size & (FINE - 1)] += 1
        reached, exact = before, 0
        while reached + fine[exact] <= rank:
            reached += fine[exact]
            exact += 1
        found += ((place << FINE_BITS) + exact) / 2
    return found
