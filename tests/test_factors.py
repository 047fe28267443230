"""Factors: found again by what decides them, stored without pickle, trained once, refitted warm."""

import io
import logging
import pickletools
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.lib import format as npy
from numpy.typing import NDArray

from models import artifacts
from models.factors import Factors, Interactions, RecommenderSettings, load, train, train_or_load, version_of
from models.implicit_device import load_implicit
from models.ratings import Ratings, read_ratings

SETTINGS = RecommenderSettings(factors=8, iterations=5)


def made_up(seed: int = 0, count: int = 400) -> Ratings:
    """Return ratings from 1 to 5 of 25 users on 40 films."""
    random = np.random.default_rng(seed)
    pairs = np.unique(random.integers((0, 0), (25, 40), (count, 2)), axis=0)
    rating = random.integers(1, 6, len(pairs)).astype(np.float32)
    return Ratings(pairs[:, 0], pairs[:, 1], rating, np.zeros(len(pairs), np.int64), {})


def only(ratings: Ratings, rows: NDArray[np.int64]) -> Ratings:
    """Return some of the ratings."""
    return replace(
        ratings,
        user_id=ratings.user_id[rows],
        item_id=ratings.item_id[rows],
        rating=ratings.rating[rows],
        ts=ratings.ts[rows],
    )


def test_the_version_is_of_data_and_settings() -> None:
    """Rows in another order are the same model; another rating, setting, device or start is another one."""
    ratings = made_up()
    shuffled = only(ratings, np.random.default_rng(1).permutation(len(ratings)))
    changed = replace(ratings, rating=np.where(ratings.rating == 5, 4, ratings.rating).astype(np.float32))
    of = version_of(Interactions.of(ratings), SETTINGS, gpu=False)
    start = train(Interactions.of(ratings), SETTINGS)

    assert version_of(Interactions.of(shuffled), SETTINGS, gpu=False) == of == start.version
    others = {
        version_of(Interactions.of(changed), SETTINGS, gpu=False),
        version_of(Interactions.of(ratings), replace(SETTINGS, alpha=2.0), gpu=False),
        version_of(Interactions.of(ratings), SETTINGS, gpu=True),
        version_of(Interactions.of(ratings), SETTINGS, gpu=False, start=start),
    }
    assert len(others | {of}) == 5


def test_what_is_trained_once_is_loaded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The second call reads the very factors of the first, and trains nothing."""
    interactions = Interactions.of(made_up())
    caplog.set_level(logging.INFO, "glasshouse.factors")
    first, second = (train_or_load(interactions, SETTINGS, tmp_path) for _ in range(2))

    assert np.array_equal(first.user_factors, second.user_factors)
    assert np.array_equal(first.item_factors, second.item_factors)
    assert [record.message[:10] for record in caplog.records] == ["trained on"]
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [first.version]


def test_no_pickle_is_stored(tmp_path: Path) -> None:
    """The arrays are plain `.npy` members: no object array, and nothing that pickle would read."""
    factors = train_or_load(Interactions.of(made_up()), SETTINGS, tmp_path)
    with zipfile.ZipFile(tmp_path / factors.version / "factors.npz") as archive:
        for name in archive.namelist():
            with archive.open(name) as member:
                npy.read_magic(member)
                assert not npy.read_array_header_1_0(member)[2].hasobject
            with pytest.raises(ValueError, match=r"opcode|pickle"):
                list(pickletools.genops(io.BytesIO(archive.read(name))))


@pytest.mark.parametrize("damage", ["empty", "torn", "flipped", "another model's", "not finite"])
def test_a_damaged_copy_is_trained_anew(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A stored file that cannot be what it says is replaced, with a warning, by the same factors."""
    interactions = Interactions.of(made_up())
    good = train_or_load(interactions, SETTINGS, tmp_path)
    path = tmp_path / good.version / "factors.npz"
    match damage:
        case "empty":
            path.write_bytes(b"")
        case "torn":
            path.write_bytes(path.read_bytes()[:-100])
        case "flipped":
            # Each bit of the archive's directory makes zipfile raise something else.
            changed = bytearray(path.read_bytes())
            changed[changed.rindex(b"PK\x01\x02") + 8] ^= 1  # "encrypted"
            path.write_bytes(changed)
        case "another model's":
            other = train_or_load(Interactions.of(made_up(count=90)), SETTINGS, tmp_path)
            path.write_bytes((tmp_path / other.version / "factors.npz").read_bytes())
        case _:
            with np.load(path) as stored:
                arrays = dict(stored)
            arrays["item_factors"][0, 0] = np.nan
            np.savez(path, **arrays)

    assert load(tmp_path / good.version, interactions, SETTINGS) is None
    again = train_or_load(interactions, SETTINGS, tmp_path)
    assert np.array_equal(again.item_factors, good.item_factors)
    assert "training anew" in caplog.text
    assert load(tmp_path / good.version, interactions, SETTINGS) is not None


TRAIN = """
import logging, sys
from pathlib import Path
import numpy as np
from models.factors import Interactions, RecommenderSettings, train_or_load
from models.implicit_device import load_implicit
from models.ratings import read_ratings
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
settings = RecommenderSettings(factors=64, iterations=60)
print(train_or_load(Interactions.of(read_ratings(Path(sys.argv[1]))), settings, Path(sys.argv[2])).version)
"""


@pytest.mark.data
def test_two_replicas_train_once(tmp_path: Path) -> None:
    """Of two processes that start together one trains, and both have the same model."""
    command = [sys.executable, "-c", TRAIN, str(artifacts.fetch("movielens-100k")), str(tmp_path)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=120)[0] for process in both]

    assert [process.returncode for process in both] == [0, 0]
    assert "".join(said).count("trained on") == 1
    assert len({text.splitlines()[-1] for text in said}) == 1


def loss(factors: Factors, interactions: Interactions, settings: RecommenderSettings) -> float:
    """Return implicit's own training loss."""
    matrix = interactions.matrix
    return float(
        load_implicit().cpu.als._als.calculate_loss(
            matrix, factors.user_factors, factors.item_factors, settings.regularization, num_threads=1
        )
    )


@pytest.mark.data
def test_a_refit_starts_from_the_previous_factors() -> None:
    """With a tenth more ratings, one warm iteration fits better than three cold ones; new users are in."""
    ratings = read_ratings(artifacts.fetch("movielens-100k"))
    before = Interactions.of(only(ratings, np.flatnonzero(ratings.user_id <= 850)))
    now, settings = Interactions.of(ratings), RecommenderSettings()
    previous = train(before, settings)

    warm = train(now, replace(settings, iterations=1), start=previous)
    cold = train(now, replace(settings, iterations=3))

    assert loss(warm, now, settings) < loss(cold, now, settings)
    assert (len(previous.user_id), len(warm.user_id)) == (850, 943)
    assert warm.version != train(now, replace(settings, iterations=1)).version


def test_a_refit_cannot_change_the_length_of_vectors() -> None:
    """Starting eight factors from four is an error that says so."""
    interactions = Interactions.of(made_up())
    start = train(interactions, replace(SETTINGS, factors=4))
    with pytest.raises(ValueError, match="cannot start 8 factors from 4"):
        train(interactions, SETTINGS, start=start)
