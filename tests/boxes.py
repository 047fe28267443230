"""The objects of an answer, comparable between batches."""

from collections.abc import Sequence

from bench.load import Outcome
from tests.cluster import answer

Box = tuple[str, list[float]]
SURE = 0.4  # less sure ones may come and go with the batch's rounding in bf16
TOLERANCE_PX = 2.0


def boxes(outcome: Outcome) -> list[Box]:
    """Return class and corners of the objects that the detector is sure of, sorted."""
    return sorted(
        (one["class_name"], list(one["box"].values()))
        for one in answer(outcome.body)["detections"]
        if one["confidence"] > SURE
    )


def same(one: Sequence[Box], other: Sequence[Box]) -> bool:
    """Tell whether two answers name the same objects at the same places."""
    return len(one) == len(other) and all(
        a == b and max(abs(p - q) for p, q in zip(here, there, strict=True)) < TOLERANCE_PX
        for (a, here), (b, there) in zip(one, other, strict=True)
    )
