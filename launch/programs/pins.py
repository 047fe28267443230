"""Pin the checksums that the publishers publish: a maintainers' command, for a machine with a network.

A pin that differs from what is published now is never overwritten: either the release was replaced, or
somebody is in between.
"""

import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from launch.programs.catalogue import FOLDER, PINS, PLATFORMS, Program, read_pins, read_programs
from launch.programs.errors import ProgramError
from launch.programs.release import address, checksums_address
from models.artifact_sources import download
from models.artifacts import ArtifactError


def pin(names: tuple[str, ...], tell: Callable[[str], None], folder: Path = FOLDER) -> None:
    """Write `releases.sha256` anew from the publishers' checksum files.

    Args:
        names: The programs to ask for; what is pinned of the others stays.
        tell: Told what happens.
        folder: Where `programs.yaml` and the pins are.

    Raises:
        ProgramError: one could not be learnt, or is not what was pinned; the others are written all the same.
    """
    programs, publisher = read_programs(folder), _Publisher(tell)
    pins, failures = read_pins(folder), list[str]()
    for program in (programs[name] for name in names if programs[name].release):
        for platform in PLATFORMS:
            try:
                url, sha256 = publisher.sha256(program, platform)
                if pins.setdefault(url, sha256) != sha256:
                    raise ProgramError(
                        f"{url} is pinned as {pins[url]}, and {sha256} is published: not changed"
                    )
            except (ArtifactError, ProgramError) as error:
                failures.append(str(error))
    current = {address(program, platform) for program in programs.values() for platform in PLATFORMS}
    _write(folder / PINS, {url: sha256 for url, sha256 in pins.items() if url in current})
    tell(f"{folder / PINS} is written")
    if failures:
        raise ProgramError("not pinned:\n  " + "\n  ".join(dict.fromkeys(failures)))


class _Publisher:
    """Asks for each checksum file once."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._texts: dict[str, str] = {}

    def sha256(self, program: Program, platform: str) -> tuple[str, str]:
        """Return the address of an archive, and what its publisher says its sha256 is."""
        url, checksums = address(program, platform), checksums_address(program, platform)
        if url is None or checksums is None:
            raise ProgramError(f"{program.name} has no release for {platform}")
        archive = url.rpartition("/")[2]
        for line in self._text(checksums).splitlines():
            match line.split():
                case [sha256, name] if name.lstrip("*").removeprefix("./") == archive and _is_sha256(sha256):
                    return url, sha256.lower()
        raise ProgramError(f"{checksums} does not name {archive}")

    def _text(self, url: str) -> str:
        if url not in self._texts:
            with tempfile.TemporaryDirectory() as work:
                file = Path(work, "checksums")
                download(url, file, self._tell)
                self._texts[url] = file.read_text(encoding="utf-8", errors="replace")
        return self._texts[url]


def _is_sha256(text: str) -> bool:
    return re.fullmatch("[0-9a-fA-F]{64}", text) is not None


def _write(path: Path, pins: Mapping[str, str]) -> None:
    head = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    lines = [*head, *(f"{sha256}  {url}" for url, sha256 in sorted(pins.items()))]
    new = path.with_name(f"{path.name}.new")
    new.write_text("\n".join(lines) + "\n", encoding="utf-8")
    new.replace(path)
