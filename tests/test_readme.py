"""The README's examples, typed as they stand, get the answers that stand below them."""

import json
import re
import subprocess
import sys
from typing import Any

import pytest

from deployments.settings import CHECKOUT
from tests.cluster import Cluster

README = (CHECKOUT / "README.md").read_text(encoding="utf-8")
# Different in every answer, or in every version of the libraries.
ANY = {"inference_id", "request_id", "version"}
BOX = {"x1", "y1", "x2", "y2"}  # pixels


def examples() -> list[tuple[str, Any]]:
    """Return, of each console block, its commands as one script, and the answer below them."""
    found = []
    for block in re.findall(r"```console\n(.*?)```", README, re.DOTALL):
        lines = block.splitlines()
        script = "\n".join(line[2:] for line in lines if line.startswith("$ "))
        found.append((script, json.loads("".join(line for line in lines if not line.startswith("$ ")))))
    return found


def like(found: Any, written: Any, key: str = "") -> Any:
    """Return `written` with what may differ taken from `found`, so that equal means right."""
    if isinstance(written, dict) and isinstance(found, dict):
        return {
            name: found.get(name) if name in ANY else like(found.get(name), value, name)
            for name, value in written.items()
        }
    if isinstance(written, list) and isinstance(found, list) and len(written) == len(found):
        return [like(one, other) for one, other in zip(found, written, strict=True)]
    if not isinstance(written, float):
        return written
    return pytest.approx(written, rel=0.02, abs=3 if key in BOX else 0)


@pytest.mark.cluster
@pytest.mark.data
def test_the_examples_give_what_stands_below_them(cluster: Cluster) -> None:
    """Each example's commands, on this machine and port, print the README's answer."""
    assert len(examples()) == 3
    for script, written in examples():
        here = script.replace("http://127.0.0.1:8000", cluster.url).replace(
            ".venv/bin/python", sys.executable
        )
        done = subprocess.run(
            ["bash", "-euc", here], cwd=CHECKOUT, capture_output=True, text=True, check=True
        )
        found = json.loads(done.stdout)
        assert found == like(found, written)


def test_links_lead_somewhere() -> None:
    """Every file that the README, ARCHITECTURE and the documents link to exists."""
    for page in [*CHECKOUT.glob("*.md"), *CHECKOUT.glob("docs/**/*.md")]:
        for target in re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
