"""Which files are served: checkpoints of every detector, exports; and a sentence for everything else."""

import io
import os
import pickle
import shutil
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.artifacts import fetch
from models.detections import Detections
from models.detector import DetectionSettings, Detector
from models.device import DeviceError
from models.network import WeightsError
from tests.photos import photographs
from tests.ultralytics_reference import differences, predict, random_checkpoint, yolo

pytestmark = [
    pytest.mark.data,
    # torch 2.15 would rather have torch.export; Ultralytics still writes and reads TorchScript.
    pytest.mark.filterwarnings("ignore:`torch.jit.*` is deprecated"),
]

DEFAULT = DetectionSettings()


class Malicious:
    """Leaves a folder behind when it is unpickled without care."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        """Tell pickle to call `os.mkdir`."""
        return os.mkdir, (str(self._trace),)


def pickled(content: object) -> bytes:
    """Return what `torch.save` writes."""
    out = io.BytesIO()
    torch.save(content, out)
    return out.getvalue()


def zipped() -> bytes:
    """Return a ZIP that holds no checkpoint."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("hello.txt", "hello")
    return out.getvalue()


def exported(weights: Path, image_size: int, batch: int = 1) -> Path:
    """Return a TorchScript export beside the weights."""
    with warnings.catch_warnings():
        # Tracing warns of every shape that it takes for a constant.
        warnings.simplefilter("ignore")
        path = yolo(weights).export(format="torchscript", imgsz=image_size, batch=batch, device="cpu")
    return Path(path)


def copied(folder: Path) -> Path:
    """Return a copy of the default weights, to export beside."""
    return Path(shutil.copy(fetch("yolov8n"), folder / "own.pt"))


def run(detector: Detector, names: list[str], settings: DetectionSettings = DEFAULT) -> list[Detections]:
    """Detect in photographs, in one batch."""
    prepared = [detector.prepare(photographs()[name]) for name in names]
    return [one.detections for one in detector.detect(prepared, [settings] * len(names))]


def refused(weights: Path, **options: Any) -> str:
    """Load what cannot be served; return the message, which must be one sentence with the file's name."""
    with pytest.raises(WeightsError) as caught:
        Detector(weights, device="cpu", **options)
    text = str(caught.value)
    assert weights.name in text and text.endswith(".")
    return text


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"hello " * 100, id="text"),
        pytest.param(zipped(), id="zip"),
        pytest.param(pickled({"model": None}), id="no model"),
        pytest.param(pickled([1, 2, 3]), id="a list"),
        pytest.param(pickled(torch.nn.Linear(2, 2).state_dict()), id="state dict"),
        pytest.param(pickled({"model": torch.nn.Linear(2, 2)}), id="another network"),
        pytest.param(pickled({"model": torch.nn.Sequential(torch.nn.Conv2d(3, 3, 3))}), id="another stack"),
    ],
)
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    """Whatever is in a `.pt` that is no checkpoint of Ultralytics, loading says so in a sentence."""
    (tmp_path / "own.pt").write_bytes(content)
    assert "give a" in refused(tmp_path / "own.pt")


def test_a_truncated_checkpoint_is_refused_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a file by the name of official weights is refused, and neither fetched again nor deleted."""
    (tmp_path / "yolov8n.pt").write_bytes(fetch("yolov8n").read_bytes()[:1_000_000])
    monkeypatch.chdir(tmp_path)
    refused(Path("yolov8n.pt"))
    assert (tmp_path / "yolov8n.pt").stat().st_size == 1_000_000


@pytest.mark.parametrize("wrapped", [True, False], ids=["in a checkpoint", "bare pickle"])
def test_a_malicious_checkpoint_runs_nothing(tmp_path: Path, wrapped: bool) -> None:
    """A pickle that would call a function on loading is refused before it does."""
    trace, weights = tmp_path / "trace", tmp_path / "own.pt"
    content = pickled({"model": Malicious(trace)}) if wrapped else pickle.dumps(Malicious(trace))
    weights.write_bytes(content)
    refused(weights)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("yaml", "kind"),
    [
        ("yolov8n-seg.yaml", "Segment for the task segment"),
        ("yolov8n-cls.yaml", "Classify for the task classify"),
        ("yolov8n-pose.yaml", "Pose for the task pose"),
        ("yolov8n-worldv2.yaml", "WorldDetect for the task detect"),
        ("yoloe-v8n.yaml", "YOLOEDetect for the task detect"),
    ],
)
def test_other_tasks_are_refused(tmp_path: Path, yaml: str, kind: str) -> None:
    """A checkpoint that segments, classifies, finds poses, or takes words, is refused by what it is."""
    yolo(yaml).save(tmp_path / "own.pt")
    assert f"is a model of {kind}: give a YOLO checkpoint" in refused(tmp_path / "own.pt")


def test_names_mean_nothing(tmp_path: Path) -> None:
    """Weights named like a YOLOv5 that Ultralytics would replace, and with an apostrophe, are served."""
    weights = Path(shutil.copy(fetch("yolov8n"), tmp_path / "it's yolov5n.pt"))
    detector = Detector(weights, device="cpu", precision="fp32")
    assert (detector.name, len(run(detector, ["bus"])[0])) == ("it's yolov5n", 5)


def test_a_size_that_the_model_cannot_see_is_refused(tmp_path: Path) -> None:
    """A model of four levels needs multiples of 64: 96 is refused with that number, 128 is served."""
    yolo("yolov8n-p6.yaml").save(tmp_path / "own.pt")
    assert "a multiple of 64, not of 96" in refused(tmp_path / "own.pt", image_size=96)
    assert len(run(Detector(tmp_path / "own.pt", device="cpu", image_size=128), ["bus"])) == 1


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("yaml", ["yolov10n.yaml", "yolo26n.yaml"])
def test_models_that_suppress_themselves(tmp_path: Path, yaml: str, precision: str) -> None:
    """YOLOv10 and YOLO26, whose heads end without suppression, find what Ultralytics finds with them."""
    weights = random_checkpoint(yaml, tmp_path / "own.pt", 320)
    detector = Detector(weights, device="cpu", precision=precision, image_size=320)
    ours = run(detector, ["bus", "chelsea"], DetectionSettings(confidence=0.3))
    assert [len(found) > 20 for found in ours] == [True] * 2
    if precision == "fp32":
        images = [photographs()["bus"], photographs()["chelsea"]]
        theirs = predict(weights, images, confidence=0.3, image_size=320)
        for mine, each in zip(ours, theirs, strict=True):
            # Of 300, the most there may be, the last may tie with the next: which is in depends on the CPU.
            ties = int(len(each) == 300)
            assert len(mine) == len(each)
            assert len(differences(mine, _upright(each), pixels=0.1)) <= ties


def test_boxes_are_upright_even_from_heads_that_turn_them(tmp_path: Path) -> None:
    """YOLO26 can put a left edge right of the right one: in the answer edges are in order."""
    weights = random_checkpoint("yolo26n.yaml", tmp_path / "own.pt", 320)
    raw = predict(weights, [photographs()["bus"]], confidence=0.01, image_size=320)[0].boxes
    assert (raw[:, :2] > raw[:, 2:]).any()
    detector = Detector(weights, device="cpu", precision="fp32", image_size=320)
    boxes = run(detector, ["bus"], DetectionSettings(confidence=0.01))[0].boxes
    assert (boxes[:, :2] <= boxes[:, 2:]).all()


def test_a_newer_architecture_equals_ultralytics(tmp_path: Path) -> None:
    """YOLO11, whose head is another than YOLOv8's, finds what Ultralytics finds with it."""
    weights = random_checkpoint("yolo11n.yaml", tmp_path / "own.pt", 320)
    detector = Detector(weights, device="cpu", precision="fp32", image_size=320)
    ours = run(detector, ["bus"], DetectionSettings(confidence=0.3))[0]
    theirs = predict(weights, [photographs()["bus"]], confidence=0.3, image_size=320)[0]
    assert len(ours) > 20
    assert differences(ours, theirs, pixels=0.1) == []


def test_an_export_finds_the_same_objects(tmp_path: Path) -> None:
    """A TorchScript export for batches of two gives three images the boxes of the checkpoint it came from."""
    names = ["bus", "zidane", "chelsea"]
    export = Detector(exported(copied(tmp_path), 640, batch=2), device="cpu")
    checkpoint = Detector(fetch("yolov8n"), device="cpu", precision="fp32")
    pairs = zip(run(export, names), run(checkpoint, names), strict=True)
    assert [differences(ours, theirs) for ours, theirs in pairs] == [[], [], []]
    assert export.class_names == checkpoint.class_names
    assert (export.precision, export.feature_layer, export.embedding_size) == ("fp32", None, None)


def test_an_export_is_for_what_it_was_made_for(tmp_path: Path) -> None:
    """Another size than the export's is a `WeightsError`, another precision a `DeviceError`; both say so."""
    export = exported(copied(tmp_path), 320)
    assert "was exported for images of [320, 320], not of 640" in refused(export)
    with pytest.raises(DeviceError, match=r"precision is bf16, but own\.torchscript runs in fp32"):
        Detector(export, device="cpu", precision="bf16", image_size=320)


def test_an_export_of_another_task_is_refused(tmp_path: Path) -> None:
    """A segmenting model is refused as an export, too."""
    yolo("yolov8n-seg.yaml").save(tmp_path / "own.pt")
    assert "is for the task segment" in refused(exported(tmp_path / "own.pt", 32), image_size=32)


@pytest.mark.parametrize("name", ["own.torchscript", "own.onnx", "own.engine", "own.txt", "own"])
def test_what_is_no_export_is_refused(tmp_path: Path, name: str) -> None:
    """A file that is none of the formats, or of one whose package is not installed, is refused."""
    (tmp_path / name).write_bytes(b"hello " * 100)
    assert "cannot be opened as an export: export it again" in refused(tmp_path / name)


def _upright(found: Detections) -> Detections:
    corners = np.sort(found.boxes.reshape(-1, 2, 2), axis=1).reshape(-1, 4)
    return Detections(found.class_id, found.confidence, corners)
