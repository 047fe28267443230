"""What the measurements on a running cluster share: its configuration, and the CPU of its processes."""

from collections.abc import Iterable
from typing import Any

import psutil
import yaml

from store.places import CHECKOUT

JPEG = {"Content-Type": "image/jpeg"}
JSON = {"Content-Type": "application/json"}


def one_detector(port: int) -> dict[str, Any]:
    """Return `serve_config.yaml` on another port, with one replica of the detector, always."""
    config: dict[str, Any] = yaml.safe_load((CHECKOUT / "serve_config.yaml").read_text(encoding="utf-8"))
    config["http_options"]["port"] = port
    config["applications"][0]["deployments"][0]["autoscaling_config"]["max_replicas"] = 1
    return config


def cpu_s(processes: Iterable[psutil.Process]) -> float:
    """Return the CPU seconds of those that still run, since their start."""
    return sum(sum(process.cpu_times()[:2]) for process in processes if process.is_running())
