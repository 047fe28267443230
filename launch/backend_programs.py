"""The programs of the telemetry pipeline: with which flags and settings each runs, and when it is ready."""

import os
import platform
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from launch import dotenv, programs
from launch.dotenv import PIPELINE
from launch.ports import LOOPBACK, BackendPorts

PROGRAMS = "GLASSHOUSE_PROGRAMS"
STORES = ("loki", "prometheus", "alertmanager", "blackbox_exporter", "node_exporter")
COLLECTOR = "otelcol"
# In the order of their start: who is sent to is there before who sends.
NAMES = (*STORES, COLLECTOR)
# Of node_exporter what boards and rules ask for; all of them cost three times as much a scrape.
NODE_COLLECTORS = (
    "cpu",
    "diskstats",
    "filefd",
    "filesystem",
    "loadavg",
    "meminfo",
    "netdev",
    "pressure",
    "stat",
    "time",
    "timex",
    "uname",
    "vmstat",
)


@dataclass(frozen=True, slots=True)
class Program:
    """How one program is started.

    Args:
        command: Its path, and its flags.
        ready: Answers 200 once the program works.
        environ: Variables beside the settings of the pipeline.
        cwd: Where it runs; None: anywhere.
    """

    command: list[str]
    ready: str
    environ: dict[str, str] = field(default_factory=dict)
    cwd: Path | None = None


def tell(line: str) -> None:
    """Write a line to standard error, at once."""
    print(line, file=sys.stderr, flush=True)


def find(
    environ: Mapping[str, str] = os.environ,
    *,
    progress: Callable[[str], None] = tell,
    stop: threading.Event | None = None,
) -> dict[str, Path]:
    """Return the programs by name: those in the folder that `GLASSHOUSE_PROGRAMS` names, else installed ones.

    Args:
        environ: Where that variable may be set.
        progress: Told how an installation goes, one line a call; standard error where not given.
        stop: Set by anybody to end an installation.

    Raises:
        BadSetting: The folder lacks one; says which.
        ProgramError, Stopped: As `launch.programs.install`.
    """
    if not (text := environ.get(PROGRAMS, "")):
        return programs.install_all(progress=progress, environ=environ, stop=stop)
    found = {name: Path(text) / name for name in (*NAMES, "promtool")}
    if missing := sorted(name for name, path in found.items() if not path.exists()):
        raise dotenv.BadSetting(f"{PROGRAMS}={text} lacks {', '.join(missing)}.")
    return found


def settings(
    folder: Path,
    ports: BackendPorts,
    *,
    ray_temp: Path,
    serve_port: int,
    haproxy_metrics_port: int,
    config: Path = PIPELINE,
    environ: Mapping[str, str] = os.environ,
) -> dict[str, str]:
    """Return every `${NAME}` of the configurations: `.env`, the environment over it, and ours over both.

    Args:
        folder: Where the programs keep their state.
        ports: Who listens where.
        ray_temp: Ray's `--temp-dir`.
        serve_port: Where the applications answer.
        haproxy_metrics_port: Where HAProxy shows its metrics.
        config: The folder of the configurations.
        environ: Overrides `.env`.
    """
    return {
        **dotenv.read(config / ".env", environ),
        **ports.settings(),
        "NODE_NAME": environ.get("NODE_NAME") or platform.node(),
        "RAY_TEMP": str(ray_temp),
        "SERVE_PORT": str(serve_port),
        "HAPROXY_METRICS_PORT": str(haproxy_metrics_port),
        "OTELCOL_STATE": str(folder / "otelcol"),
        "PROMETHEUS_RULES": str(config / "prometheus" / "rules"),
        "LOKI_STATE": str(folder / "loki"),
        "LOKI_RULES": str(config / "loki" / "rules"),
    }


def describe(
    folder: Path, ports: BackendPorts, paths: Mapping[str, Path], values: Mapping[str, str]
) -> dict[str, Program]:
    """Return how each program is started, by its name, in the order of `NAMES`."""
    urls = ports.urls

    def command(name: str, *flags: str) -> list[str]:
        return [str(paths[name]), *flags]

    return {
        "loki": Program(
            command("loki", f"-config.file={PIPELINE / 'loki.yaml'}", "-config.expand-env=true"),
            f"{urls['loki']}/ready",
            {"GOMEMLIMIT": values["LOKI_GOMEMLIMIT"]},
        ),
        "prometheus": Program(
            command(
                "prometheus",
                f"--config.file={folder / 'prometheus.yaml'}",
                f"--storage.tsdb.path={folder / 'prometheus'}",
                f"--web.listen-address={LOOPBACK}:{ports.prometheus}",
                "--web.enable-otlp-receiver",
                "--enable-feature=exemplar-storage",
                f"--query.lookback-delta={values['PROMETHEUS_LOOKBACK']}",
                "--log.level=warn",
            ),
            f"{urls['prometheus']}/-/ready",
            {"GOMEMLIMIT": values["PROMETHEUS_GOMEMLIMIT"]},
        ),
        "alertmanager": Program(
            command(
                "alertmanager",
                f"--config.file={PIPELINE / 'alertmanager.yaml'}",
                f"--storage.path={folder / 'alertmanager'}",
                f"--web.listen-address={LOOPBACK}:{ports.alertmanager}",
                "--cluster.listen-address=",
                "--enable-feature=utf8-strict-mode",
                "--log.level=warn",
            ),
            f"{urls['alertmanager']}/-/ready",
        ),
        "blackbox_exporter": Program(
            command(
                "blackbox_exporter",
                f"--config.file={PIPELINE / 'blackbox.yaml'}",
                f"--web.listen-address={LOOPBACK}:{ports.blackbox}",
                "--log.level=warn",
            ),
            f"{urls['blackbox_exporter']}/-/healthy",
            cwd=PIPELINE,
        ),
        "node_exporter": Program(
            command(
                "node_exporter",
                f"--web.listen-address={LOOPBACK}:{ports.node_exporter}",
                "--collector.disable-defaults",
                *(f"--collector.{name}" for name in NODE_COLLECTORS),
                "--log.level=warn",
            ),
            f"{urls['node_exporter']}/",
        ),
        COLLECTOR: Program(
            command(
                COLLECTOR,
                f"--config={PIPELINE / 'collector.yaml'}",
                # Lines of files into the queue on disk before their place in the file is noted.
                "--feature-gates=stanza.synchronousLogEmitter",
            ),
            f"http://{LOOPBACK}:{ports.collector_health}/",
            {"GOMEMLIMIT": values["COLLECTOR_GOMEMLIMIT"]},
        ),
    }
