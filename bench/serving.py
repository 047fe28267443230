"""Both applications as a client sees them: through HAProxy and Serve, on this machine.

`python -m bench.serving` prints the rows. The load generator runs on the same cores, so a machine with
two of them serves more than the table says.
"""

import asyncio
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.cluster import JPEG, JSON, cpu_s, one_detector
from bench.load import Call, Outcome, closed_loop, open_loop, percentile
from bench.report import Row, table
from bench.timing import mean_batch, stages
from launch.deploy import deploy
from launch.ports import Ports
from launch.ray_head import RayHead
from models import artifacts

SECONDS = 15.0
CLIENTS = 16


def measure(progress: Callable[[str], None] = print) -> list[Row]:
    """Start everything, measure both applications, end everything."""
    with _running(progress) as (head, start_s):
        rows = [Row("from nothing running to both answering", start_s, "s")]
        progress("detection")
        rows += _detection(head)
        progress("recommendation")
        rows += _recommendation(head)
        memory = sum(process.memory_full_info().pss for process in head.processes())
        rows.append(Row("memory of everything, after the load (PSS)", memory / 2**30, "GiB"))
    return rows


@contextmanager
def _running(progress: Callable[[str], None]) -> Iterator[tuple[RayHead, float]]:
    with tempfile.TemporaryDirectory() as folder:
        head = RayHead(Path(folder) / "run", Ports.free(), environ={"GLASSHOUSE_HOME": folder})
        start = time.monotonic()
        try:
            head.start()
            deploy(head, one_detector(head.ports.serve), note=progress)
            yield head, time.monotonic() - start
        finally:
            head.stop()


def _detection(head: RayHead) -> list[Row]:
    photo = (artifacts.fetch("bus.jpg")).read_bytes()
    call = Call("POST", "/detect", photo, JPEG)
    _closed(head, call, clients=4, seconds=5)
    alone = _closed(head, call, clients=1)
    full, cpu_ms = _with_cpu(head, lambda: _closed(head, call, clients=CLIENTS))
    top = _rate(full)
    busy = _open(head, call, 0.8 * top)
    over = _open(head, call, 3 * top)
    refused = [one.latency_s for one in over if one.status == 429]
    late = [one for one in over if one.status not in {200, 429}]
    return [
        Row("detect: one client, median", 1e3 * _median(alone), "ms", "bus.jpg, 810 x 1080, 137 kB"),
        Row(f"detect: {CLIENTS} clients", top, "images/s", f"mean batch {mean_batch(full):.1f}"),
        Row("detect: CPU of all processes", cpu_ms, "ms an image", "ingress, decode, forward, answer"),
        Row(
            "detect: open loop at 80 % of that, median",
            1e3 * _median(busy),
            "ms",
            f"p95 {1e3 * percentile([one.latency_s for one in busy], 0.95):.0f} ms; "
            f"mean batch {mean_batch(busy):.1f}",
        ),
        Row(
            "detect: at three times that, answered",
            _rate([one for one in over if one.status == 200]),
            "images/s",
            f"mean batch {mean_batch(over):.1f}; {len(late)} failed",
        ),
        Row(
            "detect: at three times that, time to a refusal, p99",
            1e3 * percentile(refused, 0.99),
            "ms",
            f"{len(refused)} JSON 429s; a batch takes "
            f"{percentile([stages(one).batch_ms for one in over if one.status == 200], 0.5):.0f} ms",
        ),
    ]


def _recommendation(head: RayHead) -> list[Row]:
    call = Call("POST", "/recommend", b'{"user_id": 1}', JSON)
    _closed(head, call, clients=4, seconds=3)
    alone = _closed(head, call, clients=1, seconds=5)
    full, cpu_ms = _with_cpu(head, lambda: _closed(head, call, clients=2 * CLIENTS))
    return [
        Row("recommend: one client, median", 1e3 * _median(alone), "ms", "ten films, MovieLens 100k"),
        Row(
            f"recommend: {2 * CLIENTS} clients", _rate(full), "users/s", f"mean batch {mean_batch(full):.1f}"
        ),
        Row("recommend: CPU of all processes", cpu_ms, "ms a user", "almost all of it ingress and HTTP"),
    ]


def _closed(head: RayHead, call: Call, *, clients: int, seconds: float = SECONDS) -> list[Outcome]:
    return asyncio.run(closed_loop(head.url, lambda _: call, clients=clients, duration_s=seconds))


def _open(head: RayHead, call: Call, rate: float) -> list[Outcome]:
    return asyncio.run(open_loop(head.url, lambda _: call, rate=rate, duration_s=SECONDS))


def _with_cpu(head: RayHead, load: Callable[[], list[Outcome]]) -> tuple[list[Outcome], float]:
    """Return the outcomes, and the CPU milliseconds that Ray's processes spent on each."""
    processes = head.processes()
    before = cpu_s(processes)
    outcomes = load()
    return outcomes, 1e3 * (cpu_s(processes) - before) / len(outcomes)


def _rate(outcomes: list[Outcome]) -> float:
    return len(outcomes) / max(one.started_s + one.latency_s for one in outcomes)


def _median(outcomes: list[Outcome]) -> float:
    return percentile([one.latency_s for one in outcomes], 0.5)


if __name__ == "__main__":
    print(table(measure()))
