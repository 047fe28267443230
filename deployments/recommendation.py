"""`/recommend`: one hop. The replica is the HTTP ingress and holds the factors."""

import logging
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from pydantic import ValidationError
from ray.serve import Application

from deployments.errors import InvalidValue
from deployments.http import (
    JSON,
    check_json,
    inference_headers,
    invalid,
    is_probe,
    json_response,
    new_app,
    read_body,
)
from deployments.pipeline import Pipeline
from deployments.replica import ServeReplica, Service, bind, locate, new_inference_id
from deployments.schemas import RecommendAnswer, RecommendBody, body_doc
from deployments.settings import RecommendationArgs, RecommendationTunables, home
from models.ratings import read_ratings
from models.recommender import Query, Recommendation, Recommender, RecommenderSettings, UnknownItems

log = logging.getLogger("glasshouse.recommendation")

MODEL_NAME = "als"
MAX_IDS_NAMED = 10
BODY_DOC = body_doc({JSON: {"schema": RecommendBody.model_json_schema()}})


class RecommendationService(Service[RecommendationTunables]):
    """Everything of the application but Serve.

    Args:
        args: Ratings, model and device, fixed for the life of a replica.
        tunables: Limits, see `reconfigure`.
    """

    def __init__(self, args: RecommendationArgs, tunables: RecommendationTunables | None = None) -> None:
        tunables = tunables or RecommendationTunables()
        self.recommender = load_recommender(args)
        self.pipeline = Pipeline[Query, Recommendation](self._recommend, tunables, workers=1)
        super().__init__(self._build_app(), self.pipeline, tunables)

    async def recommend(self, request: Request) -> Response:
        """Answer `POST /recommend`."""
        check_json(request)
        async with self.pipeline.admit(probe=is_probe(request)) as place:
            body = await read_body(request, self.tunables.max_body_bytes)
            place.uploaded()
            query = self._query(body)
            found, timing = await self.pipeline.infer(query)
        inference_id = new_inference_id()
        content = self._answer(inference_id, query, found)
        return json_response(content, headers=inference_headers(inference_id, timing))

    def _query(self, body: bytes) -> Query:
        """Parse and check one request, alone, so that nothing in it can raise inside a batch."""
        try:
            asked = RecommendBody.model_validate_json(body)
        except ValidationError as error:
            raise invalid(error.errors()) from None
        query = Query(
            user_id=asked.user_id,
            n=asked.n,
            ranked_movies=tuple(asked.ranked_movies),
            candidates=None if asked.candidates is None else tuple(asked.candidates),
            exclude_seen=asked.exclude_seen,
        )
        try:
            self.recommender.validate(query)
        except UnknownItems as error:
            raise _unknown_items(error) from None
        return query

    def _recommend(self, queries: Sequence[Query]) -> list[Recommendation]:
        return self.recommender.recommend(queries)

    def _answer(self, inference_id: str, query: Query, found: Recommendation) -> dict[str, Any]:
        titles = self.recommender.titles(found.item_id)
        return {
            "inference_id": inference_id,
            "model": {"name": MODEL_NAME, "version": self.recommender.version},
            "user_id": query.user_id,
            "answered_by": found.answered_by,
            "items": [
                {"movie_id": int(movie_id), "title": title, "score": score, "rank": rank}
                for rank, (movie_id, title, score) in enumerate(
                    zip(found.item_id, titles, found.score, strict=True), start=1
                )
            ],
        }

    def _build_app(self) -> FastAPI:
        app = new_app("glasshouse recommendation", "Films for users.")

        @app.post(
            "/",
            summary="Recommend films",
            openapi_extra=BODY_DOC,
            responses={200: {"model": RecommendAnswer}},
        )
        async def recommend(request: Request) -> Response:
            return await self.recommend(request)

        return app


def _unknown_items(error: UnknownItems) -> InvalidValue:
    named = ", ".join(str(item) for item in error.ids[:MAX_IDS_NAMED])
    more = f" and {len(error.ids) - MAX_IDS_NAMED} more" if len(error.ids) > MAX_IDS_NAMED else ""
    return InvalidValue(f"{error.field}: unknown film ids {named}{more}.", field=error.field)


def load_recommender(args: RecommendationArgs) -> Recommender:
    """Fetch the ratings, and load the model trained on them; train it where that was never done.

    Raises:
        DeviceError: The device asked for is not there.
        ArtifactError: The ratings could not be had.
        RatingsError: The ratings file is not one; names file, column and row.
    """
    asked = args.recommender
    ratings = read_ratings(locate(asked.ratings), None if asked.titles is None else locate(asked.titles))
    settings = RecommenderSettings(
        factors=asked.factors,
        regularization=asked.regularization,
        alpha=asked.alpha,
        iterations=asked.iterations,
        seed=asked.seed,
    )
    folder = home() / "models" / "recommender"
    recommender = Recommender.train_or_load(ratings, settings, folder, device=args.device)
    log.info("%s %s: %d ratings", MODEL_NAME, recommender.version, len(ratings.user_id))
    return recommender


class RecommendationReplica(ServeReplica[RecommendationTunables]):
    """The deployment `Recommendation`."""

    tunables = RecommendationTunables

    def __init__(self, args: RecommendationArgs) -> None:
        self.service = RecommendationService(args)


def build(args: RecommendationArgs) -> Application:
    """Build the application that `serve_config.yaml` names."""
    return bind(RecommendationReplica, args, name="Recommendation")
