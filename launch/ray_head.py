"""A Ray head node under our hand, with Serve's HAProxy ingress, an access token, and known ports."""

import contextlib
import json
import os
import secrets
import shutil
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil

from launch.ports import LOOPBACK, Ports, PortTaken
from launch.processes import ProcessTree
from launch.processes import StartFailed as StartFailed  # noqa: PLC0414 - what `start` raises

START_TIMEOUT_S = 120.0
OBJECT_STORE_BYTES = 200_000_000
POLL_S = 0.25
SHIPPER_S = 10.0
SHIPPER = "ray::ShipperActor"  # what Ray calls the process of `deployments.shipping.ShipperActor`


class RayHead:
    """One Ray head node, its Serve controller and proxies.

    Args:
        folder: Where token and log are kept.
        ports: Who listens where.
        num_cpus: CPUs that Ray may hand out; None for those of the machine.
        num_gpus: GPUs that Ray believes in; None for those of the machine.
        drain_s: Seconds for which a replica that goes still answers.
        environ: Variables for Ray's processes, beside our own environment.
    """

    def __init__(
        self,
        folder: Path,
        ports: Ports,
        *,
        num_cpus: int | None = None,
        num_gpus: int | None = None,
        drain_s: float = 2.0,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.ports = ports
        self.url = f"http://{LOOPBACK}:{ports.serve}"
        self.dashboard_url = f"http://{LOOPBACK}:{ports.dashboard}"
        self.token_path = folder / "ray-token"
        self._count = {"--num-cpus": num_cpus, "--num-gpus": num_gpus}
        # Short, whatever TMPDIR says: HAProxy takes socket paths of at most 97 bytes, and Ray puts
        # a node id of 56 into them.
        self.temp = Path(tempfile.mkdtemp(prefix="gh-", dir="/tmp"))
        self.environ = {**os.environ, **(environ or {}), **self._settings(drain_s)}
        self._tree: ProcessTree | None = None

    def start(self, stop: threading.Event | None = None) -> None:
        """Start Ray and wait until it takes applications, or `stop` is set.

        Raises:
            StartFailed: It ended, or was not ready in time.
            PortTaken: Somebody listens on a port that we need.
        """
        try:
            self.ports.check()
        except PortTaken:
            shutil.rmtree(self.temp, ignore_errors=True)
            raise
        self._write_token()
        self._tree = ProcessTree(self._command(), self.environ, self.folder / "ray-head.log")
        end = time.monotonic() + START_TIMEOUT_S
        while self.applications() is None:
            if self._tree.exit_code() is not None or time.monotonic() > end:
                words = self._tree.last_words()
                self.stop(keep_logs=True)
                raise StartFailed(f"Ray did not start. Its last words ({self._tree.log}):\n{words}")
            if stop is not None and stop.is_set():
                return
            time.sleep(POLL_S)

    def request(self, method: str, path: str, body: Any = None, timeout_s: float = 10.0) -> Any:
        """Call the dashboard's REST interface; returns the parsed answer.

        Raises:
            urllib.error.HTTPError: It refused.
            OSError: It cannot be reached.
        """
        call = urllib.request.Request(  # noqa: S310  our own loopback address
            self.dashboard_url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Authorization": f"Bearer {self.token_path.read_text().strip()}",
                "Content-Type": "application/json",
            },
        )
        with urllib.request.urlopen(call, timeout=timeout_s) as answer:  # noqa: S310
            text = answer.read()
        return json.loads(text) if text[:1] in (b"{", b"[") else text.decode()

    def applications(self) -> dict[str, Any] | None:
        """Return Serve's account of its applications by name; None while Ray does not answer."""
        try:
            answer = self.request("GET", "/api/serve/applications/")
        except (OSError, ValueError):
            return None
        return dict(answer["applications"]) if isinstance(answer, dict) else None

    def alive(self) -> bool:
        """Return whether the head process runs."""
        return self._tree is not None and self._tree.exit_code() is None

    def processes(self) -> list[psutil.Process]:
        """Return every process of this cluster (psutil)."""
        return [] if self._tree is None else self._tree.members()

    def stop(self, note: Callable[[str], None] = lambda _: None, *, keep_logs: bool = False) -> None:
        """Let the replicas finish, then end every process of this cluster. Idempotent.

        Ray's own files go with it; `keep_logs` leaves them, for somebody who wants to know why.
        """
        if self._tree is None:
            return
        if self.alive() and self.applications():
            note("replicas finish")
            try:
                self.request("DELETE", "/api/serve/applications/", timeout_s=30)
            except (OSError, ValueError) as error:
                note(f"Serve did not end by itself ({error})")
        note("Ray ends")
        self._tree.ask_to_end()
        # Ray waits half a minute for an actor that goes on; the shipper may be killed at any instruction.
        deadline = time.monotonic() + SHIPPER_S
        while self.alive() and time.monotonic() < deadline:
            for process in self.processes():
                with contextlib.suppress(psutil.Error):
                    if process.cmdline()[:1] == [SHIPPER]:
                        process.kill()
            time.sleep(0.2)
        self._tree.end()
        if keep_logs:
            note(f"Ray's logs are kept in {self.temp}")
        else:
            shutil.rmtree(self.temp, ignore_errors=True)

    def _settings(self, drain_s: float) -> dict[str, str]:
        ports, haproxy = self.ports, self.temp / "h"
        haproxy.mkdir()
        return {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token_path),
            "RAY_SERVE_ENABLE_HA_PROXY": "1",
            "RAY_SERVE_HAPROXY_NBTHREAD": "1",
            "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(haproxy / "haproxy.cfg"),
            "RAY_SERVE_HAPROXY_SOCKET_PATH": str(haproxy / "admin.sock"),
            "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(haproxy / "metrics.sock"),
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(haproxy),
            "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(haproxy / "server-state"),
            "RAY_SERVE_HAPROXY_STATS_PORT": str(ports.haproxy_stats),
            "RAY_SERVE_HAPROXY_METRICS_PORT": str(ports.haproxy_metrics),
            "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(ports.fallback_proxy),
            "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(ports.first_replica),
            "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(ports.first_replica + 1000),
            "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": f"{drain_s:g}",
            "AUTOSCALER_METRIC_PORT": str(ports.autoscaler_metrics),
            "DASHBOARD_METRIC_PORT": str(ports.dashboard_metrics),
            # At Ray's default of 15, replicas starve beside other processes.
            "RAY_worker_niceness": "0",
            # Whatever Ray's processes leave behind goes with Ray's own files.
            "TMPDIR": str(self.temp),
            "RAY_USAGE_STATS_ENABLED": "0",
            # A Ray driver must find this cluster and no other one of this machine.
            "RAY_ADDRESS": f"{LOOPBACK}:{ports.gcs}",
            # The detector sets its own number of threads; whatever else counts threads gets one.
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }

    def _write_token(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.token_path.exists():
            descriptor = os.open(self.token_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_hex(32))

    def _command(self) -> list[str]:
        ports = self.ports
        options = {
            "--node-ip-address": LOOPBACK,
            "--port": ports.gcs,
            "--ray-client-server-port": ports.ray_client,
            "--dashboard-host": LOOPBACK,
            "--dashboard-port": ports.dashboard,
            "--dashboard-agent-listen-port": ports.dashboard_agent,
            "--metrics-export-port": ports.metrics_export,
            "--object-store-memory": OBJECT_STORE_BYTES,
            "--temp-dir": self.temp,
            **{name: count for name, count in self._count.items() if count is not None},
        }
        flags = [f"{name}={value}" for name, value in options.items()]
        ray = Path(sys.executable).with_name("ray")
        return [str(ray), "start", "--head", "--block", "--disable-usage-stats", *flags]
