"""``POST /feedback``."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from gateway.access import Principal
from gateway.edge.plain import Endpoint, json_response, read_body, takes
from gateway.edge.schemas import ErrorBody
from gateway.feedback import CommentFile, RatedAnswers
from gateway.telemetry import LOGGER

MAX_COMMENT_CHARACTERS = 4000
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody} for status in (400, 401, 403, 404, 408, 409, 413, 422, 429, 503)
}


class FeedbackBody(BaseModel):
    """What ``POST /feedback`` takes."""

    model_config = ConfigDict(extra="forbid", strict=True)

    request_id: str = Field(
        pattern=r"^[A-Za-z0-9._-]{1,64}$", description="The `id` of an answer to you, which is its X-Request-ID."
    )
    score: int = Field(ge=1, le=5, description="5 is best.")
    comment: str | None = Field(
        None, max_length=MAX_COMMENT_CHARACTERS, description="Kept only where the service is set up to."
    )


class FeedbackAnswer(BaseModel):
    """The score counts."""

    request_id: str
    score: int


def feedback_endpoints(rated: RatedAnswers, comments: CommentFile | None) -> dict[str, Endpoint]:
    """``/feedback``."""

    async def feedback(request: Request) -> Response:
        """Say how good an answer was, once. An answer can be rated for a while, by whom it was given to."""
        body = await read_body(request, FeedbackBody)
        principal: Principal = request.scope["state"]["principal"]
        given = await rated.rate(principal.tenant, principal.subject, body.request_id, body.score)
        if comments is not None:
            try:
                await asyncio.to_thread(
                    comments.add, principal.tenant, body.request_id, given, body.score, body.comment
                )
            except OSError as error:
                LOGGER.error("feedback: the comment cannot be kept", extra={"fields": {"errno": error.errno}})
        return json_response({"request_id": body.request_id, "score": body.score})

    return {"/feedback": feedback}


def describe_feedback(app: FastAPI, endpoints: dict[str, Endpoint]) -> None:
    """Show it in the API's description."""
    answers = {**ERRORS, 200: {"model": FeedbackAnswer}}
    app.post("/feedback", tags=["feedback"], responses=answers, openapi_extra=takes(FeedbackBody))(
        endpoints["/feedback"]
    )
