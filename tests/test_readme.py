"""The README's examples, typed as they stand, get the answers that stand below them."""

import asyncio
import json
import re
import subprocess
import sys
from functools import partial
from typing import Any

import pytest

from bench.load import Call, send_all
from store.places import CHECKOUT
from tests.bad_requests import JPEG, JSON
from tests.cluster import Cluster
from tests.photos import jpeg_bytes
from tests.pipeline import Pipeline
from tests.poll import poll_until

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


@pytest.mark.cluster
@pytest.mark.data
@pytest.mark.parametrize("page", ["README.md", "docs/telemetry.md"])
def test_the_questions_have_answers(page: str, cluster: Cluster, watched: Pipeline) -> None:
    """Each question to Prometheus and Loki, typed as it stands, finds something after a request or two."""
    blocks = re.findall(r"```sh\n(.*?)```", (CHECKOUT / page).read_text(encoding="utf-8"), re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if ":9090" in line or ":3100" in line]
    assert len(lines) >= 2
    for line in lines:
        here = line.replace("http://127.0.0.1:9090", watched.backends.urls["prometheus"]).replace(
            "http://127.0.0.1:3100", watched.backends.urls["loki"]
        )
        poll_until(partial(found_something, here, cluster), line, 60)


def found_something(command: str, cluster: Cluster) -> bool:
    """Send a photograph and a user, run a question, and tell whether its answer holds anything."""
    calls = [
        Call("POST", "/detect", jpeg_bytes("bus"), JPEG),
        Call("POST", "/recommend", b'{"user_id": 1}', JSON),
    ]
    asyncio.run(send_all(cluster.url, calls))
    done = subprocess.run(["bash", "-euc", command], capture_output=True, text=True, check=True)
    data = json.loads(done.stdout)["data"]
    return bool(data["result"] if isinstance(data, dict) else data)


def test_links_lead_somewhere() -> None:
    """Every file that the README, ARCHITECTURE and the documents link to exists."""
    for page in [*CHECKOUT.glob("*.md"), *CHECKOUT.glob("docs/**/*.md")]:
        for target in re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
