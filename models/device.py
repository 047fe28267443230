"""Which device a model runs on, decided once when it is loaded."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class DeviceError(ValueError):
    """The device or precision asked for is not there; the message says what to do."""


def resolve_device(asked: str) -> "torch.device":
    """Turn `auto`, `cuda` or `cpu` into a device.

    Args:
        asked: `auto` takes the GPU where there is one; `cuda` and `cpu` mean themselves.

    Raises:
        DeviceError: `cuda` was asked for and PyTorch sees none, or the word is unknown.
    """
    if asked not in ("auto", "cuda", "cpu"):
        raise DeviceError(unknown_device(asked))
    import torch  # noqa: PLC0415  hundreds of megabytes that a recommender's replica does without

    there = torch.cuda.is_available()
    if asked == "cuda" and not there:
        raise DeviceError(
            "device is cuda, but PyTorch sees no CUDA device here: "
            "set device to auto or cpu, or start where a GPU and its driver are visible."
        )
    return torch.device("cuda" if there and asked != "cpu" else "cpu")


def unknown_device(asked: str) -> str:
    """Return the sentence for a device that is none of the three."""
    return f"device is {asked!r}: use auto, cuda or cpu."


def usable_cores() -> int:
    """Return how many CPU cores this process may use, by affinity and by its control group's quota.

    Not `OMP_NUM_THREADS`: Ray sets that to the cores a replica reserves, not to those it may use.
    """
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):
        # No control group of version 2 here, or no quota: the word `max`.
        return cores
