"""Figures with their units and the machine they were seen on, as text and as JSON."""

import json
import math
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil

VERSIONS = ("ray", "torch", "ultralytics", "implicit")


@dataclass(frozen=True, slots=True)
class Row:
    """One figure: what was measured, how much, of what."""

    what: str
    value: float
    unit: str
    note: str = ""

    def text(self) -> str:
        """Return value and unit with three significant digits, or all of a large whole number."""
        if math.isnan(self.value):
            return "not measured"
        number = f"{self.value:,.0f}" if abs(self.value) >= 100 else f"{self.value:.3g}"
        return f"{number} {self.unit}".strip()


@dataclass(frozen=True, slots=True)
class Machine:
    """What the figures were seen on."""

    cpu: str
    cores: int
    memory_gib: float
    gpu: str
    date: str
    commit: str
    versions: dict[str, str]

    def text(self) -> str:
        """Return one line for people."""
        versions = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        return (
            f"{self.cpu}, {self.cores} cores, {self.memory_gib:.0f} GiB, GPU: {self.gpu}; "
            f"{versions}; commit {self.commit}; {self.date}"
        )


def machine() -> Machine:
    """Look at this machine."""
    import torch  # noqa: PLC0415  slow, and only needed for the card's name

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return Machine(
        cpu=_cpu_name(),
        cores=len(os.sched_getaffinity(0)),
        memory_gib=psutil.virtual_memory().total / 2**30,
        gpu=gpu,
        date=datetime.now(UTC).date().isoformat(),
        commit=_commit(),
        versions={name: version(name) for name in VERSIONS},
    )


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table."""
    lines = ["| | | |", "| --- | ---: | --- |"]
    return "\n".join([*lines, *(f"| {row.what} | {row.text()} | {row.note} |" for row in rows)])


def write_json(path: Path, seen_on: Machine, rows: Sequence[Row]) -> None:
    """Write machine and rows as one JSON object."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # JSON has no NaN: what was not measured is null, and its note says why.
    content = {
        "machine": asdict(seen_on),
        "rows": [{**asdict(row), "value": None if math.isnan(row.value) else row.value} for row in rows],
    }
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"
