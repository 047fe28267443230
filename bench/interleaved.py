"""One replica asked in two ways, in turns: what a thing costs, with a 95 % interval.

The difference is a fraction of a millisecond, the forward of a 640-pixel image a hundred, and its noise
alone more than the difference. So a small photograph runs at 64 pixels on one thread, through all of the
model's weights; as often as the whole model on two cores can answer: what is done once a second is then
shared by as many.
"""

import asyncio
import contextlib
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

from bench.cluster import JPEG
from bench.load import Call, Outcome, closed_loop, open_loop
from bench.report import Row
from launch.ray_head import RayHead
from models import artifacts

RATE = 14.0  # images a second
SMALL = {"image_size": 64, "threads": 1}
SWITCHED = "detection-switched"
MODEL = ("device", "prepare")  # threads that decode and run the model, by their names
REST = "rest"


def switched(config: dict[str, Any], detector: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the configuration with one application: a detector that can be asked in both ways.

    Args:
        config: With the detection application first.
        detector: What differs in the detector's settings; a small one where not given.
    """
    application = config["applications"][0]
    asked = SMALL if detector is None else detector
    args = {**application["args"], "detector": {**application["args"]["detector"], **asked}}
    one = {
        "name": SWITCHED,
        "route_prefix": f"/{SWITCHED}",
        "import_path": "bench.switched:build",
        "args": args,
        "deployments": [{"name": "Switched", "max_ongoing_requests": 1024}],
    }
    return {**config, "applications": [one]}


def photo(height: int, width: int) -> bytes:
    """Return bus.jpg at another size."""
    with Image.open(artifacts.fetch("bus.jpg")) as whole, BytesIO() as small:
        whole.resize((width, height)).save(small, "JPEG", quality=90)
        return small.getvalue()


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean and its variance."""

    mean: float
    variance: float

    @classmethod
    def of(cls, found: Sequence[float]) -> "Mean":
        """Return the mean of at least two."""
        return cls(statistics.fmean(found), statistics.variance(found) / len(found))

    def __add__(self, other: "Mean") -> "Mean":
        """Add what was measured apart."""
        return Mean(self.mean + other.mean, self.variance + other.variance)

    def row(self, name: str, of: str, unit: str = "ms an image") -> Row:
        """Return it with its interval."""
        half = 1.96 * math.sqrt(self.variance)
        interval = f"95 % interval {self.mean - half:.2f} to {self.mean + half:.2f}; {of}"
        return Row(name, self.mean, unit, interval)


Spent = dict[str, float]  # CPU milliseconds an image, by group of threads


class Replica:
    """The replica that can be asked in both ways.

    Args:
        head: Of the cluster.
        what: `telemetry` or `store`.
        image: What to send.
        groups: Beginnings of names of threads, by a name for all of them; the others are `rest`.
        clients: That keep asking; 0: requests come `RATE` times a second, whatever the answers do.
    """

    def __init__(
        self,
        head: RayHead,
        what: str,
        image: bytes,
        groups: Mapping[str, tuple[str, ...]],
        clients: int = 0,
    ) -> None:
        (deployment,) = (head.applications() or {})[SWITCHED]["deployments"].values()
        (replica,) = deployment["replicas"]
        self._pid = int(replica["pid"])
        self._url = head.url
        self._what = what
        self._groups = groups
        self._clients = clients
        self.call = Call("POST", f"/{SWITCHED}/app", image, JPEG)

    def switch(self, side: str, what: str | None = None) -> None:
        """Turn it `on` or `off`; while no request is in flight."""
        httpx.post(f"{self._url}/{SWITCHED}/{what or self._what}/{side}").raise_for_status()

    def ask(self, side: str, duration_s: float, tail_s: float = 0.0) -> Spent:
        """Send requests for a while; return the CPU that the replica spent on each."""
        self.switch(side)
        before = _spent_ns(self._pid)
        outcomes = asyncio.run(self._load(duration_s))
        time.sleep(tail_s)
        after = _spent_ns(self._pid)
        if failed := [one for one in outcomes if one.status != 200]:
            raise RuntimeError(f"a request failed: {failed[0].status} {failed[0].body[:200]!r}")
        return self._divide({one: ns - before.get(one, 0) for one, ns in after.items()}, len(outcomes))

    async def _load(self, duration_s: float) -> list[Outcome]:
        if self._clients:
            return await closed_loop(
                self._url, lambda _: self.call, clients=self._clients, duration_s=duration_s
            )
        return await open_loop(self._url, lambda _: self.call, rate=RATE, duration_s=duration_s)

    def pairs(self, count: int, turn_s: float) -> list[tuple[Spent, Spent]]:
        """Ask in turns; return what on and off spent, pair by pair."""
        found = []
        for number in range(count):
            # The order changes: who comes second finds warm caches.
            sides = ("on", "off") if number % 2 else ("off", "on")
            pair = {side: self.ask(side, turn_s) for side in sides}
            found.append((pair["on"], pair["off"]))
        return found

    def _divide(self, spent_ns: Mapping[str, int], images: int) -> Spent:
        names = httpx.get(f"{self._url}/{SWITCHED}/threads").raise_for_status().json()
        spent = dict.fromkeys([*self._groups, REST], 0.0)
        for thread, ns in spent_ns.items():
            name = names.get(thread, "")
            group = next((group for group, words in self._groups.items() if name.startswith(words)), REST)
            spent[group] += ns / images / 1e6
        return spent


def added(pairs: Sequence[tuple[Spent, Spent]], *groups: str) -> Mean:
    """Return what on spends more than off, in these groups together."""
    return Mean.of([sum(on[group] - off[group] for group in groups) for on, off in pairs])


def _spent_ns(pid: int) -> dict[str, int]:
    """Return the CPU of each thread by now, by its id; by the scheduler: `times()` counts whole 10 ms."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            found[task.name] = int((task / "schedstat").read_text().split()[0])
    return found
