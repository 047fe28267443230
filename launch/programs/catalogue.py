"""What is wanted: `otel-collector/programs/programs.yaml`, the versions in `.env`, the pinned checksums."""

import hashlib
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from launch import dotenv
from launch.programs.errors import ProgramError

FOLDER = dotenv.PIPELINE / "programs"
PINS = "releases.sha256"
PLATFORMS = ("linux-amd64", "linux-arm64", "darwin-amd64", "darwin-arm64")
GO_FLAGS = ("-mod=readonly", "-trimpath", "-buildvcs=false")
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True, slots=True)
class Release:
    """Templates of an official release, with `{version}`, `{os}`, `{arch}`; in `inside` also `{binary}`."""

    url: str
    checksums: str
    inside: str


@dataclass(frozen=True, slots=True)
class Program:
    """One program, in one version.

    Args:
        name: Also the name of its first binary.
        version: As `--version` says it, without a `v`.
        folder: Its Go module.
        packages: Go package by binary.
        tags: Go build tags.
        version_variable: Go variable that the linker sets to the version; "" if the sources know it.
        build_s: Seconds that a cold build took, for the announcement.
        also_named: Further names that its first binary may have on PATH.
        release: None if there is no official release of it.
    """

    name: str
    version: str
    folder: Path
    packages: Mapping[str, str]
    tags: tuple[str, ...] = ()
    version_variable: str = ""
    build_s: int = 60
    also_named: tuple[str, ...] = ()
    release: Release | None = None

    def go_arguments(self) -> list[str]:
        """Return the flags that decide what `go build` makes."""
        link = ["-s", "-w"]
        if self.version_variable:
            link.append(f"-X={self.version_variable}={self.version}")
        return [*GO_FLAGS, f"-tags={','.join(self.tags)}", f"-ldflags={' '.join(link)}"]

    def go_version(self) -> tuple[int, ...]:
        """Return the oldest Go that may build it."""
        for line in (self.folder / "go.mod").read_text(encoding="utf-8").splitlines():
            if line.startswith("go "):
                return tuple(int(part) for part in line.split()[1].split("."))
        raise ProgramError(f"{self.folder / 'go.mod'} does not say which Go it needs")

    def components(self) -> frozenset[str]:
        """Return the Go modules of a collector's `manifest.yaml`, as `path version`; empty without one."""
        manifest = self.folder / "manifest.yaml"
        if not manifest.exists():
            return frozenset()
        sections = yaml.safe_load(manifest.read_text(encoding="utf-8")).values()
        return frozenset(one["gomod"] for section in sections if isinstance(section, list) for one in section)

    def key(self) -> str:
        """Return 12 hex digits that change with whatever decides the build, the version of Go apart."""
        digest = hashlib.sha256(
            "\0".join([this_platform(), *self.go_arguments(), *map(str, self.packages.items())]).encode()
        )
        for path in sorted(self.folder.iterdir()):
            if path.suffix == ".go" or path.name in ("go.mod", "go.sum"):
                digest.update(f"\0{path.name}\0".encode() + path.read_bytes())
        return digest.hexdigest()[:12]


def this_platform() -> str:
    """Return `linux-amd64` and the like, in Go's words."""
    machine = platform.machine()
    return f"{platform.system().lower()}-{_MACHINES.get(machine, machine)}"


def read_programs(folder: Path = FOLDER) -> dict[str, Program]:
    """Return the programs by name, in the order of installation.

    Raises:
        ProgramError: the files contradict one another; the message names file and key.
    """
    try:
        # No variable of the process overrides it: modules and pins are of the version in the file.
        versions = dotenv.read(folder.parent / ".env", {})
    except dotenv.BadSetting as error:
        raise ProgramError(str(error)) from error
    listed = yaml.safe_load((folder / "programs.yaml").read_text(encoding="utf-8"))
    return {name: _program(name, entry, folder, versions) for name, entry in listed.items()}


def read_pins(folder: Path = FOLDER) -> dict[str, str]:
    """Return the pinned sha256 (hex) by address of the archive."""
    pins = {}
    for line in (folder / PINS).read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            sha256, _, url = line.partition("  ")
            pins[url] = sha256
    return pins


def _program(name: str, entry: dict[str, Any], folder: Path, versions: Mapping[str, str]) -> Program:
    entry = dict(entry)
    line = entry.pop("version")
    if line not in versions:
        raise ProgramError(f"{folder.parent / '.env'} has no line {line}=, which {name} needs")
    release = entry.pop("release", None)
    return Program(
        name=name,
        version=versions[line],
        folder=folder / name,
        tags=tuple(entry.pop("tags", ())),
        also_named=tuple(entry.pop("also_named", ())),
        release=None if release is None else Release(**release),
        **entry,
    )
