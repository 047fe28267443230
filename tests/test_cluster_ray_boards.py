"""Ray's own boards, unmodified, on our Prometheus."""

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.load import Call, closed_loop
from tests.bad_requests import JPEG, JSON, PNG
from tests.cluster import Cluster
from tests.photos import jpeg_bytes
from tests.pipeline import Pipeline
from tests.poll import poll_until

pytestmark = [pytest.mark.cluster, pytest.mark.data]

BOARDS = ("serve_grafana_dashboard.json", "serve_deployment_grafana_dashboard.json")
ERRORS = "deployment_error_counter"
# Queries that have nothing to show here, by a word of them, and why. docs/ray-dashboard.md lists them.
EMPTY = {
    "grpc": "Serve takes HTTP only.",
    "multiplexed": "No deployment is multiplexed.",
    "ray_node_gpus_utilization": "Only with a GPU.",
    "ray_node_gram_used": "Only with a GPU.",
    ERRORS: "Counts exceptions that leave a deployment; ours are answered as JSON.",
    "autoscaler_recently_failed_nodes": "No node has failed.",
    "num_scheduling_tasks": "HAProxy sends to replicas directly: no router of Serve chooses one.",
}


def queries(folder: Path) -> Iterator[tuple[str, str]]:
    """Return title and expression of every query of the Serve boards, each variable being `all`."""
    for board in BOARDS:
        panels = json.loads((folder / board).read_text())["panels"]
        while panels:
            panel: dict[str, Any] = panels.pop()
            panels.extend(panel.get("panels", []))
            for target in panel.get("targets", []):
                yield panel["title"], re.sub(r"\$\w+", ".*", target["expr"])


def mixed(number: int) -> Call:
    """Return one of three requests: a photograph, a user, an error."""
    return [
        Call("POST", "/detect", jpeg_bytes("bus"), JPEG),
        Call("POST", "/recommend", b'{"user_id": 1}', JSON),
        Call("POST", "/detect", b"not an image", PNG),
    ][number % 3]


def test_rays_prometheus_check_succeeds(cluster: Cluster, watched: Pipeline) -> None:
    """The check behind the metrics pages of Ray's dashboard finds our Prometheus."""
    answer = cluster.head.request("GET", "/api/prometheus_health")
    assert answer["result"] is True


def test_every_serve_panel_that_applies_has_data(cluster: Cluster, watched: Pipeline) -> None:
    """Every query of Ray's Serve boards returns data from our Prometheus, but for those listed."""
    folder = cluster.head.temp / "session_latest" / "metrics" / "grafana" / "dashboards"

    def empty() -> dict[str, str]:
        asyncio.run(closed_loop(cluster.url, mixed, clients=2, duration_s=3))
        return {query: title for title, query in queries(folder) if not watched.ask(query)}

    def unexpected() -> list[str]:
        return [
            f"{title}: {query}"
            for query, title in empty().items()
            if not any(word in query for word in EMPTY)
        ]

    assert len(list(queries(folder))) > 50
    # A rate needs two samples with the traffic in between.
    poll_until(lambda: not unexpected(), "data in every panel", 120)
    unused = [word for word in EMPTY if not any(word in query for query in empty())]
    # Serve also counts a request whose client left before the answer, which other tests' clients do.
    assert watched.ask('ray_serve_deployment_error_counter_total{exception_type!="CancelledError"}') == []
    assert all(word == ERRORS or "GPU" in EMPTY[word] for word in unused)


def test_the_data_is_of_this_session(cluster: Cluster, watched: Pipeline) -> None:
    """Ray's series carry the name of the session that runs, by which its boards tell clusters apart."""
    session = (cluster.head.temp / "session_latest").resolve().name
    query = "count by (SessionName) (ray_node_cpu_utilization)"
    found = poll_until(lambda: watched.ask(query), query, 60)
    assert [one["metric"]["SessionName"] for one in found] == [session]
