"""Ray's own log files, in the forms that Ray 2.60 writes: each line arrives once, parsed."""

import io
import json
import logging
import time
from datetime import datetime
from pathlib import Path

import pytest

from telemetry.logs import Logs
from tests.pipeline import Line, Pipeline
from tests.poll import poll_until

# Ray writes local time, in milliseconds.
NOW = datetime.now().astimezone()
WRITTEN = NOW.strftime("%Y-%m-%d %H:%M:%S,123")
WRITTEN_NS = int(NOW.replace(microsecond=0).timestamp()) * 10**9 + 123_000_000


class Session:
    """The folder of one Ray session, which `session_latest` points to.

    Args:
        ray: Ray's temporary folder.
        name: Unique; stands in every line that a test asks for.
    """

    def __init__(self, ray: Path, name: str) -> None:
        self.name = name
        self.logs = ray / f"session_{name}" / "logs"
        (self.logs / "serve").mkdir(parents=True)
        latest = ray / "session_latest"
        latest.unlink(missing_ok=True)
        latest.symlink_to(ray / f"session_{name}")

    def write(self, file: str, *lines: str) -> None:
        """Append lines to a file."""
        with (self.logs / file).open("a") as out:
            out.writelines(f"{line}\n" for line in lines)


@pytest.fixture
def session(pipeline: Pipeline, request: pytest.FixtureRequest) -> Session:
    """A new session, named after the test."""
    return Session(pipeline.ray, request.node.name.removeprefix("test_"))


def arrived(pipeline: Pipeline, name: str) -> list[Line]:
    """Return the lines that have this name in them."""
    return pipeline.lines(f'{{service_name="ray"}} |= "{name}"')


def settled(pipeline: Pipeline, session: Session, file: str) -> None:
    """Return once all that was written to a file before has arrived: a last line has."""
    session.write(file, f"WARNING: the end of {session.name}/{file}")
    session.write(file, "WARNING: what follows ends the line before it")
    wanted = f'{{service_name="ray"}} |= "the end of {session.name}/{file}"'
    poll_until(lambda: pipeline.lines(wanted), f"the end of {file}")


def serve_line(message: str, component: str, level: str = "INFO", **more: object) -> str:
    """Return a line of Serve's own log, as with RAY_SERVE_LOG_ENCODING=JSON."""
    line = {
        "asctime": WRITTEN,
        "levelname": level,
        "message": message,
        "filename": "controller.py",
        "lineno": 373,
        "process": 6431,
        "worker_id": "7a0592755d77f49eeee36d3613793621d2f070c5a08c9f8b6f954623",
        "component_name": component,
        "component_id": "6431",
        "timestamp_ns": WRITTEN_NS + 456_789,
        **more,
    }
    return json.dumps(line)


def test_serve(pipeline: Pipeline, session: Session) -> None:
    """Serve's JSON lines have its message as body, its level, its time, its component."""
    name = session.name
    session.write("serve/controller_6431.log", serve_line(f"{name} deployed", "controller"))
    session.write(
        "serve/proxy_192.0.2.2.log", serve_line(f"{name} slow", "proxy", "WARNING", request_id="r-5")
    )
    session.write("serve/replica_detection_Detection_x1.log", serve_line(f"{name} by OTLP", "replica"))
    deployed, slow = sorted(
        poll_until(lambda: found if len(found := arrived(pipeline, name)) == 2 else [], "two lines"),
        key=lambda line: line.body,
    )
    assert (deployed.body, slow.body) == (f"{name} deployed", f"{name} slow")
    assert deployed.labels["service_namespace"] == "glasshouse"
    assert (deployed.metadata["component"], slow.metadata["component"]) == ("controller", "proxy")
    assert (deployed.metadata["detected_level"], slow.metadata["detected_level"]) == ("info", "warn")
    assert slow.metadata["request_id"] == "r-5"
    # The collector reads JSON's numbers as floats.
    assert abs(deployed.time_ns - WRITTEN_NS - 456_789) < 1000


def test_serve_as_text(pipeline: Pipeline, session: Session) -> None:
    """Where Serve is not told to write JSON, its text is read, a traceback with the line it belongs to."""
    name = session.name
    session.write(
        "serve/controller_1.log",
        f"ERROR {WRITTEN} controller 1 -- {name} failed",
        "Traceback (most recent call last):",
        '  File "x.py", line 1, in f',
        "ValueError: boom",
        f"INFO {WRITTEN} controller 1 -- {name} goes on",
    )
    found = poll_until(lambda: lines if len(lines := arrived(pipeline, name)) == 2 else [], "two lines")
    failed = next(line for line in found if "failed" in line.body)
    assert failed.body.endswith("\nValueError: boom")
    assert failed.metadata["detected_level"] == "error"
    assert failed.time_ns == WRITTEN_NS


def test_core(pipeline: Pipeline, session: Session) -> None:
    """Lines of raylet and GCS have level, time and component; the state that they dump is left out."""
    name = session.name
    session.write(
        "raylet.out",
        f"[{WRITTEN} I 6087 6087] (raylet) main.cc:283: {name} node_id=e87c4f1c",
        f"[{WRITTEN} W 6087 6102] (raylet) store.cc:366: {name} Disconnecting client",
        f"[{WRITTEN} I 6087 6102] (raylet) store.cc:573: Plasma store debug dump: ",
        f"Current usage: {name} 0 / 0.2 GB",
        "",
        f"[state-dump] {name} Event stats:",
        f"[{WRITTEN} E 6087 6102] (raylet) agent.cc:1: {name} failed",
    )
    session.write("gcs_server.out", f"[{WRITTEN} C 5360 5360] (gcs_server) gcs.cc:1: {name} Check failed")
    found = poll_until(lambda: lines if len(lines := arrived(pipeline, name)) >= 4 else [], "four lines")
    levels = {(line.metadata["component"], line.metadata["detected_level"]) for line in found}
    assert levels == {("raylet", "info"), ("raylet", "warn"), ("raylet", "error"), ("gcs_server", "fatal")}
    assert len(found) == 4
    assert {line.time_ns for line in found} == {WRITTEN_NS}
    assert all(line.body.startswith(f"[{WRITTEN} ") for line in found)


TRACEBACK = [
    "Exception in thread Thread-1:",
    "Traceback (most recent call last):",
    '  File "x.py", line 1, in f',
    "    raise ValueError(1)",
    "ValueError: 1",
    "",
    "During handling of the above exception, another exception occurred:",
    "",
    "Traceback (most recent call last):",
    '  File "x.py", line 2, in g',
    "ray.exceptions.RayTaskError(KeyError): \x1b[36mray::f()\x1b[39m (pid=1)",
    "  KeyError: 'x'",
]


def test_workers(pipeline: Pipeline, session: Session) -> None:
    """Of a worker's stderr: tracebacks whole, Python's logging parsed, other lines alone, no markers."""
    name = session.name
    session.write(
        "worker-7a05-01000000-1.err",
        ":job_id:01000000",
        f":actor_name:{name}",
        f"{WRITTEN}\tWARNING head.py:1 -- {name} of Ray",
        f"{WRITTEN} ERROR telemetry.outbox: {name} of ours",
        f"{name} printed once",
        f"{name} printed again",
        *[line.replace("Thread-1", name) for line in TRACEBACK],
        f"/lib/x.py:12: UserWarning: {name} is odd",
        "  warnings.warn(",
    )
    settled(pipeline, session, "worker-7a05-01000000-1.err")
    found = [line for line in arrived(pipeline, name) if "the end of" not in line.body]
    bodies = sorted(line.body.rstrip() for line in found)
    assert bodies == sorted(
        [
            f"{WRITTEN}\tWARNING head.py:1 -- {name} of Ray",
            f"{WRITTEN} ERROR telemetry.outbox: {name} of ours",
            f"{name} printed once",
            f"{name} printed again",
            "\n".join(TRACEBACK).replace("Thread-1", name),
            f"/lib/x.py:12: UserWarning: {name} is odd\n  warnings.warn(",
        ]
    )
    levels = {line.metadata["detected_level"] for line in found if line.body.startswith(WRITTEN)}
    assert levels == {"warn", "error"}
    assert {line.time_ns for line in found if line.body.startswith(WRITTEN)} == {WRITTEN_NS}
    assert {line.metadata["component"] for line in found} == {"worker"}


def our_lines(name: str) -> list[str]:
    """Return lines as this project writes them to a worker's stderr."""
    console = io.StringIO()
    logs = Logs("detection", console=console)
    log = logging.getLogger(f"glasshouse.{name}")
    logs.attach(log.name)
    log.info("%s plain", name, extra={"request_id": "r-1"})
    log.info('%s with "quotes", a \\ and\na break', name)
    try:
        raise ValueError(name)
    except ValueError:
        log.exception("failed")
    logs.detach()
    return console.getvalue().splitlines()


def test_what_comes_another_way_is_left_out(pipeline: Pipeline, session: Session) -> None:
    """Our own lines (by OTLP) and Serve's (from its files) do not come from a worker's stderr; others' do."""
    name = session.name
    ours = our_lines(name)
    assert len(ours) == 3
    theirs = json.dumps({"time": "2026-11-25T00:00:00", "level": "INFO", "message": f"{name} of others"})
    file = "worker-7a06-01000000-2.err"
    session.write(
        file,
        *ours,
        f"INFO {WRITTEN} detection_Detection x1 -- {name} Started HTTP server on port 1",
        f"INFO {WRITTEN} proxy 192.0.2.2 a8e21069-7777-4746 -- {name} Client disconnected",
        serve_line(f"{name} to stderr", "replica"),
        theirs,
        ours[0],
        "Traceback (most recent call last):",
        f"ValueError: {name}",
    )
    settled(pipeline, session, file)
    found = [line.body for line in arrived(pipeline, name) if "the end of" not in line.body]
    assert sorted(found) == sorted([theirs, f"Traceback (most recent call last):\nValueError: {name}"])


def test_the_dashboard_only_when_something_is_wrong(pipeline: Pipeline, session: Session) -> None:
    """Of Ray's dashboard, which logs every request, warnings and errors come."""
    name = session.name
    session.write(
        "dashboard.log",
        f"{WRITTEN}\tINFO web_log.py:1 -- {name} GET /",
        f"{WRITTEN}\tERROR head.py:1 -- {name} failed",
        f"{WRITTEN}\tINFO web_log.py:1 -- {name} GET /",
    )
    settled(pipeline, session, "dashboard.log")
    found = [line for line in arrived(pipeline, name) if "the end of" not in line.body]
    assert [line.metadata["component"] for line in found] == ["dashboard"]


def test_once_over_restarts(pipeline: Pipeline, session: Session) -> None:
    """Lines written before, during and after kills of the collector come once each, from all files."""
    name, files = session.name, ("raylet.out", "serve/controller_2.log", "worker-7a07-01000000-3.err")
    forms = {
        files[0]: lambda number: f"[{WRITTEN} I 1 1] (raylet) x.cc:1: {name} {number}.",
        files[1]: lambda number: serve_line(f"{name} {number}.", "controller"),
        files[2]: lambda number: f"{WRITTEN} WARNING x: {name} {number}.",
    }

    def write(numbers: range) -> None:
        for file in files:
            session.write(file, *(forms[file](number) for number in numbers))

    write(range(20))
    poll_until(lambda: len(arrived(pipeline, f"{name} 18.")) == 3, "lines of all files")
    for number in range(20, 80):
        write(range(number, number + 1))
        if number % 15 == 0:
            pipeline.backends.kill("otelcol")
        if number % 15 == 4:
            pipeline.backends.start_one("otelcol")
        time.sleep(0.05)  # Ray writes on
    poll_until(lambda: len(arrived(pipeline, f"{name} 79.")) == 3, "the last lines")
    found = sorted(line.body.split(f"{name} ")[1] for line in arrived(pipeline, f"{name} "))
    assert found == sorted(f"{number}." for number in range(80) for _ in files)


def test_a_new_session_is_followed(pipeline: Pipeline, session: Session) -> None:
    """The files of a new session are read from their beginning, and those of the old one not again."""
    session.write("raylet.out", f"[{WRITTEN} I 1 1] (raylet) x.cc:1: {session.name} old")
    poll_until(lambda: arrived(pipeline, f"{session.name} old"), "the old session's line")
    session.write("raylet.out", f"[{WRITTEN} I 1 1] (raylet) x.cc:1: {session.name} last")
    poll_until(lambda: arrived(pipeline, f"{session.name} last"), "the old session's last line")
    after = Session(pipeline.ray, f"{session.name}_after")
    after.write("raylet.out", f"[{WRITTEN} I 1 1] (raylet) x.cc:1: {after.name} new")
    poll_until(lambda: arrived(pipeline, f"{after.name} new"), "the new session's line")
    assert len(arrived(pipeline, session.name)) == 3


def test_a_collector_that_comes_later(pipeline: Pipeline, session: Session) -> None:
    """What Ray wrote before the collector was there is read."""
    pipeline.backends.kill("otelcol")
    session.write("gcs_server.out", f"[{WRITTEN} I 1 1] (gcs_server) x.cc:1: {session.name} early")
    pipeline.backends.start_one("otelcol")
    poll_until(lambda: arrived(pipeline, f"{session.name} early"), "the early line")


def test_rotation(pipeline: Pipeline, session: Session) -> None:
    """A file that Ray renames and begins anew is read to its end, and the new one from its beginning."""
    file, name = "serve/controller_3.log", session.name
    session.write(file, *(serve_line(f"{name} {number}.", "controller") for number in range(50)))
    path = session.logs / file
    path.rename(path.with_name("controller_3.log.1"))
    session.write(file, *(serve_line(f"{name} {number}.", "controller") for number in range(50, 60)))
    poll_until(lambda: arrived(pipeline, f"{name} 59."), "the last line")
    found = sorted(line.body for line in arrived(pipeline, f"{name} "))
    assert found == sorted(f"{name} {number}." for number in range(60))


def test_nothing_is_refused(pipeline: Pipeline) -> None:
    """After all of the above, neither Loki nor Prometheus has refused anything."""
    said = (pipeline.logs / "otelcol.log").read_text()
    assert "Dropping data" not in said
    assert pipeline.ask('{__name__=~"otelcol_exporter_(send|enqueue)_failed_.+"} > 0') == []
