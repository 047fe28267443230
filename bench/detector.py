"""The detector's parts on this machine: forward, precision, decoding, letterbox, and rectangles.

`python -m bench.detector` prints the rows. All that is compared runs in turns, and the median counts.
"""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg
import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg

from bench.coco_map import SETTINGS, Labelled, find, precision_of, read_labelled
from bench.report import Row, machine, table
from models.artifacts import ArtifactError, fetch
from models.detections import Detections
from models.detector import DetectionSettings, Detector
from models.device import usable_cores
from models.letterbox import Prepared, letterbox
from models.network import Checkpoint, configure_ultralytics
from models.postprocess import choose, find_candidates

BATCH = 8
SIDE = 640
ROUNDS = 9
CPU = torch.device("cpu")
# Height and width of the squares and rectangles that a batch would be grouped by.
SHAPES = ((480, 640), (640, 480), (640, 640))

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Plain:
    """Ultralytics' model as it comes, fused: contiguous, one precision for all of it."""

    model: Any
    dtype: torch.dtype

    @classmethod
    def load(cls, dtype: torch.dtype) -> "Plain":
        """Load the default weights."""
        configure_ultralytics()
        from ultralytics.nn.tasks import load_checkpoint  # noqa: PLC0415  after its settings folder is named

        model, _ = load_checkpoint(fetch("yolov8n"))  # type: ignore[no-untyped-call]
        return cls(model.fuse(verbose=False).eval().to(dtype), dtype)

    @torch.inference_mode()
    def detect(self, prepared: Sequence[Prepared], settings: DetectionSettings) -> list[Detections]:
        """Run one batch, with our postprocessing."""
        pixels = torch.from_numpy(np.stack([each.pixels for each in prepared]))
        images = pixels.permute(0, 3, 1, 2).contiguous().to(self.dtype) / 255
        candidates = find_candidates(self.model(images)[0], [settings.confidence] * len(prepared))
        return [choose(each, settings, fitted) for each, fitted in zip(candidates, prepared, strict=True)]


def measure(progress: Callable[[str], None] = print) -> list[Row]:
    """Measure every part, one after the other."""
    torch.set_num_threads(usable_cores())
    try:
        labelled, missing = read_labelled(fetch("coco128")), ""
    except ArtifactError:
        labelled, missing = (
            [],
            "COCO128 cannot be fetched here: `python -m models.artifacts coco128` says why",
        )
    progress("forward")
    rows = _forward()
    progress("mean average precision")
    rows += _precision(labelled, missing)
    progress("decoding and letterbox")
    rows += _decoding() + _letterbox()
    progress("rectangles")
    return rows + _rectangles() + _grouping(labelled, missing)


def medians(cases: Mapping[str, Callable[[], object]], *, rounds: int = ROUNDS) -> dict[str, float]:
    """Run all cases in turns, once unmeasured, and return the median seconds of each."""
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for round_number in range(rounds + 1):
        for name, case in cases.items():
            start = time.perf_counter()
            case()
            if round_number:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(each) for name, each in seconds.items()}


def _forward() -> list[Row]:
    prepared, default = [letterbox(_photograph(), SIDE)] * BATCH, DetectionSettings()
    plain = Plain.load(torch.float32)
    ours = {name: Detector(fetch("yolov8n"), device="cpu", precision=name) for name in ("fp32", "bf16")}
    found = medians(
        {
            "plain": lambda: plain.detect(prepared, default),
            "fp32": lambda: ours["fp32"].detect(prepared, [default] * BATCH),
            "bf16": lambda: ours["bf16"].detect(prepared, [default] * BATCH),
        }
    )
    notes = {
        "plain": "Ultralytics' model as it comes, contiguous",
        "fp32": "channels last",
        "bf16": "body in bf16, head in fp32",
    }
    where = f"batch {BATCH} at {SIDE} x {SIDE}, {usable_cores()} threads, with postprocessing"
    return [
        Row(
            f"detector: forward, {'plain fp32' if name == 'plain' else f'ours in {name}'}",
            1e3 * seconds / BATCH,
            "ms an image",
            f"{notes[name]}; {where}",
        )
        for name, seconds in found.items()
    ]


def _precision(labelled: list[Labelled], missing: str) -> list[Row]:
    def plain(dtype: torch.dtype) -> list[Detections]:
        model = Plain.load(dtype)
        return [
            found
            for start in range(0, len(labelled), BATCH)
            for found in model.detect(
                [letterbox(each.image, SIDE) for each in labelled[start : start + BATCH]], SETTINGS
            )
        ]

    def ours(precision: str) -> list[Detections]:
        return find(Detector(fetch("yolov8n"), device="cpu", precision=precision), labelled)

    def score(found: list[Detections]) -> float:
        return precision_of(found, labelled).map50_95

    fp32, bf16, all_bf16 = (math.nan,) * 3
    if labelled:
        fp32, bf16, all_bf16 = score(ours("fp32")), score(ours("bf16")), score(plain(torch.bfloat16))
    note = missing or "COCO128, one label a box (with several, as Ultralytics' validator, 0.4515)"
    return [
        Row("detector: mAP50-95 in fp32", fp32, "", note),
        Row("detector: mAP50-95 lost with body in bf16, head in fp32", fp32 - bf16, "", missing),
        Row("detector: mAP50-95 lost with all of it in bf16", fp32 - all_bf16, "", missing),
    ]


def _decoding() -> list[Row]:
    data = _jpeg()
    array = np.frombuffer(data, np.uint8)
    tensor = torch.from_numpy(array.copy())
    cases: dict[str, Callable[[], object]] = {
        "simplejpeg, exact": lambda: simplejpeg.decode_jpeg(data, "RGB", fastdct=False, fastupsample=False),
        "simplejpeg, fast": lambda: simplejpeg.decode_jpeg(data, "RGB", fastdct=True, fastupsample=True),
        "torchvision": lambda: decode_jpeg(tensor, mode=ImageReadMode.RGB),
        "OpenCV": lambda: cv2.cvtColor(cv2.imdecode(array, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB),  # type: ignore[arg-type]
        "Pillow": lambda: np.asarray(Image.open(BytesIO(data)).convert("RGB")),
    }
    note = f"640 x 480, {len(data) / 1000:.0f} kB; one thread"
    return [
        Row(f"decode a JPEG: {name}", 1e3 * seconds, "ms", note)
        for name, seconds in medians(cases, rounds=100).items()
    ]


def _letterbox() -> list[Row]:
    small = _photograph()
    large = cv2.resize(small, (4000, 3000))
    found = medians(
        {
            "640 x 480": lambda: letterbox(small, SIDE),
            "4000 x 3000": lambda: letterbox(np.asarray(large, np.uint8), SIDE),
        },
        rounds=100,
    )
    return [Row(f"letterbox of {name}", 1e3 * seconds, "ms") for name, seconds in found.items()]


def _rectangles() -> list[Row]:
    """Forward alone of one shape: what a batch of like photographs would gain."""
    network = Checkpoint(fetch("yolov8n"), CPU, "bf16", SIDE)
    shapes = {"square": (BATCH, SIDE, SIDE), "rectangle": (BATCH, 480, SIDE), "one": (1, SIDE, SIDE)}
    batches = {name: torch.zeros(*shape, 3, dtype=torch.uint8) for name, shape in shapes.items()}
    found = medians({name: _run(network, batch) for name, batch in batches.items()})
    return [
        Row(
            "rectangles: forward at 640 x 480 against 640 x 640",
            found["rectangle"] / found["square"],
            "",
            f"bf16, batch {BATCH}; 0.75 of the pixels; {1e3 * found['square'] / BATCH:.1f} ms an image",
        ),
        Row(
            f"rectangles: an image alone against one in a batch of {BATCH}",
            found["one"] / (found["square"] / BATCH),
            "",
            "what smaller batches cost",
        ),
    ]


def _grouping(labelled: list[Labelled], missing: str) -> list[Row]:
    """All of COCO128 as it comes, in squares, and each batch split by shape."""
    saved, groups, ratio = math.nan, math.nan, math.nan
    if labelled:
        network = Checkpoint(fetch("yolov8n"), CPU, "bf16", SIDE)
        shapes = [_shape(each.image) for each in labelled]
        arriving = [shapes[start : start + BATCH] for start in range(0, len(shapes), BATCH)]
        split = [{shape: batch.count(shape) for shape in batch} for batch in arriving]
        found = [_squares_and_parts(network, parts) for parts in split]
        saved = 1 - statistics.fmean(height * width for height, width in shapes) / SIDE**2
        groups = statistics.fmean(len(parts) for parts in split)
        ratio = sum(parts for _, parts in found) / sum(squares for squares, _ in found)
    kinds = ", ".join(f"{width} x {height}" for height, width in SHAPES)
    return [
        Row("rectangles: share of pixels saved", saved, "", missing or f"COCO128 in {kinds}"),
        Row(f"rectangles: parts that a batch of {BATCH} falls into", groups, "", missing or "as they come"),
        Row("rectangles: forward of COCO128 against squares", ratio, "", missing or "bf16, split batches"),
    ]


def _squares_and_parts(network: Checkpoint, parts: Mapping[tuple[int, int], int]) -> tuple[float, float]:
    """Return the median seconds of one batch in squares, and of its parts by shape."""
    square = _run(network, _grey(sum(parts.values()), (SIDE, SIDE)))
    rectangles = [_run(network, _grey(count, shape)) for shape, count in parts.items()]
    found = medians({"square": square, "parts": lambda: [each() for each in rectangles]}, rounds=3)
    return found["square"], found["parts"]


def _run(network: Checkpoint, batch: torch.Tensor) -> Callable[[], object]:
    def forward() -> object:
        with torch.inference_mode():
            return network(batch)

    return forward


def _grey(count: int, shape: tuple[int, int]) -> torch.Tensor:
    return torch.full((count, *shape, 3), 114, dtype=torch.uint8)


def _shape(image: Pixels) -> tuple[int, int]:
    """Return the smallest of `SHAPES` that the scaled image fits into."""
    fitted = letterbox(image, SIDE)
    return next(each for each in SHAPES if fitted.height <= each[0] and fitted.width <= each[1])


def _photograph() -> Pixels:
    """Return the middle of a photograph as `(480, 640, 3)` RGB."""
    image = simplejpeg.decode_jpeg(fetch("bus.jpg").read_bytes(), "RGB")
    height, width = image.shape[:2]
    middle = image[(height - width * 3 // 4) // 2 :][: width * 3 // 4]
    return np.asarray(cv2.resize(middle, (640, 480), interpolation=cv2.INTER_AREA), np.uint8)


def _jpeg() -> bytes:
    return bytes(simplejpeg.encode_jpeg(_photograph(), quality=92, colorspace="RGB", colorsubsampling="420"))


if __name__ == "__main__":
    print(machine().text())
    print(table(measure()))
