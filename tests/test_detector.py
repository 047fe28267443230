"""The detector with the real weights: the batch law, settings, boxes, maps and embeddings."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torchvision.ops import box_iou

from bench.coco_map import IOUS
from models.artifacts import fetch
from models.detections import Detections
from models.detector import Detected, DetectionSettings, Detector, resolve_precision
from models.device import DeviceError, resolve_device
from models.network import WeightsError
from tests.photos import photographs
from tests.ultralytics_reference import differences, predict

pytestmark = pytest.mark.data

Pixels = npt.NDArray[np.uint8]
CPU = torch.device("cpu")
DEFAULT = DetectionSettings()
LOW = DetectionSettings(confidence=0.001)
PERSON, BUS = 0, 5


@pytest.fixture(scope="module")
def detector() -> Detector:
    """The default weights in fp32 on the CPU."""
    return Detector(fetch("yolov8n"), device="cpu", precision="fp32", warmup_batch=4)


def run(
    detector: Detector, images: Sequence[Pixels], settings: Sequence[DetectionSettings] | None = None
) -> list[Detected]:
    """Prepare and detect one batch."""
    prepared = [detector.prepare(image) for image in images]
    return detector.detect(prepared, settings or [DEFAULT] * len(images))


def odd_images() -> list[Pixels]:
    """Return photographs and images of every size and shape that is allowed."""
    grey = [np.full((*shape, 3), 90, np.uint8) for shape in [(1, 1), (1, 5000), (5000, 1), (2, 3)]]
    noise = np.random.default_rng(0).integers(0, 256, (700, 33, 3), np.uint8)
    photos = photographs()
    return [photos["bus"], grey[0], photos["zidane"], grey[1], noise, grey[2], photos["chelsea"], grey[3]]


def same(ours: Detections, others: Detections) -> bool:
    """Return whether both are the same, box by box, but for fp32's last digits."""
    return (
        np.array_equal(ours.class_id, others.class_id)
        and np.allclose(ours.confidence, others.confidence, atol=1e-4)
        and np.allclose(ours.boxes, others.boxes, atol=0.05)
    )


def test_a_batch_equals_singles(detector: Detector) -> None:
    """Eight images of eight sizes in one batch get, in their order, what each gets alone."""
    images = odd_images()
    together = run(detector, images, [LOW] * len(images))
    alone = [run(detector, [image], [LOW])[0] for image in images]
    assert [
        same(a.default_detections, b.default_detections) for a, b in zip(together, alone, strict=True)
    ] == ([True] * 8)
    assert [differences(a.detections, b.detections) for a, b in zip(together, alone, strict=True)] == [[]] * 8
    for a, b in zip(together, alone, strict=True):
        assert a.embedding is not None and b.embedding is not None
        assert np.allclose(a.embedding, b.embedding, atol=2e-3)


def test_order_is_that_of_the_images(detector: Detector) -> None:
    """Turning a batch round turns the answers round."""
    images = odd_images()[:3]
    forth, back = run(detector, images), run(detector, images[::-1])
    assert [same(a.detections, b.detections) for a, b in zip(forth, back[::-1], strict=True)] == [True] * 3
    assert [len(one.detections) > 0 for one in forth] == [True, False, True]


def test_an_empty_batch_is_empty(detector: Detector) -> None:
    """No images, no answers."""
    assert detector.detect([], []) == []


def test_images_are_not_written_to(detector: Detector) -> None:
    """Preparing a read-only image of just the network's size works, and gives a copy."""
    image = np.zeros((640, 640, 3), np.uint8)
    image.setflags(write=False)
    assert not np.shares_memory(detector.prepare(image).pixels, image)


def test_reversed_channels_need_no_copy(detector: Detector) -> None:
    """A view with negative strides is prepared like its copy."""
    view = photographs()["bus"][:, ::-1, ::-1]
    assert np.array_equal(detector.prepare(view).pixels, detector.prepare(view.copy()).pixels)


def test_settings_are_each_images_own(detector: Detector) -> None:
    """One image several times in a batch, each with other settings, answers to each."""
    settings = [
        DEFAULT,
        DetectionSettings(confidence=0.6),
        DetectionSettings(classes=(BUS,)),
        DetectionSettings(classes=(PERSON, 79), max_detections=2),
        DetectionSettings(classes=()),
        DetectionSettings(confidence=0.05, iou=0.2),
        DetectionSettings(confidence=0.05, iou=0.95),
        DetectionSettings(confidence=1.0),
    ]
    found = [one.detections for one in run(detector, [photographs()["bus"]] * 8, settings)]
    assert sorted(found[0].class_id) == [PERSON] * 4 + [BUS]
    assert found[1].confidence.min() > 0.6
    assert found[2].class_id.tolist() == [BUS]
    assert found[3].class_id.tolist() == [PERSON] * 2
    assert np.array_equal(found[3].boxes, found[0].boxes[found[0].class_id == PERSON][:2])
    assert len(found[4]) == len(found[7]) == 0
    assert len(found[0]) < len(found[5]) < len(found[6])


def test_default_detections_ignore_the_request(detector: Detector) -> None:
    """Whatever a request asks for, its default detections are those of the default settings."""
    settings = [
        DEFAULT,
        DetectionSettings(confidence=0.9),
        DetectionSettings(confidence=0.0, iou=0.1),
        DetectionSettings(classes=(BUS,), max_detections=1),
    ]
    first, *others = run(detector, [photographs()["bus"]] * 4, settings)
    assert same(first.default_detections, first.detections)
    assert [same(one.default_detections, first.default_detections) for one in others] == [True] * 3


@pytest.mark.parametrize("iou", [0.0, 0.3, 0.7])
def test_boxes_of_one_class_overlap_by_no_more_than_asked(detector: Detector, iou: float) -> None:
    """After suppression no two boxes of a class overlap by more than the request's `iou`."""
    settings = DetectionSettings(confidence=0.01, iou=iou)
    found = run(detector, [photographs()["bus"]], [settings])[0].detections
    boxes = torch.from_numpy(found.boxes)
    same_class = torch.from_numpy(found.class_id[:, None] == found.class_id).triu(1)
    # The suppression is done in the square's pixels, unclipped.
    assert (box_iou(boxes, boxes) * same_class).max() <= iou + 0.03


def test_boxes_are_inside_and_sorted(detector: Detector) -> None:
    """Even at hardly any confidence, boxes lie in their image and come by falling confidence."""
    images = odd_images()
    answers = run(detector, images, [DetectionSettings(confidence=0.0, max_detections=3000)] * len(images))
    for image, answer in zip(images, answers, strict=True):
        found, (height, width) = answer.detections, image.shape[:2]
        assert len(found) > 300
        assert (np.diff(found.confidence) <= 0).all()
        x1, y1, x2, y2 = found.boxes.T
        assert (x1 >= 0).all() and (y1 >= 0).all() and (x2 <= width).all() and (y2 <= height).all()
        assert (x1 <= x2).all() and (y1 <= y2).all()
        assert [str(each.dtype) for each in (found.boxes, found.confidence)] == ["float32"] * 2
        assert str(found.class_id.dtype) == "int32"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_maps_and_embeddings_have_their_form(precision: str) -> None:
    """Feature map and embedding are finite float16 of the documented shapes, in every precision."""
    detector = Detector(fetch("yolov8n"), device="cpu", precision=precision)
    one = run(detector, [photographs()["chelsea"]])[0]
    assert one.feature_map is not None and one.embedding is not None
    assert (one.feature_map.shape, one.embedding.shape) == ((256, 20, 20), (256,))
    assert [str(each.dtype) for each in (one.feature_map, one.embedding)] == ["float16"] * 2
    assert np.isfinite(one.feature_map).all() and np.isfinite(one.embedding).all()
    assert (detector.embedding_size, detector.feature_layer) == (256, 21)


@pytest.mark.parametrize("name", ["bus", "zidane", "chelsea", "motorcycle_left"])
def test_the_embedding_is_the_mean_over_the_image(detector: Detector, name: str) -> None:
    """The embedding is the map's mean over the 32-pixel cells that see the image, not those all grey."""
    fitted = detector.prepare(photographs()[name])
    one = detector.detect([fitted], [DEFAULT])[0]
    assert one.feature_map is not None and one.embedding is not None
    seen = np.zeros((640, 640), bool)
    seen[fitted.top : fitted.top + fitted.height, fitted.left : fitted.left + fitted.width] = True
    cells = seen.reshape(20, 32, 20, 32).any(axis=(1, 3))
    assert 0.5 < cells.mean() < 1
    by_hand = one.feature_map.astype(np.float64)[:, cells].mean(1)
    assert np.allclose(one.embedding, by_hand, atol=1e-3)
    assert not np.allclose(one.embedding, one.feature_map.astype(np.float64).mean((1, 2)), atol=1e-3)


def test_it_tells_what_it_is(detector: Detector) -> None:
    """Name, version, classes, device and precision are those of the weights and of what was asked."""
    assert (detector.name, detector.version) == ("yolov8n", "f59b3d833e2f")
    assert (len(detector.class_names), detector.class_names[BUS]) == (80, "bus")
    assert (detector.device, detector.precision, detector.image_size) == (CPU, "fp32", 640)


def test_threads_are_as_asked() -> None:
    """The network runs on the number of threads given, whatever the calling thread had before."""
    detector = Detector(fetch("yolov8n"), device="cpu", precision="fp32", threads=1)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    run(detector, [photographs()["bus"]])
    assert torch.get_num_threads() == 1
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("device", "precision", "reason"),
    [
        pytest.param("cuda", "auto", "PyTorch sees no CUDA device", id="no CUDA"),
        pytest.param("tpu", "auto", "device is 'tpu'", id="unknown device"),
        pytest.param("cpu", "fp16", "only pays on a GPU", id="fp16 on a CPU"),
        pytest.param("cpu", "int8", "precision is 'int8'", id="unknown precision"),
    ],
)
def test_what_the_device_cannot_do_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, device: str, precision: str, reason: str
) -> None:
    """A device or precision that is not to be had is a `DeviceError` that says what to set instead."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match=reason) as caught:
        Detector(fetch("yolov8n"), device=device, precision=precision)
    text = str(caught.value)
    assert text.endswith(".") and "\n" not in text


def test_auto_takes_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` is the CPU without a GPU, and bf16 on it exactly if the CPU is fast at that."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == CPU
    for fast, expected in [(True, "bf16"), (False, "fp32")]:
        monkeypatch.setattr("models.detector._fast_bf16", lambda fast=fast: fast)
        assert resolve_precision("auto", CPU) == expected
    assert resolve_precision("auto", torch.device("cuda")) == "fp16"


def test_missing_weights_are_named() -> None:
    """Weights that are not there are a `WeightsError` with their path."""
    with pytest.raises(WeightsError, match=r"nowhere/best\.pt does not exist: give the path"):
        Detector(fetch("yolov8n").parent / "nowhere" / "best.pt")


@pytest.mark.parametrize("image_size", [320, 1280])
def test_other_sizes_equal_ultralytics(image_size: int) -> None:
    """Smaller and larger squares find what Ultralytics finds in them."""
    weights, image = fetch("yolov8n"), photographs()["bus"]
    detector = Detector(weights, device="cpu", precision="fp32", image_size=image_size)
    theirs = predict(weights, [image], image_size=image_size)[0]
    assert differences(run(detector, [image])[0].detections, theirs) == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_a_gpu_finds_the_same(detector: Detector, precision: str) -> None:
    """On a GPU every precision finds the confident objects of the CPU's fp32, and fp16 is the default."""
    on_gpu = Detector(fetch("yolov8n"), device="cuda", precision=precision, warmup_batch=8)
    assert Detector(fetch("yolov8n"), device="cuda").precision == "fp16"
    images, wanted = odd_images(), [DetectionSettings(confidence=0.5)] * 8
    for ours, theirs in zip(run(on_gpu, images, wanted), run(detector, images, wanted), strict=True):
        assert sorted(ours.detections.class_id) == sorted(theirs.detections.class_id)
        overlap = box_iou(*(torch.from_numpy(each.detections.boxes) for each in (theirs, ours)))
        assert overlap.numel() == 0 or (overlap.max(1).values > IOUS[-1]).all()
