"""Trace ids without traces."""

import pytest
from opentelemetry import trace

from telemetry.traces import TraceIds, parent_of

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.mark.parametrize("flags", ["00", "01"])
def test_the_callers_trace_goes_on(flags: str) -> None:
    """A span has the trace id that the caller sent, sampled or not, and a span id of its own."""
    tracer = TraceIds().get_tracer("test")
    parent = parent_of(f"00-{TRACE}-00f067aa0ba902b7-{flags}".encode())
    found = tracer.start_span("request", parent).get_span_context()
    assert f"{found.trace_id:032x}" == TRACE
    assert f"{found.span_id:016x}" != "00f067aa0ba902b7"
    assert found.is_valid and found.trace_flags.sampled


def test_every_request_has_its_own_trace() -> None:
    """Without a caller's trace each span begins one."""
    tracer = TraceIds().get_tracer("test")
    spans = [tracer.start_span("request").get_span_context() for _ in range(100)]
    assert len({span.trace_id for span in spans}) == len({span.span_id for span in spans}) == 100


def test_a_span_is_current_while_it_lasts() -> None:
    """Inside `start_as_current_span` the span is the current one, a span inside is of the same trace."""
    tracer = TraceIds().get_tracer("test")
    with tracer.start_as_current_span("request") as span:
        inner = tracer.start_span("inner").get_span_context()
        assert trace.get_current_span() is span
    assert inner.trace_id == span.get_span_context().trace_id
    assert not trace.get_current_span().get_span_context().is_valid


BROKEN = {
    "empty": "",
    "no ids": f"00-{'0' * 32}-00f067aa0ba902b7-01",
    "no span": f"00-{TRACE}-{'0' * 16}-01",
    "version ff": f"ff-{TRACE}-00f067aa0ba902b7-01",
    "capitals": f"00-{TRACE.upper()}-00f067aa0ba902b7-01",
    "one digit more": f"00-{TRACE}0-00f067aa0ba902b7-01",
    "text": "give me a trace",
    "endless": f"00-{TRACE}-00f067aa0ba902b7-01-" + "x" * 10_000,
}


@pytest.mark.parametrize("sent", BROKEN.values(), ids=BROKEN)
def test_what_is_no_traceparent_begins_a_trace(sent: str) -> None:
    """A header that is not one is as if there were none."""
    found = TraceIds().get_tracer("test").start_span("request", parent_of(sent.encode()))
    assert found.get_span_context().is_valid
    assert f"{found.get_span_context().trace_id:032x}" != TRACE


def test_a_later_version_may_say_more() -> None:
    """Of a version to come, the part that is known is read."""
    parent = parent_of(f"01-{TRACE}-00f067aa0ba902b7-01-more".encode())
    assert f"{trace.get_current_span(parent).get_span_context().trace_id:032x}" == TRACE
