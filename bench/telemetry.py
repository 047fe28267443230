"""What being observed costs: CPU of an answer with telemetry on and off, and of everything at rest.

`python -m bench.telemetry` prints the rows. The comparison is within one process, with the whole pipeline
running: two processes that do the same differ by more than telemetry costs, for as long as they live. One
replica does both in turns, on the same threads, see `bench.switched`.

Two parts are measured apart. What the event loop and the model's threads spend is compared in short turns:
they leave nothing for later, and the machine's moods last longer than a turn. Telemetry's own threads are
counted whole, over longer runs with it on, what waits for company at their end included.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from bench.cluster import cpu_s, one_detector
from bench.interleaved import MODEL, RATE, REST, SMALL, Mean, Replica, added, photo, switched
from bench.report import Row, table
from launch import backend_programs
from launch.backends import Backends
from launch.deploy import deploy
from launch.ports import BackendPorts, Ports
from launch.ray_head import RayHead
from telemetry.deferred import DELAY_S
from telemetry.outbox import DELAY_S as LINES_DELAY_S

REST_S = 60.0
SETTLE_S = 20.0  # after a start, until everybody has done what is done once
PAIRS = 180
TURN_S = 1.0  # of each half of a pair
OWN_RUNS = 6
OWN_S = 10.0
TAIL_S = DELAY_S + LINES_DELAY_S + 0.5  # until the last line of it has left
PHOTO_SIZE = (160, 214)  # of bus.jpg, made smaller
OURS = ("telemetry-", "log-outbox", "OtelPeriodic")  # and those of telemetry alone
# Who is who, by a word of the command line; the first that fits.
NAMES = {
    "ServeReplica:detection": "replica of detection",
    "ServeReplica:recommendation": "replica of recommendation",
    "ServeController": "Serve controller",
    "ProxyActor": "Serve proxy (stands by)",
    "HAProxyManager": "Serve's manager of HAProxy",
    "haproxy": "HAProxy",
    "gcs_server": "Ray: gcs_server",
    "raylet": "Ray: raylet",
    "dashboard/agent": "Ray: agent",
    "dashboard": "Ray: dashboard",
    "log_monitor": "Ray: log_monitor",
}
RAY_REST = "Ray: the others"


def measure(progress: Callable[[str], None] = print) -> list[Row]:
    """Start everything, let it rest, then compare."""
    with _running(progress) as (head, backends, config):
        progress(f"at rest, {REST_S:g} s")
        rows = _at_rest(head, backends)
        progress(f"detections, {PAIRS} times {TURN_S:g} s with and without telemetry")
        deploy(head, switched(config))
        rows += _on_and_off(head)
    return rows


@contextmanager
def _running(progress: Callable[[str], None]) -> Iterator[tuple[RayHead, Backends, dict[str, Any]]]:
    backend_ports = BackendPorts.free()
    with tempfile.TemporaryDirectory() as folder:
        environ = {"GLASSHOUSE_HOME": folder, **backend_ports.environ}
        head = RayHead(Path(folder) / "run", Ports.free(), environ=environ)
        config = one_detector(head.ports.serve)
        backends = Backends.beside(
            head,
            Path(folder) / "telemetry",
            backend_ports,
            backend_programs.find(),
            logs=Path(folder) / "logs",
        )
        try:
            backends.start(note=progress)
            head.start()
            deploy(head, config, note=progress)
            yield head, backends, config
        finally:
            head.stop()
            backends.stop()


def _at_rest(head: RayHead, backends: Backends) -> list[Row]:
    time.sleep(SETTLE_S)
    groups = _groups(head, backends)
    before = {name: cpu_s(found) for name, found in groups.items()}
    time.sleep(REST_S)
    rows, whole, whole_mib = [], 0.0, 0.0
    for name, found in groups.items():
        share = (cpu_s(found) - before[name]) / REST_S
        mib = sum(process.memory_full_info().pss for process in found) / 2**20
        whole, whole_mib = whole + share, whole_mib + mib
        rows.append(Row(f"at rest: {name}", 100 * share, "% of a core", f"{mib:.0f} MiB (PSS)"))
    rows.sort(key=lambda row: -row.value)
    return [
        Row("at rest: everything", 100 * whole, "% of a core", f"{whole_mib / 1024:.1f} GiB (PSS)"),
        *rows,
    ]


def _groups(head: RayHead, backends: Backends) -> dict[str, list[psutil.Process]]:
    """Return the processes of the cluster and of the pipeline, by what they are."""
    groups: dict[str, list[psutil.Process]] = {name: [one] for name, one in backends.processes().items()}
    for process in head.processes():
        words = " ".join([process.name(), *process.cmdline()])
        name = next((name for word, name in NAMES.items() if word in words), RAY_REST)
        groups.setdefault(name, []).append(process)
    return groups


def _on_and_off(head: RayHead) -> list[Row]:
    groups = {"model": MODEL, "ours": OURS}
    replica = Replica(head, "telemetry", photo(*PHOTO_SIZE), groups)
    replica.switch("off", "store")
    for side in ("on", "off"):  # what is done once
        replica.ask(side, OWN_S)
    ours = Mean.of([replica.ask("on", OWN_S, tail_s=TAIL_S)["ours"] for _ in range(OWN_RUNS)])
    pairs = replica.pairs(PAIRS, TURN_S)
    what = f"bus.jpg at {SMALL['image_size']} pixels, one thread, {RATE:g} a second"
    turns, runs = f"{PAIRS} pairs of {TURN_S:g} s", f"{OWN_RUNS} runs of {OWN_S:g} s"
    off_ms = statistics.fmean(off["model"] + off[REST] for _, off in pairs)
    return [
        Row("detect: CPU of the replica, telemetry off", off_ms, "ms an image", what),
        (added(pairs, "model", REST) + ours).row("detect: CPU that telemetry adds", f"{turns}, {runs}"),
        ours.row(".. in its own threads", runs),
        added(pairs, REST).row(".. in the event loop and the rest", turns),
        added(pairs, "model").row(".. in the threads that decode and run the model", turns),
    ]


if __name__ == "__main__":
    print(table(measure()))
