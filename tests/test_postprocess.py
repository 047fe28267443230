"""From raw output to detections: which form an output has, and what a request may ask for."""

from typing import Any

import numpy as np
import pytest
import torch

from models.letterbox import letterbox
from models.postprocess import DetectionSettings, choose, find_candidates

SQUARE = letterbox(np.zeros((64, 64, 3), np.uint8), 64)
# The square that each level of a head sees has a power of four as many cells as the next.
LEVELS = [(8, 16, 32), (16, 32), (4, 8, 16, 32), (8, 16, 32, 64), (32,), (16,), (32, 64)]


def test_no_number_of_anchors_is_six() -> None:
    """Whatever the levels and the square, raw output never has six columns, so six mean final detections."""
    counts = {
        sum((side // stride) ** 2 for stride in strides)
        for strides in LEVELS
        for side in range(max(strides), 4097, max(strides))
    }
    assert 21 in counts
    assert 6 not in counts


@pytest.mark.parametrize("classes", [1, 2, 6, 80])
def test_raw_output_of_any_number_of_classes(classes: int) -> None:
    """Boxes with one score a class are read as such, also with two classes: six rows, of 21 anchors."""
    output = torch.zeros(1, 4 + classes, 21)
    output[0, :4, 7] = torch.tensor([32.0, 32, 20, 10])
    output[0, 3 + classes, 7] = 0.9
    found = choose(find_candidates(output, [0.25])[0], DetectionSettings(), SQUARE)
    assert found.boxes.tolist() == [[22, 27, 42, 37]]
    assert found.class_id.tolist() == [classes - 1]
    assert found.confidence.tolist() == pytest.approx([0.9])


@pytest.mark.parametrize("count", [1, 6, 300])
def test_final_output_is_not_suppressed_again(count: int) -> None:
    """Rows of corners, confidence and class stay as they are, however much they overlap."""
    output = torch.tensor([10.0, 20, 30, 40, 0.9, 5]).repeat(2, count, 1)
    output[1, :, 4] = 0.1
    first, second = find_candidates(output, [0.25, 0.25])
    assert len(choose(first, DetectionSettings(), SQUARE)) == count
    assert len(choose(second, DetectionSettings(), SQUARE)) == 0


def test_each_image_has_its_own_floor() -> None:
    """Of one score, the image that asks for less has a candidate, the other none; equal is not enough."""
    output = torch.zeros(3, 5, 21)
    output[:, 4, 0] = 0.5
    assert [len(each.boxes) for each in find_candidates(output, [0.4, 0.6, 0.5])] == [1, 0, 0]


def test_classes_do_not_suppress_each_other() -> None:
    """Two classes on the same spot both stay; of one class only the surer does."""
    output = torch.zeros(1, 6, 21)
    output[0, :4, :3] = torch.tensor([32.0, 32, 20, 10])[:, None]
    output[0, 4, 0], output[0, 4, 1], output[0, 5, 2] = 0.9, 0.8, 0.7
    found = choose(find_candidates(output, [0.25])[0], DetectionSettings(), SQUARE)
    assert found.class_id.tolist() == [0, 1]
    assert found.confidence.tolist() == pytest.approx([0.9, 0.7])


def test_what_is_not_a_number_is_not_found() -> None:
    """A network gone wrong finds nothing, rather than raising or answering nonsense."""
    output = torch.full((1, 84, 21), float("nan"))
    assert len(choose(find_candidates(output, [0.0])[0], DetectionSettings(confidence=0.0), SQUARE)) == 0


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"confidence": -0.1}, "confidence"),
        ({"confidence": 1.1}, "confidence"),
        ({"confidence": float("nan")}, "confidence"),
        ({"iou": 1.5}, "iou"),
        ({"max_detections": 0}, "max_detections"),
    ],
)
def test_settings_out_of_range_are_named(values: dict[str, Any], name: str) -> None:
    """A value that no request may ask for is refused by its name."""
    with pytest.raises(ValueError, match=f"^{name} must be"):
        DetectionSettings(**values)
