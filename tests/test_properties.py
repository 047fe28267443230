"""The 13 image properties: equal to a slow, separate reckoning; whatever the image's shape."""

import json
import math
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from models.images import decode
from models.properties import MAX_PIXELS, PROPERTY_NAMES, _kernels, measure, step_of
from store.schema import PROPERTIES
from tests.photos import jpeg_bytes

Pixels = npt.NDArray[np.uint8]


def reckoned(image: Pixels) -> dict[str, float]:
    """The formulas, one by one, in floating point."""
    height, width = image.shape[:2]
    rgb = image.astype(np.float64)
    gray = rgb @ [0.2125, 0.7154, 0.0721]
    total = rgb.sum(2)
    shares = np.divide(rgb, total[..., None], out=np.zeros_like(rgb), where=total[..., None] > 0)
    inner = gray[1:-1, 1:-1]
    laplacian = gray[:-2, 1:-1] + gray[2:, 1:-1] + gray[1:-1, :-2] + gray[1:-1, 2:] - 4 * inner
    steps = np.abs(np.diff(gray, axis=1))
    # Rounded first: 0.2125 is not a number of binary digits, and a level of 16 may come out below it.
    counts = np.bincount(np.floor(gray.round(6)).astype(int).ravel(), minlength=256)
    p = counts[counts > 0] / gray.size
    saturation = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)[..., 1]
    blocks = steps[:, 7::8]
    return {
        "aspect": height / width,
        "area": height * width,
        "brightness": gray.mean(),
        "contrast": gray.std(),
        "red": shares[..., 0].mean(),
        "green": shares[..., 1].mean(),
        "blue": shares[..., 2].mean(),
        "log_sharpness": math.log1p(laplacian.var()) if laplacian.size else 0.0,
        "entropy": -(p * np.log2(p)).sum(),
        "saturation": saturation.mean(),
        "noise": float(np.median(np.abs(laplacian))) / (0.6745 * math.sqrt(20)) if laplacian.size else 0.0,
        "blockiness": (blocks.mean() if blocks.size else 0.0)
        / ((steps.mean() if steps.size else 0.0) + 1e-6),
        "clipping": ((gray.round(6) < 8) | (gray.round(6) > 247)).mean(),
    }


def of(image: Pixels, step: int | None = None) -> dict[str, float]:
    """The properties by name."""
    return dict(zip(PROPERTY_NAMES, measure(image, step).values.tolist(), strict=True))


def photo(name: str) -> Pixels:
    """Pixels of a photograph."""
    return decode(jpeg_bytes(name), max_pixels=10**8)


def noise(*shape: int) -> Pixels:
    """Every pixel by chance."""
    return np.random.default_rng(7).integers(0, 256, (*shape, 3), np.uint8)


def test_the_names_are_those_of_the_table() -> None:
    """What is measured is what the table has columns for, in the same order."""
    assert tuple(column.name for column in PROPERTIES) == PROPERTY_NAMES


@pytest.mark.parametrize("name", ["astronaut", "coffee"])
def test_photographs(name: str) -> None:
    """On photographs every property is what the formula says."""
    image = photo(name)
    assert of(image, 1) == pytest.approx(reckoned(image), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    "image",
    [
        noise(48, 64),
        noise(1, 1),
        noise(1, 9),
        noise(9, 1),
        noise(2, 2),
        noise(3, 3),
        noise(5, 4),
        np.zeros((20, 30, 3), np.uint8),
        np.full((20, 30, 3), 255, np.uint8),
        np.full((20, 30, 3), 8, np.uint8),
        np.full((20, 30, 3), (255, 0, 0), np.uint8),
        noise(40, 60)[::2, ::-1],
    ],
    ids=lambda image: "x".join(map(str, image.shape)),
)
def test_whatever_the_shape(image: Pixels) -> None:
    """Noise, single pixels and lines, one colour, clipped, and a view that is not contiguous."""
    assert of(image) == pytest.approx(reckoned(np.ascontiguousarray(image)), rel=1e-9, abs=1e-9)


def test_every_pixel_of_a_large_image() -> None:
    """Whoever asks for every pixel gets it, however many there are: more than there is room kept for."""
    image = noise(700, 900)
    assert of(image, 1) == pytest.approx(reckoned(image), rel=1e-9, abs=1e-9)


def test_a_read_only_image() -> None:
    """A picture that may not be written to is measured by the same code, not compiled for anew."""
    image = noise(48, 64)
    expected = of(image)
    image.setflags(write=False)
    count, _ = _kernels()
    before = list(count.signatures)  # type: ignore[attr-defined]
    assert of(image) == expected
    assert count.signatures == before  # type: ignore[attr-defined]


@pytest.mark.parametrize("step", [2, 3])
def test_squares_are_averaged(step: int) -> None:
    """Brightness of the means is the mean of the brightness, to the rounding of a level; the rest is cut."""
    image = noise(600 + step - 1, 900 + step - 1)
    whole, means = of(image[:600, :900], 1), of(image, step)
    assert means["brightness"] == pytest.approx(whole["brightness"], abs=0.15)
    assert means["contrast"] == pytest.approx(whole["contrast"] / step, rel=0.01)


def test_a_large_image_is_reduced() -> None:
    """Beyond 640 x 640 pixels means of whole squares are measured; size and shape stay the image's own."""
    image = np.repeat(np.repeat(noise(300, 400), 3, 0), 3, 1)
    image = np.ascontiguousarray(image[:, :-1])
    measured = measure(image)
    assert measured.step == 2
    whole = of(image, 3)
    small = reckoned(noise(300, 400)[:, :399])
    for name in PROPERTY_NAMES[2:]:
        assert whole[name] == pytest.approx(small[name], rel=1e-9), name
    assert (whole["aspect"], whole["area"]) == (900 / 1199, 900 * 1199)


@pytest.mark.parametrize(
    "size", [(1, 1), (640, 640), (641, 640), (4000, 10_000), (1, 2_000_000), (3, 999_999)]
)
def test_the_step(size: tuple[int, int]) -> None:
    """It is the smallest that bounds the work, and at least one square is left."""
    step = step_of(*size)
    left = [(size[0] // one) * (size[1] // one) for one in (max(1, step - 1), step)]
    assert left[1] >= 1
    assert left[1] <= MAX_PIXELS or step == min(size)
    assert step == 1 or left[0] > MAX_PIXELS


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
        [[[0, 0, 0]]],
    ],
)
def test_what_is_no_image(image: npt.NDArray[np.generic]) -> None:
    """Gray, transparent, floating point and empty arrays are refused, and what is no array."""
    with pytest.raises(ValueError, match="an image is"):
        measure(image)  # type: ignore[arg-type]


@pytest.mark.parametrize("step", [0, 5])
def test_what_is_no_step(step: int) -> None:
    """A step is from 1 to the shorter side."""
    with pytest.raises(ValueError, match="step is"):
        measure(noise(4, 9), step)


@pytest.mark.parametrize(
    ("name", "planted"),
    [
        ("noise", [lambda image, s=s: add_noise(image, s) for s in (5, 15, 30)]),
        ("blockiness", [lambda image, q=q: jpeg(image, q) for q in (60, 25, 8)]),
        ("log_sharpness", [lambda image, s=s: sharpen(image, s) for s in (0.5, 1.0, 2.0)]),
        ("-log_sharpness", [lambda image, s=s: cv2.GaussianBlur(image, (0, 0), s) for s in (0.5, 1, 2)]),
    ],
)
def test_planted_damage(name: str, planted: list) -> None:  # type: ignore[type-arg]
    """Noise, compression, sharpening and blur move their own property as they should, step by step."""
    image = photo("astronaut")
    sign = -1 if name.startswith("-") else 1
    found = [sign * of(one)[name.removeprefix("-")] for one in (image, *(do(image) for do in planted))]
    assert all(before < after for before, after in pairwise(found)), found


def add_noise(image: Pixels, spread: float) -> Pixels:
    """Planted noise."""
    added = np.random.default_rng(1).normal(0, spread, image.shape)
    return np.clip(image + added, 0, 255).astype(np.uint8)


def jpeg(image: Pixels, quality: int) -> Pixels:
    """Planted compression."""
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)


def sharpen(image: Pixels, amount: float) -> Pixels:
    """An unsharp mask."""
    soft = cv2.GaussianBlur(image, (0, 0), 2)
    return np.asarray(cv2.addWeighted(image, 1 + amount, soft, -amount, 0), np.uint8)


WARM = """
import json, logging, numpy
logging.basicConfig()
from models.properties import _kernels, measure, warm
warm()
hits = sum(sum(one.stats.cache_hits.values()) for one in _kernels())
print(json.dumps([hits, measure(numpy.full((9, 9, 3), 200, numpy.uint8)).values.tolist()]))
"""


def warmed(cache: Path, together: int = 1) -> list[tuple[int, list[float], str]]:
    """Start processes at once; of each: how many functions it found compiled, its numbers, its log."""
    environ = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WARM],
            env={**environ, "XDG_CACHE_HOME": str(cache)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(together)
    ]
    found = []
    for process in processes:
        out, log = process.communicate(timeout=100)
        assert process.returncode == 0, log
        found.append((*json.loads(out), log))
    return found


def test_processes_that_start_together_compile_once(tmp_path: Path) -> None:
    """Of two with an empty cache one compiles; the other finds both functions, in our folder."""
    found = warmed(tmp_path, together=2)
    assert sorted(hits for hits, _, _ in found) == [0, 2]
    assert len(list((tmp_path / "glasshouse" / "numba").rglob("*.nbc"))) == 2
    assert all(values == measure(np.full((9, 9, 3), 200, np.uint8)).values.tolist() for _, values, _ in found)


def test_a_cache_that_does_not_work(tmp_path: Path) -> None:
    """Cut off by a power cut, or no folder at all: images are measured, and the log names the folder."""
    no_folder = tmp_path / "file"
    no_folder.write_text("")
    damaged = tmp_path / "damaged"
    warmed(damaged)
    for one in damaged.rglob("*.nbc"):
        one.write_bytes(one.read_bytes()[:1000])
    for cache in (no_folder, damaged):
        ((_, values, log),) = warmed(cache)
        assert values == measure(np.full((9, 9, 3), 200, np.uint8)).values.tolist()
        assert f"compiled code cannot be kept in {cache / 'glasshouse' / 'numba'}" in log
