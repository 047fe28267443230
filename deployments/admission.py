"""Who is let in. A refusal costs no decode and no device time, is JSON, and is ours to count.

Serve has a limit of its own (`max_ongoing_requests` + `max_queued_requests`): plain text, uncounted,
and blind to how long the queue takes. It stands far above this one, as a backstop.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from deployments.errors import Overloaded

# How much one finished batch moves the estimate of the time per request. At 0.2 a doubling of the
# time is 90 % learned after ten batches, and a single slow batch does not close the door.
SMOOTHING = 0.2
# The share of the deadline that the queue may use up: what is left pays for upload, decode, answer,
# and for an estimate that is a little off. With all of it, the last ones admitted came too late.
QUEUE_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """When a request is refused.

    Args:
        max_waiting: Requests inside (uploading, decoding, waiting, on the device) at most, >= 1.
        deadline_s: Seconds from arrival within which an answer must leave, > 0.
    """

    max_waiting: int = 64
    deadline_s: float = 10.0

    def __post_init__(self) -> None:
        """Refuse limits that would let nobody in."""
        if self.max_waiting < 1:
            raise ValueError(f"max_waiting must be at least 1, not {self.max_waiting}")
        if not self.deadline_s > 0:
            raise ValueError(f"deadline_s must be above 0, not {self.deadline_s}")


class Admission:
    """Counts who is inside and knows how long one takes. Used from one event loop only.

    Args:
        limits: May be replaced at any time.
        seconds_each: First estimate of the device time of one request, until one was measured.
    """

    def __init__(self, limits: AdmissionLimits, *, seconds_each: float = 0.0) -> None:
        self.limits = limits
        self.inside = 0
        self.refused = 0
        self._seconds_each = seconds_each

    @contextlib.contextmanager
    def enter(self, *, probe: bool = False) -> Iterator[None]:
        """Hold a place for the duration of a request. A probe is always let in, and not counted.

        Raises:
            Overloaded: The queue is full, or would make the answer late.
        """
        if probe:
            yield
            return
        self._check()
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1

    def expected_wait_s(self) -> float:
        """Return the seconds that a request arriving now would wait for those before it."""
        return self.inside * self._seconds_each

    def observe(self, run_s: float, size: int) -> None:
        """Learn from a batch of `size` items that kept the device busy for `run_s` seconds."""
        each = run_s / size
        if self._seconds_each:
            each = (1 - SMOOTHING) * self._seconds_each + SMOOTHING * each
        self._seconds_each = each

    def _check(self) -> None:
        wait_s, limits = self.expected_wait_s(), self.limits
        full = self.inside >= limits.max_waiting
        late = self.inside > 0 and wait_s > QUEUE_SHARE * limits.deadline_s
        if not (full or late):
            return
        self.refused += 1
        why = (
            f"{self.inside} requests are inside already"
            if full
            else f"the queue would take {wait_s:.1f} s of the {limits.deadline_s:g} s there are"
        )
        # Half of the queue gone is room for a new burst; all of it gone would leave the device idle.
        raise Overloaded(f"Overloaded: {why}. Try again later.", retry_after_s=wait_s / 2)
