"""Admission: who is let in, and what the others are told."""

from contextlib import ExitStack

import pytest

from deployments.admission import Admission, AdmissionLimits
from deployments.errors import Overloaded


def fill(admission: Admission, stack: ExitStack, count: int) -> None:
    """Let `count` requests in."""
    for _ in range(count):
        stack.enter_context(admission.enter()).uploaded()


def test_refuses_when_the_queue_is_full() -> None:
    """One more than `max_waiting` is refused and counted; a place given back is free again."""
    refused: list[str] = []
    admission = Admission(AdmissionLimits(max_waiting=3), refused=refused.append)
    with ExitStack() as stack:
        fill(admission, stack, 3)
        with pytest.raises(Overloaded, match="3 requests are inside"), admission.enter():
            pass
    with admission.enter() as place:
        place.uploaded()
        assert (admission.inside, refused) == (1, ["full"])


def test_refuses_when_the_answer_would_be_late() -> None:
    """The queue may use half of the deadline: at 0.1 s each and 2 s, ten wait and no more than one more."""
    refused: list[str] = []
    admission = Admission(AdmissionLimits(deadline_s=2), refused=refused.append)
    admission.observe(run_s=0.8, size=8)
    with ExitStack() as stack:
        fill(admission, stack, 11)
        with pytest.raises(Overloaded, match=r"would take 1\.1 s of the 2 s"):
            fill(admission, stack, 1)
    assert refused == ["late"]


def test_retry_after_is_when_half_of_the_queue_is_gone() -> None:
    """Retry-After is half of the expected wait in whole seconds, and never 0."""
    admission = Admission(AdmissionLimits(max_waiting=10, deadline_s=100))
    admission.observe(run_s=1, size=1)
    with ExitStack() as stack:
        fill(admission, stack, 10)
        with pytest.raises(Overloaded) as refused:
            fill(admission, stack, 1)
    assert refused.value.headers == {"Retry-After": "5"}
    assert Overloaded("", retry_after_s=0.0).headers == {"Retry-After": "1"}


def test_an_idle_replica_lets_one_in_however_slow_it_is() -> None:
    """A model slower than the deadline still answers one at a time: refusing all would hide it."""
    admission = Admission(AdmissionLimits(deadline_s=1))
    admission.observe(run_s=30, size=1)
    with admission.enter() as place:
        place.uploaded()
        assert admission.inside == 1


def test_probes_are_always_let_in() -> None:
    """A probe passes a full queue and takes no place in it."""
    admission = Admission(AdmissionLimits(max_waiting=1))
    with ExitStack() as stack:
        fill(admission, stack, 1)
        with admission.enter(probe=True) as probe:
            probe.uploaded()
            assert (admission.inside, admission.uploading) == (1, 0)


def test_slow_uploads_keep_nobody_out() -> None:
    """An upload is no work for the device: ten times as many as fit behind it let the next one in at once."""
    admission = Admission(AdmissionLimits(max_waiting=16, deadline_s=1))
    admission.observe(run_s=1, size=2)
    with ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(admission.enter())
        with admission.enter() as place:
            place.uploaded()
            assert (admission.inside, admission.uploading) == (1, 20)


def test_uploads_are_bounded_too() -> None:
    """At four times `max_waiting` no more uploads are taken: they cost memory."""
    admission = Admission(AdmissionLimits(max_waiting=2))
    with ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(admission.enter())
        with pytest.raises(Overloaded, match="8 requests are uploading"), admission.enter():
            pass


def test_the_queue_may_fill_up_during_an_upload() -> None:
    """Who comes through the door together is counted again once uploaded: the surplus is refused then."""
    admission = Admission(AdmissionLimits(max_waiting=1))
    with admission.enter() as first, admission.enter() as second:
        first.uploaded()
        with pytest.raises(Overloaded, match="1 requests are inside"):
            second.uploaded()
    assert (admission.inside, admission.uploading) == (0, 0)


def test_slow_decoding_is_expected_too() -> None:
    """Where decoding is slower than the device, the queue is as long as decoding takes."""
    admission = Admission(AdmissionLimits(deadline_s=10))
    admission.observe(run_s=0.8, size=8)
    admission.observe_prepare(busy_s=6, workers=2)
    with ExitStack() as stack:
        fill(admission, stack, 2)
        with pytest.raises(Overloaded, match=r"would take 6\.0 s of the 10 s"):
            fill(admission, stack, 1)


def test_the_estimate_follows_the_device() -> None:
    """After twenty batches of a new speed the estimate is within 12 % of it."""
    admission = Admission(AdmissionLimits())
    admission.observe(run_s=1, size=1)
    for _ in range(20):
        admission.observe(run_s=0.4, size=4)
    with ExitStack() as stack:
        fill(admission, stack, 1)
        assert admission.expected_wait_s() == pytest.approx(0.1, rel=0.12)


def test_a_place_is_given_back_when_the_request_fails() -> None:
    """An exception inside gives the place back."""
    admission = Admission(AdmissionLimits(max_waiting=1))
    with pytest.raises(KeyError), admission.enter():
        raise KeyError
    assert admission.inside == 0
