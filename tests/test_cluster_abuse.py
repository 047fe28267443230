"""Hundreds of wrong requests of every kind, mixed with good ones, through HAProxy and Serve."""

import asyncio
import itertools
import random
from collections import Counter

import pytest

from bench.load import Call, Outcome, send_all
from tests.bad_requests import JPEG, JSON, Bad, bad_bodies, bad_uploads
from tests.boxes import boxes, same
from tests.cluster import Cluster, answer
from tests.photos import jpeg_bytes

pytestmark = [pytest.mark.cluster, pytest.mark.data]

EACH = 200
AT_ONCE = 24
GROWTH_BYTES = 400_000_000  # a leak of one 50-megapixel image in a hundred would be 12 GB
# This is about wrong requests: a slow machine must not refuse the good ones between them.
PATIENT = {"user_config": {"admission": {"deadline_s": 50}}}


def mixed(bad: list[Bad], good: Call, *, good_share: float) -> list[Call]:
    """Return every bad request `EACH` times, shuffled, with good ones between them."""
    calls = [one.call() for one in bad for _ in range(EACH)]
    calls += [good] * int(len(calls) * good_share)
    random.Random(7).shuffle(calls)
    return calls


def wrong_ones(outcomes: list[Outcome]) -> Counter[str]:
    """Count, by kind, the bad requests that did not get the status and code they must."""
    found: Counter[str] = Counter()
    for outcome in outcomes:
        bad = outcome.call.tag
        if isinstance(bad, Bad):
            code = answer(outcome.body)["error"]["code"] if outcome.status else outcome.body.decode()
            if (outcome.status, code) != (bad.status, bad.code):
                found[f"{bad.name}: {outcome.status} {code}"] += 1
    return found


def rightly_answered(outcome: Outcome, alone: Outcome) -> bool:
    """Tell whether a good request among bad ones got what it gets alone."""
    if outcome.status != 200:
        return False
    if "detections" in answer(alone.body):
        return same(boxes(outcome), boxes(alone))
    found, expected = ([item["movie_id"] for item in answer(one.body)["items"]] for one in (outcome, alone))
    return found == expected


@pytest.mark.parametrize("application", ["detection", "recommendation"])
def test_abuse_harms_nobody(cluster: Cluster, application: str) -> None:
    """Every wrong request gets its 4xx, every good one its answer, no replica restarts or swells."""
    if application == "detection":
        bad, good = bad_uploads(jpeg_bytes("bus")), Call("POST", "/detect", jpeg_bytes("bus"), JPEG, "good")
    else:
        bad, good = bad_bodies(), Call("POST", "/recommend", b'{"user_id": 1}', JSON, "good")
    cluster.deploy(**{application: {"deployment": PATIENT}})
    try:
        (alone,) = asyncio.run(send_all(cluster.url, [good]))
        # Each size of batch has memory of its own in torch, and each thread in the C library.
        asyncio.run(send_all(cluster.url, [good] * 10 * AT_ONCE, at_once=AT_ONCE))
        before, rss = cluster.replicas(application), cluster.rss_bytes(application)

        outcomes = asyncio.run(send_all(cluster.url, mixed(bad, good, good_share=0.1), at_once=AT_ONCE))

        assert wrong_ones(outcomes) == Counter()
        among = [one for one in outcomes if one.call.tag == "good"]
        assert len(among) == len(outcomes) - EACH * len(bad) > EACH
        assert [one.body[:300] for one in among if not rightly_answered(one, alone)] == []
        assert cluster.replicas(application) == before
        assert cluster.rss_bytes(application) - rss < GROWTH_BYTES
    finally:
        cluster.deploy()


def test_unknown_paths_and_methods_are_json(cluster: Cluster) -> None:
    """What is not there, and what is asked the wrong way, is answered in JSON too."""
    paths = itertools.product(("/detect", "/recommend"), ("/nothing", "/../etc/passwd", "/%00"))
    for status, body in (cluster.get(prefix + path) for prefix, path in paths):
        assert status in {404, 400}
        assert answer(body)["error"]["request_id"]
    assert cluster.get("/detect")[0] == 405
