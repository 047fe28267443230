"""`python -m launch`: fetch, start, deploy, say where it is, and end it all at Ctrl-C."""

import argparse
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from deployments.config_file import problems
from deployments.settings import CHECKOUT, home
from launch.deploy import DeployFailed, deploy
from launch.ports import Ports, PortTaken
from launch.ray_head import RayHead, StartFailed
from models import artifacts


def main(arguments: list[str] | None = None) -> int:
    """Run until interrupted; return the exit code."""
    options = _parse(arguments)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: stop.set())
    try:
        config = _read_config(options.config)
        _fetch(config)
        return _serve(config, options.free_ports, stop)
    except (artifacts.ArtifactError, DeployFailed, PortTaken, StartFailed, _BadConfig) as error:
        _say(f"failed: {error}")
        return 1


class _BadConfig(ValueError):
    """The configuration is wrong; the message says where."""


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m launch", description=__doc__)
    parser.add_argument("--config", type=Path, default=CHECKOUT / "serve_config.yaml")
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


def _fetch(config: dict[str, Any]) -> None:
    """Fetch what the configuration names before anything starts: with progress, and failing early."""
    for application in config["applications"]:
        args = application.get("args") or {}
        wanted = (args.get("detector", {}).get("weights"), args.get("recommender", {}).get("ratings"))
        for name in wanted:
            if name in artifacts.names():
                path = artifacts.fetch(name, progress=_say)
                _say(f"{name}: {path}")


def _serve(config: dict[str, Any], free_ports: bool, stop: threading.Event) -> int:
    options = config.setdefault("http_options", {})
    ports = (
        Ports.free()
        if free_ports
        else replace(Ports(), **({"serve": options["port"]} if "port" in options else {}))
    )
    options["port"] = ports.serve
    head = RayHead(home() / "run", ports)
    try:
        _say("Ray starts (about 20 s)")
        head.start()
        if not stop.is_set():
            deploy(head, config, note=_say, stop=stop)
        if not stop.is_set():
            _say_where(head, config)
        while not stop.wait(1):
            if not head.alive():
                _say(f"Ray ended by itself; see {head.folder / 'ray-head.log'}")
                return 1
    finally:
        _say("stopping")
        head.stop(_say)
        _say("stopped")
    return 0


def _say_where(head: RayHead, config: dict[str, Any]) -> None:
    lines = [f"  {head.url}{one['route_prefix']}/docs" for one in config["applications"]]
    _say(
        "\n".join(
            [
                "everything is up. Ctrl-C ends it.",
                *lines,
                f"  {head.dashboard_url}  Ray dashboard; its token is in {head.token_path}",
            ]
        )
    )


def _say(text: str) -> None:
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
