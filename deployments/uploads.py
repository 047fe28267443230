"""From an upload to the image inside: media type, bytes, pixels. Each way to be wrong has its 4xx."""

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from fastapi import Request
from starlette.datastructures import UploadFile

from deployments.errors import BadRequest, InvalidValue, TooLarge, UnsupportedMediaType
from deployments.http import bounded, media_type
from models.images import NotAnImage, TooManyPixels, decode

IMAGE_TYPES = ("image/jpeg", "image/png", "image/webp", "image/bmp")
MULTIPART = "multipart/form-data"
FIELD = "file"
# Besides the file, a form may carry this many fields; they are ignored.
MAX_FIELDS = 16


@dataclass(frozen=True, slots=True)
class Upload:
    """One uploaded image: the bytes as received, their SHA-256, and pixels `(h, w, 3) uint8` RGB, upright."""

    data: bytes
    sha256: str
    image: npt.NDArray[np.uint8]


async def read_upload(request: Request, max_bytes: int) -> bytes:
    """Return the image's bytes, from the body itself or from the multipart field `file`.

    Raises:
        UnsupportedMediaType: The Content-Type is neither one of `IMAGE_TYPES` nor multipart.
        TooLarge: More than `max_bytes`.
        BadRequest: Malformed multipart, or nothing in it.
        InvalidValue: No field `file`.
    """
    kind = media_type(request.headers.get("content-type"))
    if kind == MULTIPART:
        try:
            data = await _read_form(request, max_bytes)
        except (UnicodeError, LookupError) as error:
            raise BadRequest("The form's charset is not one that text can be read in.") from error
    else:
        _check_media_type(kind)
        data = await bounded(request, max_bytes).body()
    if not data:
        raise BadRequest("The body is empty; send the bytes of an image.", code="not_an_image")
    return data


def decode_upload(data: bytes, max_pixels: int) -> Upload:
    """Decode on a pool thread.

    Raises:
        BadRequest: Not an image of a kind we take, or a broken one.
        TooLarge: More than `max_pixels`, decided before decoding.
    """
    try:
        return Upload(data, hashlib.sha256(data).hexdigest(), decode(data, max_pixels=max_pixels))
    except TooManyPixels as error:
        raise TooLarge(str(error), code="too_many_pixels") from error
    except NotAnImage as error:
        raise BadRequest(str(error), code="not_an_image") from error


async def _read_form(request: Request, max_bytes: int) -> bytes:
    async with bounded(request, max_bytes).form(max_files=1, max_fields=MAX_FIELDS) as form:
        part = form.get(FIELD)
        if not isinstance(part, UploadFile):
            raise InvalidValue(f"{FIELD}: the form has no file under this name.", field=FIELD)
        # Clients that do not know a file's type say nothing, or octet-stream; the bytes decide then.
        kind = media_type(part.content_type)
        if kind not in ("", "application/octet-stream"):
            _check_media_type(kind)
        return await part.read()


def _check_media_type(kind: str) -> None:
    if kind not in IMAGE_TYPES:
        raise UnsupportedMediaType(
            f"Content-Type is {kind or 'missing'}; send one of {', '.join(IMAGE_TYPES)}, "
            f"or {MULTIPART} with the image in the field {FIELD}."
        )
