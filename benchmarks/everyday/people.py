"""What people do with the service in a day, in a minute: ask, ask what is forbidden, leave, come with a wrong
token, ask for too much, rate. Every outcome that a dashboard shows comes to pass."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable

import aiohttp

from benchmarks.everyday.setting import BROKEN_POLICY, Everyday

STORY: dict[str, object] = {"text_input": "Once upon a time", "temperature": 0.8}
SCORES = itertools.cycle((5, 4, 5, 3, 4, 5, 2, 4, 5, 1))
Visit = Callable[["Person"], Awaitable[str]]


class Person:
    """One who comes again and again; ``pause`` seconds lie between two visits, on average."""

    def __init__(self, session: aiohttp.ClientSession, token: str, visit: Visit, pause: float) -> None:
        self.session, self.visit, self.pause = session, visit, pause
        self.headers = {"Authorization": f"Bearer {token}"}

    async def post(self, path: str, body: dict[str, object]) -> dict[str, object]:
        """The answer, or the error."""
        async with self.session.post(path, json=body, headers=self.headers) as response:
            answer: dict[str, object] = await response.json()
            return answer

    async def ask(self, text: str, max_tokens: int = 24) -> dict[str, object]:
        """One question in the chat template."""
        messages = [{"role": "user", "content": text}]
        return await self.post("/generate", {"messages": messages, "max_tokens": max_tokens, "temperature": 0})


def outcome(answer: dict[str, object]) -> str:
    """How a visit ended: the error's code, or the reason why the answer ended."""
    error = answer.get("error")
    return str(error["code"] if isinstance(error, dict) else answer["finish_reason"])


async def asks_and_rates(person: Person) -> str:
    """A question, and a score for its answer."""
    answer = await person.ask(
        random.choice(("What is the capital of France?", "Name three fruits.", "Who wrote Hamlet?"))
    )
    if "error" not in answer:
        await person.post("/feedback", {"request_id": answer["id"], "score": next(SCORES)})
    return outcome(answer)


async def reads_a_stream(person: Person) -> str:
    """An answer that streams, read to its end."""
    question = {"role": "user", "content": "Say hello to the world in one short sentence."}
    return await _read(_stream(person, {"messages": [question], "max_tokens": 64}))


async def reads_a_story(person: Person) -> str:
    """A longer text, read to its end."""
    return await _read(_stream(person, STORY | {"max_tokens": 48}))


async def leaves(person: Person) -> str:
    """A long text, left after a few words."""
    seen = 0
    async with contextlib.aclosing(_stream(person, STORY | {"max_tokens": 200})) as events:
        async for _ in events:
            seen += 1
            if seen == 8:
                break
    return "left"


async def asks_what_is_forbidden(person: Person) -> str:
    """The policy refuses it."""
    return outcome(await person.ask("Tell me about the forbidden thing."))


async def hears_half(person: Person) -> str:
    """The policy ends the answer."""
    return outcome(await person.ask("What is the capital of Germany?"))


async def tells_an_address(person: Person) -> str:
    """The model does not see it."""
    return outcome(await person.ask("My address is ann@example.com. What is 2 + 2?", 8))


async def has_no_token(person: Person) -> str:
    """401."""
    person.headers = {"Authorization": "Bearer nobody"}
    return outcome(await person.ask("Who is there?"))


async def asks_nonsense(person: Person) -> str:
    """422."""
    return outcome(await person.post("/generate", {"text_input": "x", "max_tokens": -1}))


async def _read(events: AsyncGenerator[dict[str, object], None]) -> str:
    async for event in events:
        if event.get("finish_reason") or "error" in event:
            return outcome(event)
    return "cut"


async def _stream(person: Person, body: dict[str, object]) -> AsyncGenerator[dict[str, object], None]:
    async with person.session.post(
        "/generate_stream", json=body | {"stream": True}, headers=person.headers
    ) as response:
        if response.status != 200:
            yield await response.json()
            return
        async for line in response.content:
            if line.startswith(b"data:"):
                yield json.loads(line[5:])


People = tuple[tuple[str, Visit, float, int], ...]
"""Tenant, what they do, seconds between visits, how many of them."""
CONTENT: People = (
    ("acme", asks_and_rates, 0.5, 2),
    ("delta", asks_and_rates, 1.0, 1),
    ("acme", reads_a_stream, 0.5, 2),
)
TROUBLED: People = (
    ("delta", leaves, 2.0, 1),
    ("acme", asks_what_is_forbidden, 2.0, 1),
    ("delta", hears_half, 2.0, 1),
    ("acme", tells_an_address, 2.0, 1),
    ("bolt", asks_and_rates, 0.5, 2),
    ("crumb", reads_a_story, 2.0, 1),
    ("acme", has_no_token, 3.0, 1),
    ("acme", asks_nonsense, 4.0, 1),
)
CROWD: People = (("delta", reads_a_story, 0.5, 16),)
"""More than there is room for, if the model was built for few."""


async def live(
    everyday: Everyday, seconds: float, *, ease: float = 1.0, trouble: float = 1.0, crowd: bool = False
) -> Counter[str]:
    """All of them for so long, and one who changes the policy, well and badly; their pauses are ``ease`` times as long,
    and of those whose visits end badly ``ease / trouble`` times. With a ``crowd`` more
    come when a fifth of the time is over, until a third is. Returns visits by outcome."""
    seen: Counter[str] = Counter()
    timeout, connector = aiohttp.ClientTimeout(total=60), aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(everyday.stack.url, timeout=timeout, connector=connector) as session:

        async def come(people: People, ease: float, begins: float, lasts: float) -> None:
            await asyncio.sleep(begins)
            until = time.monotonic() + lasts
            visitors = (
                _come(Person(session, everyday.token(tenant), visit, ease * pause), until, seen)
                for tenant, visit, pause, count in people
                for _ in range(count)
            )
            await asyncio.gather(*visitors)

        coming = [come(CONTENT, ease, 0, seconds), come(TROUBLED, ease / trouble, 0, seconds)]
        if crowd:
            coming.append(come(CROWD, 1.0, 0.2 * seconds, 0.15 * seconds))
        await asyncio.gather(*coming, _change_policy(everyday, seconds))
    return seen


async def _come(person: Person, until: float, seen: Counter[str]) -> None:
    await asyncio.sleep(random.uniform(0, person.pause))
    while time.monotonic() < until:
        seen[await person.visit(person)] += 1
        await asyncio.sleep(random.expovariate(1 / person.pause))


async def _change_policy(everyday: Everyday, seconds: float) -> None:
    await asyncio.sleep(0.25 * seconds)
    everyday.take_policy("2026-11-25")
    await asyncio.sleep(0.25 * seconds)
    everyday.policy_file.write_text(BROKEN_POLICY, encoding="utf-8")
    await asyncio.sleep(0.1 * seconds)
    everyday.take_policy("2026-11-26")
