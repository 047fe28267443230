"""One `Telemetry` per process: what it records, who it says it is, and its end.

`start()` belongs into a replica's constructor or a job's first call, never at import: a process that
is pickled or forked would carry threads it does not have.
"""

import atexit
import logging
import os
import platform
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from uuid import uuid4

from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import (
    Counter,
    Histogram,
    MeterProvider,
    ObservableCounter,
    ObservableGauge,
    ObservableUpDownCounter,
    UpDownCounter,
    _Gauge,
)
from opentelemetry.sdk.metrics.export import MetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider

from telemetry import attributes, gpu, process, schema
from telemetry.cell_reader import Cells, ExportingReader
from telemetry.deferred import Deferred, Work
from telemetry.instruments import Instruments, views
from telemetry.logs import Logs
from telemetry.otlp import LogCarrier, MetricExporter, Mode, OtlpSettings
from telemetry.outbox import Outbox
from telemetry.traces import TraceIds

log = logging.getLogger("telemetry.providers")

METER = "glasshouse"
SHUTDOWN_S = 5.0
# Series of an instrument that no view of ours bounds: a library's, or a mistake's.
FOREIGN_SERIES = 200
LIMITS: dict[type, int] = dict.fromkeys(
    (
        Counter,
        UpDownCounter,
        Histogram,
        ObservableCounter,
        ObservableUpDownCounter,
        ObservableGauge,
        _Gauge,  # the SDK's synchronous gauge has no public name
    ),
    FOREIGN_SERIES,
)


@dataclass(frozen=True, slots=True)
class _Export:
    """What a process with telemetry has, and one without has not."""

    meters: MeterProvider
    tracers: trace.TracerProvider
    exporter: MetricExporter
    outbox: Outbox
    logs: Logs
    deferred: Deferred


class Telemetry:
    """Telemetry of this process, by `start()`.

    Args:
        instruments: Where metrics are recorded; no-ops where telemetry is off.
        export: How it leaves; None where telemetry is off.
    """

    def __init__(self, instruments: Instruments, export: _Export | None) -> None:
        self.instruments = instruments
        self._export = export
        self._lock = threading.Lock()
        self._ended = False

    @property
    def on(self) -> bool:
        """Whether anything is recorded."""
        return self._export is not None

    @property
    def meters(self) -> metrics.MeterProvider:
        """For libraries that record by themselves."""
        return self._export.meters if self._export else metrics.NoOpMeterProvider()

    @property
    def tracers(self) -> trace.TracerProvider:
        """Where requests get their trace ids from: ours, or Serve's where it traces."""
        if self._export is None:
            return trace.NoOpTracerProvider()
        known = trace.get_tracer_provider()
        return known if isinstance(known, TracerProvider) else self._export.tracers

    def attach(self, *names: str) -> None:
        """Take the lines of these loggers. Idempotent; to be called again where Serve cleared handlers."""
        if self._export:
            self._export.logs.attach(*names)

    def flush(self, timeout_s: float = SHUTDOWN_S) -> bool:
        """Export everything now; tell whether all of it arrived. A job calls it before it exits."""
        if self._export is None or self._ended:
            return True
        deadline = time.monotonic() + timeout_s
        self._export.deferred.drain()
        lines = self._export.outbox.force_flush(int(timeout_s * 500))
        try:
            self._export.meters.force_flush(max(1.0, (deadline - time.monotonic()) * 1e3))
        except Exception as error:
            log.warning("metrics could not be flushed: %s", error)
            return False
        return lines and self._export.exporter.delivered

    def shutdown(self, timeout_s: float = SHUTDOWN_S) -> None:
        """Export what is left, lines first (what is lost of them is a metric), and end the threads.

        Idempotent; returns after about `timeout_s` at the latest, whatever the collector does.
        """
        with self._lock:
            if self._export is None or self._ended:
                return
            self._ended = True
        atexit.unregister(self.shutdown)
        deadline = time.monotonic() + timeout_s
        self._export.deferred.close()
        self._export.logs.detach()
        self._export.outbox.shutdown(timeout_s / 2)
        try:
            self._export.meters.shutdown(max(1.0, (deadline - time.monotonic()) * 1e3))
        except Exception as error:
            log.warning("the last metrics were not exported: %s", error)


_lock = threading.Lock()
_started: dict[int, Telemetry] = {}  # by process id: a fork starts anew


def start(
    service: str,
    *,
    version: str = "",
    instance_id: str | None = None,
    attributes: Mapping[str, str] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Telemetry:
    """Return this process's telemetry; the first call starts it, the others return the same.

    After `shutdown()` the next call starts anew, for libraries too only as far as they are given
    `meters` and `tracers`: OpenTelemetry's global providers cannot be replaced.

    Args:
        service: `service.name`: the Serve application, or the job.
        version: `service.version`.
        instance_id: `service.instance.id`, unique to the process; made up where not given.
        attributes: More of the resource: `ray.application`, `ray.deployment`, `ray.replica.id`, …
        environ: `GLASSHOUSE_TELEMETRY` and `OTEL_*`, see `telemetry.otlp`.

    Raises:
        ValueError: A variable cannot be what it is; names it and its value.
    """
    with _lock:
        running = _started.get(os.getpid())
        if running is None or running._ended:
            settings = OtlpSettings.read(environ)
            resource = describe(service, version, instance_id, attributes or {})
            running = build(settings, resource, environ)
            _started[os.getpid()] = running
            _publish(running)
        return running


def off() -> Telemetry:
    """Return a telemetry that records nothing: where it is switched off, and for services without Serve."""
    meter = metrics.NoOpMeterProvider().get_meter(METER)
    return Telemetry(Instruments(meter, None, later=_forget), None)


def _forget(_work: Work, *_args: object) -> None:
    """Take a recording where nothing is recorded: even the way to a no-op costs, in cold caches."""


def describe(service: str, version: str, instance_id: str | None, more: Mapping[str, str]) -> Resource:
    """Return who this process says it is; what the environment says (`OTEL_RESOURCE_ATTRIBUTES`) is kept."""
    ours: dict[str, str | int] = {
        "service.name": service,
        "service.namespace": schema.NAMESPACE,
        "service.instance.id": instance_id or str(uuid4()),
        "process.pid": os.getpid(),
        **({"service.version": version} if version else {}),
        **more,
    }
    unless_said = Resource({"deployment.environment.name": "local", "host.name": platform.node()})
    return unless_said.merge(Resource.create({**ours}))


def build(
    settings: OtlpSettings,
    resource: Resource,
    environ: Mapping[str, str],
    *,
    readers: tuple[MetricReader, ...] = (),
    cells: Cells | None = None,
) -> Telemetry:
    """Build a telemetry that is nobody's global; `start` is for everybody but tests.

    Args:
        settings: Where to, how often.
        resource: Who this is.
        environ: Says which GPUs are ours.
        readers: More readers of the metrics, for tests.
        cells: Those that the readers know, for tests.
    """
    if settings.mode is Mode.OFF:
        return off()
    exporter = MetricExporter(settings.metrics_url, **settings.common())
    cells = cells or Cells(METER, resource)
    deferred = Deferred()
    cells.settle = deferred.drain
    reader = ExportingReader(
        cells,
        exporter,
        export_interval_millis=settings.interval_s * 1e3,
        export_timeout_millis=settings.timeout_s * 1e3,
        cardinality_limits=LIMITS,
    )
    meters = MeterProvider([reader, *readers], resource, shutdown_on_exit=False, views=views())
    strict = settings.mode is Mode.STRICT
    instruments = Instruments(meters.get_meter(METER), cells, strict=strict, later=deferred.put)
    outbox = _outbox(settings, resource, instruments)
    process.observe(instruments)
    gpu.observe(instruments, environ)
    service = str(resource.attributes["service.name"])
    logs = Logs(service, outbox.put)
    return Telemetry(instruments, _Export(meters, TraceIds(), exporter, outbox, logs, deferred))


def _outbox(settings: OtlpSettings, resource: Resource, instruments: Instruments) -> Outbox:
    series = {"": instruments.series(schema.LOGS_PROCESSED)}
    for reason in attributes.LOST.values:
        series[reason] = instruments.series(schema.LOGS_PROCESSED, {attributes.LOST.name: reason})
    outbox = Outbox(
        LogCarrier(settings, resource),
        lambda reason, lines: series[reason].put(lines),
        queue=settings.queue,
        batch=min(settings.batch, settings.queue),
        delay_s=settings.delay_s,
    )
    instruments.observe(schema.LOGS_WAITING, lambda: [(len(outbox), {})])
    return outbox


def _publish(telemetry: Telemetry) -> None:
    """Make it the process's: for libraries that ask for the global providers, and until the exit."""
    if not telemetry.on:
        return
    atexit.register(telemetry.shutdown)
    # Serve sets a tracer provider where tracing is configured; then that one makes the trace ids.
    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        trace.set_tracer_provider(telemetry.tracers)
    if isinstance(metrics.get_meter_provider(), metrics._internal._ProxyMeterProvider):
        metrics.set_meter_provider(telemetry.meters)
