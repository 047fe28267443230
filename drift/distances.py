"""How far two summaries of a column are from one another."""

from collections.abc import Callable

import numpy as np

from drift.summary import Counts, Floats, Summary, align

CELLS = 10
LEAST_SHARE = 1e-4


def kolmogorov_smirnov(reference: Summary, window: Summary) -> float:
    """Return the largest difference of the distribution functions, 0..1.

    Exact where both have their values; in bins it is never more than the exact one, and at most the
    heaviest bin's share less.

    Raises:
        ValueError: One of them is empty, or they are of different columns.
    """
    _, one, other = _cumulative(reference, window)
    return float(np.abs(one - other).max())


def wasserstein(reference: Summary, window: Summary) -> float:
    """Return the area between the distribution functions (W1), in the column's unit.

    Raises:
        ValueError: One of them is empty, or they are of different columns.
    """
    points, one, other = _cumulative(reference, window)
    return float(np.sum(np.abs(one - other)[:-1] * np.diff(points)))


def population_stability(reference: Summary, window: Summary) -> float:
    """Return the population stability index, the sum of (q - p) ln(q / p) over the reference's tenths.

    A cell has a share of at least `LEAST_SHARE`: an empty one would make it infinite.

    Raises:
        ValueError: One of them is empty, or they are of different columns.
    """
    p, q = (np.maximum(share, LEAST_SHARE) for share in _cells(reference, window))
    return float(np.sum((q - p) * np.log(q / p)))


def jensen_shannon(reference: Summary, window: Summary) -> float:
    """Return the Jensen-Shannon distance over the reference's tenths, base 2, 0..1.

    The root of the divergence (Endres and Schindelin 2003, doi 10.1109/TIT.2003.813506).

    Raises:
        ValueError: One of them is empty, or they are of different columns.
    """
    p, q = _cells(reference, window)
    middle = (p + q) / 2
    divergence = (_relative_entropy(p, middle) + _relative_entropy(q, middle)) / 2
    return float(np.sqrt(max(divergence, 0.0)))


DISTANCES: dict[str, Callable[[Summary, Summary], float]] = {
    "ks": kolmogorov_smirnov,
    "wasserstein": wasserstein,
    "psi": population_stability,
    "jensen_shannon": jensen_shannon,
}


def _cumulative(reference: Summary, window: Summary) -> tuple[Floats, Floats, Floats]:
    points, one, other = align(reference, window)
    return points, _shares(one).cumsum(), _shares(other).cumsum()


def _cells(reference: Summary, window: Summary) -> tuple[Floats, Floats]:
    """Return the shares in the tenths of the reference; equal values stay in one cell."""
    _, one, other = align(reference, window)
    # A tenth begins at a value of the reference; whole numbers, so that where is no question of rounding.
    before = np.maximum.accumulate(np.where(one > 0, np.cumsum(one) - one, 0))
    _, cell = np.unique(before * CELLS // max(int(one.sum()), 1), return_inverse=True)
    return _shares(np.bincount(cell, one)), _shares(np.bincount(cell, other))


def _shares(counts: Counts | Floats) -> Floats:
    total = counts.sum()
    if total == 0:
        raise ValueError("there is nothing to compare: a window is empty.")
    return np.asarray(counts / total, np.float64)


def _relative_entropy(p: Floats, q: Floats) -> float:
    there = p > 0
    return float(np.sum(p[there] * np.log2(p[there] / q[there])))
