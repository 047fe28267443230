"""ALS factors: trained from ratings, stored without pickle, found again by their version.

The version is a hash of all that decides the factors: the ratings, the settings, implicit's own version, the
kind of device, and what training started from. Two replicas that start together train once.
"""

import hashlib
import json
import logging
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from models.implicit_device import load_implicit
from models.lock import alone
from models.ratings import Ratings

log = logging.getLogger("glasshouse.factors")

ARRAYS = "factors.npz"
ABOUT = "model.json"
TELL_EVERY_S = 10.0
WAITS = "waiting for another process that is training the same model"
# New rows of a warm start are drawn as implicit's own CPU model draws them.
INITIAL = 0.01


@dataclass(frozen=True, slots=True)
class RecommenderSettings:
    """How the factors are trained, see Hu, Koren and Volinsky (2008), doi:10.1109/ICDM.2008.22.

    Attributes:
        factors: Length of a user's and of a film's vector, >= 1.
        regularization: Weight of the vectors' squared length, >= 0.
        alpha: Confidence is `alpha` times the rating, > 0; a pair without rating has confidence 1.
        iterations: Rounds over all users and films, >= 1.
        seed: Of the random start.
    """

    factors: int = 32
    regularization: float = 1.0
    alpha: float = 1.0
    iterations: int = 15
    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Interactions:
    """Ratings as a matrix.

    Attributes:
        user_id: `(users,) int64`, ascending: row to user.
        item_id: `(items,) int64`, ascending: column to film.
        matrix: `(users, items) float32` CSR, the rating of each pair; a stored 0 is a rating too.
    """

    user_id: NDArray[np.int64]
    item_id: NDArray[np.int64]
    matrix: scipy.sparse.csr_matrix

    @classmethod
    def of(cls, ratings: Ratings) -> "Interactions":
        """Number users and films by their ids; the order of the file does not matter."""
        user_id, row = np.unique(ratings.user_id, return_inverse=True)
        item_id, column = np.unique(ratings.item_id, return_inverse=True)
        matrix = scipy.sparse.csr_matrix(
            (ratings.rating, (row, column)), shape=(len(user_id), len(item_id)), dtype=np.float32
        )
        matrix.sort_indices()
        return cls(user_id, item_id, matrix)


@dataclass(frozen=True, slots=True, eq=False)
class Factors:
    """A trained model.

    Attributes:
        version: 12 hexadecimal digits.
        user_id: `(users,) int64`, ascending.
        item_id: `(items,) int64`, ascending.
        user_factors: `(users, factors) float32`.
        item_factors: `(items, factors) float32`.
    """

    version: str
    user_id: NDArray[np.int64]
    item_id: NDArray[np.int64]
    user_factors: NDArray[np.float32]
    item_factors: NDArray[np.float32]


def new_model(settings: RecommenderSettings, *, gpu: bool) -> Any:
    """Return implicit's own model, untrained."""
    implicit = load_implicit()
    # One BLAS thread: with more, implicit warns, and is several times slower.
    with threadpool_limits(1, "blas"):
        return implicit.als.AlternatingLeastSquares(
            factors=settings.factors,
            regularization=settings.regularization,
            iterations=settings.iterations,
            random_state=settings.seed,
            use_gpu=gpu,
        )


def train(
    interactions: Interactions,
    settings: RecommenderSettings,
    *,
    gpu: bool = False,
    start: Factors | None = None,
) -> Factors:
    """Train factors; where `start` has a user or a film already, from its factors on.

    Raises:
        ValueError: `start` has vectors of another length.
    """
    model = new_model(settings, gpu=gpu)
    if start is not None:
        random = np.random.default_rng(settings.seed)
        _set_factors(
            model,
            _warm(interactions.user_id, start.user_id, start.user_factors, settings, random),
            _warm(interactions.item_id, start.item_id, start.item_factors, settings, random),
            gpu=gpu,
        )
    # Here and not as implicit's own `alpha`, which its GPU model ignores when it is fitted.
    confidence = interactions.matrix * np.float32(settings.alpha)
    began = told = time.monotonic()

    def tell(iteration: int, _seconds: float, _loss: float | None) -> None:
        nonlocal told
        if time.monotonic() - told > TELL_EVERY_S:
            told = time.monotonic()
            log.info("training: iteration %d of %d", iteration + 1, settings.iterations)

    with threadpool_limits(1, "blas"):
        model.fit(confidence, show_progress=False, callback=tell)
    log.info("trained on %d ratings in %.1f s", confidence.nnz, time.monotonic() - began)
    return Factors(
        version_of(interactions, settings, gpu=gpu, start=start),
        interactions.user_id,
        interactions.item_id,
        _on_host(model.user_factors),
        _on_host(model.item_factors),
    )


def train_or_load(
    interactions: Interactions,
    settings: RecommenderSettings,
    folder: Path,
    *,
    gpu: bool = False,
    start: Factors | None = None,
) -> Factors:
    """Return the factors that `folder` holds under their version; train and store them if it does not.

    One process trains, others wait for it. A damaged copy is trained anew.
    """
    version = version_of(interactions, settings, gpu=gpu, start=start)
    # Without the lock, so that a folder that may only be read serves too.
    if (stored := load(folder / version, interactions, settings)) is not None:
        return stored
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder / f".{version}.lock", lambda: log.info(WAITS)):
        if (stored := load(folder / version, interactions, settings)) is not None:
            return stored
        trained = train(interactions, settings, gpu=gpu, start=start)
        about = {"settings": asdict(settings), "gpu": gpu, "start": start.version if start else None}
        try:
            save(trained, folder / version, about)
        except OSError as error:
            log.warning("the model is served, but could not be stored: the next start trains anew: %s", error)
        return trained


def save(factors: Factors, target: Path, about: dict[str, Any]) -> None:
    """Write the folder `target`, whole or not at all: arrays as `.npz`, and what they are as JSON."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{factors.version}-") as work:
        made = Path(work, "made")
        made.mkdir()
        arrays = {name: getattr(factors, name) for name in _SHAPED}
        np.savez(made / ARRAYS, **arrays)
        counts = {"users": len(factors.user_id), "items": len(factors.item_id)}
        text = json.dumps({"version": factors.version, **counts, **about}, indent=2)
        (made / ABOUT).write_text(text + "\n", encoding="utf-8")
        shutil.rmtree(target, ignore_errors=True)
        made.replace(target)


def load(source: Path, interactions: Interactions, settings: RecommenderSettings) -> Factors | None:
    """Read what `save` wrote; None where there is nothing, or nothing sound for these ratings."""
    if not source.exists():
        return None
    try:
        # Opened here: numpy leaves a file open when it is torn.
        with (source / ARRAYS).open("rb") as file, np.load(file, allow_pickle=False) as stored:
            factors = Factors(source.name, **{name: stored[name] for name in _SHAPED})
    # A torn archive makes zipfile, zlib and numpy raise nearly anything.
    except Exception as error:
        log.warning("%s cannot be read (%s): training anew", source / ARRAYS, error)
        return None
    if not _belongs(factors, interactions, settings):
        log.warning("%s is not what its name says: training anew", source / ARRAYS)
        return None
    return factors


def version_of(
    interactions: Interactions, settings: RecommenderSettings, *, gpu: bool, start: Factors | None = None
) -> str:
    """Hash all that decides the factors; the same ratings in another order are the same."""
    about = {
        **asdict(settings),
        "gpu": gpu,
        "implicit": installed_version("implicit"),
        "start": start.version if start else None,
    }
    whole = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    matrix = interactions.matrix
    for array, kind in (
        (interactions.user_id, "<i8"),
        (interactions.item_id, "<i8"),
        (matrix.indptr, "<i8"),
        (matrix.indices, "<i8"),
        (matrix.data, "<f4"),
    ):
        whole.update(np.ascontiguousarray(array, kind).tobytes())
    return whole.hexdigest()[:12]


_SHAPED = ("user_id", "item_id", "user_factors", "item_factors")


def _belongs(factors: Factors, interactions: Interactions, settings: RecommenderSettings) -> bool:
    both = ((factors.user_factors, interactions.user_id), (factors.item_factors, interactions.item_id))
    return (
        np.array_equal(factors.user_id, interactions.user_id)
        and np.array_equal(factors.item_id, interactions.item_id)
        and all(rows.shape == (len(ids), settings.factors) for rows, ids in both)
        and all(rows.dtype == np.float32 and bool(np.isfinite(rows).all()) for rows, _ in both)
    )


def _warm(
    wanted: NDArray[np.int64],
    known: NDArray[np.int64],
    rows: NDArray[np.float32],
    settings: RecommenderSettings,
    random: np.random.Generator,
) -> NDArray[np.float32]:
    """Return a row for each wanted id: its known one, else a random one."""
    if rows.shape[1] != settings.factors:
        raise ValueError(f"cannot start {settings.factors} factors from {rows.shape[1]}")
    warm = random.random((len(wanted), settings.factors), np.float32) * np.float32(INITIAL)
    _, here, there = np.intersect1d(wanted, known, assume_unique=True, return_indices=True)
    warm[here] = rows[there]
    return warm


def put_factors(model: Any, factors: Factors, *, gpu: bool) -> None:
    """Give implicit's model these factors, on its device."""
    _set_factors(model, factors.user_factors, factors.item_factors, gpu=gpu)


def _set_factors(model: Any, users: NDArray[np.float32], items: NDArray[np.float32], *, gpu: bool) -> None:
    if gpu:
        matrix = load_implicit().gpu.Matrix
        model.user_factors, model.item_factors = matrix(users), matrix(items)
    else:
        model.user_factors, model.item_factors = users, items


def _on_host(matrix: Any) -> NDArray[np.float32]:
    rows = matrix if isinstance(matrix, np.ndarray) else matrix.to_numpy()
    return np.ascontiguousarray(rows, np.float32)
