"""Who is let in. A refusal costs no decode and no device time, is JSON, and is ours to count.

Serve has a limit of its own (`max_ongoing_requests` + `max_queued_requests`): plain text, uncounted,
and blind to how long the queue takes. It stands far above this one, as a backstop.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NoReturn

from deployments.errors import Overloaded

# How much one finished batch moves the estimate of the time per request. At 0.2 a doubling of the
# time is 90 % learned after ten batches, and a single slow batch does not close the door.
SMOOTHING = 0.2
# Requests that may be uploading, as a multiple of `max_waiting`. They cost memory and no device time,
# and a few slow ones must not keep everybody else out.
UPLOADS = 4
# The share of the deadline that the queue may use up: what is left pays for upload, decode, answer,
# and for an estimate that is a little off. With all of it, the last ones admitted came too late.
QUEUE_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """When a request is refused.

    Args:
        max_waiting: Requests inside (decoding, waiting, on the device) at most, >= 1. Four times as many
            may be uploading.
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
        refused: Told of every refusal: `full`, or `late` where the queue would take too long.
    """

    def __init__(
        self,
        limits: AdmissionLimits,
        *,
        seconds_each: float = 0.0,
        refused: Callable[[str], None] = lambda _reason: None,
    ) -> None:
        self.limits = limits
        self.inside = 0
        self.uploading = 0
        self._refused = refused
        self._device_s = seconds_each
        self._prepare_s = 0.0

    @contextlib.contextmanager
    def enter(self, *, probe: bool = False) -> Iterator["Place"]:
        """Hold a place for the duration of a request, first among the uploads; see `Place.uploaded`.

        A probe is always let in, and not counted.

        Raises:
            Overloaded: The queue is full, or would make the answer late; or there are too many uploads.
        """
        place = Place(self, counted=not probe)
        if probe:
            yield place
            return
        self._check()
        if self.uploading >= UPLOADS * self.limits.max_waiting:
            self._refuse("full", f"{self.uploading} requests are uploading already")
        self.uploading += 1
        try:
            yield place
        finally:
            place.leave()

    def expected_wait_s(self) -> float:
        """Return the seconds that a request arriving now would wait for those before it."""
        return self.inside * max(self._device_s, self._prepare_s)

    def observe(self, run_s: float, size: int) -> None:
        """Learn from a batch of `size` items that kept the device busy for `run_s` seconds."""
        self._device_s = _smoothed(self._device_s, run_s / size)

    def observe_prepare(self, busy_s: float, workers: int) -> None:
        """Learn from a request that kept one of `workers` threads busy for `busy_s` seconds."""
        self._prepare_s = _smoothed(self._prepare_s, busy_s / workers)

    def _check(self) -> None:
        wait_s, limits = self.expected_wait_s(), self.limits
        if self.inside >= limits.max_waiting:
            self._refuse("full", f"{self.inside} requests are inside already")
        if self.inside > 0 and wait_s > QUEUE_SHARE * limits.deadline_s:
            why = f"the queue would take {wait_s:.1f} s of the {limits.deadline_s:g} s there are"
            self._refuse("late", why)

    def _refuse(self, reason: str, why: str) -> NoReturn:
        self._refused(reason)
        # Half of the queue gone is room for a new burst; all of it gone would leave the device idle.
        raise Overloaded(f"Overloaded: {why}. Try again later.", retry_after_s=self.expected_wait_s() / 2)


class Place:
    """One request's place: among the uploads until its body is here, then in the queue.

    Args:
        admission: Who counts it.
        counted: False for probes.
    """

    def __init__(self, admission: Admission, *, counted: bool) -> None:
        self._admission = admission
        self._counted = counted
        self._queued = False

    def uploaded(self) -> None:
        """Move into the queue, before any work is done on the body.

        Raises:
            Overloaded: The queue filled up during the upload.
        """
        if self._counted and not self._queued:
            self._admission._check()
            self._queued = True
            self._admission.uploading -= 1
            self._admission.inside += 1

    def leave(self) -> None:
        """Give the place back."""
        if self._queued:
            self._admission.inside -= 1
        else:
            self._admission.uploading -= 1


def _smoothed(known: float, seen: float) -> float:
    return (1 - SMOOTHING) * known + SMOOTHING * seen if known else seen
