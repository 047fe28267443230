"""What being observed costs: CPU of an answer with telemetry on and off, and of everything at rest.

`python -m bench.telemetry` prints the rows. Both replicas of the comparison live in one cluster, with the
whole pipeline running, and are asked in turns: whatever the machine does meanwhile, it does to both.

The difference is a fraction of a millisecond, the forward of a 640-pixel image a hundred, and its noise
alone more than the difference. So both run the model at 160 pixels on one thread, and are asked as often
as the whole model on two cores can answer: what telemetry does once a second is then shared by as many.

Two processes that do the same may differ by tenths of a millisecond in the forward, for as long as they
live. So the threads that decode and run the model, and in which telemetry has no code, are counted apart.

What waits for company when the requests end is waited for, and counted too.
"""

import asyncio
import contextlib
import copy
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from bench.cluster import JPEG, cpu_s, one_detector
from bench.load import Call, open_loop
from bench.report import Row, table
from launch import backend_programs
from launch.backends import Backends
from launch.deploy import deploy
from launch.ports import BackendPorts, Ports
from launch.ray_head import RayHead
from models import artifacts
from telemetry.deferred import DELAY_S
from telemetry.outbox import DELAY_S as LINES_DELAY_S

REST_S = 60.0
SETTLE_S = 20.0  # after a start, until everybody has done what is done once
PAIRS = 24
RATE = 14.0  # images a second
HALF_S = 8.0  # of each half of a pair
TAIL_S = DELAY_S + LINES_DELAY_S + 0.5  # until the last line of it has left
SMALL = {"image_size": 160, "threads": 1}
OFF = "detection-off"
MODEL_THREADS = {"device", "prepare"}  # as `deployments.threads.pool` calls them
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
        progress(f"detections, {PAIRS} times {HALF_S:g} s with and without telemetry")
        deploy(head, _twins(config))
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


def _twins(config: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration with a small detector, and the same a second time with telemetry off."""
    both = copy.deepcopy(config)
    both["applications"][0]["args"]["detector"] |= SMALL
    twin = copy.deepcopy(both["applications"][0])
    twin |= {
        "name": OFF,
        "route_prefix": f"/{OFF}",
        "runtime_env": {"env_vars": {"GLASSHOUSE_TELEMETRY": "off"}},
    }
    both["applications"].append(twin)
    return both


def _on_and_off(head: RayHead) -> list[Row]:
    photo = artifacts.fetch("bus.jpg").read_bytes()
    on, off = (_Side(head, name, path, photo) for name, path in (("detection", "/detect"), (OFF, f"/{OFF}")))
    for side in (on, off):
        side.ask()
    model, others, costs = [], [], []
    for number in range(PAIRS):
        # The order changes: who comes second finds warm caches, or a neighbour that has woken up.
        pair = {side: side.ask() for side in ((on, off) if number % 2 else (off, on))}
        model.append(pair[on].model - pair[off].model)
        others.append(pair[on].others - pair[off].others)
        costs.append(pair[off].model + pair[off].others)
    what = f"bus.jpg at 160 pixels, one thread, {RATE:g} a second"
    return [
        Row("detect: CPU of the replica, telemetry off", statistics.fmean(costs), "ms an image", what),
        _difference("detect: CPU that telemetry adds", others),
        _difference("detect: by how much decode and forward of the two replicas differ", model),
    ]


def _difference(name: str, found: Sequence[float]) -> Row:
    mean = statistics.fmean(found)
    half = 1.96 * statistics.stdev(found) / math.sqrt(len(found))
    interval = f"95 % interval {mean - half:.2f} to {mean + half:.2f}; {len(found)} pairs of {HALF_S:g} s"
    return Row(name, mean, "ms an image", interval)


@dataclass(frozen=True, slots=True)
class _Spent:
    """CPU of a replica: milliseconds, of the threads that decode and run the model, and of the others."""

    model: float
    others: float


class _Side:
    """One of the two replicas that are compared."""

    def __init__(self, head: RayHead, name: str, path: str, photo: bytes) -> None:
        (deployment,) = (head.applications() or {})[name]["deployments"].values()
        (replica,) = deployment["replicas"]
        self._pid = int(replica["pid"])
        self._url = head.url
        self._call = Call("POST", path, photo, JPEG)

    def ask(self) -> _Spent:
        """Send requests for a while; return the CPU that the replica spent on each."""
        before = _spent(self._pid)
        load = open_loop(self._url, lambda _: self._call, rate=RATE, duration_s=HALF_S)
        outcomes = asyncio.run(load)
        time.sleep(TAIL_S)
        after, images = _spent(self._pid), len(outcomes)
        if failed := [one for one in outcomes if one.status != 200]:
            raise RuntimeError(f"a request failed: {failed[0].status} {failed[0].body[:200]!r}")
        return _since(before, after, images)


def _spent(pid: int) -> dict[tuple[str, bool], int]:
    """Return the CPU nanoseconds of each thread by now, by its id and whether it is the model's.

    By the scheduler's own count: `times()` counts whole 10 ms.
    """
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            key = (task.name, (task / "comm").read_text().strip() in MODEL_THREADS)
            found[key] = int((task / "schedstat").read_text().split()[0])
    return found


def _since(before: dict[tuple[str, bool], int], after: dict[tuple[str, bool], int], images: int) -> _Spent:
    spent_ns = {True: 0, False: 0}
    for (thread, is_model), now_ns in after.items():
        spent_ns[is_model] += now_ns - before.get((thread, is_model), 0)
    return _Spent(spent_ns[True] / images / 1e6, spent_ns[False] / images / 1e6)


if __name__ == "__main__":
    print(table(measure()))
