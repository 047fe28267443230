"""The two ways to start: `make run`'s own program, and a bare `serve run`."""

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from bench.load import Call, send_all
from launch.__main__ import _backend_ports
from launch.backends import Backends
from launch.dotenv import BadSetting
from launch.pipeline import Pipeline
from launch.ports import Ports, PortTaken
from launch.processes import ProcessTree
from store.places import CHECKOUT
from tests.bad_requests import JPEG, JSON
from tests.cluster import answer
from tests.photos import jpeg_bytes
from tests.poll import poll_until

START_S = 240.0


def both_answer(url: str) -> bool:
    """Send a photograph and a user; true when both are answered as they should be."""
    calls = [
        Call("POST", "/detect", jpeg_bytes("bus"), JPEG),
        Call("POST", "/recommend", b'{"user_id": 1, "n": 3}', JSON),
    ]
    boxes, films = asyncio.run(send_all(url, calls))
    if (boxes.status, films.status) != (200, 200):
        raise AssertionError(f"{boxes.status} {boxes.body[:200]!r}; {films.status} {films.body[:200]!r}")
    named = [one["class_name"] for one in answer(boxes.body)["detections"]]
    return "bus" in named and len(answer(films.body)["items"]) == 3


def environ(tmp_path: Path) -> dict[str, str]:
    """Return our environment, with a home of this test's own."""
    return {**os.environ, "GLASSHOUSE_HOME": str(tmp_path / "home")}


def ray_folders() -> set[Path]:
    """Return the folders in which Ray clusters of ours keep their files."""
    return set(Path("/tmp").glob("gh-*"))  # noqa: S108  where `RayHead` puts them


def still(names: list[str]) -> bool:
    """Whether there are none; says which there are."""
    if names:
        raise AssertionError(f"still running: {', '.join(names)}")
    return True


def running(processes: list[psutil.Process]) -> list[str]:
    """Return the names of those that still run."""
    names = []
    for one in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if one.is_running() and one.status() != psutil.STATUS_ZOMBIE:
                names.append(one.name())
    return names


@contextlib.contextmanager
def launched(tmp_path: Path) -> Iterator[ProcessTree]:
    """Hold a launcher running beside any other glasshouse; it is ended whatever comes."""
    command = [sys.executable, "-m", "launch", "--free-ports"]
    tree = ProcessTree(command, environ(tmp_path), tmp_path / "launch.log")
    try:
        yield tree
    finally:
        tree.end()


def printed_url(tree: ProcessTree) -> str:
    """Return the address that the launcher prints once everything is up; fail if it has ended."""
    if tree.exit_code() is not None:
        raise AssertionError(tree.last_words())
    found = re.search(r"(http://127\.0\.0\.1:\d+)/detect/docs", tree.log.read_text())
    return found[1] if found else ""


@pytest.mark.cluster
@pytest.mark.data
def test_the_launcher_starts_everything_and_ends_it(tmp_path: Path) -> None:
    """`python -m launch` brings both up, says where, and at Ctrl-C ends every process with code 0."""
    before = ray_folders()
    with launched(tmp_path) as tree:
        url = poll_until(lambda: printed_url(tree), "the address", timeout_s=START_S)
        assert both_answer(url)
        poll_until(lambda: "telemetry is up" in tree.log.read_text(), "the pipeline", timeout_s=60)
        started = psutil.Process(tree.pid).children(recursive=True)
        assert len(started) > 5
        os.kill(tree.pid, signal.SIGINT)
        poll_until(lambda: tree.exit_code() is not None, "the end", timeout_s=60)
        assert tree.exit_code() == 0
        poll_until(lambda: still(running(started)), "the end of every process")
        assert ray_folders() == before


@pytest.mark.cluster
@pytest.mark.data
def test_ctrl_c_is_heard_while_ray_starts(tmp_path: Path) -> None:
    """Interrupted before anything answers, the launcher ends Ray at once and leaves no file behind."""
    before = ray_folders()
    with launched(tmp_path) as tree:
        poll_until(lambda: "Ray starts" in tree.log.read_text(), "Ray's start", timeout_s=60)
        os.kill(tree.pid, signal.SIGINT)
        poll_until(lambda: tree.exit_code() is not None, "the end", timeout_s=45)
        assert (tree.exit_code(), "stopping" in tree.log.read_text()) == (0, True)
        assert ray_folders() == before


@pytest.mark.cluster
@pytest.mark.data
def test_a_program_that_dies_ends_everything(tmp_path: Path) -> None:
    """When Prometheus ends by itself the launcher says which, shows its last words, and ends the rest."""
    with launched(tmp_path) as tree:
        poll_until(lambda: "otelcol" in tree.log.read_text(), "the pipeline", timeout_s=120)
        started = psutil.Process(tree.pid).children(recursive=True)
        (prometheus,) = [one for one in started if one.name() == "prometheus"]
        prometheus.kill()
        poll_until(lambda: tree.exit_code() is not None, "the end", timeout_s=60)
        assert "failed: prometheus ended by itself (killed by SIGKILL)" in tree.log.read_text()
        assert tree.exit_code() == 1
        poll_until(lambda: not running(started), "the end of every process")


@pytest.mark.parametrize(
    "error", [OSError("read-only file system"), BadSetting("X is missing"), KeyError("x")]
)
def test_whatever_stops_the_pipeline_is_told(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipeline that cannot be started, for any reason, says so, stops the launcher, and can be ended."""

    def make(_: dict[str, Path]) -> Backends:
        raise error

    monkeypatch.setattr("launch.backend_programs.find", lambda **_: {})
    stop = threading.Event()
    pipeline = Pipeline(make, lambda _: None, stop)
    pipeline.start()
    assert stop.wait(10)
    assert str(error.args[0]) in (pipeline.failure() or "")
    ending = threading.Thread(target=pipeline.end, daemon=True)
    ending.start()
    ending.join(10)
    assert not ending.is_alive()


def test_without_telemetry_no_pipeline_is_started() -> None:
    """`GLASSHOUSE_TELEMETRY=off` leaves the pipeline out; anything unknown is refused by name."""
    assert _backend_ports(free=True, environ={"GLASSHOUSE_TELEMETRY": "off"}) is None
    assert _backend_ports(free=True, environ={}) is not None
    with pytest.raises(ValueError, match="GLASSHOUSE_TELEMETRY='none'"):
        _backend_ports(free=True, environ={"GLASSHOUSE_TELEMETRY": "none"})


@pytest.mark.cluster
@pytest.mark.data
def test_killed_launcher_leaves_nothing_behind(tmp_path: Path) -> None:
    """A launcher that is killed without a word takes Ray with it."""
    with launched(tmp_path) as tree:
        poll_until(lambda: "recommendation: " in tree.log.read_text(), "a started Ray", timeout_s=START_S)
        started = psutil.Process(tree.pid).children(recursive=True)
        assert len(started) > 5
        os.kill(tree.pid, signal.SIGKILL)
        poll_until(lambda: not running(started), "the end of every process", timeout_s=60)


@pytest.mark.cluster
@pytest.mark.data
def test_serve_run_starts_the_same_two(tmp_path: Path) -> None:
    """`serve run serve_config.yaml`, with Ray's Python proxy, answers both without a redirect."""
    port = Ports.free().serve
    config = yaml.safe_load((CHECKOUT / "serve_config.yaml").read_text())
    config["http_options"]["port"] = port
    path = tmp_path / "serve_config.yaml"
    path.write_text(yaml.safe_dump(config))
    serve = str(Path(sys.executable).with_name("serve"))
    tree = ProcessTree([serve, "run", str(path)], environ(tmp_path), tmp_path / "serve.log")
    try:
        poll_until(lambda: both_answer(f"http://127.0.0.1:{port}"), "both to answer", timeout_s=START_S)
    finally:
        tree.end()
    assert tree.members() == []


WAITS_FOR_A_SIGNAL = (
    "from launch.__main__ import _stop_at_signals\n"
    "stop = _stop_at_signals()\nprint('ready', flush=True)\nwhile not stop.wait(0.001): pass"
)


def test_any_number_of_signals_ends_it(tmp_path: Path) -> None:
    """Signals that follow one another at once are one signal: nothing locks up."""
    for number in range(2):
        end_by_many_signals([sys.executable, "-c", WAITS_FOR_A_SIGNAL], tmp_path / f"{number}.log")


def test_signals_until_the_very_end_do_not_kill_it(tmp_path: Path) -> None:
    """Signals that go on while the interpreter itself ends change nothing: the exit code is the program's."""
    log = tmp_path / "log"
    tree = ProcessTree([sys.executable, "-c", WAITS_FOR_A_SIGNAL], dict(os.environ), log)
    try:
        poll_until(lambda: "ready" in log.read_text(), "the start", timeout_s=60)
        deadline = time.monotonic() + 10
        while tree.exit_code() is None and time.monotonic() < deadline:
            with contextlib.suppress(ProcessLookupError):
                os.kill(tree.pid, signal.SIGTERM)
        assert tree.exit_code() == 0
    finally:
        tree.end(patience_s=0.1)


def end_by_many_signals(command: list[str], log: Path) -> None:
    """Start a program, and send it six signals at once when it says that it is ready."""
    tree = ProcessTree(command, dict(os.environ), log)
    try:
        poll_until(lambda: "ready" in log.read_text(), "the start", timeout_s=60)
        for kind in (signal.SIGINT, signal.SIGTERM) * 3:
            with contextlib.suppress(ProcessLookupError):
                os.kill(tree.pid, kind)
        poll_until(lambda: tree.exit_code() is not None, "the end", timeout_s=10)
        assert tree.exit_code() == 0
    finally:
        tree.end(patience_s=0.1)


def test_a_wrong_configuration_is_refused_before_anything_starts(tmp_path: Path) -> None:
    """A misspelt key ends the launcher at once, naming the key."""
    path = tmp_path / "wrong.yaml"
    path.write_text((CHECKOUT / "serve_config.yaml").read_text().replace("factors:", "factorz:"))
    done = subprocess.run(
        [sys.executable, "-m", "launch", "--config", str(path)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, "factorz" in done.stdout) == (1, True)
    assert "Traceback" not in done.stdout + done.stderr


def test_a_taken_port_is_named() -> None:
    """A port in use is named with its purpose and with who has it, before anything starts."""
    taken = Ports.free()
    server = subprocess.Popen(
        [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(taken.dashboard)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def error() -> str:
        try:
            taken.check()
        except PortTaken as found:
            return str(found)
        return ""

    try:
        message = poll_until(error, "the port to be taken")
    finally:
        server.kill()
        server.wait()
    assert f"Port {taken.dashboard} (dashboard)" in message
    assert str(server.pid) in message


def test_an_ended_tree_leaves_nobody(tmp_path: Path) -> None:
    """A program that ignores SIGTERM, and its orphaned grandchild in another session, are both ended."""
    program = (
        "import signal, subprocess, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "subprocess.Popen(['sh', '-c', 'setsid sleep 600 & echo ready']).wait(); signal.pause()"
    )
    tree = ProcessTree([sys.executable, "-c", program], dict(os.environ), tmp_path / "log")
    poll_until(lambda: "ready" in tree.log.read_text() and len(tree.members()) == 2, "both")
    tree.end(patience_s=0.2)
    assert tree.members() == []
