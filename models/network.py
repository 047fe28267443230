"""The network itself: a checkpoint or an export is opened, and a batch goes forward through it."""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from models.device import DeviceError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class WeightsError(ValueError):
    """The file holds no detector that can be served; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Output:
    """What one forward gives for a batch of `n` images.

    Attributes:
        predictions: `(n, 4 + classes, anchors) float32`, or `(n, detections, 6)`; see `find_candidates`.
        features: `(n, C, h, w)` of the layer that EigenCAM looks at, in the body's precision;
            None for exports.
    """

    predictions: Tensor
    features: Tensor | None


class Network(Protocol):
    """What the detector needs of a network."""

    class_names: dict[int, str]
    precision: str
    feature_layer: int | None

    def __call__(self, batch: Tensor) -> Output:
        """Run forward `(n, size, size, 3) uint8` RGB on the network's device."""


class Checkpoint:
    """An Ultralytics `.pt`: body in the precision asked for, Detect head in fp32, channels last.

    Args:
        weights: A trusted file: reading a checkpoint unpickles it. By default only classes of Ultralytics and
            torch are let through; the environment's `ULTRALYTICS_SAFE_LOAD=false` opens it for all.
        device: Where it runs.
        precision: `fp32`, `bf16` or `fp16`.
        image_size: Side of the square that will be sent.

    Raises:
        WeightsError: Not a checkpoint, or not of a detector, or one that cannot see squares of that size.
    """

    def __init__(self, weights: Path, device: torch.device, precision: str, image_size: int) -> None:
        self.precision = precision
        self._device = device
        self._dtype = DTYPES[precision]
        self._model = _read_checkpoint(weights)
        stride = int(self._model.stride.max())
        if image_size % stride:
            raise WeightsError(
                f"{weights} takes images whose side is a multiple of {stride}, not of {image_size}: "
                "set image_size accordingly."
            )
        self.class_names = _names(self._model.names)
        layers = self._model.model
        self.feature_layer: int | None = int(layers[-1].f[-1])
        self._features: Tensor | None = None
        self._scale = _fold_scale(layers[0])
        layers[:-1].to(self._dtype)
        layers[-1].register_forward_pre_hook(self._enter_head)
        self._model.to(device=device, memory_format=torch.channels_last)

    def __call__(self, batch: Tensor) -> Output:
        """Run forward `(n, size, size, 3) uint8` RGB."""
        # The view is already channels-last in memory.
        images = batch.to(self._device, non_blocking=True).permute(0, 3, 1, 2).to(self._dtype)
        output = self._model(images if self._scale is None else images * self._scale)
        features, self._features = self._features, None
        return Output(output[0] if isinstance(output, tuple | list) else output, features)

    def _enter_head(self, _head: torch.nn.Module, inputs: tuple[list[Tensor]]) -> tuple[list[Tensor]]:
        self._features = inputs[0][-1]
        # In bf16 the last layers cost 0.015 of mAP50-95; they are a tenth of the time.
        return ([each.float() for each in inputs[0]],)


class Export:
    """An export that Ultralytics' AutoBackend opens: ONNX, OpenVINO, TensorRT, TorchScript.

    Args:
        weights: File or folder.
        device: Where it runs, if the format lets one choose.
        precision: `auto`, or what the file was exported in.
        image_size: Side of the square that will be sent.

    Raises:
        WeightsError: It cannot be opened, or holds no detector, or is for another size.
        DeviceError: The precision asked for is not the file's.
    """

    def __init__(self, weights: Path, device: torch.device, precision: str, image_size: int) -> None:
        self._backend = _open_export(weights, device, fp16=precision == "fp16")
        self.precision = "fp16" if self._backend.fp16 else "fp32"
        if precision not in ("auto", self.precision):
            raise DeviceError(
                f"precision is {precision}, but {weights.name} runs in {self.precision}: "
                "an export's precision is chosen when it is exported, so set precision to auto."
            )
        self.class_names = _names(self._backend.names)
        self.feature_layer: int | None = None
        self._device = device
        metadata = self._backend.metadata or {}
        self._chunk = None if metadata.get("dynamic") else int(metadata.get("batch", 1))
        made_for = metadata.get("imgsz")
        if self._chunk and made_for and list(made_for) != [image_size, image_size]:
            raise WeightsError(
                f"{weights.name} was exported for images of {made_for}, not of {image_size}: "
                "set image_size accordingly, or export again."
            )

    def __call__(self, batch: Tensor) -> Output:
        """Run forward `(n, size, size, 3) uint8` RGB, in pieces of the size that the export was made for."""
        images = batch.to(self._device, non_blocking=True).permute(0, 3, 1, 2).float().div_(255).contiguous()
        pieces = [self._piece(piece) for piece in torch.split(images, self._chunk or len(images))]
        return Output(torch.cat(pieces).to(self._device), None)

    def _piece(self, images: Tensor) -> Tensor:
        count = len(images)
        if self._chunk and count < self._chunk:
            images = torch.cat((images, images.new_zeros(self._chunk - count, *images.shape[1:])))
        output = self._backend(images)
        predictions: Tensor = output[0] if isinstance(output, tuple | list) else output
        # A runtime may hand out the same memory again.
        return predictions[:count].clone()


def configure_ultralytics() -> None:
    """Keep Ultralytics to itself: own settings folder, no network, no installing; before its first import."""
    cache = os.environ.get("XDG_CACHE_HOME")
    folder = (
        Path(cache) / "glasshouse" if cache else Path(tempfile.gettempdir()) / f"glasshouse-{os.getuid()}"
    )
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.environ.setdefault("YOLO_CONFIG_DIR", str(folder))
    os.environ.setdefault("YOLO_VERBOSE", "false")
    os.environ.setdefault("ULTRALYTICS_SAFE_LOAD", "true")
    os.environ["YOLO_AUTOINSTALL"] = "false"
    os.environ["YOLO_OFFLINE"] = "true"


def _read_checkpoint(weights: Path) -> Any:
    configure_ultralytics()
    from ultralytics.nn.modules.head import Detect, v10Detect  # noqa: PLC0415
    from ultralytics.nn.tasks import load_checkpoint  # noqa: PLC0415

    try:
        # By their names Ultralytics renames, downloads or deletes files: it is shown a plain one.
        with tempfile.TemporaryDirectory() as folder:
            plain = Path(folder) / "weights.pt"
            plain.symlink_to(weights.absolute())
            model, _ = load_checkpoint(plain)  # type: ignore[no-untyped-call]
    # Whatever unpickling a stranger's file trips over.
    except Exception as error:
        raise WeightsError(
            f"{weights} is not an Ultralytics checkpoint that can be read: give a .pt saved by Ultralytics "
            f"8 or later, or an export ({type(error).__name__})."
        ) from error
    # Subclasses of Detect have other tasks, or take words as well as pixels.
    head = model.model[-1] if isinstance(getattr(model, "model", None), torch.nn.Sequential) else model
    task = getattr(model, "task", "unknown")
    if task != "detect" or type(head) not in (Detect, v10Detect):
        raise WeightsError(
            f"{weights} is a model of {type(head).__name__} for the task {task}: give a YOLO "
            "checkpoint for detection, or, of an open-vocabulary model, an export with its classes set."
        )
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model.fuse(verbose=False).eval()


def _open_export(weights: Path, device: torch.device, *, fp16: bool) -> Any:
    configure_ultralytics()
    from ultralytics.nn.autobackend import AutoBackend  # noqa: PLC0415

    try:
        backend = AutoBackend(str(weights), device=device, fp16=fp16, verbose=False)
    # Each of its runtimes has its own errors.
    except (Exception, SystemExit) as error:
        raise WeightsError(
            f"{weights} cannot be opened as an export: export it again with this version of Ultralytics, "
            f"and install the package that runs the format ({type(error).__name__}: {error})."
        ) from error
    if (backend.task or "detect") != "detect":
        raise WeightsError(f"{weights} is for the task {backend.task}: export a detection checkpoint.")
    return backend


def _names(names: dict[int, str] | list[str]) -> dict[int, str]:
    pairs = names.items() if isinstance(names, dict) else enumerate(names)
    return {int(class_id): str(name) for class_id, name in pairs}


def _fold_scale(first: Any) -> float | None:
    """Move the division by 255 into the first convolution: 0 to 255 are exact in every precision."""
    convolution = getattr(first, "conv", None)
    if not isinstance(convolution, torch.nn.Conv2d):
        return 1 / 255
    convolution.weight.data /= 255
    return None
