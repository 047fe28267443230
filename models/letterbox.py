"""The fixed square that the network sees, and the way back to the image."""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

GREY = (114, 114, 114)


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """An image fitted into a grey square, ready to be one of a batch.

    Attributes:
        pixels: `(size, size, 3) uint8` RGB.
        image_height: Of the image as sent.
        image_width: Of the image as sent.
        height: Of the image inside the square.
        width: Of the image inside the square.
        top: First row of the image inside the square.
        left: First column of the image inside the square.
    """

    pixels: npt.NDArray[np.uint8]
    image_height: int
    image_width: int
    height: int
    width: int
    top: int
    left: int

    def to_image(self, boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return `(n, 4)` boxes of the square as boxes of the image, clipped to it."""
        gain = np.array([self.width / self.image_width, self.height / self.image_height] * 2)
        corner = np.array([self.left, self.top] * 2)
        edge = np.array([self.image_width, self.image_height] * 2)
        moved: npt.NDArray[np.float64] = np.clip((boxes - corner) / gain, 0, edge)
        return moved.astype(np.float32)

    def cells(self, rows: int, columns: int) -> tuple[slice, slice]:
        """Return which rows and columns of a `(rows, columns)` feature map see the image, not only grey."""
        size = len(self.pixels)
        return (
            slice(self.top * rows // size, -(-(self.top + self.height) * rows // size)),
            slice(self.left * columns // size, -(-(self.left + self.width) * columns // size)),
        )


def letterbox(image: npt.NDArray[np.uint8], size: int) -> Prepared:
    """Scale an image to fit a square, and centre it on grey; the pixels are those of Ultralytics' LetterBox.

    Args:
        image: `(h, w, 3) uint8`, any size from one pixel.
        size: Side of the square in pixels.
    """
    image_height, image_width = image.shape[:2]
    ratio = min(size / image_height, size / image_width)
    height, width = (max(round(side * ratio), 1) for side in (image_height, image_width))
    if (height, width) != (image_height, image_width):
        image = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
    # Half a pixel is left over where the difference is odd: it goes below and right.
    top, left = (size - height) // 2, (size - width) // 2
    pixels = cv2.copyMakeBorder(
        image, top, size - height - top, left, size - width - left, cv2.BORDER_CONSTANT, value=GREY
    )
    return Prepared(np.asarray(pixels, np.uint8), image_height, image_width, height, width, top, left)
