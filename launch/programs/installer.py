"""Get a program from the first source that has it: our cache, PATH, the official release, a build by Go.

The cache is `$XDG_CACHE_HOME/glasshouse/programs` (else under `~/.cache`), shared by any number of processes;
a folder `<program>-<version>-<key>` in it is whole or absent. Go's own caches stay where Go puts them.
"""

import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from launch.programs import on_path, release
from launch.programs.build import build, duration
from launch.programs.catalogue import FOLDER, Program, read_pins, read_programs
from launch.programs.command import pause
from launch.programs.errors import ProgramError
from launch.programs.toolchain import REQUIREMENT, find_go
from models.artifacts import default_cache
from models.lock import alone

# First what the rest waits for: the collector queues on disk until the others are there. Loki takes longest.
ALL = (
    "otelcol",
    "prometheus",
    "promtool",
    "alertmanager",
    "node_exporter",
    "blackbox_exporter",
    "loki",
)
SOURCE = "SOURCE"
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Installed:
    """An executable, and where it came from, for people."""

    path: Path
    source: str


def install(
    name: str,
    *,
    progress: Tell,
    environ: Mapping[str, str] | None = None,
    stop: threading.Event | None = None,
    folder: Path = FOLDER,
) -> Path:
    """Return the executable `name`, getting it first if need be: from seconds to minutes.

    Args:
        name: One of `ALL`.
        progress: Told what happens, one line a call.
        environ: Environment variables; None is those of the process, now.
        stop: Set by anybody to end it, with everything it started.
        folder: Where `programs.yaml` and the modules are.

    Raises:
        ProgramError: it could not be had; the message says what to do.
        Stopped: `stop` was set.
    """
    return obtain(name, progress=progress, environ=environ, stop=stop, folder=folder).path


def install_all(
    names: Sequence[str] = ALL,
    *,
    progress: Tell,
    environ: Mapping[str, str] | None = None,
    stop: threading.Event | None = None,
    folder: Path = FOLDER,
    ready: Callable[[str, Path], None] = lambda name, path: None,
) -> dict[str, Path]:
    """Return the executables by name, those first that the pipeline starts with.

    Args:
        names: Of `ALL`, in any order.
        progress: As for `install`.
        environ: As for `install`.
        stop: As for `install`.
        folder: As for `install`.
        ready: Told of each as soon as it is there: the next one may take minutes.

    Raises:
        ProgramError, Stopped: As `install`; those that were there stay installed.
    """
    paths = {}
    for name in sorted(names, key=_place):
        paths[name] = install(name, progress=progress, environ=environ, stop=stop, folder=folder)
        ready(name, paths[name])
    return paths


def obtain(
    name: str,
    *,
    progress: Tell,
    environ: Mapping[str, str] | None = None,
    stop: threading.Event | None = None,
    folder: Path = FOLDER,
) -> Installed:
    """Do what `install` does, and say where it came from."""
    environ = os.environ if environ is None else environ
    program = _owner(name, read_programs(folder))
    tell = partial(_prefixed, progress, program.name)
    if (found := _at_hand(program, name, environ, tell)) is not None:
        return found
    cache = programs_cache(environ)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        return _filled(program, name, cache, environ, tell, stop or threading.Event())
    except OSError as error:
        raise ProgramError(
            f"the cache {cache} cannot be used: {error}; free some space, or set XDG_CACHE_HOME"
        ) from error


def where(name: str, *, environ: Mapping[str, str] | None = None, folder: Path = FOLDER) -> Installed | None:
    """Say where the executable `name` is now; None if it would have to be installed."""
    environ = os.environ if environ is None else environ
    program = _owner(name, read_programs(folder))
    return _at_hand(program, name, environ, lambda line: None)


def programs_cache(environ: Mapping[str, str]) -> Path:
    """`$XDG_CACHE_HOME/glasshouse/programs`, or the same under `~/.cache`."""
    return default_cache(environ).with_name("programs")


def _place(name: str) -> int:
    # An unknown name is refused by install, in its own words.
    return ALL.index(name) if name in ALL else len(ALL)


def _owner(name: str, programs: Mapping[str, Program]) -> Program:
    """Return the program that has a binary of this name."""
    for program in programs.values():
        if name in program.packages:
            return program
    known = ", ".join(binary for program in programs.values() for binary in program.packages)
    raise ProgramError(f"there is no program {name!r}; there are {known}")


def _at_hand(program: Program, name: str, environ: Mapping[str, str], tell: Tell) -> Installed | None:
    if (found := _cached(program, name, _target(program, programs_cache(environ)))) is not None:
        return found
    if (paths := on_path.find(program, environ, tell)) is not None:
        tell(f"{paths[name]} is {program.version} already: it is used")
        return Installed(paths[name], "found on PATH")
    return None


def _cached(program: Program, name: str, folder: Path) -> Installed | None:
    # Caches are cleaned file by file where that is by age.
    if not all((folder / file).is_file() for file in (*program.packages, SOURCE)):
        return None
    return Installed(folder / name, (folder / SOURCE).read_text(encoding="utf-8").strip())


def _target(program: Program, cache: Path) -> Path:
    return cache / f"{program.name}-{program.version}-{program.key()}"


def _filled(
    program: Program, name: str, cache: Path, environ: Mapping[str, str], tell: Tell, stop: threading.Event
) -> Installed:
    """Fill the cache, one process at a time; the folder appears whole or not at all."""
    # Named before the build: sources that are changed meanwhile have another place.
    target = _target(program, cache)
    waits = partial(tell, "waiting: another process installs it")
    with alone(cache / f".{program.name}.lock", waits, partial(pause, stop)):
        if (found := _cached(program, name, target)) is not None:
            return found
        with tempfile.TemporaryDirectory(
            dir=cache, prefix=f".{program.name}-", ignore_cleanup_errors=True
        ) as work:
            made = Path(work, "made")
            made.mkdir()
            source = _make(program, made, Path(work), environ, tell, stop)
            _check(program, made, environ)
            (made / SOURCE).write_text(f"{source}\n", encoding="utf-8")
            shutil.rmtree(target, ignore_errors=True)
            made.replace(target)
        tell(f"ready, {source}")
        return Installed(target / name, source)


def _make(
    program: Program, made: Path, work: Path, environ: Mapping[str, str], tell: Tell, stop: threading.Event
) -> str:
    """Put the binaries into `made`; return from where they are."""
    pins = read_pins(program.folder.parent)
    if (url := release.fetch(program, pins, made, work, tell, stop)) is not None:
        return f"official release {url}"
    shutil.rmtree(made)
    made.mkdir()
    go = find_go(program.go_version(), program.folder.parent / REQUIREMENT, work.parent, environ, tell, stop)
    tell(f"building {program.version} from source, about {duration(program.build_s)} on 2 cores")
    build(program, go, made, work, tell, stop)
    return f"built from source with {go.version}"


def _check(program: Program, made: Path, environ: Mapping[str, str]) -> None:
    """Run each binary once: what does not run here, or is another version, is not kept."""
    for binary in program.packages:
        said = on_path.version_of(made / binary, environ)
        if said != program.version:
            raise ProgramError(
                f"{binary} does not run here, or is not {program.version}: it says {said or 'nothing'}"
            )


def _prefixed(progress: Tell, name: str, line: str) -> None:
    progress(f"{name}: {line}")
