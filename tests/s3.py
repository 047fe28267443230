"""An S3 server for tests: moto's, on loopback, and one in front of it that ignores conditions."""

import os
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.poll import poll_until

BUCKET = "glasshouse"


@contextmanager
def server() -> Iterator[str]:
    """Run one; yields its address. Ended by its process id."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        poll_until(lambda: _call("PUT", f"{url}/{BUCKET}") == 200, "the S3 server answers", 30)
        yield url
    finally:
        process.kill()
        process.wait()


@contextmanager
def without_conditions(url: str) -> Iterator[str]:
    """Stand in front of a server, and forget `If-None-Match`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _pass(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            kept = {
                name: value
                for name, value in self.headers.items()
                if name.lower() not in ("if-none-match", "if-match", "host", "content-length")
            }
            kept.setdefault("Content-Type", "application/octet-stream")  # else it would be a form
            body = self.rfile.read(length)
            request = urllib.request.Request(  # noqa: S310
                url + self.path, body or None, kept, method=self.command
            )
            try:
                answer = urllib.request.urlopen(request, timeout=30)  # noqa: S310
            except urllib.error.HTTPError as error:
                answer = error
            data = answer.read()
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(name, value)
            told = answer.headers.get("Content-Length") if self.command == "HEAD" else None
            self.send_header("Content-Length", told or str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _pass

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{proxy.server_address[1]}"
    finally:
        proxy.shutdown()
        proxy.server_close()


def environ(url: str) -> dict[str, str]:
    """Return what delta-rs needs to reach it."""
    return {
        **os.environ,
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "false",
    }


def _call(method: str, url: str) -> int:
    request = urllib.request.Request(url, method=method)  # noqa: S310
    with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310
        return int(answer.status)
