"""A real OTLP/HTTP receiver on loopback that can be down, refuse, or be slow: a collector for tests."""

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric


class Receiver:
    """Listens once `up()` was called.

    Attributes:
        port: Where; the same after a `down()` and an `up()`.
        poison: A word in a line's body for which its batch is refused with 400.
        status: Answered to everything else; 200 takes it.
    """

    def __init__(self) -> None:
        self.port = free_port()
        self.poison = ""
        self.status = 200
        self.attempts = 0
        self.logs: list[ExportLogsServiceRequest] = []
        self.metrics: list[ExportMetricsServiceRequest] = []
        self._server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        """For `OTEL_EXPORTER_OTLP_ENDPOINT`."""
        return f"http://127.0.0.1:{self.port}"

    def up(self) -> None:
        """Start to listen."""
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(receiver.take(self.path, body))
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def down(self) -> None:
        """Refuse connections."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def take(self, path: str, body: bytes) -> int:
        """Keep a request; return the status to answer."""
        self.attempts += 1
        if self.status != 200:
            return self.status
        if path == "/v1/metrics":
            self.metrics.append(ExportMetricsServiceRequest.FromString(body))
            return 200
        request = ExportLogsServiceRequest.FromString(body)
        if self.poison and any(self.poison in line.body.string_value for line in _lines(request)):
            return 400
        self.logs.append(request)
        return 200

    def lines(self) -> list[LogRecord]:
        """Return every line taken, in the order of arrival."""
        return [line for request in list(self.logs) for line in _lines(request)]

    def bodies(self) -> list[str]:
        """Return what the lines say."""
        return [line.body.string_value for line in self.lines()]

    def last(self, name: str) -> Metric | None:
        """Return the metric of this name as exported last."""
        found = self.every(name)
        return found[-1] if found else None

    def every(self, name: str) -> list[Metric]:
        """Return the metric of this name, once for each export."""
        return [
            metric
            for request in list(self.metrics)
            for resource in request.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
        ]


def free_port() -> int:
    """Return a port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _lines(request: ExportLogsServiceRequest) -> Iterator[LogRecord]:
    for resource in request.resource_logs:
        for scope in resource.scope_logs:
            yield from scope.log_records
