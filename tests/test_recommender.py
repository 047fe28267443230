"""The recommender: implicit's own answers without its filler, for each user with wishes of their own."""

from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from models import artifacts
from models.device import DeviceError
from models.factors import Interactions
from models.implicit_device import load_implicit, resolve_gpu
from models.ratings import Ratings, read_ratings
from models.recommender import Query, Recommendation, Recommender, RecommenderSettings, UnknownItems

SETTINGS = RecommenderSettings()
STRANGER = -(2**63)


def ratings_of(pairs: list[tuple[int, int]], titles: dict[int, str] | None = None) -> Ratings:
    """Return ratings of 1 for these (user, film) pairs."""
    users, films = (np.array(column, np.int64) for column in zip(*pairs, strict=True))
    return Ratings(
        users, films, np.ones(len(pairs), np.float32), np.zeros(len(pairs), np.int64), titles or {}
    )


@pytest.fixture(scope="module")
def movielens() -> Ratings:
    """MovieLens 100k."""
    return read_ratings(artifacts.fetch("movielens-100k"))


@pytest.fixture(scope="module")
def recommender(movielens: Ratings, tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    """Trained on MovieLens 100k on the CPU, with the default settings."""
    return Recommender.train_or_load(movielens, SETTINGS, tmp_path_factory.mktemp("models"), device="cpu")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    """Ten films; user 7 has seen all but film 104, user 8 has seen all, user 9 one of them."""
    pairs = [(7, film) for film in range(100, 110) if film != 104]
    pairs += [(8, film) for film in range(100, 110)] + [(9, 100)]
    folder, titles = tmp_path_factory.mktemp("models"), {104: "Alien", 555: "Never Rated"}
    settings = RecommenderSettings(factors=4)
    return Recommender.train_or_load(ratings_of(pairs, titles), settings, folder, device="cpu")


def one(recommender: Recommender, query: Query) -> Recommendation:
    """Ask alone."""
    recommender.validate(query)
    return recommender.recommend([query])[0]


def films(found: Recommendation) -> list[int]:
    """Return the ids, best first."""
    return [int(item) for item in found.item_id]


@pytest.mark.data
def test_answers_are_implicits_own_for_every_user(recommender: Recommender, movielens: Ratings) -> None:
    """All 943 users, in batches of 256, get what implicit recommends when it is used by its own manual."""
    known = Interactions.of(movielens)
    with threadpool_limits(1, "blas"):
        theirs = load_implicit().als.AlternatingLeastSquares(
            factors=32, regularization=1.0, iterations=15, random_state=0, use_gpu=False
        )
        theirs.fit(known.matrix, show_progress=False)
        columns, scores = theirs.recommend(np.arange(len(known.user_id)), known.matrix, N=10)
    queries = [Query(int(user)) for user in known.user_id]
    ours = [answer for start in range(0, 943, 256) for answer in recommender.recommend(queries[start:][:256])]

    assert len(ours) == 943
    for answer, theirs_ids, theirs_scores in zip(ours, known.item_id[columns], scores, strict=True):
        assert answer.answered_by == "model"
        assert films(answer) == theirs_ids.tolist()
        assert answer.score == pytest.approx(theirs_scores, rel=1e-4)


def test_one_film_left_is_one_film(small: Recommender) -> None:
    """Who has seen all but one film gets that one, however many are asked for; who has seen all gets none."""
    for n in (1, 10, 1000):
        assert films(one(small, Query(7, n=n))) == [104]
        assert films(one(small, Query(8, n=n))) == []
    assert one(small, Query(8)).answered_by == "model"


@pytest.mark.data
def test_never_filler(recommender: Recommender, movielens: Ratings) -> None:
    """Asked for everything, every user gets all films but their own, each once, with a real score."""
    seen = {int(user): set(movielens.item_id[movielens.user_id == user]) for user in range(1, 944, 50)}
    found = recommender.recommend([Query(user, n=5000) for user in seen])

    for (user, own), answer in zip(seen.items(), found, strict=True):
        assert len(answer.item_id) == 1682 - len(own), user
        assert not set(films(answer)) & own
        assert np.abs(answer.score).max() < 10


def test_a_stranger_gets_what_most_have_rated(small: Recommender) -> None:
    """Unknown users get films by the number of their raters, and the answer says so."""
    found = one(small, Query(STRANGER, n=3))

    assert (found.answered_by, films(found)) == ("popularity", [100, 101, 102])
    assert found.score.tolist() == pytest.approx([1, 2 / 3, 2 / 3])


@pytest.mark.parametrize("user", [9, STRANGER])
def test_ranked_movies_make_room(small: Recommender, user: int) -> None:
    """Ranked films are left out, the next best move up, and the answer stays as long."""
    first = films(one(small, Query(user, n=6)))

    assert films(one(small, Query(user, n=4, ranked_movies=tuple(first[:2])))) == first[2:]


@pytest.mark.parametrize("user", [9, STRANGER])
def test_candidates_alone_are_ordered(small: Recommender, user: int) -> None:
    """All candidates that have a score come back in the model's order, once each, and nothing else."""
    everything = films(one(small, Query(user, n=100, exclude_seen=False)))
    some = [109, 104, 100, 104, 555]
    found = one(small, Query(user, candidates=tuple(some), exclude_seen=False))

    assert films(found) == [film for film in everything if film in some]
    assert films(one(small, Query(user, candidates=()))) == []


def test_seen_and_ranked_films_are_no_candidates(small: Recommender) -> None:
    """What the user has rated or ranked is left out of the candidates too, unless `exclude_seen` is off."""
    asked = Query(9, candidates=(100, 101, 102), ranked_movies=(102,))

    assert films(one(small, asked)) == [101]
    assert set(films(one(small, Query(9, candidates=(100, 101), exclude_seen=False)))) == {100, 101}


@pytest.mark.data
def test_candidates_have_the_models_scores(recommender: Recommender) -> None:
    """Scored as candidates, films get the score and order that they have among all films."""
    among_all = one(recommender, Query(1, n=50))
    alone = one(recommender, Query(1, n=50, candidates=tuple(films(among_all)[::-1])))

    assert films(alone) == films(among_all)
    assert alone.score == pytest.approx(among_all.score, rel=1e-4)


def test_unknown_films_are_named(small: Recommender) -> None:
    """A film with neither rating nor title is named, once, with its field; a film with a title will do."""
    small.validate(Query(9, ranked_movies=(555,), candidates=(100, 555)))
    with pytest.raises(UnknownItems) as caught:
        small.validate(Query(9, ranked_movies=(100, 2**62, -1, -1), candidates=(6,)))

    assert (caught.value.field, caught.value.ids) == ("ranked_movies", (2**62, -1))


@pytest.mark.data
def test_a_batch_of_every_kind_equals_each_alone(recommender: Recommender) -> None:
    """Known users, strangers, candidates and exclusions in one batch: each gets what it gets alone."""
    queries = [
        query
        for user in (1, 405, STRANGER, 943)
        for query in (
            Query(user),
            Query(user, n=1000),
            Query(user, n=3, ranked_movies=(50, 181, 100)),
            Query(user, candidates=(1, 50, 300, 300)),
            Query(user, exclude_seen=False),
        )
    ]
    together = recommender.recommend(queries)

    assert len(together) == len(queries)
    for query, found in zip(queries, together, strict=True):
        alone = one(recommender, query)
        assert (films(found), found.answered_by) == (films(alone), alone.answered_by)
        assert found.score == pytest.approx(alone.score, rel=1e-4)
    assert recommender.recommend([]) == []


def test_titles_are_empty_where_none_is_known(small: Recommender) -> None:
    """A film without a title has an empty one."""
    assert small.titles(np.array([104, 100])) == ["Alien", ""]


@pytest.mark.parametrize("device", ["cuda", "gpu"])
def test_a_device_that_is_not_there_is_one_sentence(tmp_path: Path, device: str) -> None:
    """`cuda` without CUDA, and a word that is no device, fail before anything is trained."""
    if device == "cuda" and resolve_gpu("auto"):
        device = "cuda:9"  # there is one here, and this word is none
    with pytest.raises(DeviceError, match=r"^device is .+auto.+cpu\.$"):
        Recommender.train_or_load(ratings_of([(1, 1)]), SETTINGS, tmp_path, device=device)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.gpu
@pytest.mark.data
def test_on_a_gpu_the_same_films_are_found(
    recommender: Recommender, movielens: Ratings, tmp_path: Path
) -> None:
    """Trained and answered on CUDA, nine of ten users share at least half of their films with the CPU's."""
    if not resolve_gpu("auto"):
        pytest.skip("implicit sees no CUDA device")
    on_gpu = Recommender.train_or_load(movielens, SETTINGS, tmp_path, device="cuda")
    queries = [Query(user) for user in range(1, 944)]
    pairs = zip(on_gpu.recommend(queries), recommender.recommend(queries), strict=True)
    shared = [len(set(films(one)) & set(films(other))) for one, other in pairs]

    assert np.quantile(shared, 0.1) >= 5
    assert on_gpu.version != recommender.version
