"""Photographs that installed wheels bring along: real images for tests, without a download.

The two of ultralytics come first: they are the ones with objects in the detector's classes.
"""

import functools
import io
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from models import artifacts

_SKIMAGE = (
    "chelsea.png",
    "coffee.png",
    "astronaut.png",
    "rocket.jpg",
    "motorcycle_left.png",
    "motorcycle_right.png",
)
_JPEG_QUALITY = 95


@functools.cache
def photographs() -> dict[str, NDArray[np.uint8]]:
    """Name to `(h, w, 3) uint8` RGB, read-only: bus, zidane, chelsea (a cat), coffee (a cup), astronaut, …"""
    images = {name: _decode(path) for name, path in _files().items()}
    for image in images.values():
        image.setflags(write=False)
    return images


@functools.cache
def jpeg_bytes(name: str) -> bytes:
    """The photograph as JPEG: the file's own bytes where it is one, else encoded at quality 95."""
    path = _files()[name]
    if path.suffix == ".jpg":
        return path.read_bytes()
    encoded = io.BytesIO()
    Image.fromarray(photographs()[name]).save(encoded, "JPEG", quality=_JPEG_QUALITY)
    return encoded.getvalue()


def coco128() -> list[Path]:
    """The 128 images of COCO128, sorted by name; for tests marked `data`, see `fetched`."""
    return sorted((fetched("coco128") / "images" / "train2017").glob("*.jpg"))


def fetched(name: str) -> Path:
    """An artifact that no wheel holds; where nothing else can be reached either, the test is skipped.

    Where skips are failures (`.ci/run`), the local folder has it.
    """
    path = _had(name)
    return path if isinstance(path, Path) else pytest.skip(path)


@functools.cache
def _had(name: str) -> Path | str:
    try:
        return artifacts.fetch(name)
    except artifacts.ArtifactError as error:
        return str(error)


@functools.cache
def _files() -> dict[str, Path]:
    ours = [artifacts.fetch("bus.jpg"), artifacts.fetch("zidane.jpg")]
    # Located, not imported: scikit-image's own module of data may download.
    folder = Path(str(metadata.distribution("scikit-image").locate_file("skimage/data")))
    return {path.stem: path for path in [*ours, *(folder / name for name in _SKIMAGE)]}


def _decode(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.array(ImageOps.exif_transpose(image).convert("RGB"))
