"""Mean average precision of a detector over a labelled folder, COCO128's above all.

python -m bench.coco_map            # every precision this machine can do
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from models.artifacts import fetch
from models.detections import Detections
from models.detector import DetectionSettings, Detector
from models.images import decode
from models.network import configure_ultralytics

# As Ultralytics validates: down to almost no confidence, so that the whole curve is seen.
SETTINGS = DetectionSettings(confidence=0.001, iou=0.7, max_detections=300)
IOUS = np.linspace(0.5, 0.95, 10)
BATCH = 8
MAX_PIXELS = 50_000_000


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """An image and what people saw in it.

    Attributes:
        image: `(h, w, 3) uint8` RGB.
        class_id: `(m,) int64`.
        boxes: `(m, 4) float32`, `x1 y1 x2 y2` in pixels.
    """

    image: npt.NDArray[np.uint8]
    class_id: npt.NDArray[np.int64]
    boxes: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Precision:
    """Mean average precision in [0, 1], at IoU 0.5 and over 0.5 to 0.95."""

    map50: float
    map50_95: float


def read_labelled(folder: Path) -> list[Labelled]:
    """Read `images/train2017` and `labels/train2017` of a YOLO folder, by file name."""
    paths = sorted((folder / "images" / "train2017").glob("*.jpg"))
    return [_read_one(path, folder / "labels" / "train2017" / f"{path.stem}.txt") for path in paths]


def find(detector: Detector, images: Sequence[Labelled]) -> list[Detections]:
    """Run the detector over all images, in batches."""
    found: list[Detections] = []
    for start in range(0, len(images), BATCH):
        prepared = [detector.prepare(each.image) for each in images[start : start + BATCH]]
        done = detector.detect(prepared, [SETTINGS] * len(prepared))
        found += [each.detections for each in done]
    return found


def precision_of(found: Sequence[Detections], truth: Sequence[Labelled]) -> Precision:
    """Score detections against labels, with the curves of Ultralytics' own `ap_per_class`."""
    configure_ultralytics()
    from ultralytics.utils.metrics import ap_per_class  # noqa: PLC0415

    curves = ap_per_class(
        np.concatenate([_correct(each, labels) for each, labels in zip(found, truth, strict=True)]),
        np.concatenate([each.confidence for each in found]),
        np.concatenate([each.class_id for each in found]),
        np.concatenate([labels.class_id for labels in truth]),
    )
    average = curves[5]
    return Precision(float(average[:, 0].mean()), float(average.mean()))


def _read_one(image: Path, labels: Path) -> Labelled:
    pixels = decode(image.read_bytes(), max_pixels=MAX_PIXELS)
    lines = labels.read_text(encoding="ascii").split() if labels.exists() else []
    table = np.array(lines, np.float32).reshape(-1, 5)
    height, width = pixels.shape[:2]
    centre, half = table[:, 1:3], table[:, 3:] / 2
    corners = np.concatenate((centre - half, centre + half), 1) * np.array([width, height] * 2)
    return Labelled(pixels, table[:, 0].astype(np.int64), corners.astype(np.float32))


def _correct(found: Detections, labels: Labelled) -> npt.NDArray[np.bool_]:
    """Return `(n, 10)`: whether each detection, from the most confident on, claims a label at each IoU."""
    from ultralytics.utils.metrics import box_iou  # noqa: PLC0415

    correct = np.zeros((len(found), len(IOUS)), bool)
    if not len(found) or not len(labels.class_id):
        return correct
    overlap = box_iou(torch.from_numpy(labels.boxes), torch.from_numpy(found.boxes)).numpy()
    overlap = overlap * (labels.class_id[:, None] == found.class_id)
    claimed = np.zeros((len(labels.class_id), len(IOUS)), bool)
    column = np.arange(len(IOUS))
    for index in range(len(found)):
        free = np.where(claimed, 0, overlap[:, index, None])
        best = free.argmax(0)
        correct[index] = free[best, column] >= IOUS
        claimed[best, column] |= correct[index]
    return correct


def main() -> None:
    """Print the precision of the default weights in fp32, bf16 and the default."""
    images = read_labelled(fetch("coco128"))
    for precision in ("fp32", "bf16", "auto"):
        detector = Detector(fetch("yolov8n"), precision=precision)
        score = precision_of(find(detector, images), images)
        print(f"{precision} ({detector.precision}): mAP50 {score.map50:.4f}, mAP50-95 {score.map50_95:.4f}")


if __name__ == "__main__":
    main()
