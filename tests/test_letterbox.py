"""The letterbox: Ultralytics' pixels, and the way back."""

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from models.letterbox import GREY, letterbox
from models.network import configure_ultralytics

Sizes = list[tuple[int, int]]


def random_image(height: int, width: int) -> npt.NDArray[np.uint8]:
    """Return noise."""
    return np.random.default_rng(height * 10_000 + width).integers(0, 256, (height, width, 3), np.uint8)


def many_sizes() -> Sizes:
    """Return extreme heights and widths, and three hundred drawn ones."""
    drawn = np.random.default_rng(1).integers(1, 1400, (300, 2))
    extreme = [(1, 1), (1, 5000), (5000, 1), (2, 1279), (639, 640), (640, 640), (641, 639), (1280, 1)]
    return extreme + [(int(height), int(width)) for height, width in drawn]


@pytest.mark.parametrize("size", [640, 416, 32])
def test_pixels_are_those_of_ultralytics(size: int) -> None:
    """For hundreds of sizes, up and down, the square has the pixels of Ultralytics' LetterBox."""
    configure_ultralytics()
    from ultralytics.data.augment import LetterBox  # noqa: PLC0415  after its settings folder is named

    theirs = LetterBox((size, size), auto=False)
    different = []
    for height, width in many_sizes():
        image = random_image(height, width)
        if not np.array_equal(letterbox(image, size).pixels, np.asarray(theirs(image=image))):
            different.append((height, width))
    assert different == []


@pytest.mark.parametrize(("height", "width"), [(1, 40_000_000), (40_000_000, 1)])
def test_the_longest_image_that_is_decoded_fits(height: int, width: int) -> None:
    """Forty million pixels in a row leave one line of them in the square."""
    fitted = letterbox(np.zeros((height, width, 3), np.uint8), 640)
    assert sorted((fitted.height, fitted.width)) == [1, 640]
    assert fitted.pixels.shape == (640, 640, 3)


def test_the_image_lies_where_it_is_said_to() -> None:
    """Inside the named rows and columns is the scaled image, and outside nothing but grey."""
    for height, width in [(300, 777), (777, 300), (50, 50), (1, 5000), (3, 2)]:
        image = random_image(height, width)
        fitted = letterbox(image, 640)
        rows = slice(fitted.top, fitted.top + fitted.height)
        columns = slice(fitted.left, fitted.left + fitted.width)
        assert np.array_equal(fitted.pixels[rows, columns], cv2.resize(image, (fitted.width, fitted.height)))
        outside = np.ones((640, 640), bool)
        outside[rows, columns] = False
        assert (fitted.pixels[outside] == GREY).all()


def test_to_image_inverts() -> None:
    """A box of the image, moved into the square by hand, comes back to a hundredth of a pixel."""
    random = np.random.default_rng(2)
    for height, width in many_sizes():
        fitted = letterbox(np.zeros((height, width, 3), np.uint8), 640)
        boxes = np.sort(random.uniform(0, 1, (20, 2, 2)), axis=1).reshape(20, 4) * np.array(
            [width, height] * 2
        )
        gain = np.array([fitted.width / width, fitted.height / height] * 2)
        in_square = boxes * gain + np.array([fitted.left, fitted.top] * 2)
        back = fitted.to_image(in_square.astype(np.float32))
        assert back.dtype == np.float32
        # Scaled up from a square of float32: a few units in the last place of 640, times the scale.
        assert np.abs(back - boxes).max() <= 0.01 + 2e-4 / gain.min()


def test_to_image_clips_to_the_image() -> None:
    """Boxes that reach into the grey, or out of the square, end at the image's edges."""
    fitted = letterbox(np.zeros((300, 600, 3), np.uint8), 640)
    boxes = np.array([[-50, -50, 700, 700], [0, 0, 10, 10], [600, 630, 639, 640]], np.float32)
    assert fitted.to_image(boxes).tolist() == [
        [0, 0, 600, 300],
        [0, 0, 9.375, 0],
        [562.5, 300, 599.0625, 300],
    ]


def test_cells_are_those_with_a_pixel_of_the_image() -> None:
    """A cell of a feature map is counted exactly if it covers a row and a column of the image."""
    for height, width in [*many_sizes()[:60], (480, 640), (640, 480)]:
        fitted = letterbox(np.zeros((height, width, 3), np.uint8), 640)
        seen = np.zeros((640, 640), bool)
        seen[fitted.top : fitted.top + fitted.height, fitted.left : fitted.left + fitted.width] = True
        for side in (80, 40, 20):
            step = 640 // side
            expected = seen.reshape(side, step, side, step).any(axis=(1, 3))
            found = np.zeros((side, side), bool)
            found[fitted.cells(side, side)] = True
            assert np.array_equal(found, expected)
