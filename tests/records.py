"""Entries as the applications make them, for tests of the store."""

import hashlib
from datetime import UTC, datetime
from typing import Any

import numpy as np
from uuid_utils import UUID, uuid7

from store.entry import Entry, encode
from store.schema import PROPERTIES


def new_id(at: datetime | None = None, number: int = 0) -> str:
    """Return a UUIDv7 of this time; now where none is given."""
    if at is None:
        return str(uuid7())
    millis = int(at.timestamp() * 1e3)
    return str(UUID(int=millis << 80 | 7 << 76 | 2 << 62 | number))


def detection(number: int, *, image_bytes: int = 3_000, at: datetime | None = None, **more: Any) -> Entry:
    """Return a record that is told from its neighbours by every column."""
    made = np.random.default_rng(number)
    image = made.bytes(image_bytes) if image_bytes else None
    sha256 = hashlib.sha256(image).hexdigest() if image else None
    boxes = number % 4
    inference_id = new_id(at, number)
    columns = {
        "inference_id": inference_id,
        "request_id": f"r-{number}",
        "ts": at or datetime.now(UTC),
        "model_name": "yolov8n",
        "source": f"camera-{number % 3}",
        "tags": ["site=north"],
        "settings": '{"confidence":0.25}',
        "image_sha256": sha256,
        "width": 640,
        "height": 480 + number,
        "class_id": np.arange(boxes, dtype=np.int32),
        **{name: made.random(boxes, np.float32) for name in ("confidence", "x1", "y1", "x2", "y2")},
        **{column.name: float(made.random()) for column in PROPERTIES},
        "embedding": made.random(256).astype("<f2").tobytes(),
        **more,
    }
    return Entry("detections", inference_id, encode(columns), image, sha256)


def interaction(number: int) -> Entry:
    """Return an interaction."""
    interaction_id = new_id()
    columns = {
        "interaction_id": interaction_id,
        "user_id": number,
        "movie_id": 10 * number,
        "rating": 3.5,
        "ts": datetime.now(UTC),
    }
    return Entry("interactions", interaction_id, encode(columns))


def feedback(inference_id: str) -> Entry:
    """Return what somebody says of an answer."""
    feedback_id = new_id()
    columns = {
        "feedback_id": feedback_id,
        "inference_id": inference_id,
        "ts": datetime.now(UTC),
        "kind": "detection",
        "payload": '{"correct":false}',
    }
    return Entry("feedback", feedback_id, encode(columns))
