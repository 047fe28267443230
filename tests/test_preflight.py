"""What the launcher finds wrong before it starts Ray: each with its key, in a sentence."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.preflight import fetch_and_check
from store.places import CHECKOUT

pytestmark = pytest.mark.data


def config(application: int, **args: Any) -> dict[str, Any]:
    """Return `serve_config.yaml` with one application's args changed."""
    read: dict[str, Any] = yaml.safe_load((CHECKOUT / "serve_config.yaml").read_text(encoding="utf-8"))
    for key, value in args.items():
        if isinstance(value, dict):
            read["applications"][application]["args"][key].update(value)
        else:
            read["applications"][application]["args"][key] = value
    return read


def found(changed: dict[str, Any]) -> list[str]:
    """Return the problems."""
    return fetch_and_check(changed, lambda _: None)


def test_ours_has_no_problem() -> None:
    """The configuration that we ship passes."""
    assert found(config(0)) == []


@pytest.mark.parametrize(
    ("application", "args", "expected"),
    [
        pytest.param(
            0,
            {"detector": {"weights": "nope.pt"}},
            "detection.args.detector.weights: 'nope.pt' is",
            id="weights",
        ),
        pytest.param(
            0, {"detector": {"sha256": "0" * 64}}, "detection.args.detector.sha256: ", id="another file"
        ),
        pytest.param(
            1,
            {"recommender": {"ratings": "/nope.csv"}},
            "recommendation.args.recommender.ratings: '/nope.csv' is",
            id="ratings",
        ),
        pytest.param(
            1, {"recommender": {"titles": "nope"}}, "recommendation.args.recommender.titles: ", id="titles"
        ),
    ],
)
def test_a_problem_has_its_key(application: int, args: dict[str, Any], expected: str) -> None:
    """What is missing, or is another file than the one named, is found at once and told with its key."""
    (said,) = found(config(application, **args))
    assert said.startswith(expected)


def test_ratings_are_read_beforehand(tmp_path: Path) -> None:
    """Ratings that cannot be used are told with file, column and row."""
    path = tmp_path / "purchases.csv"
    path.write_text("user,item\nC-16,1\n")
    (said,) = found(config(1, recommender={"ratings": str(path)}))
    assert said.startswith("recommendation.args.recommender.ratings: ")
    assert "column user, data row 1: 'C-16' is not an integer" in said
