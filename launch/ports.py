"""Who listens on which port, on this machine."""

import socket
from dataclasses import dataclass, fields

import psutil

LOOPBACK = "127.0.0.1"


class PortTaken(OSError):
    """A port that we need is in use; the message names it, its purpose, and who has it."""


@dataclass(frozen=True, slots=True)
class Ports:
    """The ports of one Ray cluster with Serve; the defaults are those of DESIGN §5 and of Ray."""

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
    def free(cls) -> "Ports":
        """Return ports that nobody listens on now, for a cluster beside others."""
        names = [field.name for field in fields(cls) if field.name != "first_replica"]
        with_sockets = [_bound_socket() for _ in names]
        ports = {name: int(bound.getsockname()[1]) for name, bound in zip(names, with_sockets, strict=True)}
        for bound in with_sockets:
            bound.close()
        # Replicas count up from their first port and step over those that are taken; below the ports that the
        # system gives out, above those of Ray's workers.
        return cls(**ports, first_replica=20000 + ports["serve"] % 400 * 20)

    def check(self) -> None:
        """Raise `PortTaken` for the first port that somebody else listens on."""
        for field in fields(self):
            port = getattr(self, field.name)
            if field.name != "first_replica" and _listens(port):
                purpose = field.name.replace("_", " ")
                raise PortTaken(
                    f"Port {port} ({purpose}) is in use{_owner(port)}. End that program "
                    "(another glasshouse, or Ray?), or run beside it: "
                    ".venv/bin/python -m launch --free-ports. "
                    "Serve's own port is http_options.port in serve_config.yaml."
                )


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
