"""Which device a model runs on, decided once when it is loaded."""

import torch


class DeviceError(ValueError):
    """The device or precision asked for is not there; the message says what to do."""


def resolve_device(asked: str) -> torch.device:
    """Turn `auto`, `cuda` or `cpu` into a device.

    Args:
        asked: `auto` takes the GPU where there is one; `cuda` and `cpu` mean themselves.

    Raises:
        DeviceError: `cuda` was asked for and PyTorch sees none, or the word is unknown.
    """
    if asked not in ("auto", "cuda", "cpu"):
        raise DeviceError(f"device is {asked!r}; use auto, cuda or cpu.")
    there = torch.cuda.is_available()
    if asked == "cuda" and not there:
        raise DeviceError(
            "device is cuda, but PyTorch sees no CUDA device here: "
            "set device to auto or cpu, or start where a GPU and its driver are visible."
        )
    return torch.device("cuda" if there and asked != "cpu" else "cpu")
