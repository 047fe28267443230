"""Boxes and labels drawn on the image, for people."""

import colorsys
from io import BytesIO

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from models.detections import Detections

JPEG_QUALITY = 90
# Steps of the golden angle keep the hues of neighbouring class ids far apart, however many there are.
GOLDEN = 0.618034


def render(image: npt.NDArray[np.uint8], detections: Detections, class_names: dict[int, str]) -> bytes:
    """Return the image as JPEG with the detections drawn on it, the most confident on top.

    Args:
        image: `(h, w, 3) uint8` RGB.
        detections: Boxes in pixels of `image`.
        class_names: Name of each class id.
    """
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    size = max(image.shape[:2])
    line, font = max(2, size // 300), ImageFont.load_default(max(11, size // 50))
    for index in reversed(range(len(detections))):
        class_id = int(detections.class_id[index])
        label = f"{class_names[class_id]} {detections.confidence[index]:.2f}"
        _draw_one(draw, detections.boxes[index], label, _colour(class_id), line, font)
    out = BytesIO()
    picture.save(out, format="JPEG", quality=JPEG_QUALITY)
    return out.getvalue()


def _draw_one(
    draw: ImageDraw.ImageDraw,
    box: npt.NDArray[np.float32],
    label: str,
    colour: tuple[int, int, int],
    line: int,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    x1, y1, x2, y2 = (float(edge) for edge in box)
    draw.rectangle((x1, y1, x2, y2), outline=colour, width=line)
    left, top, right, bottom = draw.textbbox((0, 0), label, font=font)
    height = bottom - top + 2 * line
    # Above the box where there is room, else inside it.
    y = y1 - height if y1 >= height else y1
    draw.rectangle((x1, y, x1 + right - left + 2 * line, y + height), fill=colour)
    draw.text((x1 + line - left, y + line - top), label, fill=_ink(colour), font=font)


def _colour(class_id: int) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(class_id * GOLDEN % 1.0, 0.85, 0.95)
    return round(red * 255), round(green * 255), round(blue * 255)


def _ink(colour: tuple[int, int, int]) -> str:
    red, green, blue = colour
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "white"
