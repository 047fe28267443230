"""Let the real programs read every configuration of `otel-collector/`, without starting any."""

import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

import yaml

from launch import backend_programs, dotenv
from launch.dotenv import PIPELINE
from launch.ports import BackendPorts

TIMEOUT_S = 60.0
# `otelcol validate` of 0.160 takes any key here without a word, and a misspelt `max_elapsed_time` gives
# up after 5 minutes what waits on disk.
RETRY_KEYS = {"enabled", "initial_interval", "max_interval", "max_elapsed_time", "multiplier"}
EXPORTER_KEYS = {
    "otlp_http": {
        "endpoint",
        "metrics_endpoint",
        "logs_endpoint",
        "compression",
        "encoding",
        "timeout",
        "headers",
        "tls",
        "auth",
        "sending_queue",
        "retry_on_failure",
    },
    "prometheus": {
        "endpoint",
        "tls",
        "auth",
        "translation_strategy",
        "enable_open_metrics",
        "metric_expiration",
        "send_timestamps",
        "const_labels",
        "resource_to_telemetry_conversion",
    },
}


def problems(programs: Mapping[str, Path], config: Path = PIPELINE) -> list[str]:
    """Return what is wrong, one text per configuration: its name, and the program's own words.

    Alertmanager has no way to check without a start: of its file only the YAML is read.

    Args:
        programs: Their paths; `promtool` among them.
        config: The folder of the configurations.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            values = backend_programs.settings(
                Path(folder),
                BackendPorts.read(),
                ray_temp=Path(folder, "ray"),
                serve_port=8000,
                haproxy_metrics_port=9101,
                config=config,
            )
            template = (config / "prometheus" / "prometheus.yaml").read_text(encoding="utf-8")
            rendered = Path(folder, "prometheus.yaml")
            rendered.write_text(dotenv.render(template, values), encoding="utf-8")
        except dotenv.BadSetting as error:
            return [str(error)]
        commands = _commands(programs, config, rendered)
        found = [_complaint(what, command, values, config) for what, command in commands.items()]
        found = [text for text in found if text]
    return [*found, *_unreadable(config)] or [*_unknown_keys(config), *_bodies(config)]


def _commands(programs: Mapping[str, Path], config: Path, rendered: Path) -> dict[str, list[str]]:
    collector = [str(programs["otelcol"]), "validate", "--config", str(config / "collector.yaml")]
    loki = [str(programs["loki"]), "-verify-config", "-config.expand-env=true"]
    return {
        "collector.yaml": collector,
        "collector-scrape.yaml": [*collector, "--config", str(config / "collector-scrape.yaml")],
        "prometheus/": [str(programs["promtool"]), "check", "config", str(rendered)],
        "loki.yaml": [*loki, f"-config.file={config / 'loki.yaml'}"],
        "blackbox.yaml": [
            str(programs["blackbox_exporter"]),
            "--config.check",
            f"--config.file={config / 'blackbox.yaml'}",
        ],
    }


def _complaint(what: str, command: list[str], values: Mapping[str, str], cwd: Path) -> str:
    """Return what the program has against its configuration; empty: nothing."""
    done = subprocess.run(
        command,
        env={**os.environ, **values},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    if done.returncode == 0:
        return ""
    return f"otel-collector/{what} is wrong:\n{(done.stdout + done.stderr).strip()}"


def _unreadable(config: Path) -> list[str]:
    found = []
    for path in sorted(config.rglob("*.yaml")):
        try:
            yaml.safe_load(path.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            found.append(f"otel-collector/{path.relative_to(config)} is wrong:\n{error}")
    return found


def _unknown_keys(config: Path) -> list[str]:
    """Return the keys of exporters that the collector does not know and does not refuse."""
    found = []
    for path in sorted(config.glob("collector*.yaml")):
        exporters = yaml.safe_load(path.read_text(encoding="utf-8"))["exporters"]
        for name, settings in exporters.items():
            unknown = set(settings) - EXPORTER_KEYS[name.split("/", maxsplit=1)[0]]
            unknown |= set(settings.get("retry_on_failure", {})) - RETRY_KEYS
            if unknown:
                found.append(f"otel-collector/{path.name} is wrong:\n{name}: unknown {', '.join(unknown)}")
    return found


def _bodies(config: Path) -> list[str]:
    """Return the bodies of probes that are not there: blackbox_exporter looks for them only when it asks."""
    modules = yaml.safe_load((config / "blackbox.yaml").read_text(encoding="utf-8"))["modules"]
    bodies = [module["http"].get("body_file") for module in modules.values()]
    return [
        f"otel-collector/blackbox.yaml: {body} does not exist."
        for body in bodies
        if body and not (config / body).exists()
    ]
