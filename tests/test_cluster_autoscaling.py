"""Replicas come with the load and go with it, and no request notices."""

import asyncio

import pytest

from bench.load import Call, Outcome, closed_loop
from tests.bad_requests import JPEG
from tests.cluster import Cluster
from tests.photos import jpeg_bytes
from tests.poll import poll_until

pytestmark = [pytest.mark.cluster, pytest.mark.data]

# As in serve_config.yaml, with delays of seconds instead of minutes.
QUICK = {
    "min_replicas": 1,
    "max_replicas": 2,
    "target_ongoing_requests": 4,
    "look_back_period_s": 4,
    "upscale_delay_s": 4,
    "downscale_delay_s": 6,
    "metrics_interval_s": 1,
}


def photo(_: int) -> Call:
    """Return a request with a photograph."""
    return Call("POST", "/detect", jpeg_bytes("bus"), JPEG)


def test_one_two_one_without_a_failed_request(cluster: Cluster) -> None:
    """A load step takes the detector from one replica to two and back; every request gets its 200."""
    outcomes: list[Outcome] = []

    def replicas_under(clients: int) -> int:
        outcomes.extend(asyncio.run(closed_loop(cluster.url, photo, clients=clients, duration_s=2)))
        return len(cluster.replicas("detection"))

    cluster.deploy(detection={"deployment": {"autoscaling_config": QUICK}})
    try:
        assert replicas_under(1) == 1
        poll_until(lambda: replicas_under(12) == 2, "a second replica", timeout_s=180)
        for _ in range(3):
            replicas_under(12)
        poll_until(lambda: replicas_under(1) == 1, "one replica again", timeout_s=180)
        for _ in range(3):
            replicas_under(1)
    finally:
        cluster.deploy()
    failed = [(one.status, one.body[:200]) for one in outcomes if one.status != 200]
    print(f"{len(outcomes)} requests")
    assert failed == []
