"""Who listens where: what `docs/security.md` says, and nothing else."""

import psutil
import pytest

from tests.cluster import Cluster

pytestmark = pytest.mark.cluster


def test_only_haproxys_statistics_listen_beyond_loopback(cluster: Cluster) -> None:
    """Every listening socket of the cluster is on loopback, but HAProxy's own two."""
    open_to_all = {
        connection.laddr[1]
        for process in cluster.head.processes()
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN and connection.laddr[0] not in {"127.0.0.1", "::1"}
    }
    assert open_to_all == {cluster.head.ports.haproxy_stats, cluster.head.ports.haproxy_metrics}


def test_the_dashboard_wants_its_token(cluster: Cluster) -> None:
    """Without the token, Ray's REST interface answers 401; the token is readable by its owner only."""
    head = cluster.head
    assert head.token_path.stat().st_mode & 0o077 == 0
    assert cluster.get_url(head.dashboard_url + "/api/serve/applications/")[0] == 401
