"""What the applications keep: the record of every answer, on the disk before it leaves, and read again."""

import hashlib
import subprocess
from collections.abc import Generator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import numpy as np
import pytest

from deployments.detection import DetectionService
from deployments.keeper import Keeper
from deployments.recommendation import RecommendationService
from deployments.settings import DetectionArgs, Keeping, RecommendationArgs
from models.images import decode
from models.properties import PROPERTY_NAMES, measure
from store.shipper import Shipper
from store.spool import OWNER
from store.tables import Tables
from telemetry import schema_store
from tests.asgi import Asgi
from tests.metric_reader import Bench, bench
from tests.photos import jpeg_bytes
from tests.poll import poll_until

pytestmark = pytest.mark.data

JPEG = {"Content-Type": "image/jpeg"}
BUS = jpeg_bytes("bus")
SPOOLS = {"/detect": "detection-*", "/recommend": "recommendation-*"}


@pytest.fixture(scope="module")
def box() -> Bench:
    """Instruments that raise on programming errors, and a look into them."""
    return bench()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Generator[Path, None, None]:
    """Where the applications of this file keep everything."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLASSHOUSE_HOME", str(folder))
        patch.delenv("GLASSHOUSE_STORE", raising=False)
        yield folder


@pytest.fixture(scope="module")
def detection(home: Path, box: Bench) -> Generator[Asgi[DetectionService], None, None]:
    """The detector, with its keeper."""
    asgi = Asgi(lambda: keeping(home, box, Keeping()), "/detect")
    yield asgi
    asgi.close()


def keeping(home: Path, box: Bench, settings: Keeping) -> DetectionService:
    """A detector that keeps in this folder."""
    keeper = Keeper("detection", settings, box.instruments, replica="r1", spools=home / "spool")
    return DetectionService(DetectionArgs(device="cpu"), keeper=keeper)


@pytest.fixture(scope="module")
def recommendation(home: Path) -> Generator[Asgi[RecommendationService], None, None]:
    """The recommender, with its keeper."""

    def make() -> RecommendationService:
        keeper = Keeper("recommendation", Keeping(), bench().instruments, replica="r2")
        return RecommendationService(RecommendationArgs(device="cpu"), keeper=keeper)

    asgi = Asgi(make, "/recommend")
    yield asgi
    asgi.close()


def detect(app: Asgi[DetectionService], data: bytes = BUS, **options: Any) -> httpx.Response:
    """Send one JPEG."""
    return app.request("POST", content=data, headers=JPEG | options.pop("headers", {}), **options)


def record(app: Asgi[Any], inference_id: str) -> dict[str, Any]:
    """Return a record, as the application shows it."""
    answer = app.request("GET", f"/inferences/{inference_id}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def ship(app: Asgi[Any], home: Path) -> None:
    """Ship all that was kept, as the node's shipper does, once the replica is at rest."""
    mine = list((home / "spool").glob(f"{SPOOLS[app.mount]}/{OWNER}"))

    def at_rest() -> bool:
        app.request("GET", "/healthz")  # the loop runs while it is asked something
        return all(int(owner.read_text() or 0) == 0 for owner in mine)

    poll_until(at_rest, "the open segment is closed", 20)
    shipper = Shipper(home / "spool", Tables(str(home / "store")))
    with shipper.alone():
        while shipper.turn().more:
            pass


def test_an_answer_has_its_record_at_once(detection: Asgi[DetectionService]) -> None:
    """The record is found by the answer's id in the same moment, and says what the answer says."""
    headers = {"X-Request-ID": "mine-1", "traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01"}
    query = {"source": "gate-7", "tags": "site=north,shift=night", "confidence": 0.6}
    answer = detect(detection, headers=headers, params=query)
    said, found = answer.json(), record(detection, answer.json()["inference_id"])
    assert found["detections"] == said["detections"]
    assert len(found["default_detections"]) > len(found["detections"])
    assert found["model"] == said["model"]
    assert (found["request_id"], found["trace_id"]) == ("mine-1", "ab" * 16)
    assert (found["source"], found["tags"], found["replica"]) == (
        "gate-7",
        ["site=north", "shift=night"],
        "r1",
    )
    assert found["settings"]["confidence"] == 0.6
    assert abs((datetime.now(UTC) - datetime.fromisoformat(found["ts"])).total_seconds()) < 60
    properties = measure(decode(BUS, max_pixels=10**8))
    values = [found["properties"][name] for name in PROPERTY_NAMES]
    assert (values, found["properties"]["step"]) == (properties.values.tolist(), properties.step)
    assert found["image"]["sha256"] == hashlib.sha256(BUS).hexdigest()
    image = detection.request("GET", f"/inferences/{said['inference_id']}/image")
    assert (image.content, image.headers["Content-Type"]) == (BUS, "image/jpeg")


def test_source_and_tags_by_header(detection: Asgi[DetectionService]) -> None:
    """Headers say where a request came from, where the query does not; a bad one is refused by name."""
    headers = {"X-Glasshouse-Source": "gate-8", "X-Glasshouse-Tags": "site=south", "X-Glasshouse-Probe": "1"}
    found = record(detection, detect(detection, headers=headers).json()["inference_id"])
    assert (found["source"], found["tags"]) == ("gate-8", ["site=south", "probe"])
    refused = detect(detection, headers={"X-Glasshouse-Source": "a b"})
    assert (refused.status_code, refused.json()["error"]["field"]) == (422, "source")


def test_a_record_is_the_same_from_its_table(detection: Asgi[DetectionService], home: Path) -> None:
    """Shipped, the record and its image are what they were in the spool, to the last digit."""
    known = detect(detection).json()["inference_id"]
    before = record(detection, known)
    ship(detection, home)
    assert not list((home / "spool").glob("detection-*/*.sqlite"))
    after = record(detection, known)
    assert datetime.fromisoformat(after.pop("ts")) == datetime.fromisoformat(before.pop("ts"))
    assert after == before
    assert detection.request("GET", f"/inferences/{known}/image").content == BUS


def test_feedback_joins_its_record(detection: Asgi[DetectionService], home: Path) -> None:
    """What is said of an answer is kept, and shown with the record once it is in the table."""
    known = detect(detection).json()["inference_id"]
    said = {
        "correct": False,
        "boxes": [{"class_id": 5, "x1": 1, "y1": 2, "x2": 30, "y2": 40}],
        "note": "late",
    }
    answer = detection.request("POST", f"/inferences/{known}/feedback", json=said)
    assert (answer.status_code, answer.json()) == (202, {"accepted": 1})
    ship(detection, home)
    (feedback,) = record(detection, known)["feedback"]
    assert {name: feedback[name] for name in said} == said


@pytest.mark.parametrize("known", ["nothing", str(uuid4()), "01a21025-825a-749f-850f-650127a83327"])
def test_an_unknown_inference(detection: Asgi[DetectionService], known: str) -> None:
    """What is no id, or of no record, is 404 in every route."""
    for method, path in (("GET", ""), ("GET", "/image"), ("POST", "/feedback")):
        body = {"json": {"correct": True}} if method == "POST" else {}
        answer = detection.request(method, f"/inferences/{known}{path}", **body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found"), path


def test_wrong_feedback_is_refused(detection: Asgi[DetectionService]) -> None:
    """A field that is none, or of another kind, is named; so is the side of a box that has no area."""
    known = detect(detection).json()["inference_id"]
    box = {"class_id": 5, "x1": 30, "y1": 2, "x2": 60, "y2": 40}
    for body, field in (
        ({"correct": False, "boxes": [box, box | {"x2": 30}]}, "boxes.1.x2"),
        ({"correct": False, "boxes": [box | {"y2": 1}]}, "boxes.0.y2"),
        ({"correct": "yes"}, "correct"),
        ({"correct": True, "colour": 1}, "colour"),
        ({}, "correct"),
    ):
        answer = detection.request("POST", f"/inferences/{known}/feedback", json=body)
        assert (answer.status_code, answer.json()["error"]["field"]) == (422, field)


def test_a_record_can_be_run_again(detection: Asgi[DetectionService]) -> None:
    """The stored bytes and settings give the same boxes again, to the last digit, batch and all."""
    answers = detection.requests([("POST", "", {"content": BUS, "headers": JPEG})] * 3)
    other = detect(detection, jpeg_bytes("zidane"), params={"confidence": 0.1, "iou": 0.5})
    for answer in (*answers, other):
        known = answer.json()["inference_id"]
        found = record(detection, known)
        image = detection.request("GET", f"/inferences/{known}/image").content
        again = detection.service.replay(image, found["settings"])
        columns = zip(again.class_id.tolist(), again.confidence.tolist(), again.boxes.tolist(), strict=True)
        kept = [
            (
                one["class_id"],
                np.float32(one["confidence"]),
                [np.float32(side) for side in one["box"].values()],
            )
            for one in found["detections"]
        ]
        assert [(a, np.float32(b), [np.float32(side) for side in c]) for a, b, c in columns] == kept


def test_a_recommendation_has_its_record(recommendation: Asgi[RecommendationService], home: Path) -> None:
    """The list, what was asked and who answered are found by id, before and after it was shipped."""
    body = {"user_id": 7, "n": 5, "ranked_movies": [50], "source": "app"}
    said = recommendation.request("POST", json=body).json()
    for _ in range(2):
        found = record(recommendation, said["inference_id"])
        assert [one["movie_id"] for one in found["items"]] == [one["movie_id"] for one in said["items"]]
        assert [np.float32(one["score"]) for one in found["items"]] == [
            np.float32(one["score"]) for one in said["items"]
        ]
        assert (found["user_id"], found["answered_by"], found["ranked_movies"]) == (7, "model", [50])
        assert (found["source"], found["candidates"]) == ("app", None)
        assert found["known_ratings"] > 10
        ship(recommendation, home)


def test_interactions_are_kept(recommendation: Asgi[RecommendationService], home: Path) -> None:
    """What users did is on the disk when 202 says so, with their own time or that of arrival."""
    given = [
        {"user_id": 1, "movie_id": 999_999, "rating": 4.5, "ts": "2026-01-02T03:04:05+01:00"},
        {"user_id": 2, "movie_id": 50, "rating": 1},
    ]
    answer = recommendation.request("POST", "/interactions", json=given)
    assert (answer.status_code, answer.json()) == (202, {"accepted": 2})
    ship(recommendation, home)
    table = Tables(str(home / "store")).open("interactions")
    assert table is not None
    rows = sorted(table.to_pyarrow_table().to_pylist(), key=lambda row: row["user_id"])
    assert [(row["user_id"], row["movie_id"], row["rating"]) for row in rows] == [
        (1, 999_999, 4.5),
        (2, 50, 1.0),
    ]
    assert rows[0]["ts"] == datetime(2026, 1, 2, 2, 4, 5, tzinfo=UTC)
    for body in ([], [{"user_id": 1}], {"user_id": 1}):
        assert recommendation.request("POST", "/interactions", json=body).status_code == 422


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_refuses_and_recovers(tiny_disk: Path, home: Path) -> None:
    """No answer leaves without its record; with space again, the replica comes back by itself."""
    box = bench()
    app = Asgi(lambda: keeping(tiny_disk, box, Keeping()), "/detect")
    try:
        answers = [detect(app) for _ in range(40)]
        good = [one.json()["inference_id"] for one in answers if one.status_code == 200]
        refused = [one for one in answers if one.status_code != 200]
        assert 5 < len(good) < 30
        assert {(one.status_code, one.json()["error"]["code"]) for one in refused} == {(503, "not_durable")}
        assert all(int(one.headers["Retry-After"]) > 0 for one in refused)
        assert app.request("GET", "/healthz").status_code == 503
        assert not app.service.problems(), "Serve must not replace the replica: the next has the same disk"
        subprocess.run(["mount", "-o", "remount,size=30m", str(tiny_disk)], check=True)
        poll_until(lambda: app.request("GET", "/healthz").status_code == 200, "it recovers", 20)
        good.append(detect(app).json()["inference_id"])
        ship(app, tiny_disk)
        table = Tables(str(tiny_disk / "store")).open("detections")
        assert table is not None
        assert sorted(table.to_pyarrow_table().column("inference_id").to_pylist()) == sorted(good)
        assert box.value(schema_store.SPOOL_ENTRIES) == len(good)
        assert box.value(schema_store.SPOOL_ENTRIES, **{"error.type": "full"}) >= 1
    finally:
        app.close()


def test_serve_answers_without_records(tiny_disk: Path, home: Path) -> None:
    """With `on_error: serve` a full disk costs records, which are counted, and no answer."""
    box = bench()
    app = Asgi(lambda: keeping(tiny_disk, box, Keeping(on_error="serve")), "/detect")
    try:
        assert {detect(app).status_code for _ in range(30)} == {200}
        health = app.request("GET", "/healthz")
        assert (health.status_code, health.json()["status"]) == (200, "degraded")
        lost = box.value(schema_store.SPOOL_ENTRIES, **{"error.type": "full"})
        assert lost + box.value(schema_store.SPOOL_ENTRIES) == 30
        assert lost > 5
    finally:
        app.close()


def test_images_may_be_left_out(tmp_path: Path, home: Path) -> None:
    """With `images: 0` the record is whole, and its image is 404 with a reason."""
    other = jpeg_bytes("coffee")
    app = Asgi(lambda: keeping(tmp_path, bench(), Keeping(images=0)), "/detect")
    try:
        known = detect(app, other).json()["inference_id"]
        assert record(app, known)["image"]["sha256"] == hashlib.sha256(other).hexdigest()
        answer = app.request("GET", f"/inferences/{known}/image")
        assert answer.status_code == 404
        assert "not kept" in answer.json()["error"]["message"]
    finally:
        app.close()


def test_without_a_keeper_nothing_is_kept(home: Path) -> None:
    """An application without a keeper answers, and has no records to show."""
    app = Asgi(lambda: DetectionService(DetectionArgs(device="cpu")), "/detect")
    try:
        known = detect(app).json()["inference_id"]
        assert app.request("GET", f"/inferences/{known}").status_code == 404
    finally:
        app.close()
