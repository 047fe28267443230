"""Trace ids without traces."""

import pytest
from opentelemetry import propagate, trace

from telemetry.traces import TraceIds

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.mark.parametrize("flags", ["00", "01"])
def test_the_callers_trace_goes_on(flags: str) -> None:
    """A span has the trace id that the caller sent, sampled or not, and a span id of its own."""
    tracer = TraceIds().get_tracer("test")
    parent = propagate.extract({"traceparent": f"00-{TRACE}-00f067aa0ba902b7-{flags}"})
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
