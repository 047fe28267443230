"""What Prometheus fetches, what probes find, and what rules make of it.

In a file that runs last of the pipeline's: by then the slow probes have asked.
"""

import yaml

from launch.dotenv import PIPELINE
from tests.pipeline import Pipeline, get
from tests.poll import poll_until


def test_every_target_is_scraped(pipeline: Pipeline) -> None:
    """Prometheus scrapes itself, the collector, Loki, Alertmanager and both exporters."""
    jobs = ("prometheus", "otelcol", "loki", "alertmanager", "blackbox_exporter", "node")
    for job in jobs:
        poll_until(lambda job=job: pipeline.value(f'up{{job="{job}"}}') == 1, f"up of {job}")  # type: ignore[misc]


def test_the_host_is_measured(pipeline: Pipeline) -> None:
    """The collector's own figures of the host have job and instance; node_exporter's are there, too."""
    found = poll_until(lambda: pipeline.ask("system_memory_usage_bytes"), "the host's memory")
    assert {series["metric"]["job"] for series in found} == {"glasshouse/host"}
    assert all(series["metric"]["instance"] for series in found)
    poll_until(lambda: pipeline.ask("node_memory_MemAvailable_bytes"), "node_exporter's memory")


def test_probes_have_a_service(pipeline: Pipeline) -> None:
    """Both applications are probed both ways, and where nobody answers that is seen."""
    wanted = {
        (service, probe) for service in ("detection", "recommendation") for probe in ("healthz", "inference")
    }

    def found() -> bool:
        series = pipeline.ask('probe_success{job="blackbox"} == 0')
        return {(one["metric"]["service"], one["metric"]["probe"]) for one in series} == wanted

    poll_until(found, "four probes", timeout_s=75)


def test_rules_reach_alertmanager(pipeline: Pipeline) -> None:
    """Both watchdogs, Prometheus' and Loki's, arrive at Alertmanager."""

    def firing() -> set[str]:
        alerts = get(f"{pipeline.backends.urls['alertmanager']}/api/v2/alerts")
        return {alert["labels"]["alertname"] for alert in alerts}

    poll_until(lambda: firing() >= {"Watchdog", "LokiWatchdog"}, "both watchdogs", timeout_s=90)


def test_rules_are_evaluated_without_errors(pipeline: Pipeline) -> None:
    """No rule that is shipped fails when it is evaluated."""

    def rules() -> list[dict[str, str]]:
        groups = get(f"{pipeline.backends.urls['prometheus']}/api/v1/rules")["data"]["groups"]
        found = [rule for group in groups for rule in group["rules"]]
        return found if all(rule["health"] != "unknown" for rule in found) else []

    found = poll_until(rules, "the first evaluation")
    shipped = [
        rule
        for path in (PIPELINE / "prometheus" / "rules").glob("*.yaml")
        for group in yaml.safe_load(path.read_text())["groups"]
        for rule in group["rules"]
    ]
    assert len(found) == len(shipped)
    assert [rule for rule in found if rule["health"] != "ok"] == []
