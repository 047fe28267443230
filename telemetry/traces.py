"""Trace ids without traces: what ties a metric's exemplar to the log line of its request.

No span is exported, so none is recorded: an SDK span with its attributes costs five times as much as its
id. Where somebody has configured tracing (Serve's `tracing_config`), that provider makes the spans.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

# Exemplars are kept of sampled spans only. What the caller does with its own trace does not matter
# here: a point must lead to its line either way.
SAMPLED = trace.TraceFlags(trace.TraceFlags.SAMPLED)


# https://www.w3.org/TR/trace-context/#traceparent-header; a later version may have more behind it.
_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(?:-.*)?")
MAX_TRACEPARENT = 128


def parent_of(traceparent: bytes) -> Context:
    """Return the context of a `traceparent` header; an empty one where it is none.

    Not by the SDK's propagators: `tracestate` is parsed there in quadratic time (14 kB of blanks block a
    replica for minutes), and nobody here reads it.
    """
    found = _TRACEPARENT.fullmatch(traceparent) if len(traceparent) <= MAX_TRACEPARENT else None
    sent = trace.INVALID_SPAN_CONTEXT
    if found is not None:
        sent = trace.SpanContext(int(found[1], 16), int(found[2], 16), True, SAMPLED)
    return trace.set_span_in_context(trace.NonRecordingSpan(sent), Context()) if sent.is_valid else Context()


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
        trace_id = parent.trace_id if parent.is_valid else self._ids.generate_trace_id()
        own = trace.SpanContext(trace_id, self._ids.generate_span_id(), False, SAMPLED)
        return trace.NonRecordingSpan(own)

    @contextmanager
    def start_as_current_span(  # type: ignore[override]
        self, name: str, context: Context | None = None, *_: Any, **__: Any
    ) -> Iterator[trace.Span]:
        with trace.use_span(self.start_span(name, context), record_exception=False) as span:
            yield span


_TRACER = _Tracer()
