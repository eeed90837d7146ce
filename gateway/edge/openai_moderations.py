"""``/v1/moderations``: the policy as a service. What would be decided about a text, if it were asked."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel

from gateway.access import GENERATE, MODERATE, Principal
from gateway.edge.asking import Limits, unless_client_leaves
from gateway.edge.openai import ERRORS
from gateway.edge.openai_schemas import ModerationBody
from gateway.edge.plain import Endpoint, json_response, read_body, takes
from gateway.edge.schemas import PolicyFindings
from gateway.policy.engine import InputDecision, PolicyEngine
from gateway.policy.verdict import Context
from gateway.traffic.quotas import Quotas

PATH = "/v1/moderations"


class Moderation(BaseModel):
    """About one text. The keys are the policy's own categories; ``tidegate`` says what was found, where, and what would
    be done about it."""

    flagged: bool
    categories: dict[str, bool]
    category_scores: dict[str, float]
    category_applied_input_types: dict[str, list[Literal["text"]]]
    tidegate: PolicyFindings


class Moderations(BaseModel):
    """What ``POST /v1/moderations`` gives. ``model`` is the policy in force."""

    id: str
    model: str
    results: list[Moderation]


def moderation_endpoints(policy: PolicyEngine, quotas: Quotas, limits: Limits) -> dict[str, Endpoint]:
    """The route, behind :class:`gateway.edge.middleware.Authentication`."""

    async def moderations(request: Request) -> Response:
        """What the policy says about texts."""
        body = await read_body(request, ModerationBody)
        state = request.scope["state"]
        principal = state["principal"]
        if not principal.may(MODERATE):
            principal.require(GENERATE)  # whoever may ask the model learns the same from its refusals
        context = Context(state["request_id"], principal.tenant, "input", deadline=limits.deadline(request))
        await _counted(quotas, principal, state["headers"])
        version, known = policy.policy.version, policy.policy.categories
        checks = asyncio.gather(*(policy.check_input([text], context) for text in body.input))
        decisions = await unless_client_leaves(request, checks)
        results = [_result(each, known) for each in decisions]
        return json_response({"id": f"modr-{state['request_id']}", "model": version, "results": results})

    return {PATH: moderations}


async def _counted(quotas: Quotas, principal: Principal, headers: dict[str, str]) -> None:
    """One request of the tenant's, and no tokens. Raises :class:`gateway.errors.QuotaExceeded`."""
    lease = await quotas.admit(principal.tenant, principal.tenant_class, 0)
    await lease.settle(0)
    headers.update(lease.headers)


def describe_moderations(app: FastAPI, endpoints: dict[str, Endpoint]) -> None:
    """Show it in the API's description."""
    answers = {**ERRORS, 200: {"model": Moderations}}
    app.post(PATH, tags=["openai"], responses=answers, openapi_extra=takes(ModerationBody))(endpoints[PATH])


def _result(decision: InputDecision, known: frozenset[str]) -> dict[str, Any]:
    scores = dict.fromkeys(sorted(known), 0.0)
    found: set[str] = set()
    for span in decision.spans[0]:
        found.add(span.category or span.source)
        scores[span.category or span.source] = 1.0
    for judged in decision.judged:
        for category in judged.categories or (judged.moderator,):
            score = 1.0 if judged.score is None else judged.score
            scores[category] = max(scores.get(category, 0.0), score)
            if judged.action != "allow":
                found.add(category)
    return {
        "flagged": decision.action != "allow",
        "categories": {category: category in found for category in scores},
        "category_scores": scores,
        "category_applied_input_types": {category: ["text"] for category in scores},
        "tidegate": decision.report(),
    }
