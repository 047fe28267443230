"""What an artifact must look like: pinned files, or a pinned tree; and the error of all fetching.

Opens no connection. A form says which files of a folder or archive belong to it, and verifies them.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

SUMS = "SHA256SUMS"
Convert = Callable[[Path, Path], None]


class ArtifactError(Exception):
    """An artifact could not be had, or is not what it should be; the message says what to do about it."""


class AbsentError(ArtifactError):
    """A source simply does not have it: nothing worth telling of while others are left."""


class Form(Protocol):
    """How an artifact, or a source of it, is laid out in a folder."""

    def wants(self, name: str) -> bool:
        """Whether `name`, a POSIX path relative to the folder, belongs to the artifact."""
        ...

    def has_any(self, folder: Path) -> bool:
        """Whether `folder` holds at least one file of the artifact."""
        ...

    def contents(self) -> str:
        """The names of the files, for people."""
        ...

    def verify(self, folder: Path) -> None:
        """Check what lies in `folder`; ArtifactError names the first file that is missing or differs."""
        ...


@dataclass(frozen=True, slots=True)
class Pin:
    """A file by name, and its sha256 in hex; an empty one is looked up in `SHA256SUMS` beside the file."""

    name: str
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Files:
    """A few files, each pinned."""

    pins: tuple[Pin, ...]

    def wants(self, name: str) -> bool:
        """Whether `name` is one of the pinned files."""
        return any(name == pin.name for pin in self.pins)

    def has_any(self, folder: Path) -> bool:
        """Whether one of the pinned files is there."""
        return any((folder / pin.name).is_file() for pin in self.pins)

    def contents(self) -> str:
        """The pinned names."""
        return ", ".join(pin.name for pin in self.pins)

    def verify(self, folder: Path) -> None:
        """Check every pinned file in `folder`."""
        for pin in self.pins:
            check_sha256(folder / pin.name, pin.sha256 or _noted_sum(folder, pin.name))

    def note_sums(self, folder: Path) -> None:
        """Write `SHA256SUMS`, as sha256sum does, where a file has no pin of its own."""
        if all(pin.sha256 for pin in self.pins):
            return
        lines = [f"{file_sha256(folder / pin.name)}  {pin.name}\n" for pin in self.pins]
        (folder / SUMS).write_text("".join(lines))


@dataclass(frozen=True, slots=True)
class Tree:
    """Every file that matches `patterns` (`folder/*.suffix`), pinned together by `tree_sha256`."""

    patterns: tuple[str, ...]
    sha256: str

    def wants(self, name: str) -> bool:
        """Whether `name` matches one of the patterns, part by part."""
        path = PurePosixPath(name)
        return ".." not in path.parts and any(
            path.match(pattern) and len(path.parts) == len(PurePosixPath(pattern).parts)
            for pattern in self.patterns
        )

    def has_any(self, folder: Path) -> bool:
        """Whether one file matches."""
        return any(_matching(folder, self.patterns))

    def contents(self) -> str:
        """The patterns."""
        return ", ".join(self.patterns)

    def verify(self, folder: Path) -> None:
        """Check the digest of all matching files in `folder`."""
        found = tree_sha256(folder, self.patterns)
        if found != self.sha256:
            raise _differs(folder, self.sha256, found)

    def note_sums(self, folder: Path) -> None:
        """Write nothing: the tree has its one pin."""


def check_sha256(path: Path, sha256: str) -> None:
    """Raise ArtifactError unless `path` is a file with this sha256 (64 hex digits, either case)."""
    if not path.is_file():
        raise ArtifactError(f"{path} is not there")
    found = file_sha256(path)
    if found != sha256.lower():
        raise _differs(path, sha256, found)


def file_sha256(path: Path) -> str:
    """The sha256 of a file, as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tree_sha256(folder: Path, patterns: tuple[str, ...]) -> str:
    """The sha256 over one line `<sha256>  <relative path>` per matching file, sorted by path."""
    names = sorted(path.relative_to(folder).as_posix() for path in _matching(folder, patterns))
    lines = (f"{file_sha256(folder / name)}  {name}\n" for name in names)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _matching(folder: Path, patterns: tuple[str, ...]) -> Iterator[Path]:
    return (path for pattern in patterns for path in folder.glob(pattern) if path.is_file())


def _noted_sum(folder: Path, name: str) -> str:
    try:
        lines = (folder / SUMS).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{folder / SUMS}, which says what {name} is, cannot be read: {error}") from error
    for line in lines:
        noted, _, noted_name = line.partition("  ")
        if noted_name == name:
            return noted
    raise ArtifactError(f"{folder / SUMS} does not name {name}")


def _differs(path: Path, expected: str, found: str) -> ArtifactError:
    return ArtifactError(
        f"{path} is not what it should be: expected sha256 {expected}, found {found}; "
        "remove it and fetch it again, or correct the sha256 if the file is meant"
    )
