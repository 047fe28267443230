"""Component by signal, log lines: each way to end, and Ray's own components, in Loki; and the way to them."""

import asyncio
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import pytest

from bench.load import Call, Outcome, send_all
from telemetry import schema
from telemetry.schema import prometheus_name
from tests.bad_requests import JPEG, JSON, PNG
from tests.cluster import Cluster
from tests.photos import jpeg_bytes
from tests.pipeline import Line, Pipeline
from tests.poll import poll_until

pytestmark = [pytest.mark.cluster, pytest.mark.data]

PIPELINE_S = 60.0
LEVELS = {"debug", "info", "warn", "error", "fatal"}
BUS = jpeg_bytes("bus")
PROBE = {"X-Glasshouse-Probe": "test"}


@dataclass(frozen=True)
class Row:
    """One kind of request, and the line that it must leave.

    Args:
        service: Who answers.
        outcome: See `telemetry.schema.OUTCOME`.
        level: As Loki detects it.
        call: What is sent.
        tunables: `user_config` under which it ends so.
        times: How many are sent at once; the outcome is that of one of them at least.
    """

    service: str
    outcome: str
    level: str
    call: Call
    tunables: Mapping[str, Any] = field(default_factory=dict)
    times: int = 1


PHOTO = Call("POST", "/detect", BUS, JPEG)
USER = Call("POST", "/recommend", b'{"user_id": 1}', JSON)
ONE_AT_A_TIME = {"admission": {"max_waiting": 1}}
NO_TIME = {"admission": {"deadline_s": 0.001}}
ROWS = [
    Row("detection", "answered", "info", PHOTO),
    Row("detection", "answered", "info", Call("POST", "/detect/render", BUS, JPEG)),
    Row("detection", "answered", "info", Call("POST", "/detect", BUS, {**JPEG, **PROBE})),
    Row("detection", "answered", "warn", PHOTO, {"slow_s": 0.001}),
    Row("detection", "invalid", "info", Call("POST", "/detect", b"not an image", PNG)),
    Row("detection", "refused", "warn", PHOTO, ONE_AT_A_TIME, times=12),
    Row("detection", "late", "warn", PHOTO, NO_TIME),
    Row("recommendation", "answered", "info", USER),
    Row("recommendation", "answered", "info", Call("POST", "/recommend", USER.body, {**JSON, **PROBE})),
    Row("recommendation", "invalid", "info", Call("POST", "/recommend", b"{", JSON)),
    Row("recommendation", "refused", "warn", USER, ONE_AT_A_TIME, times=48),
    Row("recommendation", "late", "warn", USER, NO_TIME),
]


def send(cluster: Cluster, row: Row) -> list[Outcome]:
    """Send a row's requests, each with an id of its own."""
    calls = []
    for _ in range(row.times):
        headers = {**row.call.headers, "X-Request-ID": uuid4().hex}
        calls.append(Call(row.call.method, row.call.path, row.call.body, headers))
    cluster.deploy(**{row.service: {"deployment": {"user_config": dict(row.tunables)}}})
    try:
        return asyncio.run(send_all(cluster.url, calls, at_once=row.times))
    finally:
        if row.tunables:
            cluster.deploy()


def lines_of(watched: Pipeline, row: Row, outcomes: list[Outcome]) -> list[Line]:
    """Return the lines that these requests left, once each has one."""
    ids = "|".join(one.call.headers["X-Request-ID"] for one in outcomes)
    query = f'{{service_name="{row.service}"}} | outcome!="" | request_id=~"{ids}"'
    return poll_until(
        lambda: found if len(found := watched.lines(query)) >= len(outcomes) else [], query, PIPELINE_S
    )


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.service}-{row.outcome}-{row.level}")
def test_every_request_leaves_one_line(row: Row, cluster: Cluster, watched: Pipeline) -> None:
    """Each request leaves one line: outcome, level, request id, trace id, and an inference id if answered."""
    outcomes = send(cluster, row)
    lines = lines_of(watched, row, outcomes)
    assert len(lines) == len(outcomes)
    assert len({line.metadata["request_id"] for line in lines}) == len(lines)
    by_outcome = {line.metadata["outcome"]: line for line in lines}
    assert by_outcome[row.outcome].metadata["detected_level"] == row.level
    for line in lines:
        said = line.metadata
        assert re.fullmatch("[0-9a-f]{32}", said["trace_id"]) and float(said["latency_ms"]) > 0
        assert said["application"] == row.service
        assert (said["outcome"] == "answered") == ("inference_id" in said)
        assert ("probe" in said) == ("X-Glasshouse-Probe" in row.call.headers)


def test_a_line_names_the_inference_of_its_answer(cluster: Cluster, watched: Pipeline) -> None:
    """Status, latency and ids of the line are those of the answer that the client got."""
    outcomes = send(cluster, ROWS[0])
    (line,) = lines_of(watched, ROWS[0], outcomes)
    assert line.metadata["inference_id"] == json.loads(outcomes[0].body)["inference_id"]
    assert line.metadata["status"] == "200"
    assert float(line.metadata["latency_ms"]) / 1e3 <= outcomes[0].latency_s
    stages = [float(line.metadata[f"{stage}_ms"]) for stage in ("decode", "queue", "inference", "post")]
    assert sum(stages) <= float(line.metadata["latency_ms"])


@pytest.mark.parametrize("metric", [schema.HTTP_DURATION, schema.STAGE_DURATION], ids=lambda one: one.name)
def test_a_point_leads_to_its_line(metric: Any, cluster: Cluster, watched: Pipeline) -> None:
    """A latency's exemplar carries the trace id that a client sent, and that finds the inference's line."""
    trace = uuid4().hex
    headers = {**JPEG, "traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
    row = Row("detection", "answered", "info", Call("POST", "/detect", BUS, headers))
    outcomes = send(cluster, row)
    series = f'{prometheus_name(metric)}{{job="glasshouse/detection"}}'
    poll_until(lambda: trace in watched.exemplar_traces(series), "the exemplar", PIPELINE_S)
    query = f'{{service_name="detection"}} | trace_id="{trace}"'
    (line,) = poll_until(lambda: watched.lines(query), "the line", PIPELINE_S)
    assert line.metadata["inference_id"] == json.loads(outcomes[0].body)["inference_id"]


@pytest.mark.parametrize("component", ["controller", "proxy", "raylet", "gcs_server"])
def test_rays_own_lines_arrive(component: str, watched: Pipeline) -> None:
    """Each of Ray's components has lines in Loki, with a level that is one."""
    query = f'{{service_name="ray"}} | component="{component}"'
    lines = poll_until(lambda: watched.lines(query), component, PIPELINE_S)
    assert {line.metadata["detected_level"] for line in lines} <= LEVELS


def test_rays_lines_come_once(cluster: Cluster, watched: Pipeline) -> None:
    """The controller's file and Loki have the same lines, each as often."""
    (path,) = (cluster.head.temp / "session_latest" / "logs" / "serve").glob("controller_[0-9]*.log")

    def same() -> bool:
        written = sorted(json.loads(line)["message"] for line in path.read_text().splitlines())
        kept = watched.lines(f'{{service_name="ray"}} | log_file_name="{path.name}"')
        return len(written) == len(kept)

    poll_until(same, "as many lines as the file has", PIPELINE_S)


def test_our_lines_come_once(cluster: Cluster, watched: Pipeline) -> None:
    """What replicas write to stderr for the console is not read again from Ray's files."""
    outcomes = send(cluster, ROWS[7])
    (line,) = lines_of(watched, ROWS[7], outcomes)
    request_id = line.metadata["request_id"]
    everywhere = watched.lines(f'{{service_name=~".+"}} |= "{request_id}"')
    assert everywhere == []  # in no line's text: a copy from a file would have it there
