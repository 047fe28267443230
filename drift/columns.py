"""What is watched of a detection: one number an image, each with the range of its histogram."""

from dataclasses import dataclass
from typing import Literal

Group = Literal["property", "output"]


@dataclass(frozen=True, slots=True)
class Watched:
    """One number of an image.

    Args:
        name: Of the column.
        low: Where the histogram begins.
        high: Where it ends; what is not in `[low, high)` is counted in the outermost bins.
        group: Of the image itself, or of what the detector says of it.
    """

    name: str
    low: float
    high: float
    group: Group


# Ranges: what the formulas allow, see `models.properties`; of noise and blockiness, what pictures have.
PROPERTIES = (
    Watched("aspect", 0.0, 8.0, "property"),
    Watched("area", 0.0, 64e6, "property"),
    Watched("brightness", 0.0, 256.0, "property"),
    Watched("contrast", 0.0, 128.0, "property"),
    Watched("red", 0.0, 1.0, "property"),
    Watched("green", 0.0, 1.0, "property"),
    Watched("blue", 0.0, 1.0, "property"),
    Watched("log_sharpness", 0.0, 14.0, "property"),
    Watched("entropy", 0.0, 8.0, "property"),
    Watched("saturation", 0.0, 256.0, "property"),
    Watched("noise", 0.0, 64.0, "property"),
    Watched("blockiness", 0.0, 8.1, "property"),
    Watched("clipping", 0.0, 1.0, "property"),
)
