"""The recommendation application with real ratings, straight through ASGI."""

from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx
import pytest

from deployments.recommendation import RecommendationService
from deployments.schemas import RecommendAnswer
from deployments.settings import RecommendationArgs
from tests.asgi import Asgi
from tests.bad_requests import Bad, bad_bodies

pytestmark = pytest.mark.data


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Generator[Asgi[RecommendationService], None, None]:
    """The application on the CPU with MovieLens 100k, its model in a folder of this test's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLASSHOUSE_HOME", str(tmp_path_factory.mktemp("home")))
        asgi = Asgi(lambda: RecommendationService(RecommendationArgs(device="cpu")), "/recommend")
    yield asgi
    asgi.close()


def recommend(app: Asgi[RecommendationService], **body: Any) -> httpx.Response:
    """Ask for films."""
    return app.request("POST", json=body)


def films(answer: httpx.Response) -> list[int]:
    """Return the film ids of an answer, best first."""
    return [item["movie_id"] for item in answer.json()["items"]]


def test_a_user_gets_films(app: Asgi[RecommendationService]) -> None:
    """A known user gets ten films by the model, ranked, titled, best first."""
    answer = recommend(app, user_id=1)
    checked = RecommendAnswer.model_validate_json(answer.content)
    assert (checked.answered_by, [item.rank for item in checked.items]) == ("model", list(range(1, 11)))
    scores = [item.score for item in checked.items]
    assert scores == sorted(scores, reverse=True)
    assert all(len(item.title) > 2 for item in checked.items)
    assert answer.headers["X-Inference-ID"] == checked.inference_id


def test_a_stranger_gets_popular_films(app: Asgi[RecommendationService]) -> None:
    """An unknown user is no error: the most rated films, and the answer says so."""
    answer = recommend(app, user_id=-(2**63), n=3)
    assert (answer.status_code, answer.json()["answered_by"]) == (200, "popularity")
    assert answer.json()["items"][0]["title"].startswith("Star Wars")


def test_ranked_movies_are_left_out(app: Asgi[RecommendationService]) -> None:
    """Films that the user has ranked before make room for the next ones."""
    first = films(recommend(app, user_id=1, n=5))
    assert films(recommend(app, user_id=1, n=3, ranked_movies=first[:2])) == first[2:]


def test_candidates_alone_are_ordered(app: Asgi[RecommendationService]) -> None:
    """Of the candidates all come back, in the order of the model, and nothing else."""
    first = films(recommend(app, user_id=1, n=5))
    assert films(recommend(app, user_id=1, candidates=first[::-1])) == first
    assert films(recommend(app, user_id=1, candidates=[])) == []


@pytest.mark.parametrize("bad", bad_bodies(), ids=lambda bad: str(bad.name))
def test_a_wrong_body_gets_the_right_error(app: Asgi[RecommendationService], bad: Bad) -> None:
    """Each way to be wrong has its own status and code."""
    answer = app.request("POST", content=bad.body, headers=bad.headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (bad.status, bad.code)


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("application/json; charset=utf-8", 200),
        ("application/vnd.x+json", 200),
        ("", 200),
        ("text/plain", 415),
    ],
)
def test_only_json_is_taken(app: Asgi[RecommendationService], kind: str, status: int) -> None:
    """Bodies called something else than JSON are a 415; those called nothing are read."""
    answer = app.request("POST", content=b'{"user_id": 1}', headers={"Content-Type": kind} if kind else {})
    assert answer.status_code == status


def test_an_error_is_short_whatever_was_sent(app: Asgi[RecommendationService]) -> None:
    """An unknown field of a hundred thousand letters is not sent back whole."""
    answer = app.request("POST", json={"user_id": 1, "x" * 100_000: 1})
    assert (answer.status_code, len(answer.content) < 1000) == (422, True)


def test_unknown_films_are_named(app: Asgi[RecommendationService]) -> None:
    """A 422 for unknown films names the field and the ids."""
    error = recommend(app, user_id=1, candidates=[50, 10**9]).json()["error"]
    assert error["field"] == "candidates"
    assert str(10**9) in error["message"]
    assert " 50" not in error["message"]


def test_many_at_once_are_each_answered(app: Asgi[RecommendationService]) -> None:
    """Sixty users at once get what they get alone."""
    alone = {user: films(recommend(app, user_id=user)) for user in range(1, 61, 6)}
    answers = app.requests([("POST", "", {"json": {"user_id": user}}) for user in range(1, 61)])
    together = {answer.json()["user_id"]: films(answer) for answer in answers}
    assert {user: together[user] for user in alone} == alone


def test_the_second_start_loads_the_trained_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replica that starts again answers with the same version, from disk."""
    monkeypatch.setenv("GLASSHOUSE_HOME", str(tmp_path))
    answers = []
    for _ in range(2):
        asgi = Asgi(lambda: RecommendationService(RecommendationArgs(device="cpu")), "/recommend")
        answers.append(recommend(asgi, user_id=1).json())
        asgi.close()
    assert answers[0]["model"] == answers[1]["model"]
    assert answers[0]["items"] == answers[1]["items"]
    assert len([path for path in (tmp_path / "models" / "recommender").iterdir() if path.is_dir()]) == 1
