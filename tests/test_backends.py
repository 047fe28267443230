"""The telemetry pipeline as programs: its configurations, its start, its end."""

import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from launch import backend_programs, dotenv
from launch.backend_check import problems
from launch.backend_programs import NAMES
from launch.dotenv import PIPELINE
from launch.ports import BackendPorts, PortTaken
from launch.processes import StartFailed
from tests.pipeline import Pipeline, alone


def test_shipped_configurations_are_valid() -> None:
    """Every program accepts the configuration that is shipped."""
    assert problems(backend_programs.find()) == []


MISTAKES = {
    "collector.yaml": ("check_interval", "check_thyme"),
    "collector-scrape.yaml": ("enable_open_metrics", "enable_open_thyme"),
    "prometheus/prometheus.yaml": ("scrape_native_histograms", "scrape_thyme"),
    "prometheus/rules/telemetry.yaml": ("expr: vector(1)", "expr: vector(1) thyme"),
    "loki.yaml": ("max_chunk_age", "max_chunk_thyme"),
    "blackbox.yaml": ("follow_redirects", "follow_thyme"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named(name: str, tmp_path: Path) -> None:
    """A mistake in one configuration is reported alone, with its file and the word that is wrong."""
    config = tmp_path / "otel-collector"
    shutil.copytree(PIPELINE, config)
    right, wrong = MISTAKES[name]
    path = config / name
    assert right in path.read_text()
    path.write_text(path.read_text().replace(right, wrong, 1))
    found = problems(backend_programs.find(), config)
    assert found
    # What is wrong in the collector's file is wrong beside its second file too.
    assert all("thyme" in problem for problem in found)
    assert found[0].startswith(f"otel-collector/{name.split('/', maxsplit=1)[0]}")


def test_a_key_that_the_collector_overlooks_is_named(tmp_path: Path) -> None:
    """A misspelt `max_elapsed_time`, which the collector takes without a word, is reported."""
    config = tmp_path / "otel-collector"
    shutil.copytree(PIPELINE, config)
    path = config / "collector.yaml"
    path.write_text(path.read_text().replace("max_elapsed_time: 0", "max_elapsed_thyme: 0", 1))
    found = problems(backend_programs.find(), config)
    assert any("max_elapsed_thyme" in problem for problem in found)


def test_a_missing_body_is_named(tmp_path: Path) -> None:
    """A probe whose body is not there is reported: the program itself would look for it only at the probe."""
    config = tmp_path / "otel-collector"
    shutil.copytree(PIPELINE, config)
    (config / "probes" / "recommend.json").unlink()
    assert problems(backend_programs.find(), config) == [
        "otel-collector/blackbox.yaml: probes/recommend.json does not exist."
    ]


def test_every_setting_has_a_value() -> None:
    """Every variable that a configuration names is in `.env`."""
    known = set(dotenv.read(environ={}))
    for path in [
        *PIPELINE.glob("*.yaml"),
        *PIPELINE.rglob("prometheus/*.yaml"),
        *PIPELINE.rglob("grafana/**/*.yaml"),
    ]:
        # In Grafana's files a doubled dollar is no variable; in comments nothing is.
        lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
        text = "\n".join(lines).replace("${env:", "${").replace("$${", "")
        assert dotenv.variables(text) <= known, path


def test_the_environment_overrides(tmp_path: Path) -> None:
    """A variable of the environment overrides the file; a wrong one is named."""
    assert BackendPorts.read({}).prometheus == 9090
    assert BackendPorts.read({"PROMETHEUS_PORT": "9999"}).prometheus == 9999
    with pytest.raises(dotenv.BadSetting, match="PROMETHEUS_PORT='soon'"):
        BackendPorts.read({"PROMETHEUS_PORT": "soon"})
    (tmp_path / ".env").write_text("A=1\nB 2\n")
    with pytest.raises(dotenv.BadSetting, match="line 2: 'B 2'"):
        dotenv.read(tmp_path / ".env", {})
    with pytest.raises(dotenv.BadSetting, match="NOWHERE"):
        dotenv.render("${NOWHERE}", {"A": "1"})


def test_validate_as_a_command() -> None:
    """`python -m launch.backends --validate` ends with 0."""
    command = [sys.executable, "-m", "launch.backends", "--validate"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_all_start_and_all_end(tmp_path: Path) -> None:
    """All six come up and are ready; at the end none is left, and what one said is in its own file."""
    running = alone(tmp_path, BackendPorts.free())
    notes: list[str] = []
    try:
        running.start(note=notes.append)
        processes = running.processes()
        assert set(processes) == set(NAMES)
        assert running.dead() is None
        # Nobody but us can reach them.
        listening = {
            connection.laddr.ip
            for one in processes.values()
            for connection in one.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN
        }
        assert listening == {"127.0.0.1"}
    finally:
        running.stop(notes.append)
    running.stop()
    assert not any(one.is_running() for one in processes.values())
    assert {path.stem for path in (tmp_path / "logs").iterdir()} == set(NAMES)
    assert notes


def test_a_stop_while_they_start(tmp_path: Path) -> None:
    """Who asks for the end while they start waits for none of them, and none is left."""
    running = alone(tmp_path, BackendPorts.free())
    stop = threading.Event()
    stop.set()
    running.start(stop)
    started = running.processes()
    running.stop()
    assert "otelcol" not in started
    assert not any(one.is_running() for one in started.values())


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    """A port in use is named with its purpose and with who has it, before anything starts."""
    ports = BackendPorts.free()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", ports.loki))
        taken.listen()
        with pytest.raises(PortTaken, match=rf"Port {ports.loki} \(loki\) is in use by .*pid"):
            alone(tmp_path, ports).start()
    assert not (tmp_path / "logs").exists()


def test_one_that_cannot_start_is_named(tmp_path: Path) -> None:
    """A program that ends at its start is named with its last words, and the others are ended."""
    running = alone(tmp_path, BackendPorts.free())
    (tmp_path / "telemetry").mkdir()
    (tmp_path / "telemetry" / "alertmanager").write_text("a file where its folder should be")
    with pytest.raises(StartFailed, match=r"(?s)alertmanager did not start.*not a directory"):
        running.start()
    assert running.processes() == {}


def test_one_that_ends_is_named(pipeline: Pipeline) -> None:
    """Which program ended by itself is told, with how, until it runs again."""
    running = pipeline.backends
    running.kill("blackbox_exporter")
    said = running.dead()
    assert said is not None
    assert said.startswith("blackbox_exporter ended by itself (killed by SIGKILL). It")
    running.start_one("blackbox_exporter")
    assert running.dead() is None
