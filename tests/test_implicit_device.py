"""implicit's CUDA extension: it must link from wheels alone, whether or not there is a card."""

import subprocess
import sys

import pytest

from models.device import DeviceError
from models.implicit_device import resolve_gpu, why_no_gpu

LINK = "from models.implicit_device import link_cuda; print(link_cuda())"
QUIET = "from models.implicit_device import load_implicit; load_implicit()"


def run(program: str) -> str:
    """Run a program in a fresh interpreter where every warning is an error; return what it prints."""
    command = [sys.executable, "-W", "error", "-c", program]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_all_but_the_driver_is_installed() -> None:
    """The CUDA extension finds every library and symbol in the locked wheels: only a card may be missing."""
    said = run(LINK)

    assert said == "" or "driver" in said or "device" in said, said
    assert "symbol" not in said and "shared object" not in said


def test_without_a_gpu_implicit_is_imported_without_a_word() -> None:
    """A machine without CUDA sees no warning of what it cannot have."""
    assert run(QUIET) == ""


def test_what_is_missing_is_said() -> None:
    """`auto` goes on without a GPU; `cuda` fails in one sentence that names what is missing."""
    if not (missing := why_no_gpu()):
        assert resolve_gpu("cuda") and resolve_gpu("auto")
        return
    assert not resolve_gpu("auto")
    with pytest.raises(DeviceError) as caught:
        resolve_gpu("cuda")
    assert missing in str(caught.value)
    assert "\n" not in str(caught.value)
