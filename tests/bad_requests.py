"""Every wrong request we could think of, each with the answer it must get."""

import io
import struct
import zipfile
import zlib
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from bench.load import Call

JPEG = {"Content-Type": "image/jpeg"}
PNG = {"Content-Type": "image/png"}
JSON = {"Content-Type": "application/json"}
BOUNDARY = "frontier"
MULTIPART = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


@dataclass(frozen=True, slots=True)
class Bad:
    """One kind of wrong request."""

    name: str
    path: str
    status: int
    code: str
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=lambda: JPEG)

    def call(self) -> Call:
        """Return it as a call that remembers what it expects."""
        return Call("POST", self.path, self.body, self.headers, tag=self)


def jpeg(width: int, height: int) -> bytes:
    """Return a plain grey JPEG."""
    out = io.BytesIO()
    Image.new("L", (width, height), 128).save(out, format="JPEG")
    return out.getvalue()


def png_bomb() -> bytes:
    """Return a valid PNG of 30,000 x 30,000 pixels in less than 200 kB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    side = 30_000
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((1 + (side + 7) // 8) * side), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def zip_file() -> bytes:
    """Return a small zip archive."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("photo.jpg", b"not really")
    return out.getvalue()


def noise(format_: str) -> bytes:
    """Return 64 x 64 pixels of noise in some format."""
    out = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(out, format=format_)
    return out.getvalue()


def form(name: str, content: bytes, kind: str = "image/jpeg") -> bytes:
    """Return a multipart body with one file."""
    head = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"; filename="a"\r\n'
        f"Content-Type: {kind}\r\n\r\n"
    )
    return head.encode() + content + f"\r\n--{BOUNDARY}--\r\n".encode()


def bad_uploads(good: bytes) -> list[Bad]:
    """Return what `POST /detect` must refuse, built around one good JPEG."""
    query = [
        ("confidence=nan", "confidence"),
        ("confidence=inf", "confidence"),
        ("confidence=1.5", "confidence"),
        ("iou=-0.1", "iou"),
        ("max_detections=0", "max_detections"),
        ("max_detections=99999999999999999999", "max_detections"),
        ("classes=unicorn", "classes"),
        ("classes=", "classes"),
        ("conf=0.5", "unknown"),
        ("source=%00", "source"),
    ]
    return [
        Bad("empty", "/detect", 400, "not_an_image"),
        Bad("truncated jpeg", "/detect", 400, "not_an_image", good[: len(good) // 2]),
        Bad("jpeg header only", "/detect", 400, "not_an_image", good[:20]),
        Bad("truncated png", "/detect", 400, "not_an_image", noise("PNG")[:-200], PNG),
        Bad("text", "/detect", 400, "not_an_image", b"hello " * 100),
        Bad("zip", "/detect", 400, "not_an_image", zip_file(), PNG),
        Bad("gif", "/detect", 400, "not_an_image", noise("GIF"), PNG),
        Bad("tiff", "/detect", 400, "not_an_image", noise("TIFF"), PNG),
        Bad("png bomb", "/detect", 413, "too_many_pixels", png_bomb(), PNG),
        Bad("50 megapixels", "/detect", 413, "too_many_pixels", jpeg(8192, 6400)),
        Bad("wrong type", "/detect", 415, "unsupported_media_type", good, {"Content-Type": "text/plain"}),
        Bad("curl's default", "/detect", 415, "unsupported_media_type", good, _URLENCODED),
        Bad("form without file", "/detect", 422, "invalid_value", form("image", good), MULTIPART),
        Bad("form of text", "/detect", 400, "not_an_image", form("file", b"text"), MULTIPART),
        Bad(
            "form of a pdf",
            "/detect",
            415,
            "unsupported_media_type",
            form("file", good, "application/pdf"),
            MULTIPART,
        ),
        Bad("torn form", "/detect", 422, "invalid_value", form("file", good)[:40], MULTIPART),
        *(Bad(f"{name}: {text}", f"/detect?{text}", 422, "invalid_value", good) for text, name in query),
    ]


_URLENCODED = {"Content-Type": "application/x-www-form-urlencoded"}


def bad_bodies(unknown_film: int = 10**12) -> list[Bad]:
    """Return what `POST /recommend` must refuse."""
    return [
        _json("malformed", b'{"user_id": 1', 400, "malformed_json"),
        _json("empty", b"", 400, "malformed_json"),
        _json("not utf-8", b'{"user_id": "\xff\xfe"}', 400, "malformed_json"),
        _json("deeply nested", b"[" * 100_000, 400, "malformed_json"),
        _json("an array", b"[1]"),
        _json("nobody", b"{}"),
        _json("huge id", b'{"user_id": 9223372036854775808}'),
        _json("enormous id", b'{"user_id": ' + b"9" * 4000 + b"}"),
        _json("text id", b'{"user_id": "1"}'),
        _json("half an id", b'{"user_id": 1.5}'),
        _json("nan id", b'{"user_id": NaN}'),
        _json("true id", b'{"user_id": true}'),
        _json("none wanted", b'{"user_id": 1, "n": 0}'),
        _json("too many wanted", b'{"user_id": 1, "n": 1001}'),
        _json("unknown film", b'{"user_id": 1, "candidates": [%d]}' % unknown_film),
        _json("unknown ranked", b'{"user_id": 1, "ranked_movies": [%d]}' % unknown_film),
        _json("misspelt", b'{"user_id": 1, "exclude_sen": true}'),
        _json(
            "too long", b'{"user_id": 1, "candidates": [' + b"1," * 600_000 + b"1]}", 413, "too_many_bytes"
        ),
    ]


def _json(name: str, body: bytes, status: int = 422, code: str = "invalid_value") -> Bad:
    return Bad(name, "/recommend", status, code, body, JSON)
