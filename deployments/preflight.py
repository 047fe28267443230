"""What can be found wrong with a configuration in seconds, before Ray is started for it.

A replica that finds the same costs a minute: Serve tries it three times.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from deployments.replica import locate
from deployments.settings import DetectionArgs, RecommendationArgs
from models import artifacts
from models.artifacts import ArtifactError
from models.device import DeviceError, resolve_device
from models.implicit_device import resolve_gpu
from models.ratings import RatingsError, read_ratings
from store import conditional_puts, places
from store.errors import StoreError

Say = Callable[[str], None]


def fetch_and_check(config: Mapping[str, Any], say: Say) -> list[str]:
    """Fetch what a valid configuration names, and check it; return what is wrong, each with its key.

    Raises:
        ArtifactError: Weights or data could not be had from any source.
    """
    found: list[str] = []
    for application in config["applications"]:
        where, args = f"{application['name']}.args", application.get("args") or {}
        match application["import_path"]:
            case "deployments.detection:build":
                found += _detection(where, DetectionArgs.model_validate(args), say)
            case "deployments.recommendation:build":
                found += _recommendation(where, RecommendationArgs.model_validate(args), say)
    return [*found, *check_store()]


def check_store() -> Iterator[str]:
    """Yield what keeps the store that the environment names from being one."""
    try:
        conditional_puts.check(places.store())
    except StoreError as error:
        yield f"GLASSHOUSE_STORE: {error}"


def _detection(where: str, args: DetectionArgs, say: Say) -> Iterator[str]:
    weights = _path(args.detector.weights, say)
    if isinstance(weights, str):
        yield f"{where}.detector.weights: {weights}"
    elif args.detector.sha256 is not None:
        try:
            artifacts.check_sha256(weights, args.detector.sha256)
        except ArtifactError as error:
            yield f"{where}.detector.sha256: {error}"
    yield from _device(where, args.device, resolve_device)


def _recommendation(where: str, args: RecommendationArgs, say: Say) -> Iterator[str]:
    asked = args.recommender
    ratings = _path(asked.ratings, say)
    titles = None if asked.titles is None else _path(asked.titles, say)
    if isinstance(ratings, str):
        yield f"{where}.recommender.ratings: {ratings}"
    elif isinstance(titles, str):
        yield f"{where}.recommender.titles: {titles}"
    else:
        try:
            say(f"{asked.ratings}: {len(read_ratings(ratings, titles)):,} ratings")
        except RatingsError as error:
            yield f"{where}.recommender.ratings: {error}"
    yield from _device(where, args.device, resolve_gpu)


def _path(name: str, say: Say) -> Path | str:
    """Return where it lies, fetched if need be; or why it is nowhere."""
    try:
        return locate(name, say)
    except FileNotFoundError as error:
        return str(error)


def _device(where: str, asked: str, resolve: Callable[[str], object]) -> Iterator[str]:
    # `auto` and `cpu` are always right, and looking for a GPU takes seconds.
    if asked == "cuda":
        try:
            resolve(asked)
        except DeviceError as error:
            yield f"{where}.device: {error}"
