"""A build from source by Go, with what is told while it lasts, and with errors that say what to do."""

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from launch.programs.catalogue import Program
from launch.programs.command import run
from launch.programs.errors import CommandFailed, ProgramError
from launch.programs.toolchain import Go

EVERY_S = 20.0  # between two lines of progress
# Words of Go's own messages, and what to do about them.
_REMEDIES = (
    (
        "no space left on device",
        "the disk is full: Go's caches (`go env GOCACHE GOMODCACHE`) need 9 GB for all programs",
    ),
    (
        "quota exceeded",
        "the disk quota is used up: Go's caches (`go env GOCACHE GOMODCACHE`) need 9 GB for all programs",
    ),
    ("checksum mismatch", "a source is not the one that go.sum pins: do not use it; look at GOPROXY"),
    ("SECURITY ERROR", "a source is not the one that go.sum pins: do not use it; look at GOPROXY"),
    (
        "dial tcp",
        "the Go module proxy cannot be reached: connect to a network, or set GOPROXY to one that can be",
    ),
    ("no such host", "the Go module proxy cannot be reached: connect to a network, or set GOPROXY"),
    ("i/o timeout", "the Go module proxy cannot be reached: connect to a network, or set GOPROXY"),
    ("module lookup disabled", "a source is not in Go's module cache and GOPROXY is off: set GOPROXY"),
)


def build(
    program: Program, go: Go, made: Path, work: Path, tell: Callable[[str], None], stop: threading.Event
) -> None:
    """Build all binaries of `program` into the folder `made`.

    Args:
        program: What to build.
        go: With what.
        made: Receives the binaries.
        work: Empty folder for what is thrown away afterwards.
        tell: Told how far it is, every 20 s.
        stop: Ends it.

    Raises:
        ProgramError: it cannot be built; with the last lines that Go said, and what to do.
        Stopped: `stop` was set.
    """
    (work / "tmp").mkdir()
    # In our folder, so that what a killed build leaves is cleared away with it.
    environ = {**go.environ, "GOTMPDIR": str(work / "tmp")}
    arguments = program.go_arguments()
    packages = [*program.packages.values()]
    try:
        progress = _Progress(tell)
        listed = [str(go.executable), "-C", str(program.folder), "list", "-deps", *arguments, *packages]
        run(listed, environ, work / "list.log", stop, progress.sources)
        for binary, package in program.packages.items():
            out = ["-o", str(made / binary), package]
            command = [str(go.executable), "-C", str(program.folder), "build", "-v", *arguments, *out]
            run(command, environ, work / f"{binary}.log", stop, progress.compiled)
    except CommandFailed as error:
        raise ProgramError(_explained(program, error.last_words)) from error


class _Progress:
    """Counts Go's lines, and tells of them now and then."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self.packages = 0
        self._modules = 0
        self._compiled = 0
        self._tell = tell
        self._start = self._told = time.monotonic()

    def sources(self, lines: Sequence[str]) -> None:
        """Count what `go list` prints: the modules that it downloads, then the packages."""
        downloads = sum(line.startswith("go: downloading ") for line in lines)
        self._modules += downloads
        self.packages += sum(not line.startswith("go: ") for line in lines)
        self._now_and_then(f"fetching sources, {self._modules} modules so far")

    def compiled(self, lines: Sequence[str]) -> None:
        """Count what `go build -v` prints: the packages that it compiles, but for those in its cache."""
        self._compiled += sum(not line.startswith(("go: ", "#")) for line in lines)
        self._now_and_then(f"{self._compiled} packages compiled, of at most {self.packages}")

    def _now_and_then(self, what: str) -> None:
        now = time.monotonic()
        if now - self._told >= EVERY_S:
            self._told = now
            self._tell(f"{what}, {duration(now - self._start)}")


def duration(seconds: float) -> str:
    """Return `40 s`, `8 min 20 s`."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds // 60:.0f} min {seconds % 60:.0f} s"


def _explained(program: Program, said: str) -> str:
    remedy = next((remedy for words, remedy in _REMEDIES if words in said), "Go could not compile it")
    # A line of one word is the name of a package that was compiled well.
    lines = "\n".join(line for line in said.splitlines() if len(line.split()) > 1)
    return f"{program.name} {program.version} could not be built from source; {remedy}. Go said:\n{lines}"
