"""The object detector: a batch of images of any sizes in, detections out, same length, same order.

`prepare` fits one image on any thread; `detect` runs one batch on the one device thread. Nothing in an image
or in settings can make `detect` raise.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from models.detections import Detections
from models.device import DeviceError, resolve_device, usable_cores
from models.letterbox import Prepared, letterbox
from models.network import Checkpoint, Export, Network, Output, WeightsError
from models.postprocess import DetectionSettings, choose, find_candidates

__all__ = ["Detected", "DetectionSettings", "Detector", "Prepared", "WeightsError", "resolve_precision"]

Halves = Sequence[npt.NDArray[np.float16] | None]

DEFAULT = DetectionSettings()
FLOAT16_MAX = 65504.0


@dataclass(frozen=True, slots=True, eq=False)
class Detected:
    """What one forward says of one image.

    Attributes:
        detections: By the request's own settings.
        default_detections: By the default settings, so that images stay comparable over time.
        feature_map: `(C, h, w) float16` of the whole letterboxed square, from the layer that EigenCAM looks
            at; None for exports.
        embedding: `(C,) float16`, that map's mean over the cells that see the image; None for exports.
    """

    detections: Detections
    default_detections: Detections
    feature_map: npt.NDArray[np.float16] | None
    embedding: npt.NDArray[np.float16] | None


class Detector:
    """A YOLO detection model, loaded and warm.

    Args:
        weights: An Ultralytics `.pt` (trusted, see `models.network.Checkpoint`), or an export.
        device: `auto`, `cuda` or `cpu`.
        precision: `auto`, `fp32`, `bf16` or `fp16`; see `resolve_precision`.
        image_size: Side in pixels of the square that the network sees, a multiple of 32.
        threads: CPU threads of the network; None for all the cores there are.
        warmup_batch: The largest batch to expect.

    Attributes:
        name: Of the weights, without folder and suffix.
        sha256: Of the weights; of a folder, over its files' names and contents.
        version: Its first 12 hexadecimal digits.
        class_names: Name of each class id.
        device: Where it runs.
        precision: `fp32`, `bf16` or `fp16`.
        image_size: As given.
        threads: CPU threads of the network.
        feature_layer: Index of the layer of `feature_map`: the last that feeds the head; None for exports.
        embedding_size: Length of `embedding`; None for exports.

    Raises:
        WeightsError: The weights hold no detector that can be served.
        DeviceError: Device or precision are not to be had.
    """

    def __init__(
        self,
        weights: Path,
        *,
        device: str = "auto",
        precision: str = "auto",
        image_size: int = 640,
        threads: int | None = None,
        warmup_batch: int = 1,
    ) -> None:
        if not weights.exists():
            raise WeightsError(f"{weights} does not exist: give the path of a YOLO checkpoint or export.")
        self.name = weights.stem
        self.sha256 = _sha256(weights)
        self.version = self.sha256[:12]
        self.device = resolve_device(device)
        self.image_size = image_size
        self.threads = threads or usable_cores()
        self._staging = torch.empty((0, image_size, image_size, 3), dtype=torch.uint8)
        self._network: Network
        if weights.suffix == ".pt":
            resolved = resolve_precision(precision, self.device)
            self._network = Checkpoint(weights, self.device, resolved, image_size)
        else:
            self._network = Export(weights, self.device, precision, image_size)
        self.precision = self._network.precision
        self.class_names = self._network.class_names
        self.feature_layer = self._network.feature_layer
        self.embedding_size = self._warm_up(warmup_batch)

    def prepare(self, image: npt.NDArray[np.uint8]) -> Prepared:
        """Fit one `(h, w, 3) uint8` RGB image of any size into the square; on any thread."""
        return letterbox(image, self.image_size)

    def detect(self, prepared: Sequence[Prepared], settings: Sequence[DetectionSettings]) -> list[Detected]:
        """Run one batch, each image with its own settings; same length, same order; one thread at a time."""
        if not prepared:
            return []
        output = self._forward(prepared)
        floors = [min(each.confidence, DEFAULT.confidence) for each in settings]
        candidates = find_candidates(output.predictions, floors)
        maps, embeddings = _maps(output, prepared)
        found = []
        for index, (one, wanted, fitted) in enumerate(zip(candidates, settings, prepared, strict=True)):
            default = choose(one, DEFAULT, fitted)
            own = default if wanted == DEFAULT else choose(one, wanted, fitted)
            found.append(Detected(own, default, maps[index], embeddings[index]))
        return found

    def _forward(self, prepared: Sequence[Prepared]) -> Output:
        # OpenMP keeps the number of threads for each calling thread.
        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)
        with torch.inference_mode():
            return self._network(self._stage(prepared))

    def _stage(self, prepared: Sequence[Prepared]) -> torch.Tensor:
        """Put a batch side by side, in memory that is there already, and that a GPU can fetch by itself.

        Of an H100's time for a batch of 16, copying from memory that the system may page out took 41 %.
        """
        size = len(prepared)
        if size > len(self._staging):
            pinned = self.device.type == "cuda"
            shape = (size, self.image_size, self.image_size, 3)
            self._staging = torch.empty(shape, dtype=torch.uint8, pin_memory=pinned)
        staged = self._staging[:size]
        np.stack([each.pixels for each in prepared], out=staged.numpy())
        return staged

    def _warm_up(self, batch: int) -> int | None:
        """Run the smallest and the largest batch, all the way; return the length of an embedding."""
        image = self.prepare(np.zeros((self.image_size, self.image_size, 3), np.uint8))
        for size in sorted({1, batch}):
            found = self.detect([image] * size, [DEFAULT] * size)
        embedding = found[0].embedding
        return None if embedding is None else len(embedding)


def resolve_precision(asked: str, device: torch.device) -> str:
    """Turn `auto`, `fp32`, `bf16` or `fp16` into what the device runs.

    `auto` is fp16 on a GPU, bf16 on a CPU that is fast at it, else fp32.

    Raises:
        DeviceError: The device cannot do what was asked, or the word is unknown.
    """
    if asked not in ("auto", "fp32", "bf16", "fp16"):
        raise DeviceError(f"precision is {asked!r}; use auto, fp32, bf16 or fp16.")
    if device.type == "cuda":
        if asked == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
            raise DeviceError("precision is bf16, which this GPU cannot do: use auto, fp16 or fp32.")
        return "fp16" if asked == "auto" else asked
    if asked == "fp16":
        raise DeviceError("precision is fp16, which only pays on a GPU: use auto, bf16 or fp32 on a CPU.")
    return ("bf16" if _fast_bf16() else "fp32") if asked == "auto" else asked


def _fast_bf16() -> bool:
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def _maps(output: Output, prepared: Sequence[Prepared]) -> tuple[Halves, Halves]:
    if output.features is None:
        return [None] * len(prepared), [None] * len(prepared)
    features = output.features
    means = []
    for one, fitted in zip(features, prepared, strict=True):
        rows, columns = fitted.cells(*one.shape[1:])
        means.append(one[:, rows, columns].float().mean((1, 2)))
    return list(_float16(features)), list(_float16(torch.stack(means)))


def _float16(values: torch.Tensor) -> npt.NDArray[np.float16]:
    halves = values.clamp(-FLOAT16_MAX, FLOAT16_MAX).to(torch.float16)
    return np.asarray(halves.cpu().numpy(), np.float16)


def _sha256(weights: Path) -> str:
    """Hash a file, or the names and contents of a folder's files."""
    if weights.is_file():
        with weights.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    whole = hashlib.sha256()
    for path in sorted(path for path in weights.rglob("*") if path.is_file()):
        whole.update(
            os.fsencode(path.relative_to(weights)) + b"\0" + hashlib.sha256(path.read_bytes()).digest()
        )
    return whole.hexdigest()
