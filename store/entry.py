"""One row on its way through a spool to its table."""

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson


@dataclass(frozen=True, slots=True)
class Entry:
    """A row, and the image that belongs to it.

    Args:
        table: Where it is going, see `store.schema`.
        id: Unique in its table.
        row: The columns, as JSON: by `encode`.
        image: Bytes of a file, as received.
        image_sha256: Of `image`, in hex; given with it.
    """

    table: str
    id: str
    row: bytes
    image: bytes | None = None
    image_sha256: str | None = None

    def __post_init__(self) -> None:
        """Refuse an image without a name, and a name without an image.

        Raises:
            ValueError: One of the two is missing.
        """
        if (self.image is None) != (self.image_sha256 is None):
            raise ValueError("image and image_sha256 are given together, or neither.")


def encode(columns: Mapping[str, Any]) -> bytes:
    """Return the columns of a row as JSON; numbers come back to the last bit, bytes as base64.

    Args:
        columns: Scalars, strings, lists, dictionaries, contiguous numpy arrays, bytes.

    Raises:
        TypeError: A value is none of these. (A NaN becomes null.)
    """
    return orjson.dumps(columns, default=_base64, option=orjson.OPT_SERIALIZE_NUMPY)


def _base64(value: object) -> str:
    if isinstance(value, bytes):
        return b64encode(value).decode("ascii")
    raise TypeError(f"a column cannot hold a {type(value).__name__}")
