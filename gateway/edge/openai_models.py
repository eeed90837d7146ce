"""``/v1/models``: the models in Triton that generate text."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from gateway.access import MODELS_READ
from gateway.edge.openai_problems import OpenAIErrorBody
from gateway.edge.plain import json_response
from gateway.errors import GatewayError, ModelNotFound, UpstreamError
from gateway.triton import ModelInfo, TritonClient

_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": OpenAIErrorBody} for status in (401, 403, 404, 422, 429, 502, 503, 504)
}
_CREDENTIALS: dict[str, Any] = {"security": [{"bearer": []}, {"api_key": []}]}


class Model(BaseModel):
    """A model. ``created`` is when its published version was built; ``max_model_len`` most tokens of prompt and answer
    together."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int


class Models(BaseModel):
    """All of them."""

    object: Literal["list"]
    data: list[Model]


def model_routes(triton: TritonClient) -> APIRouter:
    """Both routes, behind :class:`gateway.edge.middleware.Authentication`."""
    router = APIRouter(tags=["openai"])

    @router.get("/v1/models", response_model=Models, responses=_ERRORS, openapi_extra=_CREDENTIALS)
    async def models(request: Request) -> Response:
        """The models that can be asked."""
        principal = request.scope["state"]["principal"]
        names = await triton.models()
        names = [name for name in names if principal.may(MODELS_READ, name)]
        if not names:
            principal.require(MODELS_READ)
        infos = await asyncio.gather(*(triton.info(name) for name in names), return_exceptions=True)
        # What does not describe itself as the builder's models do is a classifier, or somebody else's.
        found = [_shown(name, info) for name, info in zip(names, infos, strict=True) if isinstance(info, ModelInfo)]
        for info in infos:
            if isinstance(info, BaseException) and not isinstance(info, GatewayError):
                raise info
        return json_response({"object": "list", "data": found})

    @router.get("/v1/models/{model}", response_model=Model, responses=_ERRORS, openapi_extra=_CREDENTIALS)
    async def model(request: Request, model: str) -> Response:
        """One of them."""
        request.scope["state"]["principal"].require(MODELS_READ, model)
        try:
            return json_response(_shown(model, await triton.info(model)))
        except UpstreamError:  # it is there and does not generate text
            raise ModelNotFound(field="model") from None

    return router


def _shown(name: str, info: ModelInfo) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": info.created,
        "owned_by": "tidegate",
        "max_model_len": info.context_length,
    }
