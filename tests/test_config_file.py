"""The check of `serve_config.yaml`: each mistake is named by its key."""

from pathlib import Path

import pytest
import yaml

from deployments.config_file import main, problems

CONFIG = Path(__file__).parent.parent / "serve_config.yaml"


def changed(old: str, new: str) -> list[str]:
    """Return the problems of our configuration with one piece of text replaced."""
    text = CONFIG.read_text(encoding="utf-8")
    assert old in text
    return problems(text.replace(old, new, 1))


def test_ours_is_right() -> None:
    """The configuration that we ship has no problem."""
    assert problems(CONFIG.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        pytest.param("proxy_location:", "proxy_locaton:", "proxy_locaton: unknown key", id="top level"),
        pytest.param("  port: 8000", "  prot: 8000", "http_options.prot: unknown key", id="http"),
        pytest.param("precision: auto", "precison: auto", "detection.args.detector.precison:", id="args"),
        pytest.param("factors: 32", "factorz: 32", "unknown key; did you mean factors?", id="near miss"),
        pytest.param(
            "min_replicas: 1", "min_replica: 1", "autoscaling_config.min_replica: unknown", id="scaling"
        ),
        pytest.param(
            "max_ongoing_requests: 1024",
            "max_ongoing_request: 1024",
            "detection.Detection.max_ongoing_request: unknown key; did you mean max_ongoing_requests?",
            id="deployment",
        ),
        pytest.param("name: Detection", "name: Detecton", "only 'Detection'", id="deployment's name"),
        pytest.param(
            "detection:build", "detecton:build", "detection.import_path: there is no", id="import path"
        ),
        pytest.param("  port: 8000", "  port: 80000", "http_options.port: 80000 is no port", id="port"),
        pytest.param("precision: auto", "precision: int8", "not 'int8'", id="choice"),
        pytest.param("wait_ms: 3", "wait_ms: .nan", "batching.wait_ms:", id="nan"),
        pytest.param("max_size: 16", "max_size: 0", "user_config.batching.max_size:", id="user_config"),
        pytest.param("image_size: 640", "image_size: 641", "detector.image_size:", id="not a multiple"),
        pytest.param(
            "        # sha256: …", "        sha256: abc\n        #", "detector.sha256:", id="bad sha256"
        ),
        pytest.param(
            "        graceful_shutdown_timeout_s: 30",
            "        ray_actor_options: {num_gpus: 1}",
            "set detection.args.gpus_per_replica instead",
            id="num_gpus",
        ),
        pytest.param("import_path: deployments.detection:build", "", "import_path", id="missing"),
    ],
)
def test_a_mistake_is_named(old: str, new: str, expected: str) -> None:
    """One mistake gives one problem, which says where it is."""
    found = changed(old, new)
    assert len(found) == 1
    assert expected in found[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("applications: []\nproxy_location: HeadOnly\n", "applications: there is none"),
        ("http_options: {port: 1, port: 2}\n", "the key 'port' stands twice"),
    ],
)
def test_what_would_be_lost_silently_is_said(text: str, expected: str) -> None:
    """An empty list of applications, and a key that stands twice, are problems."""
    assert expected in " ".join(problems(text))


@pytest.mark.parametrize("text", ["a: [", "- 1", ""])
def test_other_files_are_refused(text: str) -> None:
    """What is not YAML, or not a mapping, is a problem and no traceback."""
    assert len(problems(text)) == 1


def test_an_application_of_the_users_own_is_left_alone() -> None:
    """Applications that are not ours are checked by Ray's schema only."""
    config = {"applications": [{"name": "x", "import_path": "mine:app", "args": {"any": 1}}]}
    assert problems(yaml.safe_dump(config)) == []


def test_the_command_exits_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command names the file and the problem on standard error, and exits 1."""
    path = tmp_path / "serve.yaml"
    path.write_text("proxy_locaton: HeadOnly\napplications: [{import_path: 'a:b'}]\n")
    assert main([str(path)]) == 1
    assert f"{path}: proxy_locaton: unknown key" in capsys.readouterr().err
