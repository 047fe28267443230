"""From a distance to a verdict, for windows of independent images.

Two windows of the same world differ, too, and small ones a lot: in windows of ten images one of seven
properties always reaches 0.2. So a score counts only above what chance alone reaches at these sizes, and
where chance alone reaches the limit, neither answer can be given.
"""

import math
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "drift", "insufficient"]

LIMIT = 0.2  # of KS, as Deepchecks has it
ALPHA = 0.05
LEAST_IMAGES = 30


@dataclass(frozen=True, slots=True)
class Decision:
    """What is said of one column.

    Args:
        score: The distance, 0..1.
        limit: From which on it counts.
        floor: What chance alone reaches, in one of 20 comparisons of all columns.
        n_reference: Values of the reference.
        n_window: Values of the window.
        verdict: `insufficient`: too few to tell.
    """

    score: float
    limit: float
    floor: float
    n_reference: int
    n_window: int
    verdict: Verdict


def noise_floor(n_reference: int, n_window: int, columns: int) -> float:
    """Return the KS that two samples of one distribution exceed in a share `ALPHA` of all comparisons.

    Smirnov's asymptotic two-sample bound, c(a) = sqrt(-ln(a/2) / 2), with Bonferroni's correction.

    Args:
        n_reference: Independent values of the one, >= 1.
        n_window: Of the other, >= 1.
        columns: How many are compared together, >= 1.

    Raises:
        ValueError: A number is below 1.
    """
    if min(n_reference, n_window, columns) < 1:
        raise ValueError("sizes and the number of columns are at least 1.")
    c = math.sqrt(-math.log(ALPHA / columns / 2) / 2)
    return c * math.sqrt((n_reference + n_window) / (n_reference * n_window))


def decide(score: float, n_reference: int, n_window: int, *, columns: int, limit: float = LIMIT) -> Decision:
    """Judge the score of a column.

    Args:
        score: KS, 0..1.
        n_reference: Independent values of the reference, >= 1.
        n_window: Of the window, >= 1.
        columns: How many are judged together.
        limit: From which on a score counts.

    Raises:
        ValueError: A number is below 1.
    """
    floor = noise_floor(n_reference, n_window, columns)
    if min(n_reference, n_window) < LEAST_IMAGES:
        verdict: Verdict = "insufficient"
    elif score >= max(limit, floor):
        verdict = "drift"
    else:
        verdict = "insufficient" if floor > limit else "ok"
    return Decision(score, limit, floor, n_reference, n_window, verdict)
