"""Ultralytics' own answers, to compare ours with, and small checkpoints of every kind that it can build."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torchvision.ops import box_iou

from models.detections import Detections
from models.network import configure_ultralytics
from tests.photos import photographs

Pixels = npt.NDArray[np.uint8]


def yolo(weights: Path | str) -> Any:
    """Open weights, or the name of a YAML file of the ultralytics package, with `ultralytics.YOLO`."""
    configure_ultralytics()
    from ultralytics.models import YOLO  # noqa: PLC0415  after its settings folder is named

    return YOLO(str(weights))


def predict(
    weights: Path, images: Sequence[Pixels], *, confidence: float = 0.25, image_size: int = 640
) -> list[Detections]:
    """Return what `YOLO.predict` finds in RGB images, one at a time, in fp32 on the CPU, in a full square."""
    model, options = yolo(weights), {"iou": 0.7, "max_det": 300, "rect": False, "device": "cpu"}
    found = []
    for image in images:
        reversed_channels = np.ascontiguousarray(image[:, :, ::-1])
        answer = model.predict(reversed_channels, conf=confidence, imgsz=image_size, verbose=False, **options)
        table = answer[0].boxes.data.numpy()
        found.append(Detections(table[:, 5].astype(np.int32), table[:, 4], table[:, :4]))
    return found


def differences(ours: Detections, theirs: Detections, *, pixels: float = 0) -> list[str]:
    """Pair each of their boxes with one of ours; return a line for each that has no equal.

    Equal is the same class, a confidence within 0.005, and an IoU of at least 0.99, or corners within
    `pixels`: random weights see slivers, whose IoU says nothing.
    """
    lines = [] if len(ours) == len(theirs) else [f"{len(ours)} boxes, not {len(theirs)}"]
    overlap = box_iou(torch.from_numpy(theirs.boxes), torch.from_numpy(ours.boxes)).numpy()
    alike = np.abs(theirs.confidence[:, None] - ours.confidence) <= 0.005
    alike &= theirs.class_id[:, None] == ours.class_id
    near = np.abs(theirs.boxes[:, None] - ours.boxes).max(2, initial=0) < pixels
    overlap = np.where(alike, np.where(near, 1, overlap), 0)
    for row, (class_id, confidence) in enumerate(zip(theirs.class_id, theirs.confidence, strict=True)):
        best = overlap[row].max(initial=0)
        if best < 0.99:
            lines.append(f"class {class_id} at {confidence:.3f} has no equal: IoU {best:.3f}")
            continue
        overlap[:, overlap[row].argmax()] = 0
    return lines


def random_checkpoint(yaml: str, path: Path, image_size: int) -> Path:
    """Write a checkpoint of random weights that finds something, at confidences from 0 to 1.

    Its normalisation is fitted to a photograph, else all activations would be alike.
    """
    torch.manual_seed(0)
    model = yolo(yaml)
    image = cv2.resize(photographs()["bus"], (image_size, image_size))
    batch = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    for module in model.model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.model.train()(torch.cat((batch, batch.flip(3))))
    head = model.model.model[-1]
    for scores in [*head.cv3, *getattr(head, "one2one_cv3", [])]:
        scores[-1].weight.data *= 3
        scores[-1].bias.data.fill_(-1)
    model.model.eval()
    model.save(path)
    return path
