"""From a network's raw output to the detections that one request asked for."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import nms

from models.detections import Detections
from models.letterbox import Prepared

# As Ultralytics: boxes of different classes are moved this many pixels apart, so that one NMS serves all.
CLASS_OFFSET = 7680
MAX_CANDIDATES = 30_000


@dataclass(frozen=True, slots=True)
class DetectionSettings:
    """What one request wants of its detections.

    Attributes:
        confidence: Detections must be more confident than this, in [0, 1].
        iou: Of two boxes of one class that overlap by more than this, the more confident stays, in [0, 1].
            Without effect on models that need no suppression (YOLOv10, YOLO26).
        max_detections: At most this many, the most confident (>= 1). Models that need no suppression give
            300 at most.
        classes: Only these class ids; None for all.
    """

    confidence: float = 0.25
    iou: float = 0.7
    max_detections: int = 300
    classes: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """Refuse what no request may ask for.

        Raises:
            ValueError: A value outside its range, named.
        """
        for name in ("confidence", "iou"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be between 0 and 1, not {getattr(self, name)}.")
        if self.max_detections < 1:
            raise ValueError(f"max_detections must be at least 1, not {self.max_detections}.")


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """Boxes of one image before suppression, on the CPU, in the order of the network's anchors.

    Attributes:
        boxes: `(n, 4) float32`, `x1 y1 x2 y2` in pixels of the letterboxed square.
        confidence: `(n,) float32`.
        class_id: `(n,) float32`, whole numbers.
        final: Whether the network has suppressed duplicates itself.
    """

    boxes: Tensor
    confidence: Tensor
    class_id: Tensor
    final: bool


def find_candidates(output: Tensor, floors: Sequence[float]) -> list[Candidates]:
    """Return what is more confident than each image's floor; one copy from the device for the whole batch.

    Args:
        output: `(n, 4 + classes, anchors)` with boxes as centre and size and one score a class, or
            `(n, detections, 6)` with corners, confidence and class of networks that suppress themselves.
        floors: `n` confidences.
    """
    # Anchors are 21 at least, so six in the last place are never those.
    final = output.shape[-1] == 6
    if final:
        confidence, class_id = output[..., 4], output[..., 5]
    else:
        confidence, class_id = output[:, 4:].max(1)
    least = torch.tensor(floors, dtype=confidence.dtype, device=output.device)[:, None]
    image, row = torch.nonzero(confidence > least, as_tuple=True)
    boxes = output[image, row, :4] if final else _corners(output[image, :4, row])
    columns = (boxes, confidence[image, row, None], class_id[image, row, None].to(boxes.dtype))
    table = torch.cat(columns, 1).float().cpu()
    counts = torch.bincount(image, minlength=len(output)).tolist()
    return [Candidates(part[:, :4], part[:, 4], part[:, 5], final) for part in torch.split(table, counts)]


def choose(candidates: Candidates, settings: DetectionSettings, prepared: Prepared) -> Detections:
    """Return the detections that the settings ask for, in pixels of the image as sent."""
    wanted = candidates.confidence > settings.confidence
    if settings.classes is not None:
        wanted &= torch.isin(candidates.class_id, torch.tensor(settings.classes, dtype=torch.float32))
    boxes, confidence, class_id = (
        column[wanted] for column in (candidates.boxes, candidates.confidence, candidates.class_id)
    )
    order = torch.argsort(confidence, descending=True, stable=True)[:MAX_CANDIDATES]
    if not candidates.final:
        apart = boxes[order] + class_id[order, None] * CLASS_OFFSET
        order = order[nms(apart, confidence[order], settings.iou)]
    kept = order[: settings.max_detections]
    return Detections(
        class_id=class_id[kept].numpy().astype(np.int32),
        confidence=confidence[kept].numpy(),
        boxes=prepared.to_image(_upright(boxes[kept]).numpy()),
    )


def _corners(boxes: Tensor) -> Tensor:
    centre, half = boxes[:, :2], boxes[:, 2:] / 2
    return torch.cat((centre - half, centre + half), 1)


def _upright(boxes: Tensor) -> Tensor:
    """Swap edges that are the wrong way round: YOLO26 regresses distances without keeping them positive."""
    return torch.cat(
        (torch.minimum(boxes[:, :2], boxes[:, 2:]), torch.maximum(boxes[:, :2], boxes[:, 2:])), 1
    )
