"""An HTTP content-safety service, its request and response mapped by configuration.

The request is a JSON value in which ``{segment}``, ``{before}``, ``{direction}``, ``{tenant}`` and ``{request_id}`` are
filled in; the response is read by JSON pointers (RFC 6901). :data:`OPENAI` maps ``POST /v1/moderations`` as it is.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from gateway.policy.verdict import Action, Context, Verdict

MAX_RESPONSE_BYTES = 65536
TOKEN, VALUE = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"), re.compile(r"[\t\x20-\x7e]*")
"""A header's name and value (RFC 9110); what is not ASCII would fail with every check."""


class ModeratorError(Exception):
    """The service did not answer as it should."""


class UnusableError(ValueError):
    """The service could never be asked; the message names the URL or the header."""


@dataclass(frozen=True)
class Mapped:
    """How to ask and how to read. ``flagged`` points at a boolean, ``categories`` at an object of booleans or a list of
    names, ``scores`` at an object of numbers; a score at or above its threshold counts as its category (``*``: any)."""

    body: Any
    flagged: str | None = None
    categories: str | None = None
    scores: str | None = None
    thresholds: Mapping[str, float] = field(default_factory=dict)


OPENAI = Mapped(
    body={"input": "{segment}"},
    flagged="/results/0/flagged",
    categories="/results/0/categories",
    scores="/results/0/category_scores",
)


class HttpModerator:
    """A :class:`~gateway.policy.verdict.Moderator`. ``action`` is what a flagged segment gets. Raises
    :class:`UnusableError`."""

    def __init__(self, url: str, mapped: Mapped, *, action: Action, headers: Mapping[str, str] | None = None) -> None:
        self._url, self._mapped, self._action = _address(url), mapped, action
        for name, value in (headers or {}).items():
            if not TOKEN.fullmatch(name) or not VALUE.fullmatch(value):
                raise UnusableError(f"the header {name!a} holds something that no HTTP header can hold")
        self._client = httpx.AsyncClient(headers=dict(headers or {}), follow_redirects=False, timeout=None)  # noqa: S113

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def check(self, segment: str, context: Context) -> Verdict:
        """Ask the service. Raises :class:`ModeratorError` or ``httpx.HTTPError``; its deadline is the guard's."""
        values = {
            "segment": segment,
            "before": context.before,
            "direction": context.direction,
            "tenant": context.tenant,
            "request_id": context.request_id,
        }
        async with self._client.stream("POST", self._url, json=filled(self._mapped.body, values)) as response:
            if response.status_code != 200:
                raise ModeratorError(f"{self._url.host} answered {response.status_code}")
            content = b""
            async for part in response.aiter_bytes():
                content += part
                if len(content) > MAX_RESPONSE_BYTES:
                    raise ModeratorError(f"{self._url.host} answered with more than {MAX_RESPONSE_BYTES} bytes")
        try:
            answer = json.loads(content)
        except ValueError:
            raise ModeratorError(f"{self._url.host} did not answer with JSON") from None
        return read(answer, self._mapped, self._action)


def _address(url: str) -> httpx.URL:
    try:
        address = httpx.URL(url)
    except httpx.InvalidURL:
        address = None
    if address is None or not address.host:
        raise UnusableError("url is no address")
    return address


def filled(template: Any, values: Mapping[str, str]) -> Any:
    """The template with its places filled in; a value is never searched for places itself."""
    if isinstance(template, Mapping):
        return {key: filled(value, values) for key, value in template.items()}
    if isinstance(template, list):
        return [filled(value, values) for value in template]
    if not isinstance(template, str):
        return template
    parts = template.split("{")
    whole = [parts[0]]
    for part in parts[1:]:
        name, brace, rest = part.partition("}")
        whole.append(values[name] + rest if brace and name in values else "{" + part)
    return "".join(whole)


def read(answer: Any, mapped: Mapped, action: Action) -> Verdict:
    """A verdict from the service's answer. Raises :class:`ModeratorError` if a place that is mapped is not there."""
    categories: set[str] = set()
    flagged = False
    if mapped.flagged is not None:
        flagged = _expect(pointed(answer, mapped.flagged), bool, mapped.flagged)
    if mapped.categories is not None:
        found = _expect(pointed(answer, mapped.categories), (dict, list), mapped.categories)
        categories |= {str(name) for name in found if not isinstance(found, dict) or found[name]}
    highest = None
    if mapped.scores is not None:
        scores = _expect(pointed(answer, mapped.scores), dict, mapped.scores)
        for name, score in scores.items():
            threshold = mapped.thresholds.get(name, mapped.thresholds.get("*"))
            number = isinstance(score, (int, float)) and math.isfinite(score)
            if number:
                highest = max(highest or 0.0, float(score))
            if threshold is not None:
                if not number:
                    raise ModeratorError(f"the answer has a score that is no number at {mapped.scores}")
                if score >= threshold:
                    categories.add(name)
                    flagged = True
    if mapped.flagged is None:
        flagged = bool(categories)
    return Verdict(action if flagged else "allow", (), tuple(sorted(categories)) if flagged else (), highest)


def pointed(value: Any, pointer: str) -> Any:
    """What a JSON pointer points at. Raises :class:`ModeratorError` if there is nothing."""
    for part in pointer.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        try:
            value = value[int(key)] if isinstance(value, list) else value[key]
        except (KeyError, IndexError, ValueError, TypeError):
            raise ModeratorError(f"the answer has nothing at {pointer}") from None
    return value


def _expect(value: Any, kind: Any, pointer: str) -> Any:
    if not isinstance(value, kind):
        raise ModeratorError(f"the answer has something else at {pointer}")
    return value
