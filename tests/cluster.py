"""The one real Ray cluster of a test run, with both applications on it."""

import copy
import json
import shutil
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import yaml

from launch.deploy import deploy
from launch.ports import Ports
from launch.ray_head import RayHead
from store.places import CHECKOUT

EXPORT_S = 2.0  # seconds between two exports of metrics: the default's 10 would make the tests slower
NUM_CPUS = 4  # what Ray may hand out; two detector replicas and a recommender must find their place


def default_config(port: int) -> dict[str, Any]:
    """Return `serve_config.yaml` on another port, with one replica each."""
    config: dict[str, Any] = yaml.safe_load((CHECKOUT / "serve_config.yaml").read_text())
    config["http_options"]["port"] = port
    detection = config["applications"][0]["deployments"][0]
    detection["autoscaling_config"].update(min_replicas=1, max_replicas=1)
    return config


class Cluster:
    """Ray with Serve and HAProxy on free ports, one GPU claimed that is not there.

    Args:
        home: Where models and logs are kept.
        environ: Variables for Ray's processes.
    """

    def __init__(self, home: Path, environ: Mapping[str, str] | None = None) -> None:
        self.head = RayHead(
            home / "run",
            Ports.free(),
            num_cpus=NUM_CPUS,
            num_gpus=1,
            environ={
                "GLASSHOUSE_HOME": str(home),
                "OTEL_METRIC_EXPORT_INTERVAL": f"{EXPORT_S * 1000:.0f}",
                **(environ or {}),
            },
        )
        self.url = self.head.url
        self.config = default_config(self.head.ports.serve)

    def start(self) -> None:
        """Start Ray, and both applications with the settings of `serve_config.yaml`."""
        self.head.start()
        deploy(self.head, self.config)

    def deploy(self, **changes: Mapping[str, Any]) -> None:
        """Deploy with changes: application name → keys to merge over `serve_config.yaml`.

        A change under `deployment` is merged into the application's only deployment.
        """
        config = copy.deepcopy(self.config)
        for application in config["applications"]:
            change = dict(changes.get(application["name"], {}))
            _merge(application["deployments"][0], change.pop("deployment", {}))
            _merge(application, change)
        deploy(self.head, config)

    def application(self, name: str) -> dict[str, Any]:
        """Return Serve's account of an application."""
        return dict((self.head.applications() or {})[name])

    def replicas(self, name: str) -> dict[str, int]:
        """Return the running replicas of an application's deployment: id → process id."""
        (deployment,) = self.application(name)["deployments"].values()
        return {
            replica["replica_id"]: replica["pid"]
            for replica in deployment["replicas"]
            if replica["state"] == "RUNNING"
        }

    def rss_bytes(self, name: str) -> int:
        """Return the resident memory of an application's replicas."""
        return sum(psutil.Process(pid).memory_info().rss for pid in self.replicas(name).values())

    def get(self, path: str) -> tuple[int, bytes]:
        """GET one path through the ingress; errors are answers too."""
        return self.get_url(self.url + path)

    def get_url(self, url: str) -> tuple[int, bytes]:
        """GET any address of this cluster, without a token."""
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def stop(self) -> None:
        """End every process, and remove Ray's temporary files."""
        self.head.stop()
        shutil.rmtree(self.head.temp, ignore_errors=True)


def answer(body: bytes) -> dict[str, Any]:
    """Parse an answer."""
    parsed: dict[str, Any] = json.loads(body)
    return parsed


def _merge(into: dict[str, Any], changes: Mapping[str, Any]) -> None:
    for key, value in changes.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = copy.deepcopy(value)
