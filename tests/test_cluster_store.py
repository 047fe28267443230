"""Records on the real cluster: kept, shipped, found, and once each, whichever process is killed."""

import asyncio
import hashlib
import random
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import psutil
import pyarrow as pa
import pytest

from bench.load import Call, send_all
from launch.ray_head import SHIPPER
from store.shipper import spools_of
from store.tables import Tables
from tests.bad_requests import JPEG, JSON
from tests.cluster import Cluster, answer
from tests.photos import jpeg_bytes
from tests.poll import poll_until

pytestmark = [pytest.mark.cluster, pytest.mark.data]

ROUNDS = 20
RATE = 10.0  # images a second
PAUSE_S = 20.0  # of a killed replica, at most, until another can be killed
PHOTO = jpeg_bytes("bus")


def numbered(number: int) -> bytes:
    """The photograph with a comment in it: the same pixels, and bytes that no other request has."""
    comment = f"chaos {number}".encode()
    return PHOTO[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + PHOTO[2:]


def home(cluster: Cluster) -> Path:
    """Where the cluster keeps everything."""
    return Path(cluster.head.environ["GLASSHOUSE_HOME"])


def rows(cluster: Cluster, table: str) -> pa.Table:
    """All rows of a table; none where it was never written."""
    opened = Tables(str(home(cluster) / "store")).open(table)
    return pa.table({"request_id": []}) if opened is None else opened.to_pyarrow_table()


def shipper(cluster: Cluster) -> psutil.Process | None:
    """The shipper's process, if it runs."""
    for process in cluster.head.processes():
        try:
            if process.cmdline()[:1] == [SHIPPER]:
                return process
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return None


def at_rest(cluster: Cluster) -> bool:
    """Whether nothing waits in any spool but what the replicas hold open, which is nothing."""
    return not any(any(spool.glob("*.sqlite")) for spool in spools_of(home(cluster) / "spool"))


def test_a_record_is_found_at_once_and_later(cluster: Cluster) -> None:
    """By the answer's id: within two seconds, and still when the shipper has put it into its table."""
    asked = {"X-Request-ID": f"found-{uuid4().hex[:8]}", **JPEG}
    (sent,) = asyncio.run(send_all(cluster.url, [Call("POST", "/detect?source=gate", PHOTO, asked)]))
    said = answer(sent.body)
    began = time.monotonic()
    status, body = cluster.get(f"/detect/inferences/{said['inference_id']}")
    assert (status, answer(body)["detections"]) == (200, said["detections"])
    assert time.monotonic() - began < 2
    poll_until(lambda: at_rest(cluster), "the shipper has shipped", 60)
    status, body = cluster.get(f"/detect/inferences/{said['inference_id']}")
    assert (status, answer(body)["source"]) == (200, "gate")
    assert cluster.get(f"/detect/inferences/{said['inference_id']}/image") == (200, PHOTO)
    assert asked["X-Request-ID"] in rows(cluster, "detections").column("request_id").to_pylist()


def test_interactions_and_feedback_arrive(cluster: Cluster) -> None:
    """Through HTTP into their tables."""
    (sent,) = asyncio.run(send_all(cluster.url, [Call("POST", "/recommend", b'{"user_id": 3}', JSON)]))
    known = answer(sent.body)["inference_id"]
    user = 10**12 + random.randrange(10**9)
    calls = [
        Call("POST", f"/recommend/inferences/{known}/feedback", b'{"clicked": [50]}', JSON),
        Call(
            "POST", "/recommend/interactions", b'[{"user_id": %d, "movie_id": 1, "rating": 5}]' % user, JSON
        ),
    ]
    assert [one.status for one in asyncio.run(send_all(cluster.url, calls))] == [202, 202]
    poll_until(lambda: at_rest(cluster), "the shipper has shipped", 60)
    assert user in rows(cluster, "interactions").column("user_id").to_pylist()
    assert known in rows(cluster, "feedback").column("inference_id").to_pylist()


@dataclass
class Load:
    """Requests that go on while processes die."""

    url: str
    mark: str
    sent: dict[str, bytes] = field(default_factory=dict)
    received: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    flying: set[str] = field(default_factory=set)
    failed: Counter[str] = field(default_factory=Counter)
    ended: bool = False

    async def run(self) -> None:
        """Send until it is ended; wait for all answers."""
        chance = random.Random(3)
        timeout = aiohttp.ClientTimeout(total=60)
        async with aiohttp.ClientSession(timeout=timeout) as session, asyncio.TaskGroup() as requests:
            while not self.ended:
                requests.create_task(self._one(session, f"{self.mark}-{len(self.sent)}"))
                await asyncio.sleep(chance.expovariate(RATE))

    async def _one(self, session: aiohttp.ClientSession, name: str) -> None:
        data = self.sent[name] = numbered(len(self.sent))
        self.flying.add(name)
        try:
            headers = {**JPEG, "X-Request-ID": name}
            async with session.post(f"{self.url}/detect", data=data, headers=headers) as got:
                if got.status == 200:
                    self.received[name] = await got.json()
                else:
                    self.failed[str(got.status)] += 1
        except (aiohttp.ClientError, TimeoutError) as error:
            self.failed[type(error).__name__] += 1
        finally:
            self.flying.discard(name)


async def killing(cluster: Cluster, load: Load) -> int:
    """Kill a replica, the shipper, or both, again and again; return how many requests were in flight then."""
    chance = random.Random(11)
    unanswered = 0
    for number in range(ROUNDS):
        await asyncio.sleep(chance.uniform(0.5, 3.0))
        victims: list[psutil.Process] = []
        if number % 3 != 1:
            pid = await asyncio.to_thread(ready_replica, cluster)
            victims.append(psutil.Process(pid))
        if number % 3 != 0:
            victims.append(await asyncio.to_thread(running_shipper, cluster))
        unanswered += len(load.flying)
        for victim in victims:
            victim.kill()
    return unanswered


def ready_replica(cluster: Cluster) -> int:
    """A replica's process id, once two run: one is left to answer."""

    def two() -> list[int]:
        pids = [pid for pid in cluster.replicas("detection").values() if psutil.pid_exists(pid)]
        return pids if len(pids) == 2 else []

    return random.choice(poll_until(two, "two replicas run", 90))


def running_shipper(cluster: Cluster) -> psutil.Process:
    """The shipper, once it is back."""
    found = poll_until(lambda: shipper(cluster), "the shipper runs", 60)
    assert found is not None
    return found


@pytest.fixture
def two_replicas(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster with two small detectors; one again afterwards."""
    two = {"autoscaling_config": {"min_replicas": 2, "max_replicas": 2}}
    cluster.deploy(detection={"deployment": two, "args": {"detector": {"image_size": 160, "threads": 1}}})
    try:
        poll_until(lambda: len(cluster.replicas("detection")) == 2, "two replicas run", 90)
        yield cluster
    finally:
        cluster.deploy()


def test_killed_at_random_nothing_is_lost(two_replicas: Cluster) -> None:
    """Replica, shipper or both are killed 20 times under load: each answer has one record, with its image."""
    cluster = two_replicas
    load = Load(cluster.url, f"chaos{uuid4().hex[:8]}")

    async def run() -> int:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(load.run())
            unanswered = await killing(cluster, load)
            load.ended = True
        return unanswered

    unanswered = asyncio.run(run())
    poll_until(lambda: shipper(cluster) is not None and at_rest(cluster), "the shipper rests", 120)

    found = rows(cluster, "detections").select(["inference_id", "request_id", "image_sha256"]).to_pylist()
    mine = [row for row in found if row["request_id"].startswith(load.mark)]
    often = Counter(row["inference_id"] for row in found)
    answered = {one["inference_id"] for one in load.received.values()}
    without = len(mine) - len(answered)
    print(
        f"{len(load.sent)} sent, {len(answered)} answered, {dict(load.failed)} failed, {len(mine)} records, "
        f"{without} without an answer, {unanswered} in flight at {ROUNDS} kills"
    )
    assert len(answered) > 50
    assert set(often.values()) == {1}
    assert answered <= often.keys()
    assert {row["request_id"] for row in mine} <= load.sent.keys()
    assert without <= unanswered

    images = {row["image_sha256"]: row["bytes"] for row in rows(cluster, "images").to_pylist()}
    for row in mine:
        assert row["image_sha256"] == hashlib.sha256(load.sent[row["request_id"]]).hexdigest()
        assert images[row["image_sha256"]] == load.sent[row["request_id"]]
