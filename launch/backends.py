"""The telemetry pipeline on this machine: its programs up, watched, and down again.

`python -m launch.backends --validate` lets the real programs read every configuration.
"""

import argparse
import os
import re
import signal
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

import psutil

from launch import backend_check, backend_programs, dotenv
from launch.backend_programs import COLLECTOR, NAMES, STORES, Program
from launch.dotenv import PIPELINE
from launch.ports import LOOPBACK, BackendPorts
from launch.processes import ProcessTree, StartFailed
from launch.programs import ProgramError
from launch.ray_head import RayHead

START_TIMEOUT_S = 60.0
DRAIN_S = 3.0  # for what the collector can still deliver; the rest waits on disk
POLL_S = 0.1
_QUEUED = re.compile(r"^otelcol_exporter_queue_size\{[^}]*\} (\S+)$", re.MULTILINE)


class Backends:
    """Loki, Prometheus, Alertmanager, blackbox_exporter, node_exporter and the collector.

    Args:
        folder: Where they keep their state: series, lines, and the collector's queue.
        ports: Who listens where.
        programs: Their paths, by `backend_programs.NAMES`.
        ray_temp: Ray's `--temp-dir`: its logs, and its list of what to scrape.
        serve_port: Where the applications answer.
        haproxy_metrics_port: Where HAProxy shows its metrics.
        logs: Folder that receives their output, a file each.
    """

    def __init__(
        self,
        folder: Path,
        ports: BackendPorts,
        programs: Mapping[str, Path],
        *,
        ray_temp: Path,
        serve_port: int,
        haproxy_metrics_port: int,
        logs: Path,
    ) -> None:
        self.folder = folder
        self.ports = ports
        self.urls = ports.urls
        self.environ = ports.environ
        self._logs = logs
        self._settings = backend_programs.settings(
            folder, ports, ray_temp=ray_temp, serve_port=serve_port, haproxy_metrics_port=haproxy_metrics_port
        )
        self._programs = backend_programs.describe(folder, ports, programs, self._settings)
        self._trees: dict[str, ProcessTree] = {}

    @classmethod
    def beside(
        cls, head: RayHead, folder: Path, ports: BackendPorts, programs: Mapping[str, Path], *, logs: Path
    ) -> Self:
        """Return those that watch a Ray head of ours; it need not have been started."""
        return cls(
            folder,
            ports,
            programs,
            ray_temp=head.temp,
            serve_port=head.ports.serve,
            haproxy_metrics_port=head.ports.haproxy_metrics,
            logs=logs,
        )

    def start(
        self, stop: threading.Event | None = None, note: Callable[[str], None] = lambda _: None
    ) -> None:
        """Start all of them, who is sent to before who sends; return when all are ready, or `stop` is set.

        Raises:
            PortTaken: Somebody listens on a port that we need.
            StartFailed: One ended, or was not ready in time; the others are ended again.
        """
        self.ports.check()
        self._prepare()
        try:
            for wave in (STORES, (COLLECTOR,)):
                for name in wave:
                    self._launch(name)
                for name in wave:
                    self._await(name, stop)
                if stop is not None and stop.is_set():
                    return
        except StartFailed:
            self.stop()
            raise
        note("telemetry: " + ", ".join(NAMES))

    def start_one(self, name: str) -> None:
        """Start one that has ended, and return when it is ready. One that runs is left alone.

        Raises:
            StartFailed: It ended, or was not ready in time.
        """
        if name in self.processes():
            return
        self._launch(name)
        self._await(name, None)

    def dead(self) -> str | None:
        """Return which program ended by itself, and its last words; None while all run."""
        for name, tree in self._trees.items():
            if (code := tree.exit_code()) is not None:
                return f"{name} ended by itself ({_ending(code)}).{_last_words(tree)}"
        return None

    def kill(self, name: str) -> None:
        """End one as a crash would (SIGKILL)."""
        self._trees[name].kill()

    def processes(self) -> dict[str, psutil.Process]:
        """Return those that run, by name."""
        return {name: psutil.Process(tree.pid) for name, tree in self._trees.items() if _runs(tree)}

    def stop(self, note: Callable[[str], None] = lambda _: None) -> None:
        """End all: the collector first, once it has delivered what it can. Idempotent."""
        if not self._trees:
            return
        note("telemetry ends")
        self._drain()
        if COLLECTOR in self._trees:
            self._trees[COLLECTOR].end()
        for tree in self._trees.values():
            tree.ask_to_end()
        for tree in self._trees.values():
            tree.end()
        self._trees.clear()

    def queued(self) -> int | None:
        """Return how many requests wait in the collector's queues; None where it does not answer."""
        try:
            text = _get(f"http://{LOOPBACK}:{self.ports.collector_metrics}/metrics")
        except OSError:
            return None
        return sum(int(float(size)) for size in _QUEUED.findall(text))

    def _prepare(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        template = (PIPELINE / "prometheus" / "prometheus.yaml").read_text(encoding="utf-8")
        (self.folder / "prometheus.yaml").write_text(
            dotenv.render(template, self._settings), encoding="utf-8"
        )

    def _launch(self, name: str) -> None:
        program = self._programs[name]
        self._trees[name] = ProcessTree(
            program.command,
            {**os.environ, **self._settings, **program.environ},
            self._logs / f"{name}.log",
            cwd=program.cwd,
        )

    def _await(self, name: str, stop: threading.Event | None) -> None:
        program, tree = self._programs[name], self._trees[name]
        end = time.monotonic() + START_TIMEOUT_S
        while not _ready(program):
            if not _runs(tree):
                raise StartFailed(f"{name} did not start.{_last_words(tree)}")
            if time.monotonic() > end:
                raise StartFailed(f"{name} was not ready after {START_TIMEOUT_S:g} s.{_last_words(tree)}")
            if stop is not None and stop.is_set():
                return
            time.sleep(POLL_S)

    def _drain(self) -> None:
        end = time.monotonic() + DRAIN_S
        while self.queued() and time.monotonic() < end:
            time.sleep(POLL_S)


def _runs(tree: ProcessTree) -> bool:
    return tree.exit_code() is None


def _ending(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _last_words(tree: ProcessTree) -> str:
    words = tree.last_words()
    return f" Its last words ({tree.log}):\n{words}" if words else f" It said nothing ({tree.log})."


def _ready(program: Program) -> bool:
    try:
        _get(program.ready)
    except OSError:
        return False
    return True


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310  our own loopback address
        return str(answer.read().decode())


def main(arguments: list[str] | None = None) -> int:
    """Check the configurations; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m launch.backends", description=__doc__)
    parser.add_argument(
        "--validate", action="store_true", required=True, help="let the programs read every configuration"
    )
    parser.parse_args(arguments)
    try:
        found = backend_check.problems(backend_programs.find())
    except (dotenv.BadSetting, ProgramError) as error:
        found = [str(error)]
    for problem in found:
        print(problem, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
