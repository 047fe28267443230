"""Who may import whom (ARCHITECTURE, code map), and what must never stand in a file."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {
    "telemetry": set(),
    "models": set(),
    "store": {"telemetry"},
    "deployments": {"telemetry", "models", "store"},
    "drift": {"telemetry", "store", "models"},
    "explain": {"telemetry", "store", "models"},
    "launch": {"telemetry", "models", "store", "deployments"},
}
OURS = {*MAY_IMPORT, "tests", "bench"}
FORBIDDEN = {
    "models": {"ray", "fastapi", "starlette", "opentelemetry"},
    "deployments/batcher.py": {"ray", "fastapi", "starlette", "torch", "models"},
    "deployments/admission.py": {"ray", "fastapi", "starlette", "torch", "models"},
}


def sources(package: str) -> list[Path]:
    """Return the Python files of a package, or the one file named."""
    path = ROOT / package
    return [path] if path.suffix == ".py" else sorted(path.rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Return the top-level names that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide who is imported"
            names.add((node.module or "").split(".")[0])
    return names


@pytest.mark.parametrize("package", [name for name in MAY_IMPORT if (ROOT / name).exists()])
def test_imports_go_one_way(package: str) -> None:
    """A package imports of ours only what the table allows."""
    allowed = MAY_IMPORT[package] | {package}
    for path in sources(package):
        assert imported(path) & OURS <= allowed, path


@pytest.mark.parametrize("place", FORBIDDEN)
def test_policy_knows_no_framework(place: str) -> None:
    """Models know arrays only; the batcher and admission know neither Ray nor HTTP nor torch."""
    for path in sources(place):
        assert not imported(path) & FORBIDDEN[place], path


def test_the_table_can_fail() -> None:
    """The parser sees imports inside functions too."""
    found = imported(ROOT / "deployments" / "config_file.py")
    assert "ray" in found


def test_only_artifacts_fetches() -> None:
    """No module of `models` but the artifact ones imports anything that opens a connection."""
    network = {"urllib", "http", "requests", "httpx", "aiohttp", "socket"}
    for path in sources("models"):
        if not path.name.startswith("artifact"):
            assert not imported(path) & network, path


def test_every_package_is_the_projects_own() -> None:
    """The generic names are not shadowed by another distribution."""
    for package in MAY_IMPORT:
        if (ROOT / package).exists():
            module = __import__(package)
            assert Path(module.__file__ or "").parent == ROOT / package


def test_the_pipeline_is_configuration_only() -> None:
    """`otel-collector/` contains no Python."""
    assert not list((ROOT / "otel-collector").rglob("*.py"))
