"""What the `Server-Timing` header of an answer says about its batch."""

import re
from dataclasses import dataclass

from bench.load import Outcome

_STAGES = re.compile(r'queue;dur=([\d.]+), batch;dur=([\d.]+);desc="(\d+)"')


@dataclass(frozen=True, slots=True)
class Stages:
    """Milliseconds in the queue, milliseconds on the device, and how many ran together."""

    queue_ms: float
    batch_ms: float
    batch_size: int


def stages(outcome: Outcome) -> Stages:
    """Read the stages of an answered inference.

    Raises:
        ValueError: The answer has no such header.
    """
    header = outcome.headers.get("Server-Timing", "")
    if not (found := _STAGES.fullmatch(header)):
        raise ValueError(f"no stages in {header!r} (status {outcome.status})")
    return Stages(float(found[1]), float(found[2]), int(found[3]))


def mean_batch(outcomes: list[Outcome]) -> float:
    """Return the mean size of the batches that were run.

    Each answer reports its own batch, so a batch of eight is seen eight times: hence the harmonic mean.
    """
    sizes = [stages(outcome).batch_size for outcome in outcomes if outcome.status == 200]
    return len(sizes) / sum(1 / size for size in sizes) if sizes else float("nan")
