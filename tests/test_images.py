"""Decoding: right pixels from every kind of file that is taken, and one error for everything else."""

import io
import struct
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from models.images import NotAnImage, TooManyPixels, decode, sniff
from tests.bad_requests import jpeg, noise, png_bomb, zip_file

Pixels = npt.NDArray[np.uint8]
MANY = 50_000_000


def smooth(height: int = 61, width: int = 97, channels: int = 3) -> Pixels:
    """Return smooth colours, which survive JPEG."""
    small = np.random.default_rng(0).integers(0, 256, (5, 7, channels), np.uint8)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """Return the image as a file."""
    out = io.BytesIO()
    image.save(out, format=kind, **options)
    return out.getvalue()


def png16(values: npt.NDArray[np.uint16]) -> bytes:
    """Return a PNG of 16 bits a sample; colours as RGB."""
    image = values[:, :, ::-1] if values.ndim == 3 else values
    return cv2.imencode(".png", image)[1].tobytes()


RGB = Image.fromarray(smooth())
ALPHA = Image.fromarray(smooth(channels=4), "RGBA")
FILES = {
    "jpeg 420": encoded(RGB, "JPEG"),
    "jpeg 444": encoded(RGB, "JPEG", subsampling=0, quality=98),
    "jpeg progressive": encoded(RGB, "JPEG", progressive=True),
    "jpeg grey": encoded(RGB.convert("L"), "JPEG"),
    "png": encoded(RGB, "PNG"),
    "png grey": encoded(RGB.convert("L"), "PNG"),
    "png black and white": encoded(RGB.convert("1"), "PNG"),
    "png palette": encoded(RGB.quantize(64), "PNG"),
    "png palette, one transparent": encoded(RGB.quantize(64), "PNG", transparency=3),
    "png palette, all transparent": encoded(RGB.quantize(64), "PNG", transparency=bytes(range(64))),
    "png alpha": encoded(ALPHA, "PNG"),
    "png grey alpha": encoded(ALPHA.convert("LA"), "PNG"),
    "png 16-bit grey": png16(np.arange(61 * 97, dtype=np.uint16).reshape(61, 97) * 11),
    "png 16-bit colours": png16(smooth().astype(np.uint16) * 257),
    "webp": encoded(RGB, "WEBP"),
    "webp lossless": encoded(RGB, "WEBP", lossless=True),
    "webp alpha": encoded(ALPHA, "WEBP"),
    "bmp": encoded(RGB, "BMP"),
    "bmp grey": encoded(RGB.convert("L"), "BMP"),
}


@pytest.mark.parametrize("name", FILES)
def test_pixels_are_those_of_opencv(name: str) -> None:
    """Every kind of file decodes to what `cv2.imread` gives, to the last bit, as RGB."""
    theirs = cv2.imdecode(np.frombuffer(FILES[name], np.uint8), cv2.IMREAD_COLOR)
    assert theirs is not None
    ours = decode(FILES[name], max_pixels=MANY)
    assert np.array_equal(ours, theirs[:, :, ::-1])
    assert ours.dtype == np.uint8
    assert ours.flags.c_contiguous


def test_sixteen_bits_are_scaled() -> None:
    """A 16-bit sample becomes its high byte, not 255."""
    row = np.array([[0, 255, 256, 32768, 65535]], np.uint16)
    assert decode(png16(row), max_pixels=MANY)[0, :, 0].tolist() == [0, 0, 1, 128, 255]


@pytest.mark.parametrize("marked", [True, False], ids=["marked by Adobe", "not marked"])
def test_cmyk_is_taken_as_inverted(marked: bool) -> None:
    """Four inks become the colours they were made from, as in OpenCV, whether or not Adobe marks them."""
    data = encoded(RGB.convert("CMYK"), "JPEG", quality=98)
    if not marked:
        start = data.index(b"\xff\xee")
        (length,) = struct.unpack_from(">H", data, start + 2)
        data = data[:start] + data[start + 2 + length :]
    found = decode(data, max_pixels=MANY).astype(int)
    theirs = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert theirs is not None
    assert np.abs(found - theirs[:, :, ::-1]).max() <= 1
    assert np.abs(found - smooth()).mean() < 4


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured(orientation: int, kind: str, order: str) -> None:
    """Each of the eight ways a camera may be held gives the upright image, as Pillow turns it."""
    mark = b"II*\0" if order == "<" else b"MM\0*"
    entry = struct.pack(f"{order}HHIHH", 0x0112, 3, 1, orientation, 0)
    exif = b"Exif\0\0" + mark + struct.pack(f"{order}IH", 8, 1) + entry + bytes(4)
    options = {"lossless": True} if kind == "WEBP" else {}
    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }.get(orientation)
    stored = Image.fromarray(decode(encoded(RGB, kind, **options), max_pixels=MANY))
    expected = np.asarray(stored if turn is None else stored.transpose(turn))
    found = decode(encoded(RGB, kind, exif=exif, **options), max_pixels=MANY)
    assert np.array_equal(found, expected)
    assert found.flags.c_contiguous


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"hello " * 100, id="text"),
        pytest.param(b"BMW is a maker of cars", id="text that begins like a BMP"),
        pytest.param(b'<svg xmlns="http://www.w3.org/2000/svg"/>', id="svg"),
        pytest.param(zip_file(), id="zip"),
        pytest.param(noise("GIF"), id="gif"),
        pytest.param(noise("TIFF"), id="tiff"),
        pytest.param(b"\xff\xd8\xff", id="three bytes"),
        pytest.param(noise("PNG")[:-200], id="truncated png"),
        pytest.param(FILES["jpeg 420"][:-200], id="truncated jpeg"),
        pytest.param(FILES["jpeg progressive"][:-200], id="truncated progressive jpeg"),
        pytest.param(FILES["jpeg 420"][:20], id="jpeg header only"),
        pytest.param(FILES["webp"][:-20], id="truncated webp"),
        pytest.param(FILES["bmp"][:-20], id="truncated bmp"),
        pytest.param(FILES["jpeg progressive"] + b"\xff\xda" * 30, id="jpeg of a great many scans"),
    ],
)
def test_anything_else_is_refused(data: bytes) -> None:
    """What is not a whole image of the four kinds is `NotAnImage`, with a sentence for the sender."""
    with pytest.raises(NotAnImage, match=r"^(This is not an image|The image cannot be decoded): .+\.$"):
        decode(data, max_pixels=MANY)


@pytest.mark.parametrize("name", ["jpeg 420", "png", "webp", "webp lossless", "webp alpha", "bmp"])
def test_the_limit_is_exact(name: str) -> None:
    """An image of just the limit is decoded; one pixel less, and it is refused by its size."""
    assert decode(FILES[name], max_pixels=61 * 97).shape == (61, 97, 3)
    with pytest.raises(TooManyPixels, match="97 x 61 = 5,917 pixels; at most 5,916"):
        decode(FILES[name], max_pixels=61 * 97 - 1)


@pytest.mark.parametrize("data", [png_bomb(), jpeg(8192, 6400)], ids=["png bomb", "50 megapixels"])
def test_bombs_are_refused_by_their_header(data: bytes) -> None:
    """An enormous image is refused from its first kilobyte: the pixels are not looked at."""
    for part in (data, data[:1024]):
        with pytest.raises(TooManyPixels):
            decode(part, max_pixels=40_000_000)


def test_harmless_flaws_are_forgiven() -> None:
    """Stray bytes between segments, which strict decoders refuse, change nothing."""
    data = FILES["jpeg 420"]
    scan = data.index(b"\xff\xda")
    expected = decode(data, max_pixels=MANY)
    assert np.array_equal(
        decode(data[:scan] + b"\0\0" + data[scan:] + b"trailing", max_pixels=MANY), expected
    )


def mutated(random: np.random.Generator, data: bytes) -> bytes:
    """Return the file with bytes overwritten, cut out, doubled, or its end missing."""
    changed = bytearray(data)
    for _ in range(int(random.integers(1, 6))):
        start = int(random.integers(0, len(changed)) * random.choice([1, 0.05]))
        length = int(random.integers(1, 9))
        match int(random.integers(0, 4)):
            case 0:
                changed[start : start + length] = random.bytes(length)
            case 1:
                del changed[start : start + length]
            case 2:
                changed[start:start] = changed[start : start + length]
            case _ if len(changed) > 200:
                del changed[int(random.integers(100, len(changed))) :]
    return bytes(changed)


@pytest.mark.parametrize("name", FILES)
def test_no_bytes_raise_anything_else(name: str) -> None:
    """Forty mutations of each file give pixels or one of the two errors, never another, never a warning."""
    random = np.random.default_rng(list(FILES).index(name))
    for _ in range(40):
        try:
            image = decode(mutated(random, FILES[name]), max_pixels=100_000)
        except (NotAnImage, TooManyPixels):
            continue
        assert image.ndim == 3 and image.shape[2] == 3 and image.size <= 300_000


def test_threads_do_not_disturb_each_other() -> None:
    """Eight threads decoding good and broken files at once get what one thread gets."""
    expected = {name: decode(data, max_pixels=MANY) for name, data in FILES.items()}

    def check(name: str) -> bool:
        with pytest.raises(NotAnImage):
            decode(FILES[name][: len(FILES[name]) // 2], max_pixels=MANY)
        return np.array_equal(decode(FILES[name], max_pixels=MANY), expected[name])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(check, list(FILES) * 20))


def test_sniff_names_the_media_type() -> None:
    """The first bytes tell the four kinds apart, whatever the file calls itself."""
    kinds = ["jpeg 420", "png", "webp", "bmp"]
    assert [sniff(FILES[name]) for name in kinds] == ["image/jpeg", "image/png", "image/webp", "image/bmp"]
    assert sniff(b"GIF89a") is None
