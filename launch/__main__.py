"""`python -m launch`: fetch, start, deploy, say where it is, and end it all at Ctrl-C.

The telemetry pipeline comes up beside the applications; `GLASSHOUSE_TELEMETRY=off` leaves it out.
"""

import argparse
import atexit
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import yaml

from deployments.config_file import problems
from deployments.preflight import fetch_and_check
from launch.backends import Backends
from launch.deploy import DeployFailed, deploy
from launch.dotenv import BadSetting
from launch.pipeline import Pipeline
from launch.ports import BackendPorts, Ports, PortTaken
from launch.processes import StartFailed
from launch.ray_head import RayHead
from models import artifacts
from store.places import CHECKOUT, home
from telemetry.otlp import Mode, OtlpSettings


def main(arguments: list[str] | None = None) -> int:
    """Run until interrupted; return the exit code."""
    options = _parse(arguments)
    try:
        config = _read_config(options.config)
        ports = _ports(config, options.free_ports)
        backend_ports = _backend_ports(options.free_ports)
        if found := fetch_and_check(config, _say):
            raise _BadConfig(f"{options.config.name} is wrong:\n  " + "\n  ".join(found))
        stop = _stop_at_signals()
        if backend_ports is None:
            return _serve(config, RayHead(home() / "run", ports), None, stop)
        with _state(options.free_ports) as folder:
            environ = {name: os.environ.get(name) or value for name, value in backend_ports.environ.items()}
            head = RayHead(home() / "run", ports, environ=environ)
            make = partial(Backends.beside, head, folder, backend_ports, logs=home() / "logs")
            return _serve(config, head, Pipeline(make, _say, stop), stop)
    except (artifacts.ArtifactError, PortTaken, StartFailed, BadSetting, _BadConfig) as error:
        _say(f"failed: {error}")
        return 1
    except KeyboardInterrupt:
        _say("stopped; nothing was started yet")
        return INTERRUPTED


INTERRUPTED = 130  # as a shell reports SIGINT
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _BadConfig(ValueError):
    """The configuration is wrong; the message says where."""


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m launch", description=__doc__)
    parser.add_argument(
        "--config", type=Path, default=CHECKOUT / "serve_config.yaml", help="default: the checkout's own"
    )
    parser.add_argument(
        "--free-ports", action="store_true", help="take any free ports instead of the usual ones"
    )
    return parser.parse_args(arguments)


def _read_config(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise _BadConfig(f"{path} does not exist.")
    text = path.read_text(encoding="utf-8")
    if found := problems(text):
        raise _BadConfig(f"{path.name} is wrong:\n  " + "\n  ".join(found))
    return dict(yaml.safe_load(text))


def _ports(config: dict[str, Any], free: bool) -> Ports:
    """Return who is to listen where, and put Serve's port into the configuration."""
    options = config.setdefault("http_options", {})
    usual = replace(Ports(), **({"serve": options["port"]} if "port" in options else {}))
    ports = Ports.free() if free else usual
    ports.check()
    options["port"] = ports.serve
    return ports


def _backend_ports(free: bool, environ: Mapping[str, str] = os.environ) -> BackendPorts | None:
    """Return who of the telemetry pipeline listens where; None where telemetry is switched off."""
    try:
        if OtlpSettings.read(environ).mode is Mode.OFF:
            return None
    except ValueError as error:
        raise _BadConfig(str(error)) from None
    ports = BackendPorts.free(environ) if free else BackendPorts.read(environ)
    ports.check()
    return ports


@contextlib.contextmanager
def _state(free: bool) -> Iterator[Path]:
    """Give the backends a folder: the usual one, or one of their own beside another glasshouse."""
    if not free:
        yield home() / "telemetry"
        return
    folder = Path(tempfile.mkdtemp(prefix="gh-telemetry-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _stop_at_signals() -> threading.Event:
    """From here on Ctrl-C and SIGTERM, however many, end everything in order."""
    stop = threading.Event()
    said, say = os.pipe()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        # No lock may be taken here: what the signal interrupted, another signal's handler perhaps, may
        # hold it. Event.set() takes one.
        os.write(say, b".")

    def listen() -> None:
        os.read(said, 1)
        _say("stopping")
        stop.set()

    threading.Thread(target=listen, name="signals", daemon=True).start()
    for number in SIGNALS:
        signal.signal(number, on_signal)
    # In its last milliseconds the interpreter takes its handlers away, and the next signal would kill it.
    atexit.register(_ignore_signals)
    return stop


def _ignore_signals() -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _serve(config: dict[str, Any], head: RayHead, pipeline: Pipeline | None, stop: threading.Event) -> int:
    failed = True
    try:
        if pipeline is not None:
            pipeline.start()
        _say("Ray starts (about 30 s)")
        head.start(stop)
        if not stop.is_set():
            deploy(head, config, note=_say, stop=stop)
        if not stop.is_set():
            _say_where(head, config)
        failed = _watch(head, pipeline, stop)
    except DeployFailed as error:
        _say(f"failed: {error}")
    finally:
        stop.set()
        # Ray's logs tell nothing where it was a program of the pipeline that failed.
        head.stop(_say, keep_logs=failed and (pipeline is None or pipeline.failure() is None))
        if pipeline is not None:
            pipeline.end()
        _say("stopped")
    return 1 if failed else 0


def _watch(head: RayHead, pipeline: Pipeline | None, stop: threading.Event) -> bool:
    """Wait for the signal, or for the end of something; tell whether something ended by itself."""
    said = pipeline is None
    while not stop.wait(1):
        if not head.alive():
            _say(f"failed: Ray ended by itself; see {head.folder / 'ray-head.log'}")
            return True
        if pipeline is not None and not said and pipeline.up():
            said = True
            _say("\n".join(["telemetry is up.", *(f"  {line}" for line in pipeline.where())]))
            _say(f"both applications answer at {head.url}. Ctrl-C ends everything.")
    if pipeline is not None and (failure := pipeline.failure()):
        _say(f"failed: {failure}")
        return True
    return False


def _say_where(head: RayHead, config: dict[str, Any]) -> None:
    lines = [f"  {head.url}{one['route_prefix']}/docs" for one in config["applications"]]
    _say(
        "\n".join(
            [
                "both applications answer. Ctrl-C ends everything.",
                *lines,
                f"  {head.dashboard_url}  Ray dashboard; it asks for the token in {head.token_path}",
            ]
        )
    )


def _say(text: str) -> None:
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
