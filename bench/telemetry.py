"""What being observed costs: CPU of an answer with telemetry on and off, and of everything at rest.

`python -m bench.telemetry` prints the rows. The comparison is within one process, with the whole pipeline
running: two processes that do the same differ by more than telemetry costs, for as long as they live. One
replica does both in turns, on the same threads, see `bench.switched`.

The difference is a fraction of a millisecond, the forward of a 640-pixel image a hundred, and its noise
alone more than the difference. So a small photograph runs at 64 pixels on one thread, through all of the
model's weights; as often as the whole model on two cores can answer: what telemetry does once a second is
then shared by as many.

Two parts are measured apart. What the event loop and the model's threads spend is compared in short turns:
they leave nothing for later, and the machine's moods last longer than a turn. Telemetry's own threads are
counted whole, over longer runs with it on, what waits for company at their end included.
"""

import asyncio
import contextlib
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import psutil
from PIL import Image

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
PAIRS = 180
TURN_S = 1.0  # of each half of a pair
OWN_RUNS = 6
OWN_S = 10.0
RATE = 14.0  # images a second
TAIL_S = DELAY_S + LINES_DELAY_S + 0.5  # until the last line of it has left
SMALL = {"image_size": 64, "threads": 1}
PHOTO_SIZE = (160, 214)  # of bus.jpg, made smaller
SWITCHED = "detection-switched"
MODEL = ("device", "prepare")  # threads that decode and run the model, by their names
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
        deploy(head, _switched(config))
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


def _switched(config: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration with one application: a small detector that can be asked in both ways."""
    application = config["applications"][0]
    args = {**application["args"], "detector": {**application["args"]["detector"], **SMALL}}
    switched = {
        "name": SWITCHED,
        "route_prefix": f"/{SWITCHED}",
        "import_path": "bench.switched:build",
        "args": args,
    }
    return {**config, "applications": [switched]}


def _on_and_off(head: RayHead) -> list[Row]:
    replica = _Replica(head, _small_photo())
    for side in ("on", "off"):  # what is done once
        replica.ask(side, OWN_S)
    own = [replica.ask("on", OWN_S, tail_s=TAIL_S).ours for _ in range(OWN_RUNS)]
    pairs = []
    for number in range(PAIRS):
        # The order changes: who comes second finds warm caches.
        pair = {side: replica.ask(side, TURN_S) for side in (("on", "off") if number % 2 else ("off", "on"))}
        pairs.append((pair["on"], pair["off"]))
    model = _Mean.of([on.model - off.model for on, off in pairs])
    rest = _Mean.of([on.rest - off.rest for on, off in pairs])
    both = _Mean.of([on.model + on.rest - off.model - off.rest for on, off in pairs])
    ours = _Mean.of(own)
    what = f"bus.jpg at {SMALL['image_size']} pixels, one thread, {RATE:g} a second"
    turns, runs = f"{PAIRS} pairs of {TURN_S:g} s", f"{OWN_RUNS} runs of {OWN_S:g} s"
    off_ms = statistics.fmean(off.model + off.rest for _, off in pairs)
    return [
        Row("detect: CPU of the replica, telemetry off", off_ms, "ms an image", what),
        (both + ours).row("detect: CPU that telemetry adds", f"{turns}, {runs}"),
        ours.row(".. in its own threads", runs),
        rest.row(".. in the event loop and the rest", turns),
        model.row(".. in the threads that decode and run the model", turns),
    ]


def _small_photo() -> bytes:
    with Image.open(artifacts.fetch("bus.jpg")) as photo, BytesIO() as small:
        photo.resize(PHOTO_SIZE).save(small, "JPEG", quality=90)
        return small.getvalue()


@dataclass(frozen=True, slots=True)
class _Mean:
    """A mean and its variance."""

    mean: float
    variance: float

    @classmethod
    def of(cls, found: Sequence[float]) -> "_Mean":
        return cls(statistics.fmean(found), statistics.variance(found) / len(found))

    def __add__(self, other: "_Mean") -> "_Mean":
        """Add what was measured apart."""
        return _Mean(self.mean + other.mean, self.variance + other.variance)

    def row(self, name: str, of: str) -> Row:
        half = 1.96 * math.sqrt(self.variance)
        interval = f"95 % interval {self.mean - half:.2f} to {self.mean + half:.2f}; {of}"
        return Row(name, self.mean, "ms an image", interval)


@dataclass(frozen=True, slots=True)
class _Spent:
    """CPU milliseconds an image: of the model's threads, of telemetry's own, and of the rest."""

    model: float
    ours: float
    rest: float


class _Replica:
    """The replica that can be asked in both ways."""

    def __init__(self, head: RayHead, photo: bytes) -> None:
        (deployment,) = (head.applications() or {})[SWITCHED]["deployments"].values()
        (replica,) = deployment["replicas"]
        self._pid = int(replica["pid"])
        self._url = head.url
        self._photo = photo

    def ask(self, side: str, duration_s: float, tail_s: float = 0.0) -> _Spent:
        """Send requests for a while; return the CPU that the replica spent on each."""
        httpx.post(f"{self._url}/{SWITCHED}/switch/{side}").raise_for_status()
        call = Call("POST", f"/{SWITCHED}/app", self._photo, JPEG)
        before = _spent_ns(self._pid)
        load = open_loop(self._url, lambda _: call, rate=RATE, duration_s=duration_s)
        outcomes = asyncio.run(load)
        time.sleep(tail_s)
        after = _spent_ns(self._pid)
        if failed := [one for one in outcomes if one.status != 200]:
            raise RuntimeError(f"a request failed: {failed[0].status} {failed[0].body[:200]!r}")
        return self._divide({one: ns - before.get(one, 0) for one, ns in after.items()}, len(outcomes))

    def _divide(self, spent_ns: dict[str, int], images: int) -> _Spent:
        names = httpx.get(f"{self._url}/{SWITCHED}/threads").raise_for_status().json()
        model, ours = (
            sum(ns for one, ns in spent_ns.items() if names.get(one, "").startswith(words)) / images / 1e6
            for words in (MODEL, OURS)
        )
        return _Spent(model, ours, sum(spent_ns.values()) / images / 1e6 - model - ours)


def _spent_ns(pid: int) -> dict[str, int]:
    """Return the CPU of each thread by now, by its id; by the scheduler: `times()` counts whole 10 ms."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            found[task.name] = int((task / "schedstat").read_text().split()[0])
    return found


if __name__ == "__main__":
    print(table(measure()))
