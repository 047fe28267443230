"""One kept connection to the collector, and the usual way where more is needed."""

import gzip
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import requests
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsPartialSuccess,
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.sdk.resources import Resource

from telemetry.line import Line
from telemetry.otlp import LogCarrier, OtlpSettings
from telemetry.outbox import Fate
from telemetry.session import Session
from tests.poll import poll_until

LINE = Line("test", 1.0, 1, 20, "INFO", "hello", {}, 0, 0, 0)


class Server:
    """An HTTP server that keeps connections, and notes what it was asked.

    Attributes:
        asked: Path, headers and body of each request.
        connections: How many were opened.
        status: Answered, with `content`.
        hang_up: Whether it closes each connection after its answer, without saying so before.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, str], bytes]] = []
        self.connections = 0
        self.closed = 0
        self.status = 200
        self.content = b""
        self.hang_up = False
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                server.connections += 1

            def finish(self) -> None:
                super().finish()
                server.closed += 1

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                server.asked.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
                self.send_response(server.status)
                self.send_header("Content-Length", str(len(server.content)))
                self.end_headers()
                self.wfile.write(server.content)
                self.close_connection = server.hang_up

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def end(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server, and an environment without proxies."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    found = Server()
    yield found
    found.end()


def carrier(server: Server, **environ: str) -> LogCarrier:
    """Return a carrier to this server."""
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": server.url, "OTEL_EXPORTER_OTLP_TIMEOUT": "1", **environ}
    return LogCarrier(OtlpSettings.read(environ), Resource({"service.name": "x"}))


def test_one_connection(server: Server) -> None:
    """Batches go over one connection, with the headers of the environment, and it ends with the carrier."""
    sender = carrier(server, OTEL_EXPORTER_OTLP_HEADERS="authorization=Bearer%20x")
    assert [sender.offer([LINE]) for _ in range(3)] == [Fate.TAKEN] * 3
    assert (server.connections, len(server.asked)) == (1, 3)
    path, headers, _ = server.asked[-1]
    assert path == "/v1/logs"
    assert headers["authorization"] == "Bearer x"
    assert headers["content-type"] == "application/x-protobuf"
    sender.close()
    sender.close()
    poll_until(lambda: server.closed == 1, "the end of the connection")
    assert sender.offer([LINE]) is Fate.AGAIN


def test_a_connection_that_was_closed(server: Server) -> None:
    """A kept connection that the other side has closed is opened again, and the batch goes once."""
    server.hang_up = True
    sender = carrier(server)
    for number in range(1, 4):
        assert sender.offer([LINE]) is Fate.TAKEN
        poll_until(lambda: server.closed == number, "the end of the connection")  # noqa: B023
    assert (server.connections, len(server.asked)) == (3, 3)
    sender.close()


def test_compressed(server: Server) -> None:
    """With compression set the body is compressed, and says so."""
    sender = carrier(server, OTEL_EXPORTER_OTLP_COMPRESSION="gzip")
    assert sender.offer([LINE]) is Fate.TAKEN
    ((_, headers, body),) = server.asked
    assert headers["content-encoding"] == "gzip"
    request = ExportLogsServiceRequest.FromString(gzip.decompress(body))
    assert request.resource_logs[0].scope_logs[0].log_records[0].body.string_value == "hello"
    sender.close()


@pytest.mark.parametrize(
    ("status", "refused", "fate"),
    [
        (200, 0, Fate.TAKEN),
        (200, 1, Fate.TAKEN),  # of two: the other one is there
        (200, 2, Fate.NEVER),
        (302, 0, Fate.AGAIN),
        (400, 0, Fate.NEVER),
        (404, 0, Fate.AGAIN),
        (413, 0, Fate.NEVER),
        (503, 0, Fate.AGAIN),
    ],
)
def test_what_an_answer_means(server: Server, status: int, refused: int, fate: Fate) -> None:
    """What the collector answers decides whether a batch is offered again."""
    server.status = status
    if refused:
        said = ExportLogsPartialSuccess(rejected_log_records=refused)
        server.content = ExportLogsServiceResponse(partial_success=said).SerializeToString()
    sender = carrier(server)
    assert sender.offer([LINE, LINE]) is fate
    sender.close()


def test_what_cannot_be_encoded_costs_itself_alone(server: Server) -> None:
    """A line that OTLP cannot carry is never taken; nobody is asked."""
    sender = carrier(server)
    broken = Line("test", 1.0, 1, 20, "INFO", "half \ud83d", {}, 0, 0, 0)
    assert sender.offer([broken]) is Fate.NEVER
    assert server.asked == []
    sender.close()


def test_a_proxy_is_used(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A collector elsewhere is asked through the proxy of the environment; one on loopback directly."""
    monkeypatch.setenv("http_proxy", server.url)
    post = {"headers": {}, "data": b"x", "timeout": 1.0, "allow_redirects": False}
    with Session("http://collector.invalid:4318/v1/logs") as session:
        answer = session.request(method="POST", url="http://collector.invalid:4318/v1/logs", **post)
    assert (answer.status_code, server.asked[-1][0]) == (200, "http://collector.invalid:4318/v1/logs")
    monkeypatch.setenv("http_proxy", "http://proxy.invalid:1")
    with Session(f"{server.url}/v1/logs") as session:
        assert session.request(method="POST", url=f"{server.url}/v1/logs", **post).status_code == 200
    assert server.asked[-1][0] == "/v1/logs"


def test_nobody_there_and_nobody_answering(server: Server) -> None:
    """Both are what `requests` calls them, so that the exporter tries again, and within the timeout."""
    post = {"headers": {}, "data": b"x", "allow_redirects": False}
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        with Session(url) as session, pytest.raises(requests.Timeout):
            session.request(method="POST", url=url, timeout=0.1, **post)
    with Session(url) as session, pytest.raises(requests.ConnectionError):
        session.request(method="POST", url=url, timeout=1.0, **post)
