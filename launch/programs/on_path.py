"""A program that the machine has already: used if it is exactly what we would install."""

import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import yaml

from launch.programs.catalogue import Program

PATIENCE_S = 20.0


def find(program: Program, environ: Mapping[str, str], tell: Callable[[str], None]) -> dict[str, Path] | None:
    """Return the paths of all its binaries on PATH, or None if one is absent or not what we need."""
    found: dict[str, Path] = {}
    for binary in program.packages:
        path = _on_path((binary, *program.also_named), environ)
        if path is None:
            return None
        said = version_of(path, environ)
        if said != program.version:
            tell(f"{path} is of version {said or 'unknown'}, not {program.version}: not used")
            return None
        found[binary] = path
    if missing := _missing_components(program, found[program.name], environ):
        tell(f"{found[program.name]} is not used, it lacks {', '.join(sorted(missing))}")
        return None
    return found


def version_of(path: Path, environ: Mapping[str, str]) -> str:
    """Return the version that `--version` says, without a `v`; "" if it says none."""
    match = re.search(r"\bversion:?\s+v?([0-9][^\s,)]*)", _ask(path, "--version", environ))
    return match.group(1) if match else ""


def _on_path(names: tuple[str, ...], environ: Mapping[str, str]) -> Path | None:
    found = (shutil.which(name, path=environ.get("PATH", "")) for name in names)
    return next((Path(path).absolute() for path in found if path), None)


def _missing_components(program: Program, path: Path, environ: Mapping[str, str]) -> frozenset[str]:
    # Of which version a component is follows from the collector's; ours has one from an older set.
    wanted = frozenset(component.split()[0] for component in program.components())
    if not wanted:
        return wanted
    try:
        sections = yaml.safe_load(_ask(path, "components", environ)).values()
        return wanted - {
            one["module"].split()[0] for part in sections if isinstance(part, list) for one in part
        }
    except (yaml.YAMLError, AttributeError, KeyError, TypeError):
        return wanted


def _ask(path: Path, question: str, environ: Mapping[str, str]) -> str:
    try:
        done = subprocess.run(
            [path, question],
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return ""
    # Prometheus' programs once said it on standard error.
    return done.stdout or done.stderr
