"""Who listens where: what takes requests is on loopback; what is not, `docs/security.md` lists."""

import contextlib

import psutil
import pytest

from tests.cluster import Cluster
from tests.poll import poll_until

pytestmark = pytest.mark.cluster


def beyond_loopback(cluster: Cluster) -> set[int]:
    """Return the ports on which the cluster listens on other than loopback addresses."""
    ports = set()
    for process in cluster.head.processes():
        with contextlib.suppress(psutil.NoSuchProcess):
            ports |= {
                connection.laddr[1]
                for connection in process.net_connections("inet")
                if connection.status == psutil.CONN_LISTEN and "127.0.0.1" not in connection.laddr[0]
            }
    return ports


def test_what_takes_requests_listens_on_loopback(cluster: Cluster) -> None:
    """Serve, its replicas and the dashboard are on loopback only; what is not is Ray's own, and listed."""
    ports = cluster.head.ports
    replicas = range(ports.first_replica, ports.first_replica + 1000)
    listed = {ports.gcs, ports.haproxy_stats, ports.haproxy_metrics}
    # HAProxy is replaced by a new process whenever replicas come and go.
    poll_until(lambda: listed <= beyond_loopback(cluster), "the ports in docs/security.md")
    open_to_all = beyond_loopback(cluster)
    assert open_to_all & {ports.serve, ports.dashboard, *replicas} == set()


def test_the_dashboard_wants_its_token(cluster: Cluster) -> None:
    """Without the token, Ray's REST interface answers 401; the token is readable by its owner only."""
    head = cluster.head
    assert head.token_path.stat().st_mode & 0o077 == 0
    assert cluster.get_url(head.dashboard_url + "/api/serve/applications/")[0] == 401
