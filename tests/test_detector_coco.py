"""The detector against Ultralytics and against people's labels, on every photograph at hand."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from bench.coco_map import (
    BATCH,
    IOUS,
    SETTINGS,
    Labelled,
    find,
    precision_of,
    read_labelled,
)
from models.artifacts import fetch
from models.detections import Detections
from models.detector import Detected, Detector, resolve_precision
from models.letterbox import letterbox
from models.network import Checkpoint
from tests.photos import fetched, photographs
from tests.ultralytics_reference import differences, predict

pytestmark = pytest.mark.data

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def labelled() -> list[Labelled]:
    """COCO128."""
    return read_labelled(fetched("coco128"))


@pytest.fixture(scope="module")
def in_fp32(labelled: list[Labelled]) -> list[Detected]:
    """COCO128, then the other photographs, in fp32, in mixed batches of eight.

    Asked down to almost no confidence; `default_detections` are those of Ultralytics' default settings.
    """
    detector = Detector(fetch("yolov8n"), device="cpu", precision="fp32", warmup_batch=BATCH)
    images = [each.image for each in labelled] + list(photographs().values())
    found: list[Detected] = []
    for start in range(0, len(images), BATCH):
        prepared = [detector.prepare(image) for image in images[start : start + BATCH]]
        found += detector.detect(prepared, [SETTINGS] * len(prepared))
    return found


@pytest.fixture(scope="module")
def fp32_map(in_fp32: list[Detected], labelled: list[Labelled]) -> float:
    """mAP50-95 in fp32 on COCO128."""
    return precision_of(served(in_fp32, labelled), labelled).map50_95


def served(found: list[Detected], labelled: list[Labelled]) -> list[Detections]:
    """Return what the requests for COCO128 got."""
    return [each.detections for each in found[: len(labelled)]]


def test_every_photograph_gets_ultralytics_boxes(in_fp32: list[Detected], labelled: list[Labelled]) -> None:
    """On all photographs each box of `YOLO.predict` has one of ours, and there are no others."""
    assert len(labelled) == 128
    images = [each.image for each in labelled] + list(photographs().values())
    theirs = predict(fetch("yolov8n"), images)
    assert sum(map(len, theirs)) > 500
    lines = [
        f"image {index}: {line}"
        for index, (ours, reference) in enumerate(zip(in_fp32, theirs, strict=True))
        for line in differences(ours.default_detections, reference)
    ]
    assert lines == []


def test_the_comparison_sees_differences(in_fp32: list[Detected]) -> None:
    """A box too many, moved by a hundredth, less sure, or of another class is told."""
    found = next(each.default_detections for each in in_fp32 if len(each.default_detections) > 3)
    sizes = np.tile(found.boxes[:, 2:] - found.boxes[:, :2], 2)
    moved = (found.boxes + 0.01 * sizes).astype(np.float32)
    changed = [
        Detections(found.class_id[1:], found.confidence[1:], found.boxes[1:]),
        Detections(found.class_id, found.confidence, moved),
        Detections(found.class_id, found.confidence - np.float32(0.01), found.boxes),
        Detections(found.class_id + 1, found.confidence, found.boxes),
    ]
    assert differences(found, found) == []
    assert [differences(other, found) != [] for other in changed] == [True] * 4


def test_default_precision_keeps_the_average_precision(fp32_map: float, labelled: list[Labelled]) -> None:
    """Whatever this CPU takes by default, and bf16 anyway, is at most 0.003 of mAP50-95 below fp32."""
    for precision in sorted({resolve_precision("auto", CPU), "bf16"}):
        detector = Detector(fetch("yolov8n"), device="cpu", precision=precision)
        assert precision_of(find(detector, labelled), labelled).map50_95 >= fp32_map - 0.003


def test_the_harness_agrees_with_ultralytics_validator(labelled: list[Labelled], fp32_map: float) -> None:
    """Scored with several labels a box, as its validator does, fp32 has the validator's mAP50-95.

    `YOLO("yolov8n.pt").val(rect=False)` of ultralytics 8.4.190 on these 128 images: mAP50 0.6062, mAP50-95
    0.4515. One label a box, as in `YOLO.predict` and in our answers, costs 0.010 of it.
    """
    score = precision_of(_found_with_several_labels(labelled), labelled)
    assert score.map50 == pytest.approx(0.6062, abs=0.002)
    assert score.map50_95 == pytest.approx(0.4515, abs=0.002)
    assert fp32_map == pytest.approx(score.map50_95 - 0.0104, abs=0.003)


def test_worse_boxes_score_less(in_fp32: list[Detected], labelled: list[Labelled], fp32_map: float) -> None:
    """Boxes shifted by a tenth of their size, other classes, or a missing half cost average precision."""
    found = served(in_fp32, labelled)
    scores = [
        precision_of([_shifted(each) for each in found], labelled),
        precision_of([_next_class(each) for each in found], labelled),
        precision_of([_first_half(each) for each in found], labelled),
    ]
    assert scores[0].map50_95 < fp32_map - 0.1
    assert scores[1].map50_95 < 0.02
    assert scores[2].map50_95 < fp32_map - 0.01


def test_perfect_boxes_score_one(labelled: list[Labelled]) -> None:
    """The labels themselves, taken for detections, have full precision; and nothing found, none."""
    perfect = [
        Detections(each.class_id.astype(np.int32), np.ones(len(each.class_id), np.float32), each.boxes)
        for each in labelled
    ]
    # The curves are interpolated up to 0.995.
    assert precision_of(perfect, labelled).map50_95 == pytest.approx(0.995, abs=0.001)
    nothing = [Detections(np.empty(0, np.int32), np.empty(0, np.float32), np.empty((0, 4), np.float32))] * 128
    assert precision_of(nothing, labelled).map50 == 0


def test_average_precision_by_hand() -> None:
    """Of two labels the surer detection hits one at IoU 0.81, the next misses: half at 0.5, less over all."""
    image = np.zeros((200, 200, 3), np.uint8)
    truth = Labelled(image, np.array([3, 3]), np.array([[0, 0, 100, 100], [100, 100, 200, 200]], np.float32))
    boxes = np.array([[0, 0, 90, 90], [0, 0, 100, 100], [150, 0, 200, 50]], np.float32)
    found = Detections(np.full(3, 3, np.int32), np.array([0.9, 0.8, 0.7], np.float32), boxes)
    score = precision_of([found], [truth])
    # The second box would fit better, but below IoU 0.85 its label is taken by the surer one.
    assert score.map50 == pytest.approx(0.5, abs=0.01)
    expected = (7 * 0.5 + 3 * 0.25) / len(IOUS)
    assert score.map50_95 == pytest.approx(expected, abs=0.02)


def test_labels_are_read_in_pixels(tmp_path: Path) -> None:
    """Shares of width and height become corners in pixels, and an image without a file has no labels."""
    for name in ("images", "labels"):
        (tmp_path / name / "train2017").mkdir(parents=True)
    for name in ("a", "b"):
        cv2.imwrite(str(tmp_path / "images" / "train2017" / f"{name}.jpg"), np.zeros((100, 200, 3), np.uint8))
    (tmp_path / "labels" / "train2017" / "a.txt").write_text("7 0.5 0.5 0.25 0.5\n0 0.1 0.2 0.2 0.4\n")
    first, second = read_labelled(tmp_path)
    assert first.class_id.tolist() == [7, 0]
    assert np.allclose(first.boxes, [[75, 25, 125, 75], [0, 0, 40, 40]], atol=1e-4)
    assert (len(second.class_id), second.boxes.shape) == (0, (0, 4))


def _found_with_several_labels(labelled: list[Labelled]) -> list[Detections]:
    network = Checkpoint(fetch("yolov8n"), CPU, "fp32", 640)
    from ultralytics.utils.nms import non_max_suppression  # noqa: PLC0415  after its settings folder is named

    found = []
    for start in range(0, len(labelled), BATCH):
        prepared = [letterbox(each.image, 640) for each in labelled[start : start + BATCH]]
        with torch.inference_mode():
            output = network(torch.from_numpy(np.stack([each.pixels for each in prepared])))
            tables = non_max_suppression(output.predictions, 0.001, 0.7, multi_label=True, max_det=300)
        for table, fitted in zip((one.numpy() for one in tables), prepared, strict=True):
            boxes = fitted.to_image(table[:, :4])
            found.append(Detections(table[:, 5].astype(np.int32), table[:, 4], boxes))
    return found


def _shifted(found: Detections) -> Detections:
    width = found.boxes[:, 2:3] - found.boxes[:, :1]
    shift = width * np.array([0.1, 0, 0.1, 0], np.float32)
    return Detections(found.class_id, found.confidence, found.boxes + shift)


def _next_class(found: Detections) -> Detections:
    return Detections((found.class_id + 1) % 80, found.confidence, found.boxes)


def _first_half(found: Detections) -> Detections:
    # The best of a few objects is dropped, as every other row from the first.
    return Detections(found.class_id[1::2], found.confidence[1::2], found.boxes[1::2])
