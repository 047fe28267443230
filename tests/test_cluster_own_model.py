"""A user's own checkpoint and own ratings, put in with one line each."""

import asyncio
import csv
import subprocess
import sys
from pathlib import Path

import pytest

from bench.load import Call, Outcome, send_all
from tests.bad_requests import JPEG, JSON
from tests.cluster import Cluster, answer
from tests.photos import jpeg_bytes

pytestmark = [pytest.mark.cluster, pytest.mark.data]

USERS, FILMS = 30, 25


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A YOLO checkpoint of two classes, trained for an epoch, in a process of its own."""
    folder = tmp_path_factory.mktemp("own")
    done = subprocess.run(
        [sys.executable, "-m", "tests.train_checkpoint", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "own.pt"


@pytest.fixture(scope="module")
def ratings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three hundred ratings: even users like even films, odd users odd ones."""
    path = tmp_path_factory.mktemp("ratings") / "ratings.csv"
    rows = [
        (user, 1000 + film, 5, f"Film {film}")
        for user in range(USERS)
        for film in range(user % 2, FILMS, 2)
        if (user + film) % 11
    ][:300]
    assert len(rows) == 300
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("user", "item", "rating", "title"), *rows])
    return path


def send(cluster: Cluster, call: Call) -> Outcome:
    """Send one request through the ingress."""
    return asyncio.run(send_all(cluster.url, [call]))[0]


def test_two_lines_put_in_the_users_own_models(cluster: Cluster, checkpoint: Path, ratings: Path) -> None:
    """After `detector.weights` and `recommender.ratings` are changed, both answer in the user's own terms."""
    cluster.deploy(
        detection={"args": {"detector": {"weights": str(checkpoint)}}},
        recommendation={"args": {"recommender": {"ratings": str(ratings)}}},
    )
    try:
        boxes = answer(send(cluster, Call("POST", "/detect?confidence=0.001", jpeg_bytes("bus"), JPEG)).body)
        films = answer(send(cluster, Call("POST", "/recommend", b'{"user_id": 4, "n": 5}', JSON)).body)
        unknown = send(cluster, Call("POST", "/detect?classes=person", jpeg_bytes("bus"), JPEG))
    finally:
        cluster.deploy()
    assert boxes["model"]["name"] == "own"
    assert boxes["detections"]
    assert {one["class_name"] for one in boxes["detections"]} <= {"square", "disc"}
    assert films["answered_by"] == "model"
    assert all(item["title"] == f"Film {item['movie_id'] - 1000}" for item in films["items"])
    assert films["items"][0]["movie_id"] % 2 == 0
    assert unknown.status == 422
