"""Routes about answers that were given: the record, and what is said of it afterwards."""

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import UUID

from fastapi import FastAPI, Request, Response
from pydantic import ValidationError

from deployments import records
from deployments.errors import NotFound
from deployments.http import JSON, check_json, invalid, json_response, read_body
from deployments.keeper import Keeper
from deployments.schemas import Accepted, Wire, body_doc
from store.lookup import Found

MAX_FEEDBACK_BYTES = 200_000
UUID_VERSION = 7
KEPT = 202
LOOKUPS = 2  # at a time


class Inferences:
    """The routes below `/inferences/{inference_id}`.

    Args:
        keeper: Keeps feedback, and knows where records are found.
        table: Where the application's records are.
        show: Turns a record, and the feedback on it, into the answer.
    """

    def __init__(
        self,
        keeper: Keeper,
        table: str,
        show: Callable[[Found, list[dict[str, Any]]], dict[str, Any]],
    ) -> None:
        self.keeper = keeper
        self.lookup = keeper.lookup
        # A look-up takes 30 CPU-ms of a table: many at once would be answers that wait.
        self._places = asyncio.Semaphore(LOOKUPS)
        self._table = table
        self._show = show

    def add_to(self, app: FastAPI, kind: str, body: type[Wire]) -> None:
        """Add the routes that both applications have.

        Args:
            app: Of the application.
            kind: `detection` or `recommendation`.
            body: Of the feedback.
        """

        @app.get("/inferences/{inference_id}", summary="The record of an answer")
        async def record(inference_id: str) -> Response:
            found = await self.find(inference_id)
            said = await asyncio.to_thread(self.lookup.feedback, inference_id)
            return json_response(self._show(found, said))

        @app.post(
            "/inferences/{inference_id}/feedback",
            summary="Say what is true",
            status_code=KEPT,
            openapi_extra=body_doc({JSON: {"schema": body.model_json_schema()}}),
            responses={KEPT: {"model": Accepted}},
        )
        async def feedback(request: Request, inference_id: str) -> Response:
            check_json(request)
            self.keeper.check()
            try:
                said = body.model_validate_json(await read_body(request, MAX_FEEDBACK_BYTES))
            except ValidationError as error:
                raise invalid(error.errors()) from None
            await self.find(inference_id)
            payload = said.model_dump(mode="json", exclude_none=True)
            await self.keeper.keep(records.feedback(inference_id, kind, payload))
            return json_response({"accepted": 1}, status=KEPT)

    async def find(self, inference_id: str) -> Found:
        """Return a record.

        Raises:
            NotFound: There is none of this id.
        """
        found = None
        if _is_uuid7(inference_id):
            async with self._places:
                found = await asyncio.to_thread(self.lookup.record, self._table, inference_id)
        if found is None:
            raise NotFound(
                "There is no record of this inference: the id is another application's, was never answered, "
                "or its time to be kept is over."
            )
        return found


def _is_uuid7(text: str) -> bool:
    try:
        known = UUID(text)
    except ValueError:
        return False
    return known.version == UUID_VERSION and str(known) == text


def inference(found: Found, feedback: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what both applications say of a record."""
    columns = found.columns
    return {
        **{name: columns[name] for name in ("inference_id", "request_id", "trace_id", "ts")},
        "model": {"name": columns["model_name"], "version": columns["model_version"]},
        **{name: columns[name] for name in ("replica", "source", "tags")},
        "settings": records.settings_of(columns),
        "feedback": [{"ts": one["ts"], **records.payload_of(one)} for one in feedback],
    }
