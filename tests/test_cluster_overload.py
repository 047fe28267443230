"""The detector under more load than it can carry: batches grow, the surplus is refused, nobody is hurt."""

import asyncio
from statistics import median

import pytest

from bench.load import Call, Outcome, closed_loop, open_loop, percentile, send_all
from bench.timing import mean_batch, stages
from tests.bad_requests import JPEG
from tests.boxes import boxes, same
from tests.cluster import Cluster, answer
from tests.photos import jpeg_bytes

pytestmark = [pytest.mark.cluster, pytest.mark.data]

PHOTOS = ("bus", "zidane")


def photo(index: int) -> Call:
    """Return one of the photographs, in turn."""
    name = PHOTOS[index % len(PHOTOS)]
    return Call("POST", "/detect", jpeg_bytes(name), JPEG, tag=name)


def capacity(cluster: Cluster) -> float:
    """Return answers per second with as many clients as one batch holds."""
    outcomes = asyncio.run(closed_loop(cluster.url, photo, clients=16, duration_s=8))
    assert {outcome.status for outcome in outcomes} == {200}
    return len(outcomes) / max(outcome.started_s + outcome.latency_s for outcome in outcomes)


def test_overload_is_refused_in_order(cluster: Cluster) -> None:
    """Up to three times capacity batches grow; the surplus gets a JSON 429, fast; all else works."""
    alone = {one.call.tag: boxes(one) for one in asyncio.run(send_all(cluster.url, [photo(0), photo(1)]))}
    top = capacity(cluster)
    calm, busy = (load(cluster, share * top, 10) for share in (0.1, 0.8))
    outcomes, health = asyncio.run(overload(cluster, 3 * top))
    report(top, calm, busy, outcomes)

    assert mean_batch(calm) < mean_batch(busy) < mean_batch(outcomes)
    answered = [one for one in outcomes if one.status == 200]
    refused = [one for one in outcomes if one.status == 429]
    assert {one.status for one in outcomes} == {200, 429}
    assert all(same(boxes(one), alone[one.call.tag]) for one in answered)
    for one in refused:
        assert answer(one.body)["error"]["code"] == "overloaded"
        assert int(one.headers["Retry-After"]) >= 1
    assert {one.status for one in health} == {200}
    one_batch_s = median(stages(one).batch_ms for one in answered) / 1e3
    assert percentile([one.latency_s for one in refused], 0.99) < one_batch_s


def load(cluster: Cluster, rate: float, duration_s: float) -> list[Outcome]:
    """Offer photographs at a rate."""
    return asyncio.run(open_loop(cluster.url, photo, rate=rate, duration_s=duration_s))


async def overload(cluster: Cluster, rate: float) -> tuple[list[Outcome], list[Outcome]]:
    """Offer too many photographs, and ask for health meanwhile."""
    health = lambda _: Call("GET", "/detect/healthz")  # noqa: E731
    photos, checks = await asyncio.gather(
        open_loop(cluster.url, photo, rate=rate, duration_s=15),
        open_loop(cluster.url, health, rate=2, duration_s=15),
    )
    return photos, checks


def report(top: float, calm: list[Outcome], busy: list[Outcome], over: list[Outcome]) -> None:
    """Print what was seen, for whoever reads a failure."""
    print(f"capacity {top:.1f}/s; mean batch {[round(mean_batch(o), 2) for o in (calm, busy, over)]}")
    for status in sorted({one.status for one in over}):
        times = [one.latency_s for one in over if one.status == status]
        print(
            f"{status}: {len(times)}, p50 {percentile(times, 0.5):.3f} s, p99 {percentile(times, 0.99):.3f} s"
        )
