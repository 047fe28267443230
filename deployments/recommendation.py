"""`/recommend`: one hop. The replica is the HTTP ingress and holds the factors."""

import logging
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from fastapi import FastAPI, Request, Response
from pydantic import ValidationError
from ray.serve import Application

from deployments import records
from deployments.errors import InvalidValue
from deployments.http import (
    JSON,
    account,
    check_json,
    inference_headers,
    invalid,
    json_response,
    new_app,
    read_body,
)
from deployments.inferences import KEPT, Inferences, inference
from deployments.keeper import Keeper
from deployments.observer import Account, Observer
from deployments.origin import note_origin
from deployments.pipeline import Pipeline
from deployments.replica import VERSION, ServeReplica, Service, bind, locate
from deployments.schemas import Accepted, Clicked, Interactions, RecommendAnswer, RecommendBody, body_doc
from deployments.settings import RecommendationArgs, RecommendationTunables
from models.ratings import read_ratings
from models.recommender import Query, Recommendation, Recommender, RecommenderSettings, UnknownItems
from store.entry import Entry
from store.lookup import Found
from store.places import home
from telemetry import providers, schema
from telemetry.recommendation import RecommendationMetrics

log = logging.getLogger("glasshouse.recommendation")

MODEL_NAME = "als"
MAX_IDS_NAMED = 10
BODY_DOC = body_doc({JSON: {"schema": RecommendBody.model_json_schema()}})


class RecommendationService(Service[RecommendationTunables]):
    """Everything of the application but Serve.

    Args:
        args: Ratings, model and device, fixed for the life of a replica.
        tunables: Limits, see `reconfigure`.
        telemetry: Of this process; None records nothing.
        keeper: Keeps what answers leave behind; None keeps nothing.
    """

    def __init__(
        self,
        args: RecommendationArgs,
        tunables: RecommendationTunables | None = None,
        telemetry: providers.Telemetry | None = None,
        keeper: Keeper | None = None,
    ) -> None:
        tunables = tunables or RecommendationTunables()
        self.observer = Observer(schema.RECOMMENDATION, telemetry or providers.off())
        self.recommender = self._load(args)
        films = len(self.recommender.factors.item_factors)
        self.metrics = RecommendationMetrics(self.observer.telemetry.instruments, films)
        self.pipeline = Pipeline[Query, Recommendation](
            self._recommend, tunables, self.observer.metrics, workers=1
        )
        decides = {"device": "cuda" if self.recommender.gpu else "cpu", "code": VERSION}
        self.model = records.Model(MODEL_NAME, self.recommender.version, decides)
        super().__init__(self._build_app(keeper), self.pipeline, tunables, self.observer, keeper)

    async def recommend(self, request: Request) -> Response:
        """Answer `POST /recommend`."""
        check_json(request)
        known = account(request)
        self.check_kept()
        async with self.pipeline.admit(probe=known.probe) as place:
            body = await read_body(request, self.tunables.max_body_bytes)
            place.uploaded()
            with known.stage("decode"):
                asked = _parse(body)
                note_origin(request, known, asked)
                query = self._query(asked)
            found, timing = await self.pipeline.infer(query)
            known.ran(timing)
            inference_id = await self.answered(
                known, lambda name, keeper: self._entry(name, keeper, known, query, found)
            )
        with known.stage("post"):
            content = self._answer(inference_id, query, found)
            answer = json_response(content, headers=inference_headers(inference_id, timing))
        if not known.probe:
            self.observer.later(self._record, query, found)
        return answer

    async def keep_interactions(self, request: Request, keeper: Keeper) -> Response:
        """Answer `POST /recommend/interactions`."""
        check_json(request)
        keeper.check()
        body = await read_body(request, self.tunables.max_body_bytes)
        try:
            given = Interactions.model_validate_json(body).root
        except ValidationError as error:
            raise invalid(error.errors()) from None
        with account(request).stage("spool"):
            await keeper.keep_made(lambda: [records.interaction(one) for one in given])
        return json_response({"accepted": len(given)}, status=KEPT)

    def _entry(
        self, inference_id: str, keeper: Keeper, known: Account, query: Query, found: Recommendation
    ) -> Entry:
        return records.recommendation(
            inference_id,
            known,
            self.model,
            query,
            found,
            known_ratings=self.recommender.known_ratings(query.user_id),
            replica=keeper.replica,
        )

    def _load(self, args: RecommendationArgs) -> Recommender:
        began = time.monotonic()
        recommender = load_recommender(args)
        # The version is already a hash of all that decides the factors; there is no file of weights.
        version = recommender.version
        self.observer.metrics.model(MODEL_NAME, version, version, time.monotonic() - began)
        return recommender

    def _record(self, query: Query, found: Recommendation) -> None:
        self.metrics.answered(
            found.item_id.tolist(),
            found.score.tolist(),
            answered_by=found.answered_by,
            ranked_movies=bool(query.ranked_movies),
            # Popularity answers those, and only those, who have no ratings.
            unknown_user=found.answered_by == "popularity",
        )

    def _query(self, asked: RecommendBody) -> Query:
        """Check one request, alone, so that nothing in it can raise inside a batch."""
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

    def _build_app(self, keeper: Keeper | None) -> FastAPI:
        app = new_app("glasshouse recommendation", "Films for users.", self.observer)

        @app.post(
            "/",
            summary="Recommend films",
            openapi_extra=BODY_DOC,
            responses={200: {"model": RecommendAnswer}},
        )
        async def recommend(request: Request) -> Response:
            return await self.recommend(request)

        if keeper is not None:
            self._add_inferences(app, keeper)
        return app

    def _add_inferences(self, app: FastAPI, keeper: Keeper) -> None:
        Inferences(keeper, "recommendations", self._show).add_to(app, schema.RECOMMENDATION, Clicked)

        @app.post(
            "/interactions",
            summary="Say what users did",
            status_code=KEPT,
            openapi_extra=body_doc({JSON: {"schema": Interactions.model_json_schema()}}),
            responses={KEPT: {"model": Accepted}},
        )
        async def interactions(request: Request) -> Response:
            return await self.keep_interactions(request, keeper)

    def _show(self, found: Found, feedback: list[dict[str, Any]]) -> dict[str, Any]:
        row = found.columns
        asked = ("user_id", "answered_by", "ranked_movies", "candidates", "known_ratings")
        titles = self.recommender.titles(np.array(row["movie_id"], np.int64))
        return {
            **inference(found, feedback),
            **{name: row[name] for name in asked},
            "items": [
                {"movie_id": movie_id, "title": title, "score": score, "rank": rank}
                for movie_id, title, score, rank in zip(
                    row["movie_id"], titles, np.array(row["score"], np.float32), row["rank"], strict=True
                )
            ],
            "rationale": row["rationale"],
        }


def _parse(body: bytes) -> RecommendBody:
    try:
        return RecommendBody.model_validate_json(body)
    except ValidationError as error:
        raise invalid(error.errors()) from None


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
        telemetry = self.start_telemetry(schema.RECOMMENDATION)
        keeper = self.start_keeping(schema.RECOMMENDATION, args.store)
        self.service = RecommendationService(args, telemetry=telemetry, keeper=keeper)


def build(args: RecommendationArgs) -> Application:
    """Build the application that `serve_config.yaml` names."""
    return bind(RecommendationReplica, args, name="Recommendation")
