"""Who listens on which port, on this machine."""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import ClassVar, Self

import psutil

from launch import dotenv

LOOPBACK = "127.0.0.1"


class PortTaken(OSError):
    """A port that we need is in use; the message names it, its purpose, and who has it."""


class PortSet:
    """What `Ports` and `BackendPorts` share: dataclasses whose fields are port numbers."""

    ADVICE: ClassVar[str]
    NOT_OURS: ClassVar[frozenset[str]] = frozenset()  # fields on which none of our programs listens at once

    @classmethod
    def names(cls) -> list[str]:
        """Return the names of the ports that are listened on."""
        return [field.name for field in fields(cls) if field.name not in cls.NOT_OURS]  # type: ignore[arg-type]

    @classmethod
    def unused(cls) -> dict[str, int]:
        """Return ports that nobody listens on now, by name."""
        with_sockets = {name: _bound_socket() for name in cls.names()}
        found = {name: int(bound.getsockname()[1]) for name, bound in with_sockets.items()}
        for bound in with_sockets.values():
            bound.close()
        return found

    def check(self) -> None:
        """Raise `PortTaken` for the first port that somebody else listens on."""
        for name in self.names():
            port = getattr(self, name)
            if _listens(port):
                purpose = name.replace("_", " ")
                raise PortTaken(f"Port {port} ({purpose}) is in use{_owner(port)}. {self.ADVICE}")


@dataclass(frozen=True, slots=True)
class Ports(PortSet):
    """The ports of one Ray cluster with Serve; the defaults are those of Ray, and ours."""

    ADVICE = (
        "End that program (another glasshouse, or Ray?), or run beside it: "
        ".venv/bin/python -m launch --free-ports. "
        "Serve's own port is http_options.port in serve_config.yaml."
    )
    NOT_OURS = frozenset({"first_replica"})

    serve: int = 8000
    dashboard: int = 8265
    gcs: int = 6379
    ray_client: int = 10001
    dashboard_agent: int = 52365
    metrics_export: int = 8080
    autoscaler_metrics: int = 44217
    dashboard_metrics: int = 44227
    fallback_proxy: int = 8500
    haproxy_stats: int = 8404
    haproxy_metrics: int = 9101
    first_replica: int = 30000

    @classmethod
    def free(cls) -> Self:
        """Return ports that nobody listens on now, for a cluster beside others."""
        ports = cls.unused()
        # Replicas count up from their first port and step over those that are taken; below the ports that the
        # system gives out, above those of Ray's workers.
        return cls(**ports, first_replica=20000 + ports["serve"] % 400 * 20)


@dataclass(frozen=True, slots=True)
class BackendPorts(PortSet):
    """The ports of the telemetry pipeline, see `otel-collector/.env`.

    Everybody's addresses and variables follow from them, before any program is there.
    """

    ADVICE = (
        "End that program (another glasshouse?), or run beside it: "
        ".venv/bin/python -m launch --free-ports. The ports are in otel-collector/.env."
    )
    NOT_OURS = frozenset({"grafana"})  # the user runs it, see otel-collector/compose.yaml

    otlp_grpc: int
    otlp_http: int
    collector_health: int
    collector_metrics: int
    collector_zpages: int
    prometheus: int
    loki: int
    loki_grpc: int
    alertmanager: int
    blackbox: int
    node_exporter: int
    grafana: int

    @classmethod
    def read(cls, environ: Mapping[str, str] = os.environ) -> Self:
        """Return the ports of `.env`, and over it those of the environment.

        Raises:
            BadSetting: One is not a port; names it.
        """
        settings = dotenv.read(environ=environ)
        return cls(**{field.name: _port(settings, cls.variable(field.name)) for field in fields(cls)})

    @classmethod
    def free(cls, environ: Mapping[str, str] = os.environ) -> Self:
        """Return ports that nobody listens on now, for a pipeline beside others."""
        return cls(**cls.unused(), grafana=_port(dotenv.read(environ=environ), cls.variable("grafana")))

    @staticmethod
    def variable(name: str) -> str:
        """Return the name of a port in `.env`: `otlp_http` → `OTLP_HTTP_PORT`."""
        return f"{name.upper()}_PORT"

    def settings(self) -> dict[str, str]:
        """Return them as `.env` has them."""
        return {self.variable(field.name): str(getattr(self, field.name)) for field in fields(self)}

    @property
    def urls(self) -> dict[str, str]:
        """Where each program answers, by its name."""
        ports = {
            "loki": self.loki,
            "prometheus": self.prometheus,
            "alertmanager": self.alertmanager,
            "blackbox_exporter": self.blackbox,
            "node_exporter": self.node_exporter,
            "otelcol": self.otlp_http,
            "grafana": self.grafana,
        }
        return {name: f"http://{LOOPBACK}:{port}" for name, port in ports.items()}

    @property
    def environ(self) -> dict[str, str]:
        """What Ray and the applications need in their environment to find the pipeline."""
        urls = self.urls
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": urls["otelcol"],
            # Serve's lines with level, time and request as fields; the collector's file_log reads them.
            "RAY_SERVE_LOG_ENCODING": "JSON",
            # For the panels inside Ray's dashboard. The name is the one of Grafana's data source.
            "RAY_PROMETHEUS_HOST": urls["prometheus"],
            "RAY_PROMETHEUS_NAME": "Prometheus",
            "RAY_GRAFANA_HOST": urls["grafana"],  # as the head sees it
            "RAY_GRAFANA_IFRAME_HOST": urls["grafana"],  # as the browser sees it
        }


def _port(settings: Mapping[str, str], name: str) -> int:
    text = settings.get(name)
    if text is None:
        raise dotenv.BadSetting(f"{name} is missing in otel-collector/.env.")
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise dotenv.BadSetting(f"{name}={text!r} is not a port (otel-collector/.env, or the environment).")
    return int(text)


def _bound_socket() -> socket.socket:
    bound = socket.socket()
    bound.bind((LOOPBACK, 0))
    return bound


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((LOOPBACK, port)) == 0


def _owner(port: int) -> str:
    """Name the process that listens, where the system lets us look."""
    try:
        for connection in psutil.net_connections("tcp"):
            listens = connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,)
            if listens and connection.pid:
                return f" by {psutil.Process(connection.pid).name()} (pid {connection.pid})"
    except psutil.Error:
        pass
    return ""
