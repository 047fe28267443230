"""What is kept of a column: how often each value came; merged by addition, in whichever order.

Up to `EXACT` different values are kept as they are. Beyond, they are counted in bins of a fixed range, the
same for every window, so that windows can be added and compared. What a summary becomes depends on the
values alone, not on how they were split.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from drift.columns import Watched

EXACT = 10_000
BINS = 1_024
Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Summary:
    """Of one column in one window.

    Args:
        of: Which column.
        values: `(k,) float64`, ascending, each once; None where there were too many, and bins are counted.
        counts: `(k,) int64` of each value, or `(BINS,) int64` of each bin.
    """

    of: Watched
    values: Floats | None
    counts: Counts

    @property
    def n(self) -> int:
        """How many values there were."""
        return int(self.counts.sum())

    def binned(self) -> "Summary":
        """Return the same in bins."""
        if self.values is None:
            return self
        return Summary(self.of, None, _in_bins(self.of, self.values, self.counts))


def summarise(of: Watched, values: npt.ArrayLike) -> Summary:
    """Summarise a column.

    Args:
        of: Which.
        values: `(n,)`; NaN, where nothing was measured, is left out.
    """
    given = np.asarray(values, np.float64)
    # Minus zero is zero, and infinity belongs into the outermost bin.
    finite = np.nan_to_num(given[~np.isnan(given)]) + 0.0
    return _bounded(of, *np.unique(finite, return_counts=True))


def merge(of: Watched, parts: Iterable[Summary]) -> Summary:
    """Return the summary of all parts together.

    Args:
        of: Which column.
        parts: Any number of them, all of that column.

    Raises:
        ValueError: A part is of another column, or of another range.
    """
    given = list(parts)
    if any(part.of != of for part in given):
        raise ValueError(f"only summaries of {of.name}, in one range, can be added.")
    if any(part.values is None for part in given):
        counts = np.zeros(BINS, np.int64)
        for part in given:
            counts += part.binned().counts
        return Summary(of, None, counts)
    values = [part.values for part in given if part.values is not None]
    if not values:
        return summarise(of, [])
    distinct, where = np.unique(np.concatenate(values), return_inverse=True)
    counts = np.zeros(len(distinct), np.int64)
    np.add.at(counts, where, np.concatenate([part.counts for part in given]))
    return _bounded(of, distinct, counts)


def align(one: Summary, other: Summary) -> tuple[Floats, Counts, Counts]:
    """Return both over the same points.

    Returns:
        `points (k,)` ascending, values or left edges of bins; `counts (k,)` of the first; of the second.

    Raises:
        ValueError: They are of different columns.
    """
    if one.of != other.of:
        raise ValueError(f"{one.of.name} and {other.of.name} cannot be compared.")
    if one.values is None or other.values is None:
        edges = np.linspace(one.of.low, one.of.high, BINS, endpoint=False)
        return edges, one.binned().counts, other.binned().counts
    points = np.union1d(one.values, other.values)
    return points, _at(points, one.values, one.counts), _at(points, other.values, other.counts)


def _bounded(of: Watched, values: Floats, counts: Counts) -> Summary:
    if len(values) <= EXACT:
        return Summary(of, values, counts.astype(np.int64))
    return Summary(of, None, _in_bins(of, values, counts))


def _in_bins(of: Watched, values: Floats, counts: Counts) -> Counts:
    share = (np.clip(values, of.low, of.high) - of.low) / (of.high - of.low)
    binned = np.zeros(BINS, np.int64)
    np.add.at(binned, np.minimum(share * BINS, BINS - 1).astype(np.int64), counts)
    return binned


def _at(points: Floats, values: Floats, counts: Counts) -> Counts:
    spread = np.zeros(len(points), np.int64)
    spread[np.searchsorted(points, values)] = counts
    return spread
