"""Both applications on the real cluster: answered, identified, reconfigured, sharing one GPU."""

import asyncio
import subprocess
import sys
from typing import Any

import pytest

from bench.load import Call, Outcome, send_all
from launch.deploy import DeployFailed
from tests.bad_requests import JPEG, JSON
from tests.cluster import Cluster, answer
from tests.photos import jpeg_bytes
from tests.poll import poll_until

pytestmark = [pytest.mark.cluster, pytest.mark.data]


def send(cluster: Cluster, call: Call) -> Outcome:
    """Send one request through the ingress; redirects are not followed."""
    return asyncio.run(send_all(cluster.url, [call]))[0]


def photo(**headers: str) -> Call:
    """Return a request with a photograph."""
    return Call("POST", "/detect", jpeg_bytes("bus"), {**JPEG, **headers})


def test_both_answer_without_a_redirect(cluster: Cluster) -> None:
    """`POST /detect` and `POST /recommend` are answered at exactly these paths."""
    boxes, films = send(cluster, photo()), send(cluster, Call("POST", "/recommend", b'{"user_id":1}', JSON))
    assert (boxes.status, films.status) == (200, 200)
    assert [one["class_name"] for one in answer(boxes.body)["detections"]].count("bus") == 1
    assert len(answer(films.body)["items"]) == 10


def test_a_request_keeps_its_id(cluster: Cluster) -> None:
    """`X-Request-ID` is echoed once, made where it is missing, and named in an error's body."""
    assert send(cluster, photo(**{"X-Request-ID": "camera-7"})).headers["X-Request-ID"] == "camera-7"
    made = send(cluster, Call("POST", "/detect", b"no image", JPEG))
    assert len(made.headers["X-Request-ID"]) > 10
    assert answer(made.body)["error"]["request_id"] == made.headers["X-Request-ID"]


def test_documentation_is_served(cluster: Cluster) -> None:
    """OpenAPI pages stand where DESIGN says, and find their schema."""
    for prefix in ("/detect", "/recommend"):
        status, page = cluster.get(prefix + "/docs")
        assert (status, f"{prefix}/openapi.json" in page.decode()) == (200, True)
        assert cluster.get(prefix + "/openapi.json")[0] == 200


def test_limits_change_without_a_restart(cluster: Cluster) -> None:
    """A changed `user_config` holds at once, in the same processes."""
    before = cluster.replicas("detection")
    cluster.deploy(detection={"deployment": {"user_config": {"max_body_bytes": 1000}}})
    try:
        poll_until(lambda: send(cluster, photo()).status == 413, "the new limit")
    finally:
        cluster.deploy()
    poll_until(lambda: send(cluster, photo()).status == 200, "the old limit")
    assert cluster.replicas("detection") == before


def test_an_unknown_key_is_refused_by_name(cluster: Cluster) -> None:
    """A misspelt setting fails the deployment with its name, and the running replica stays."""
    before = cluster.replicas("recommendation")
    with pytest.raises(DeployFailed, match="factorz"):
        cluster.deploy(recommendation={"args": {"recommender": {"factorz": 1}}})
    assert send(cluster, Call("POST", "/recommend", b'{"user_id":1}', JSON)).status == 200
    cluster.deploy()
    assert cluster.replicas("recommendation") == before


def resources(cluster: Cluster) -> dict[str, Any]:
    """Ask Ray, from a driver of its own, what is left to hand out."""
    program = (
        "import ray, json; ray.init(log_to_driver=False, configure_logging=False);"
        "print(json.dumps(ray.available_resources()))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        env=cluster.head.environ,
        capture_output=True,
        text=True,
        check=True,
    )
    return answer(done.stdout.splitlines()[-1].encode())


def test_each_replica_reserves_its_share(cluster: Cluster) -> None:
    """Of the one GPU that the cluster claims, the detector has 0.4 and the recommender 0.2."""
    left = poll_until(lambda: resources(cluster), "Ray's account", timeout_s=60)
    assert left["GPU"] == pytest.approx(1 - 0.4 - 0.2)


@pytest.mark.parametrize("application", ["detection", "recommendation"])
def test_cuda_without_cuda_fails_in_one_sentence(cluster: Cluster, application: str) -> None:
    """`device: cuda` on a machine that has none fails at the start, and says so in one line."""
    try:
        with pytest.raises(DeployFailed) as failed:
            cluster.deploy(**{application: {"args": {"device": "cuda"}}})
    finally:
        cluster.deploy()
    assert "cuda" in str(failed.value).lower()
    assert "\n" not in str(failed.value)
    assert str(failed.value).count(". ") <= 1
