"""Thirteen numbers that describe an image, by which drift is found: exact, in one pass over its pixels.

Gray is 0.2125 R + 0.7154 G + 0.0721 B (scikit-image's weights), counted in whole ten-thousandths of a level.
Laplacian: the four neighbours less four times the pixel, where all four are there.
The formulas of aspect, area, brightness, contrast and the three shares are those of Deepchecks' image
properties; saturation is OpenCV's 8-bit one.
"""

import functools
import math
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from models.property_kernels import Compiled

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
    if not _is_image(image):
        what = f"{np.shape(image)} {getattr(image, 'dtype', type(image).__name__)}"
        raise ValueError(f"an image is (h, w, 3) uint8 and not empty, not {what}.")
    height, width = image.shape[:2]
    if step is None:
        step = step_of(height, width)
    if not 1 <= step <= min(height, width):
        raise ValueError(f"step is {step}; it is from 1 to {min(height, width)} for this image.")
    reduced = _reduce(np.ascontiguousarray(image), step)
    inner_height, inner_width = (max(0, side - 2) for side in reduced.shape[:2])
    sizes = _room(inner_height * inner_width)
    count, median = _kernels()
    counted = _Counted(*count(reduced, _divisors(), sizes))
    return Properties(_values(height, width, reduced, counted, median(sizes, counted.coarse)), step)


def _is_image(image: object) -> bool:
    return (
        isinstance(image, np.ndarray)
        and image.dtype == np.uint8
        and image.ndim == 3
        and image.shape[2] == 3
        and image.size > 0
    )


def step_of(height: int, width: int) -> int:
    """Return the smallest step that leaves at most `MAX_PIXELS` pixels, as far as the shorter side allows."""
    step = max(1, math.isqrt(max(0, height * width - 1) // MAX_PIXELS))
    while (height // step) * (width // step) > MAX_PIXELS and step < min(height, width):
        step += 1
    return min(step, height, width)


def warm() -> None:
    """Compile, or load what was compiled before: 5 s the first time on a machine, then 1 s a process."""
    measure(np.zeros((8, 16, 3), np.uint8))


@dataclass(frozen=True, slots=True)
class _Counted:
    """Sums over the pixels; gray and its differences in parts of a level."""

    gray: int
    gray_squared: float
    clipped: int
    red: float
    green: float
    coloured: int
    saturation: int
    histogram: npt.NDArray[np.int64]
    steps: int
    block_steps: int
    laplacian: int
    laplacian_squared: float
    coarse: npt.NDArray[np.int64]


def _reduce(image: Pixels, step: int) -> Pixels:
    """Return the means of squares, in whole levels; what is left over at the right and the bottom is cut."""
    if step == 1:
        return image
    height, width = (side // step for side in image.shape[:2])
    # OpenCV takes the cut lines as they lie: a copy would be another 120 MB of a 40-megapixel image.
    whole = image[: height * step, : width * step]
    return np.asarray(cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def _values(
    height: int, width: int, measured: Pixels, counted: _Counted, median: float
) -> npt.NDArray[np.float64]:
    lines, columns = measured.shape[:2]
    pixels = lines * columns
    mean = counted.gray / pixels
    variance = max(0.0, counted.gray_squared / pixels - mean * mean)
    red, green = counted.red / pixels, counted.green / pixels
    inside = max(1, max(0, lines - 2) * max(0, columns - 2))
    sharpness = counted.laplacian_squared / inside - (counted.laplacian / inside) ** 2
    shares = counted.histogram[counted.histogram > 0] / pixels
    all_steps = counted.steps / max(1, lines * (columns - 1))
    block_steps = counted.block_steps / max(1, lines * ((columns - 1) // 8))
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
def _kernels() -> "Compiled":
    # numba takes most of a second, and only where images are measured.
    from models.property_kernels import load  # noqa: PLC0415

    return load()


@functools.cache
def _divisors() -> npt.NDArray[np.int32]:
    """Return OpenCV's divisors of saturation, in 4,096ths; 0 for black."""
    values = np.arange(256)
    return np.rint(np.divide(255 << 12, values, out=np.zeros(256), where=values > 0)).astype(np.int32)


def _room(count: int) -> npt.NDArray[np.int32]:
    """Return this thread's room for the Laplacian; new memory for each image costs as much as the sums."""
    if count > MAX_PIXELS:  # a finer step was asked for than an image is measured with by itself
        return np.empty(count, np.int32)
    room: npt.NDArray[np.int32] | None = getattr(_local, "sizes", None)
    if room is None:
        room = _local.sizes = np.empty(MAX_PIXELS, np.int32)
    return room[:count]
