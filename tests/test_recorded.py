"""What the two applications record of their answers: as often as they were given, probes left out."""

import asyncio
import threading
from collections.abc import Callable, Generator
from typing import Any

import pytest

from deployments.detection import DetectionService
from deployments.errors import Overloaded, Unavailable
from deployments.pipeline import Pipeline
from deployments.recommendation import RecommendationService
from deployments.settings import Admitting, Batching, DetectionArgs, RecommendationArgs, Tunables
from telemetry import schema
from telemetry.cells import Cell, CounterCell, GaugeCell, HistogramCell
from telemetry.exponential import ExponentialCell
from telemetry.providers import Telemetry
from telemetry.serving import ServingMetrics
from tests.asgi import Asgi
from tests.metric_reader import Bench, bench
from tests.photos import jpeg_bytes

JPEG = {"Content-Type": "image/jpeg"}
PROBE = {"X-Glasshouse-Probe": "test"}
BUS = jpeg_bytes("bus")


@pytest.fixture
def box() -> Bench:
    """Instruments that raise on programming errors, and a look into them."""
    return bench()


@pytest.fixture
def detection(box: Bench) -> Generator[Asgi[DetectionService], None, None]:
    """The detector, recording into the box."""
    telemetry = Telemetry(box.instruments, None)
    asgi = Asgi(lambda: DetectionService(DetectionArgs(device="cpu"), telemetry=telemetry), "/detect")
    yield asgi
    asgi.close()


@pytest.fixture
def recommendation(
    box: Bench, tmp_path_factory: pytest.TempPathFactory
) -> Generator[Asgi[RecommendationService], None, None]:
    """The recommender, recording into the box."""
    telemetry = Telemetry(box.instruments, None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLASSHOUSE_HOME", str(tmp_path_factory.mktemp("home")))
        asgi = Asgi(
            lambda: RecommendationService(RecommendationArgs(device="cpu"), telemetry=telemetry), "/recommend"
        )
    yield asgi
    asgi.close()


@pytest.mark.data
def test_what_the_detector_records(detection: Asgi[DetectionService], box: Bench) -> None:
    """Two answers, of which one asked for sure objects only, count alike; a probe and an error do not."""
    sent = [
        detection.request("POST", content=BUS, headers=JPEG),
        detection.request("POST", content=BUS, headers=JPEG, params={"confidence": 0.99}),
        detection.request("POST", content=BUS, headers={**JPEG, **PROBE}),
        detection.request("POST", content=b"no image", headers=JPEG),
    ]
    assert [(one.status_code, len(one.json().get("detections", []))) for one in sent[1:]] == [
        (200, 0),
        (200, len(sent[0].json()["detections"])),
        (400, 0),
    ]
    assert box.value(schema.DETECTION_ANSWERS) == 2
    assert box.value(schema.DETECTION_EMPTY) == 0
    assert (
        box.value(schema.OBJECTS, **{"class": "person"}),
        box.value(schema.OBJECTS, **{"class": "bus"}),
    ) == (
        8,
        2,
    )
    (per_image,) = box.points(schema.OBJECTS_PER_IMAGE).values()
    assert (per_image.count, per_image.sum) == (2, 2 * len(sent[0].json()["detections"]))
    (model,) = box.points(schema.MODEL_INFO)
    assert dict(model)["model.version"] == sent[0].json()["model"]["version"]
    assert dict(model)["model.sha"].startswith(dict(model)["model.version"])


@pytest.mark.data
def test_what_the_recommender_records(recommendation: Asgi[RecommendationService], box: Bench) -> None:
    """Ranked films present and absent, who answered, unknown users, list lengths; a probe is in none."""
    for body in ({"user_id": 1, "ranked_movies": [1]}, {"user_id": -5, "n": 3}, {"user_id": 2}):
        assert recommendation.request("POST", json=body).status_code == 200
    assert recommendation.request("POST", json={"user_id": -7}, headers=PROBE).status_code == 200
    assert (box.value(schema.RANKED_PRESENT), box.value(schema.RANKED_ABSENT)) == (1, 2)
    answers = schema.RECOMMENDATION_ANSWERS
    assert (box.value(answers, answered_by="model"), box.value(answers, answered_by="popularity")) == (2, 1)
    assert box.value(schema.UNKNOWN_USERS) == 1
    (lengths,) = box.points(schema.LIST_LENGTH).values()
    assert (lengths.count, lengths.sum) == (3, 23)
    assert box.value(schema.COVERAGE) > 0


def test_what_the_pipeline_records(box: Bench) -> None:
    """Every batch with its size and fill, who waits, and every refusal with its reason."""

    async def run() -> None:
        tunables = Tunables(batching=Batching(max_size=4), admission=Admitting(max_waiting=3))
        pipeline = Pipeline[int, int](lambda items: items, tunables, ServingMetrics(box.instruments))

        async def ask(number: int) -> None:
            async with pipeline.admit(probe=False) as place:
                place.uploaded()
                await pipeline.infer(number)

        await asyncio.gather(*(ask(number) for number in range(2)))
        waiting = asyncio.gather(*(ask(number) for number in range(3)))
        await asyncio.sleep(0)
        assert box.value(schema.QUEUE_DEPTH) == 3
        with pytest.raises(Overloaded):
            await ask(4)
        await waiting
        pipeline.close()
        with pytest.raises(Unavailable):
            await ask(5)

    asyncio.run(run())
    (sizes,) = box.points(schema.BATCH_SIZE).values()
    (fills,) = box.points(schema.BATCH_UTILIZATION).values()
    assert (sizes.count, sizes.sum, fills.sum) == (2, 5, 1.25)
    refused = schema.REFUSED
    assert (box.value(refused, reason="full"), box.value(refused, reason="closing")) == (1, 1)
    assert box.value(schema.QUEUE_DEPTH) == 0


@pytest.mark.data
def test_no_telemetry_where_the_model_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """No metric is recorded on the threads that decode and run the model: the benchmark counts on it."""
    recorded_on: set[str] = set()
    for kind in (CounterCell, HistogramCell, ExponentialCell, GaugeCell):

        def noting(cell: Cell, value: float, put: Callable[[Any, float], None] = kind.put) -> None:
            recorded_on.add(threading.current_thread().name)
            put(cell, value)

        monkeypatch.setattr(kind, "put", noting)
    telemetry = Telemetry(bench().instruments, None)
    asgi = Asgi(lambda: DetectionService(DetectionArgs(device="cpu"), telemetry=telemetry), "/detect")
    try:
        recorded_on.clear()
        assert asgi.request("POST", content=BUS, headers=JPEG).status_code == 200
        assert asgi.request("POST", content=b"no image", headers=JPEG).status_code == 400
    finally:
        asgi.close()
    assert recorded_on
    assert not [name for name in recorded_on if name.startswith(("device", "prepare"))]
