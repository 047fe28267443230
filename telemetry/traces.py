"""Trace ids without traces: what ties a metric's exemplar to the log line of its request.

No span is exported, so none is recorded: an SDK span with its attributes costs five times as much as its
id. Where somebody has configured tracing (Serve's `tracing_config`), that provider makes the spans.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace.span import TraceState

# Exemplars are kept of sampled spans only. What the caller does with its own trace does not matter
# here: a point must lead to its line either way.
SAMPLED = trace.TraceFlags(trace.TraceFlags.SAMPLED)


class TraceIds(trace.TracerProvider):
    """A provider whose spans are ids: of the caller's trace where it sends one, else of a new one."""

    def get_tracer(
        self,
        instrumenting_module_name: str,
        instrumenting_library_version: str | None = None,
        schema_url: str | None = None,
        attributes: Any = None,
    ) -> trace.Tracer:
        """Return the tracer; it is the same for everybody."""
        return _TRACER


class _Tracer(trace.Tracer):
    _ids = RandomIdGenerator()

    def start_span(
        self,
        name: str,
        context: Context | None = None,
        kind: trace.SpanKind = trace.SpanKind.INTERNAL,
        attributes: Mapping[str, Any] | None = None,
        links: Sequence[trace.Link] | None = None,
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
    ) -> trace.Span:
        parent = trace.get_current_span(context).get_span_context()
        state: TraceState | None = None
        trace_id = self._ids.generate_trace_id()
        if parent.is_valid:
            trace_id, state = parent.trace_id, parent.trace_state
        own = trace.SpanContext(trace_id, self._ids.generate_span_id(), False, SAMPLED, state)
        return trace.NonRecordingSpan(own)

    @contextmanager
    def start_as_current_span(  # type: ignore[override]
        self, name: str, context: Context | None = None, *_: Any, **__: Any
    ) -> Iterator[trace.Span]:
        with trace.use_span(self.start_span(name, context), record_exception=False) as span:
            yield span


_TRACER = _Tracer()
