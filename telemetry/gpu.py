"""The GPUs that this process may use, by NVML. No GPU or no driver: no series, no error.

A replica reports the GPUs that Ray gave it (`CUDA_VISIBLE_DEVICES`), so a node's GPUs are not reported
by all of its processes. Two replicas that share one both report it: ask `max by (hw_id)`.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from telemetry import attributes, schema
from telemetry.instruments import Instruments, Reading
from telemetry.metric import Metric

log = logging.getLogger("telemetry.gpu")

VISIBLE = "CUDA_VISIBLE_DEVICES"
VENDOR_TYPE = "gpu"


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU: NVML's handle, and what tells it apart."""

    handle: Any
    labels: Mapping[str, str]

    @property
    def typed(self) -> dict[str, str]:
        """The labels of the metrics that are not the GPUs' alone."""
        return {**self.labels, attributes.HW_TYPE.name: VENDOR_TYPE}


def load() -> Any | None:
    """Return NVML, initialised, or None where there is no driver."""
    try:
        import pynvml  # noqa: PLC0415 - only where telemetry runs

        pynvml.nvmlInit()
    except Exception as error:
        log.debug("no GPU metrics: %s", error)
        return None
    return pynvml


def observe(instruments: Instruments, environ: Mapping[str, str], nvml: Any | None = None) -> int:
    """Report the GPUs from now on; return how many.

    Args:
        instruments: Of this process.
        environ: Says which GPUs are this process's.
        nvml: Another NVML, for tests without a GPU.
    """
    nvml = nvml or load()
    if nvml is None:
        return 0
    try:
        gpus = list(_mine(nvml, environ.get(VISIBLE)))
    except Exception as error:
        log.debug("no GPU metrics: %s", error)
        return 0
    if gpus:
        for metric, read in _readings(nvml, gpus).items():
            instruments.observe(metric, read)
    return len(gpus)


def _mine(nvml: Any, visible: str | None) -> Iterator[Gpu]:
    """Yield the GPUs named by index or by (the start of a) UUID; all where nothing is said."""
    wanted = None if visible is None else [word.strip() for word in visible.split(",") if word.strip()]
    for index in range(nvml.nvmlDeviceGetCount()):
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        uuid = nvml.nvmlDeviceGetUUID(handle)
        if (
            wanted is None
            or str(index) in wanted
            or any(len(word) > 4 and uuid.startswith(word) for word in wanted)
        ):
            name = nvml.nvmlDeviceGetName(handle)
            yield Gpu(handle, {attributes.HW_ID.name: uuid, attributes.HW_NAME.name: name})


def _readings(nvml: Any, gpus: list[Gpu]) -> dict[Metric, Callable[[], Reading]]:
    """Return how each metric is read. What a GPU does not support has no series."""

    def each(read: Callable[[Any], float], *, typed: bool = True) -> Callable[[], Reading]:
        def reading() -> Reading:
            found = []
            for gpu in gpus:
                with contextlib.suppress(nvml.NVMLError):
                    found.append((read(gpu.handle), gpu.typed if typed else gpu.labels))
            return found

        return reading

    def memory_share(handle: Any) -> float:
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        return float(memory.used / memory.total)

    return {
        schema.GPU_UTILIZATION: each(
            lambda handle: nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100, typed=False
        ),
        schema.GPU_MEMORY_USAGE: each(lambda handle: nvml.nvmlDeviceGetMemoryInfo(handle).used, typed=False),
        schema.GPU_MEMORY_LIMIT: each(lambda handle: nvml.nvmlDeviceGetMemoryInfo(handle).total, typed=False),
        schema.GPU_MEMORY_UTILIZATION: each(memory_share, typed=False),
        schema.GPU_POWER: each(lambda handle: nvml.nvmlDeviceGetPowerUsage(handle) / 1e3),
        schema.GPU_ENERGY: each(lambda handle: nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3),
        schema.GPU_TEMPERATURE: each(
            lambda handle: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)
        ),
        schema.GPU_ERRORS: lambda: _errors(nvml, gpus),
        schema.GPU_STATUS: lambda: _status(nvml, gpus),
    }


def _errors(nvml: Any, gpus: list[Gpu]) -> Reading:
    """Read ECC errors since the driver was loaded; GPUs without ECC have none to report."""
    kinds = {
        "corrected": nvml.NVML_MEMORY_ERROR_TYPE_CORRECTED,
        "uncorrected": nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
    }
    for gpu in gpus:
        for kind, code in kinds.items():
            with contextlib.suppress(nvml.NVMLError):
                count = nvml.nvmlDeviceGetTotalEccErrors(gpu.handle, code, nvml.NVML_VOLATILE_ECC)
                yield count, {**gpu.typed, attributes.HW_ERROR.name: kind}


def _status(nvml: Any, gpus: list[Gpu]) -> Reading:
    """Tell whether each GPU still answers: one that fell off the bus raises at any question."""
    for gpu in gpus:
        try:
            nvml.nvmlDeviceGetUtilizationRates(gpu.handle)
            state = "ok"
        except nvml.NVMLError_NotSupported:
            state = "ok"
        except nvml.NVMLError:
            state = "failed"
        for known in attributes.HW_STATE.values:
            yield float(known == state), {**gpu.typed, attributes.HW_STATE.name: known}
