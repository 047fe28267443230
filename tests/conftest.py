"""Fixtures of the whole suite, and the rule that only GPU tests may be skipped."""

import os
from collections.abc import Callable, Generator

import pytest

from launch.ports import BackendPorts
from tests.cluster import Cluster
from tests.pipeline import Pipeline, Process

FAIL_ON_SKIP = "GLASSHOUSE_FAIL_ON_SKIP"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip into a failure where `.ci/run` asks for it, unless the test needs a GPU."""
    report = yield
    if report.skipped and os.environ.get(FAIL_ON_SKIP) and item.get_closest_marker("gpu") is None:
        report.outcome = "failed"
        report.longrepr = f"skipped, and only tests marked gpu may be: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def backend_ports() -> BackendPorts:
    """Where the pipeline that watches the cluster will listen."""
    return BackendPorts.free()


@pytest.fixture(scope="session")
def cluster(
    tmp_path_factory: pytest.TempPathFactory, backend_ports: BackendPorts
) -> Generator[Cluster, None, None]:
    """The one cluster of this run, with both applications; a test that redeploys puts things back."""
    running = Cluster(tmp_path_factory.mktemp("glasshouse"), backend_ports.environ)
    try:
        running.start()
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="session")
def watched(
    tmp_path_factory: pytest.TempPathFactory, cluster: Cluster, backend_ports: BackendPorts
) -> Generator[Pipeline, None, None]:
    """The pipeline that watches the cluster; it comes later, and what was written before waits for it."""
    folder = tmp_path_factory.mktemp("watched")
    with Pipeline(folder, beside=cluster.head, ports=backend_ports).up() as running:
        yield running


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Generator[Pipeline, None, None]:
    """The one telemetry pipeline of this run; a test that ends a program starts it again."""
    with Pipeline(tmp_path_factory.mktemp("pipeline")).up() as running:
        yield running


@pytest.fixture
def process(
    pipeline: Pipeline, request: pytest.FixtureRequest
) -> Generator[Callable[..., Process], None, None]:
    """Start processes with telemetry into the pipeline; `service.name` is the test's name."""
    started: list[Process] = []

    def begin(**environ: str) -> Process:
        started.append(Process(pipeline, request.node.name.removeprefix("test_"), **environ))
        return started[-1]

    yield begin
    for one in started:
        one.telemetry.shutdown(1.0)
