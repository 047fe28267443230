"""The publisher's own build: downloaded, checked against the pinned sha256, the binaries taken out of it."""

import shutil
import tarfile
import threading
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

from launch.programs.catalogue import PLATFORMS, Program, this_platform
from launch.programs.errors import ProgramError, Stopped
from models.artifact_sources import download
from models.artifacts import ArtifactError, check_sha256


def fetch(
    program: Program,
    pins: Mapping[str, str],
    made: Path,
    work: Path,
    tell: Callable[[str], None],
    stop: threading.Event,
) -> str | None:
    """Put all binaries of the official release into `made`.

    Args:
        program: What to fetch.
        pins: sha256 by address.
        made: Receives the binaries.
        work: Empty folder for the archive.
        tell: Told what happens.
        stop: Ends the download.

    Returns:
        The address, or None if this source does not have it; why has been told.

    Raises:
        Stopped: `stop` was set.
    """
    url = address(program)
    if url is None:
        return None
    if url not in pins:
        tell("no pinned checksum for this platform: building from source")
        return None
    archive = work / url.rpartition("/")[2]
    try:
        download(url, archive, tell, stop)
        check_sha256(archive, pins[url])
        for binary in program.packages:
            _take_out(archive, inside(program, binary), made / binary)
    except (ArtifactError, ProgramError) as error:
        if stop.is_set():
            raise Stopped from error
        tell(f"not from the official release: {error}")
        return None
    return url


def address(program: Program, platform: str = "") -> str | None:
    """Return where the archive for a platform (default: this one) is, None if there is no release for it."""
    platform = platform or this_platform()
    if program.release is None or platform not in PLATFORMS:
        return None
    return _filled(program.release.url, program, platform)


def checksums_address(program: Program, platform: str) -> str | None:
    """Return where the publisher's checksums are."""
    return None if program.release is None else _filled(program.release.checksums, program, platform)


def inside(program: Program, binary: str) -> str:
    """Return the path of a binary in the archive for this platform."""
    template = program.release.inside if program.release else ""
    return _filled(template, program, this_platform(), binary)


def _filled(template: str, program: Program, platform: str, binary: str = "") -> str:
    system, _, machine = platform.partition("-")
    return template.format(version=program.version, os=system, arch=machine, binary=binary)


def _take_out(archive: Path, member: str, target: Path) -> None:
    try:
        if archive.suffix == ".zip":
            with zipfile.ZipFile(archive) as zipped, zipped.open(member) as packed, target.open("wb") as file:
                shutil.copyfileobj(packed, file)
        else:
            with tarfile.open(archive) as tarred, target.open("wb") as file:
                shutil.copyfileobj(tarred.extractfile(member) or _absent(member), file)
    except (KeyError, tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise ProgramError(f"{archive.name} has no sound {member}: {error}") from error
    target.chmod(0o755)


def _absent(member: str) -> "tarfile.ExFileObject":
    raise KeyError(member)
