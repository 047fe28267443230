"""The real telemetry pipeline on free ports, and questions to Prometheus and Loki."""

import json
import logging
import os
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch import backend_programs
from launch.backends import Backends
from launch.ports import BackendPorts
from launch.ray_head import RayHead
from telemetry.otlp import OtlpSettings
from telemetry.providers import Telemetry, build, describe

FAST = {
    "OTEL_METRIC_EXPORT_INTERVAL": "500",
    "OTEL_BLRP_SCHEDULE_DELAY": "100",
    "OTEL_EXPORTER_OTLP_TIMEOUT": "2",
}
NOBODY = 9  # a port on which nothing listens


def alone(folder: Path, ports: BackendPorts) -> Backends:
    """Return backends beside no cluster, not started: Ray's files would be in `folder/ray`."""
    ray = folder / "ray"
    ray.mkdir(exist_ok=True)
    return Backends(
        folder / "telemetry",
        ports,
        backend_programs.find(),
        ray_temp=ray,
        serve_port=NOBODY,
        haproxy_metrics_port=NOBODY,
        logs=folder / "logs",
    )


@dataclass(frozen=True, slots=True)
class Line:
    """A log line as Loki gives it back.

    Args:
        time_ns: Since the epoch.
        body: The line itself.
        labels: Of its stream.
        metadata: Structured metadata.
    """

    time_ns: int
    body: str
    labels: Mapping[str, str]
    metadata: Mapping[str, str]


class Pipeline:
    """All six programs.

    Args:
        folder: Where state and logs are kept, and where Ray's files are to be written.
        beside: A Ray cluster to watch.
        ports: Where they listen; free ones where not given.
    """

    def __init__(
        self, folder: Path, *, beside: RayHead | None = None, ports: BackendPorts | None = None
    ) -> None:
        self.ray = beside.temp if beside else folder / "ray"
        self.logs = folder / "logs"
        ports = ports or BackendPorts.free()
        if beside:
            self.backends = Backends.beside(
                beside, folder / "telemetry", ports, backend_programs.find(), logs=self.logs
            )
        else:
            self.backends = alone(folder, ports)

    @contextmanager
    def up(self) -> Iterator["Pipeline"]:
        """Hold them running; they are ended whatever comes."""
        try:
            self.backends.start()
            yield self
        finally:
            self.backends.stop()

    def ask(self, query: str) -> list[dict[str, Any]]:
        """Ask Prometheus now; return the series of the answer."""
        url = f"{self.backends.urls['prometheus']}/api/v1/query"
        return list(get(url, query=query)["data"]["result"])

    def exemplar_traces(self, query: str) -> set[str]:
        """Return the trace ids that the exemplars of these series carry."""
        url = f"{self.backends.urls['prometheus']}/api/v1/query_exemplars"
        found = get(url, query=query, start="0", end="9999999999")["data"]
        return {one["labels"]["trace_id"] for series in found for one in series["exemplars"]}

    def value(self, query: str) -> float:
        """Return the only value of the answer; -1 where there is none."""
        found = self.ask(query)
        assert len(found) <= 1, f"{query}: {len(found)} series"
        return float(found[0]["value"][1]) if found else -1

    def lines(self, query: str) -> list[Line]:
        """Ask Loki for lines of the last 6 hours, oldest first, at most 5000."""
        now = time.time()
        found = get(
            f"{self.backends.urls['loki']}/loki/api/v1/query_range",
            query=query,
            start=str(int((now - 6 * 3600) * 1e9)),
            end=str(int((now + 3600) * 1e9)),
            limit="5000",
            direction="forward",
        )
        lines = [
            Line(int(at), body, stream["stream"], more.get("structuredMetadata", {}))
            for stream in found["data"]["result"]
            for at, body, more in stream["values"]
        ]
        return sorted(lines, key=lambda line: line.time_ns)

    def count(self, query: str) -> int:
        """Return how many lines there are by Loki's own count."""
        url = f"{self.backends.urls['loki']}/loki/api/v1/query"
        found = get(url, query=f"sum(count_over_time({query}[6h]))")["data"]["result"]
        return int(found[0]["value"][1]) if found else 0


class Process:
    """A process with telemetry into the pipeline, but for the globals.

    Args:
        pipeline: Where to.
        service: `service.name`, unique to the test; `log` is a logger of it.
        environ: `OTEL_*`.
    """

    def __init__(self, pipeline: Pipeline, service: str, **environ: str) -> None:
        self.service = service
        self.environ = {**os.environ, **pipeline.backends.environ, **FAST, **environ}
        resource = describe(service, "1.2", f"{service}-replica", {"ray.deployment": "Detection"})
        self.telemetry: Telemetry = build(OtlpSettings.read(self.environ), resource, self.environ)
        self.telemetry.attach(f"glasshouse.{service}")
        self.log = logging.getLogger(f"glasshouse.{service}")


def get(url: str, **parameters: str) -> Any:
    """GET JSON from a loopback address."""
    call = urllib.request.Request(  # noqa: S310
        f"{url}?{urllib.parse.urlencode(parameters)}",
        # Loki: tell labels and structured metadata apart.
        headers={"X-Loki-Response-Encoding-Flags": "categorize-labels"},
    )
    with urllib.request.urlopen(call, timeout=10) as answer:  # noqa: S310
        return json.load(answer)
