"""The compose file and Grafana's provisioning, as far as they can be held without Docker and Grafana."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from launch import dotenv
from launch.backend_programs import COLLECTOR, NAMES, describe
from launch.dotenv import PIPELINE
from launch.ports import BackendPorts

COMPOSE = (PIPELINE / "compose.yaml").read_text()
SETTINGS = dotenv.read(environ={})
PATHS = {"config", "config.file", "storage.path", "storage.tsdb.path"}


def services() -> dict[str, Any]:
    """Return the services, with the values of `.env`."""
    text = dotenv.render(COMPOSE.replace("$${", "\0"), SETTINGS).replace("\0", "$${")
    return dict(yaml.safe_load(text)["services"])


def test_the_same_programs() -> None:
    """The containers are the six programs, and Grafana, and who renders; each image by its version."""
    assert set(services()) == {*NAMES, "grafana", "render"}
    for name, service in services().items():
        assert re.search(r":v?\d+\.\d+\.\d+$", service["image"]), name


def test_what_is_mounted_exists() -> None:
    """Every file and folder of this repository that is mounted is there."""
    volumes = set(yaml.safe_load(COMPOSE)["volumes"])
    for name, service in services().items():
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            if source.startswith("."):
                assert (PIPELINE / source).exists(), f"{name}: {source}"
            else:
                assert source in volumes or source.startswith("/"), f"{name}: {source}"


def test_what_a_program_asks_for_is_given() -> None:
    """Every variable of the collector's, Loki's, Prometheus' and Grafana's files is in its container."""
    files = {
        COLLECTOR: [PIPELINE / "collector.yaml", PIPELINE / "collector-scrape.yaml"],
        "loki": [PIPELINE / "loki.yaml"],
        "render": [PIPELINE / "prometheus" / "prometheus.yaml"],
        "grafana": list((PIPELINE / "grafana").rglob("*.yaml")),
    }
    for name, paths in files.items():
        given = set(services()[name]["environment"])
        for path in paths:
            lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
            asked = dotenv.variables("\n".join(lines).replace("${env:", "${").replace("$${", ""))
            assert asked <= given, f"{name}: {path.name}"


def flags(command: list[str]) -> dict[str, str]:
    """Return the flags of a command by name; `-x=1` and `--x=1` alike."""
    split = [flag.lstrip("-").partition("=") for flag in command]
    return {name: value for name, _, value in split}


@pytest.mark.parametrize("name", NAMES)
def test_the_same_flags(name: str) -> None:
    """A container has the flags that `launch/backends.py` gives, but for paths and what it logs."""
    programs = dict.fromkeys(NAMES, Path("program"))
    ours = describe(Path("state"), BackendPorts.read({}), programs, SETTINGS)[name].command[1:]
    theirs = flags(services()[name]["command"])
    for flag, value in flags(ours).items():
        # How much is logged, and node_exporter's choice, are about our own CPU.
        if flag != "log.level" and not flag.startswith("collector."):
            assert flag in theirs
            assert flag in PATHS or theirs[flag] == value, flag


def test_rendering_in_a_container_is_ours(tmp_path: Path) -> None:
    """The `awk` of the service `render` makes of Prometheus' template what we make of it."""
    (script,) = yaml.safe_load(COMPOSE)["services"]["render"]["command"]
    template = PIPELINE / "prometheus" / "prometheus.yaml"
    script = script.replace("$$", "$").replace("/in/prometheus.yaml", str(template))
    script = script.replace("/out/prometheus.yaml", str(tmp_path / "out"))
    environ = {**SETTINGS, "PATH": os.environ["PATH"]}
    subprocess.run(["sh", "-c", script], env=environ, check=True)
    assert (tmp_path / "out").read_text() == dotenv.render(template.read_text(), SETTINGS)
    del environ["SERVE_PORT"]
    done = subprocess.run(["sh", "-c", script], env=environ, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "SERVE_PORT" in done.stderr


def sources() -> dict[str, Any]:
    """Return Grafana's data sources by uid, as Grafana expands them."""
    text = (PIPELINE / "grafana" / "provisioning" / "datasources" / "glasshouse.yaml").read_text()
    text = dotenv.render(text.replace("$$", "\0"), SETTINGS).replace("\0", "$")
    return {source["uid"]: source for source in yaml.safe_load(text)["datasources"]}


def test_grafanas_sources() -> None:
    """The data sources have their fixed uids and addresses, and the name that Ray asks Prometheus by."""
    found = sources()
    assert set(found) == {"prometheus", "loki", "alertmanager"}
    ports = BackendPorts.read({})
    assert {uid: source["url"] for uid, source in found.items()} == {uid: ports.urls[uid] for uid in found}
    assert found["prometheus"]["name"] == ports.environ["RAY_PROMETHEUS_NAME"]


def test_an_exemplar_leads_to_loki() -> None:
    """The link of an exemplar opens Loki's lines of its trace."""
    (target,) = sources()["prometheus"]["jsonData"]["exemplarTraceIdDestinations"]
    assert target["name"] == "trace_id"
    link = target["url"].replace("${__value.raw}", "4bf9")
    (panes,) = parse_qs(urlsplit(link).query)["panes"]
    (pane,) = yaml.safe_load(panes).values()
    assert pane["datasource"] == "loki"
    assert pane["queries"][0]["expr"] == '{service_name=~".+"} | trace_id="4bf9"'
