"""From the bytes of an image file to upright RGB pixels. Never trusts a byte of them.

Pixels are those of `cv2.imread`, as RGB: alpha and palette transparency are dropped, not composited, 16-bit
samples lose their low byte, and of an animation the first frame counts.
"""

import struct
from collections.abc import Callable
from io import BytesIO

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

Pixels = npt.NDArray[np.uint8]

# Opened by class: `Image.open` warns of large images as it sees fit, and warning filters are not thread-safe.
OPENERS: dict[str, Callable[[BytesIO], ImageFile]] = {
    "image/jpeg": JpegImageFile,
    "image/png": PngImageFile,
    "image/webp": WebPImageFile,
    "image/bmp": BmpImageFile,
}
# A progressive JPEG has about ten scans; each may cost a pass over all pixels, in a few bytes.
MAX_JPEG_SCANS = 20
# What a JPEG of ours may have, when the boxes are drawn on it.
MAX_SIDE = 65_500
ORIENTATION = 0x0112


class NotAnImage(ValueError):
    """The bytes are not a whole JPEG, PNG, WebP or BMP."""


class TooManyPixels(ValueError):
    """The image is larger than allowed; found from its header, before any pixel is decoded."""


def sniff(data: bytes) -> str | None:
    """Return the media type that the first bytes promise, or None if it is none of `OPENERS`."""
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return "image/bmp" if data.startswith(b"BM") else None


def decode(data: bytes, *, max_pixels: int) -> Pixels:
    """Decode one image. Thread-safe; no bytes raise anything but the two errors below.

    Args:
        data: A whole file.
        max_pixels: Width times height at most (>= 1).

    Returns:
        `(h, w, 3) uint8` RGB, C-contiguous, upright by its EXIF orientation.

    Raises:
        NotAnImage: Not one of the four formats, or broken, truncated, or of a kind that cannot be decoded.
        TooManyPixels: More than `max_pixels`.
    """
    kind = sniff(data)
    if kind is None:
        raise NotAnImage("This is not an image: the bytes are neither JPEG, PNG, WebP nor BMP.")
    try:
        return _decode(data, kind, max_pixels)
    except TooManyPixels:
        raise
    # The codecs' plugins raise whatever their parsing trips over: struct, Syntax, Index, EOF, memory errors.
    except Exception as error:
        name = kind.removeprefix("image/").upper()
        raise NotAnImage(f"The image cannot be decoded: the {name} is broken or incomplete.") from error


def _decode(data: bytes, kind: str, max_pixels: int) -> Pixels:
    if kind == "image/webp":
        # Its decoder reserves a canvas when it is opened.
        _check_size(*_webp_size(data), max_pixels)
    if kind == "image/jpeg" and data.count(b"\xff\xda") > MAX_JPEG_SCANS:
        raise NotAnImage("too many scans")
    with OPENERS[kind](BytesIO(data)) as picture:
        _check_size(*picture.size, max_pixels)
        orientation = _orientation(picture.info.get("exif", b""))
        pixels = _jpeg_pixels(data, picture) if kind == "image/jpeg" else _pixels(picture)
    return _upright(pixels, orientation)


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise NotAnImage("no pixels")
    if max(width, height) > MAX_SIDE:
        raise TooManyPixels(f"The image is {width} x {height}; a side may have at most {MAX_SIDE:,} pixels.")
    if width * height > max_pixels:
        raise TooManyPixels(
            f"The image has {width} x {height} = {width * height:,} pixels; at most {max_pixels:,} are taken."
        )


def _webp_size(data: bytes) -> tuple[int, int]:
    chunk = data[12:16]
    if chunk == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if chunk == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack_from("<HH", data, 26)
    return width & 0x3FFF, height & 0x3FFF


def _jpeg_pixels(data: bytes, picture: ImageFile) -> Pixels:
    if picture.mode == "RGB":
        try:
            # The exact transforms: OpenCV's pixels, to the last bit.
            return np.asarray(simplejpeg.decode_jpeg(data, "RGB", fastdct=False, fastupsample=False))
        except ValueError:
            # Strict: it refuses even what is harmless, such as stray bytes between segments. Pillow judges.
            pass
    return _pixels(picture)


def _pixels(picture: ImageFile) -> Pixels:
    picture.load()
    if picture.mode.startswith("I"):
        grey = (np.asarray(picture).astype(np.int32) >> 8).clip(0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    # Else Pillow warns that palette transparency is lost.
    picture.info.pop("transparency", None)
    return np.array(picture.convert("RGB"))


def _orientation(exif: bytes) -> int:
    """Return EXIF's orientation, 1 to 8; 1 where there is none, or nothing sensible."""
    tiff = exif.removeprefix(b"Exif\x00\x00")
    order = "<" if tiff[:2] == b"II" else ">"
    try:
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", tiff, entry)
            if tag == ORIENTATION:
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    if orientation >= 5:
        pixels = _array(cv2.transpose(pixels))
    # After the transposition, if any: which axes are still reversed.
    flip = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}.get(orientation)
    return pixels if flip is None else _array(cv2.flip(pixels, flip))


def _array(pixels: cv2.typing.MatLike) -> Pixels:
    return np.asarray(pixels, np.uint8)
