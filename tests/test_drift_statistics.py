"""Summaries, distances and decisions of drift, against SciPy and on simulated windows."""

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats
from scipy.spatial.distance import jensenshannon

from drift.columns import PROPERTIES, Watched
from drift.decision import LEAST_IMAGES, decide, noise_floor
from drift.distances import DISTANCES, jensen_shannon, kolmogorov_smirnov, population_stability, wasserstein
from drift.summary import BINS, EXACT, Summary, merge, summarise
from models.properties import PROPERTY_NAMES

BRIGHTNESS = Watched("brightness", 0.0, 256.0, "property")
Floats = npt.NDArray[np.float64]


def pictures(seed: int, n: int, mean: float = 110.0) -> Floats:
    """Return the brightness of some."""
    return np.clip(np.random.default_rng(seed).normal(mean, 30.0, n), 0, 255)


def same(one: Summary, other: Summary) -> bool:
    """Tell whether two summaries are equal to the last bit."""
    if one.values is None or other.values is None:
        return one.values is other.values and np.array_equal(one.counts, other.counts)
    return np.array_equal(one.values, other.values) and np.array_equal(one.counts, other.counts)


def test_every_property_is_watched() -> None:
    """The columns are those of the records, in their order."""
    assert tuple(column.name for column in PROPERTIES) == PROPERTY_NAMES


@pytest.mark.parametrize("sizes", [(30, 64), (500, 500), (4_000, 10_000)])
def test_exact_distances_are_scipys(sizes: tuple[int, int]) -> None:
    """Where values are kept, KS and Wasserstein are SciPy's."""
    one, other = pictures(1, sizes[0]).round(1), pictures(2, sizes[1], 115.0).round(1)
    kept = summarise(BRIGHTNESS, one), summarise(BRIGHTNESS, other)
    assert kolmogorov_smirnov(*kept) == pytest.approx(stats.ks_2samp(one, other).statistic, abs=1e-14)
    assert wasserstein(*kept) == pytest.approx(stats.wasserstein_distance(one, other), rel=1e-10)


def test_binned_ks_is_close() -> None:
    """In bins, KS is never above the exact one and at most the heaviest bin below; 1e-4 at a million."""
    one, other = pictures(1, 1_000_000), pictures(2, 1_000_000, 111.0)
    kept = summarise(BRIGHTNESS, one), summarise(BRIGHTNESS, other)
    assert kept[0].values is None
    exact = stats.ks_2samp(one, other, method="asymp").statistic
    heaviest = max(float(part.counts.max() / part.n) for part in kept)
    missing = exact - kolmogorov_smirnov(*kept)
    assert -1e-12 <= missing <= min(heaviest, 1e-4)


@pytest.mark.parametrize("n", [50, 3 * EXACT])
def test_any_split_in_any_order(n: int) -> None:
    """However the images are split and in whichever order they are added, the summary is the same."""
    values = pictures(3, n)
    made = np.random.default_rng(4)
    whole = summarise(BRIGHTNESS, values)
    for _ in range(5):
        parts = np.split(values, np.sort(made.integers(0, n, 7)))
        made.shuffle(order := list(range(len(parts))))
        first = merge(BRIGHTNESS, [summarise(BRIGHTNESS, parts[at]) for at in order[:3]])
        rest = [summarise(BRIGHTNESS, parts[at]) for at in order[3:]]
        assert same(merge(BRIGHTNESS, [*rest, first]), whole)


def test_what_is_out_of_range_is_counted() -> None:
    """Nothing is lost: outliers are in the outermost bins, NaN alone is left out, minus zero is zero."""
    kept = summarise(BRIGHTNESS, [-5.0, -0.0, 0.0, 255.9, 1e9, np.inf, np.nan])
    assert kept.n == 6
    assert kept.binned().counts[[0, BINS - 1]].tolist() == [3, 3]
    assert merge(BRIGHTNESS, []).n == 0


def test_index_and_jensen_shannon() -> None:
    """Over tenths of the reference both are what their formulas say; of a window with itself, zero."""
    one, other = pictures(5, 2_000), pictures(6, 1_000, 125.0)
    kept = summarise(BRIGHTNESS, one), summarise(BRIGHTNESS, other)
    edges = np.sort(one)[np.arange(1, 10) * 200]
    p, q = (np.bincount(np.digitize(some, edges), minlength=10) / len(some) for some in (one, other))
    assert population_stability(*kept) == pytest.approx(np.sum((q - p) * np.log(q / p)), rel=1e-9)
    assert jensen_shannon(*kept) == pytest.approx(jensenshannon(p, q, base=2), rel=1e-9)
    assert [distance(kept[0], kept[0]) for distance in DISTANCES.values()] == [0.0] * len(DISTANCES)


def test_what_cannot_be_compared() -> None:
    """An empty window, or another column, is an error that says so."""
    kept = summarise(BRIGHTNESS, [1.0])
    for distance in DISTANCES.values():
        with pytest.raises(ValueError, match="empty"):
            distance(kept, summarise(BRIGHTNESS, []))
        with pytest.raises(ValueError, match="cannot be compared"):
            distance(kept, summarise(PROPERTIES[0], [1.0]))
    with pytest.raises(ValueError, match="can be added"):
        merge(BRIGHTNESS, [summarise(PROPERTIES[0], [1.0])])


@pytest.mark.parametrize(("n", "columns", "floor"), [(64, 13, 0.313), (100, 7, 0.237), (1_000, 18, 0.081)])
def test_noise_floor(n: int, columns: int, floor: float) -> None:
    """The floor is what the published table of the bound gives."""
    assert noise_floor(n, n, columns) == pytest.approx(floor, abs=5e-4)


@pytest.mark.parametrize("n", [10, 30, 50, 100, 200, 1_000])
def test_no_drift_is_not_cried(n: int) -> None:
    """Windows of one world, seven independent columns: at most 5 % and three standard errors alarm."""
    runs, alarms = 400, 0
    made = np.random.default_rng(n)
    for _ in range(runs):
        found = [_decided(made.normal(128, 30, n), made.normal(128, 30, n), 7) for _ in range(7)]
        assert n >= LEAST_IMAGES or set(found) == {"insufficient"}
        alarms += "drift" in found
    assert alarms / runs <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / runs)


def test_drift_is_found_and_unknown_is_said() -> None:
    """A shift of a deviation is drift; no shift is `ok` of many images and `insufficient` of few."""
    assert _decided(pictures(1, 200), pictures(2, 200, 140.0), 13) == "drift"
    assert _decided(pictures(1, 500), pictures(2, 500), 13) == "ok"
    assert _decided(pictures(1, 64), pictures(2, 64), 13) == "insufficient"
    with pytest.raises(ValueError, match="at least 1"):
        decide(0.1, 0, 10, columns=1)


def _decided(reference: Floats, window: Floats, columns: int) -> str:
    kept = summarise(BRIGHTNESS, reference), summarise(BRIGHTNESS, window)
    return decide(kolmogorov_smirnov(*kept), kept[0].n, kept[1].n, columns=columns).verdict
