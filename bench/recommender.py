"""The recommender by itself: how good, how fast, beside implicit as it comes and beside popularity.

`python -m bench.recommender` prints the rows. Quality is measured on the last fifth of each user's ratings,
of which those from 4 on count as liked; the model is trained on the rest.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from bench.report import Row, table
from models import artifacts
from models.factors import Interactions, new_model, put_factors, train
from models.implicit_device import resolve_gpu
from models.ratings import Ratings, read_ratings
from models.recommender import Query, Recommender, RecommenderSettings

SETTINGS = RecommenderSettings()
LIKED = 4.0
TOP = 10
REPEATS = 30
SIZES = (1, 16, 256)
STRANGER = -1


def measure(progress: Callable[[str], None] = print) -> list[Row]:
    """Train on MovieLens 100k, and on 1M where it can be had; measure answers and their quality."""
    rows: list[Row] = []
    for name in ("movielens-100k", "movielens-1m"):
        progress(name)
        try:
            ratings = read_ratings(artifacts.fetch(name))
        except artifacts.ArtifactError as error:
            rows.append(Row(f"{name}: not measured", float("nan"), "", str(error).splitlines()[0]))
            continue
        rows += _quality(name, ratings) + _speed(name, ratings)
    return rows


def _quality(name: str, ratings: Ratings) -> list[Row]:
    earlier, later = _split(ratings)
    with tempfile.TemporaryDirectory() as folder:
        recommender = Recommender.train_or_load(earlier, SETTINGS, Path(folder))
    known = set(earlier.item_id.tolist())
    liked: dict[int, set[int]] = {}
    for user, item, rating in zip(later.user_id, later.item_id, later.rating, strict=True):
        if rating >= LIKED and int(item) in known:
            liked.setdefault(int(user), set()).add(int(item))
    by_model = _ndcg(recommender, liked, [Query(user, n=TOP) for user in liked])
    by_popularity = _ndcg(recommender, liked, _as_strangers(earlier, liked))
    note = f"popularity alone: {by_popularity:.3f}; {len(liked)} users, last fifth of their ratings"
    return [Row(f"{name}: NDCG@{TOP}", by_model, "", note)]


def _split(ratings: Ratings) -> tuple[Ratings, Ratings]:
    """Return each user's first four fifths by time, and the rest."""
    order = np.lexsort((ratings.ts, ratings.user_id))
    _, starts, counts = np.unique(ratings.user_id[order], return_index=True, return_counts=True)
    place = np.arange(len(order)) - np.repeat(starts, counts)
    late = place >= 0.8 * np.repeat(counts, counts)
    return _rows(ratings, order[~late]), _rows(ratings, order[late])


def _rows(ratings: Ratings, rows: NDArray[np.int64]) -> Ratings:
    columns: dict[str, Any] = {
        name: getattr(ratings, name)[rows] for name in ("user_id", "item_id", "rating", "ts")
    }
    return replace(ratings, **columns)


def _as_strangers(earlier: Ratings, users: Sequence[int] | dict[int, Any]) -> list[Query]:
    """Ask for popular films that each user has not seen, without saying who asks."""
    seen: dict[int, list[int]] = {}
    for user, item in zip(earlier.user_id.tolist(), earlier.item_id.tolist(), strict=True):
        seen.setdefault(user, []).append(item)
    return [Query(STRANGER, n=TOP, ranked_movies=tuple(seen[user])) for user in users]


def _ndcg(recommender: Recommender, liked: dict[int, set[int]], queries: Sequence[Query]) -> float:
    """Return the mean over users of the discounted gain, of which 1 is the best there is."""
    discount = 1 / np.log2(np.arange(2, TOP + 2))
    gains = []
    for wanted, found in zip(liked.values(), recommender.recommend(queries), strict=True):
        hits = np.array([int(item) in wanted for item in found.item_id])
        gains.append((hits * discount[: len(hits)]).sum() / discount[: len(wanted)].sum())
    return float(np.mean(gains))


def _speed(name: str, ratings: Ratings) -> list[Row]:
    interactions, gpu = Interactions.of(ratings), resolve_gpu("auto")
    began = time.perf_counter()
    factors = train(interactions, SETTINGS, gpu=gpu)
    trained_s = time.perf_counter() - began
    where = "GPU" if gpu else "CPU"
    note = f"{len(ratings):,} ratings, {SETTINGS.factors} factors, {SETTINGS.iterations} iterations, {where}"
    rows = [Row(f"{name}: training", trained_s, "s", note)]
    ours = Recommender(interactions, ratings.titles, factors, SETTINGS, gpu=gpu)
    theirs = new_model(SETTINGS, gpu=gpu)
    put_factors(theirs, factors, gpu=gpu)
    for size in SIZES:
        users = np.arange(size, dtype=np.int32)
        queries = [Query(int(user)) for user in interactions.user_id[:size]]
        seen = interactions.matrix[users]
        mine, implicits = _interleaved(
            lambda queries=queries: ours.recommend(queries),  # type: ignore[misc]
            lambda users=users, seen=seen: theirs.recommend(users, seen, N=TOP),  # type: ignore[misc]
        )
        note = f"implicit alone, with its default of all cores and the filler left in: {implicits:.2f} ms"
        rows.append(Row(f"{name}: ten films for a batch of {size}", mine, "ms", note))
    return rows


def _interleaved(*calls: Callable[[], Any]) -> list[float]:
    """Return the median milliseconds of each call, run in turn so that the machine's moods even out."""
    times: list[list[float]] = [[] for _ in calls]
    with threadpool_limits(1, "blas"):
        for _ in range(REPEATS):
            for index, call in enumerate(calls):
                began = time.perf_counter()
                call()
                times[index].append(1e3 * (time.perf_counter() - began))
    return [median(each) for each in times]


if __name__ == "__main__":
    print(table(measure()))
