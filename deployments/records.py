"""The rows of the store, made from what is known of an answer. See `store.schema` for what they mean."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
from uuid_utils import uuid7

from deployments.observer import Account
from deployments.schemas import Interaction
from models.detections import Detections
from models.detector import Detected, DetectionSettings
from models.properties import PROPERTY_NAMES, Properties
from models.recommender import Query, Recommendation
from store.entry import Entry, encode

PROBE_TAG = "probe"
SIDES = ("x1", "y1", "x2", "y2")


@dataclass(frozen=True, slots=True)
class Model:
    """Who answers.

    Args:
        name: As in the answer.
        version: As in the answer.
        settings: What decides an answer besides request, weights and input: precision, device, threads, ….
    """

    name: str
    version: str
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Image:
    """An image as received.

    Args:
        data: The file.
        sha256: Its name in the store, in hex.
        width: Pixels, upright.
        height: Pixels, upright.
        keep: Whether the file itself is kept.
    """

    data: bytes
    sha256: str
    width: int
    height: int
    keep: bool


def detection(
    inference_id: str,
    known: Account,
    model: Model,
    settings: DetectionSettings,
    image: Image,
    detected: Detected,
    properties: Properties | None,
    *,
    replica: str,
) -> Entry:
    """Return the record of a detection, with its image.

    Args:
        inference_id: Of the answer, which has not left.
        known: Of the request; the batch is noted.
        model: Who answered.
        settings: The request's.
        image: What was sent.
        detected: What was found.
        properties: Of the image; None where they could not be measured.
        replica: Who answered, as Ray Serve calls it.
    """
    asked = asdict(settings) | dict(model.settings) | {"batch_size": known.batch_size}
    embedding = detected.embedding
    columns = {
        **_inference(inference_id, known, model, asked, replica),
        "image_sha256": image.sha256,
        "width": image.width,
        "height": image.height,
        **{f"{stage}_ms": known.stages.get(stage, 0.0) * 1e3 for stage in ("decode", "queue", "inference")},
        **_boxes("", detected.detections),
        **_boxes("default_", detected.default_detections),
        **_properties(properties),
        "embedding": None if embedding is None else embedding.astype("<f2", copy=False).tobytes(),
    }
    kept = (image.data, image.sha256) if image.keep else (None, None)
    return Entry("detections", inference_id, encode(columns), *kept)


def recommendation(
    inference_id: str,
    known: Account,
    model: Model,
    query: Query,
    found: Recommendation,
    *,
    known_ratings: int,
    replica: str,
) -> Entry:
    """Return the record of a recommendation.

    Args:
        inference_id: Of the answer, which has not left.
        known: Of the request.
        model: Who answered.
        query: What was asked.
        found: The answer.
        known_ratings: How many films of the user the model knows.
        replica: Who answered, as Ray Serve calls it.
    """
    asked = {"n": query.n, "exclude_seen": query.exclude_seen} | dict(model.settings)
    columns = {
        **_inference(inference_id, known, model, asked, replica),
        "user_id": query.user_id,
        "answered_by": found.answered_by,
        "ranked_movies": query.ranked_movies,
        "candidates": query.candidates,
        "movie_id": found.item_id,
        "score": found.score,
        "rank": list(range(1, len(found.item_id) + 1)),
        "known_ratings": known_ratings,
    }
    return Entry("recommendations", inference_id, encode(columns))


def feedback(inference_id: str, kind: str, payload: Mapping[str, Any]) -> Entry:
    """Return what somebody says of an answer.

    Args:
        inference_id: Of the record.
        kind: `detection` or `recommendation`.
        payload: As sent.
    """
    feedback_id = str(uuid7())
    columns = {
        "feedback_id": feedback_id,
        "inference_id": inference_id,
        "ts": datetime.now(UTC),
        "kind": kind,
        "payload": _json(payload),
    }
    return Entry("feedback", feedback_id, encode(columns))


def interaction(one: Interaction) -> Entry:
    """Return what a user did with a film."""
    interaction_id = str(uuid7())
    columns = {
        "interaction_id": interaction_id,
        "user_id": one.user_id,
        "movie_id": one.movie_id,
        "rating": one.rating,
        "ts": one.ts or datetime.now(UTC),
    }
    return Entry("interactions", interaction_id, encode(columns))


def settings_of(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Return what decided an answer besides its input and the weights."""
    settings: dict[str, Any] = json.loads(columns["settings"])
    return settings


def payload_of(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was sent as feedback."""
    payload: dict[str, Any] = json.loads(columns["payload"])
    return payload


def _inference(
    inference_id: str, known: Account, model: Model, asked: Mapping[str, Any], replica: str
) -> dict[str, Any]:
    return {
        "inference_id": inference_id,
        "request_id": known.request_id,
        "trace_id": known.trace_id,
        "ts": datetime.now(UTC),
        "model_name": model.name,
        "model_version": model.version,
        "replica": replica,
        "source": known.source,
        "tags": [*known.tags, *([PROBE_TAG] if known.probe else [])],
        "settings": _json(asked),
    }


def _boxes(prefix: str, found: Detections) -> dict[str, npt.NDArray[Any]]:
    sides = np.ascontiguousarray(found.boxes.T)
    return {
        f"{prefix}class_id": found.class_id,
        f"{prefix}confidence": found.confidence,
        **{f"{prefix}{side}": sides[index] for index, side in enumerate(SIDES)},
    }


def _properties(measured: Properties | None) -> dict[str, float | int | None]:
    if measured is None:
        return {}
    values: Sequence[float] = measured.values.tolist()
    return {"property_step": measured.step, **dict(zip(PROPERTY_NAMES, values, strict=True))}


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"))
