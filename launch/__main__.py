"""`python -m launch`: fetch, start, deploy, say where it is, and end it all at Ctrl-C."""

import argparse
import os
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import yaml

from deployments.config_file import problems
from deployments.preflight import fetch_and_check
from deployments.settings import CHECKOUT, home
from launch.deploy import DeployFailed, deploy
from launch.ports import Ports, PortTaken
from launch.ray_head import RayHead, StartFailed
from models import artifacts


def main(arguments: list[str] | None = None) -> int:
    """Run until interrupted; return the exit code."""
    options = _parse(arguments)
    try:
        config = _read_config(options.config)
        ports = _ports(config, options.free_ports)
        if found := fetch_and_check(config, _say):
            raise _BadConfig(f"{options.config.name} is wrong:\n  " + "\n  ".join(found))
        return _serve(config, ports, _stop_at_signals())
    except (artifacts.ArtifactError, PortTaken, StartFailed, _BadConfig) as error:
        _say(f"failed: {error}")
        return 1
    except KeyboardInterrupt:
        _say("stopped; nothing was started yet")
        return INTERRUPTED


INTERRUPTED = 130  # as a shell reports SIGINT


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


def _stop_at_signals() -> threading.Event:
    """From here on Ctrl-C and SIGTERM end everything in order."""
    stop = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        if not stop.is_set():
            # Not through sys.stdout: the signal may have come in the middle of a write to it.
            os.write(1, f"{time.strftime('%H:%M:%S')} stopping\n".encode())
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    return stop


def _serve(config: dict[str, Any], ports: Ports, stop: threading.Event) -> int:
    head = RayHead(home() / "run", ports)
    failed = True
    try:
        _say("Ray starts (about 30 s)")
        head.start(stop)
        if not stop.is_set():
            deploy(head, config, note=_say, stop=stop)
        if not stop.is_set():
            _say_where(head, config)
        failed = _watch(head, stop)
    except DeployFailed as error:
        _say(f"failed: {error}")
    finally:
        head.stop(_say, keep_logs=failed)
        _say("stopped")
    return 1 if failed else 0


def _watch(head: RayHead, stop: threading.Event) -> bool:
    """Wait for the signal; tell whether Ray ended before it."""
    while not stop.wait(1):
        if not head.alive():
            _say(f"failed: Ray ended by itself; see {head.folder / 'ray-head.log'}")
            return True
    return False


def _say_where(head: RayHead, config: dict[str, Any]) -> None:
    lines = [f"  {head.url}{one['route_prefix']}/docs" for one in config["applications"]]
    _say(
        "\n".join(
            [
                "everything is up. Ctrl-C ends it.",
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
