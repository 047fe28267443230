"""implicit, and whether it can use a GPU here. It is imported through this module alone.

implicit looks for CUDA once, when it is first imported, and where its CUDA extension cannot be linked it
warns and goes on without. The libraries that it wants lie in wheels, where the linker does not look: those of
torch, `rmm-cu13` 26.2 to 26.4, and `nvidia-curand`. So they are opened first.
"""

import contextlib
import ctypes
import functools
import importlib
import warnings
from types import ModuleType

from models.device import DeviceError, unknown_device

DRIVER = "libcuda.so.1"
# In the order in which they need one another.
LIBRARIES = ("cudart", "cublasLt", "cublas", "curand")


def resolve_gpu(asked: str) -> bool:
    """Tell whether implicit runs on the GPU; `asked` is `auto`, `cuda` or `cpu`.

    Raises:
        DeviceError: `cuda` was asked for and implicit sees none, or the word is unknown.
    """
    if asked not in ("auto", "cuda", "cpu"):
        raise DeviceError(unknown_device(asked))
    if asked == "cpu":
        return False
    missing = why_no_gpu()
    if asked == "cuda" and missing:
        raise DeviceError(
            f"device is cuda, but implicit sees no CUDA device here ({missing}): "
            "start where a GPU and a driver for CUDA 13 are, or set device to auto or cpu."
        )
    return not missing


@functools.cache
def why_no_gpu() -> str:
    """Return what implicit lacks to use a GPU, in a few words; empty where it can."""
    try:
        ctypes.CDLL(DRIVER)
    except OSError:
        return "no NVIDIA driver is installed"
    return link_cuda()


def link_cuda() -> str:
    """Import implicit with its CUDA extension; return what kept it from finding a device, or nothing."""
    for name in LIBRARIES:
        # What is not in a wheel may be where the linker looks; if it is not, implicit says so.
        with contextlib.suppress(ImportError, RuntimeError):
            importlib.import_module("cuda.pathfinder").load_nvidia_dynamic_lib(name)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        gpu = importlib.import_module("implicit.gpu")
    if gpu.HAS_CUDA:
        return ""
    return "; ".join(str(one.message) for one in said) or "the package rmm-cu13 is not installed"


def load_implicit() -> ModuleType:
    """Return the package implicit, its ALS imported; without a word where there is no GPU."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module("implicit.als")
        return importlib.import_module("implicit")
