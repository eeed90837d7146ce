"""What the OpenAI surface costs: ``python -m benchmarks.openai_surface``, two minutes.

The same streams through ``/generate`` and ``/v1/chat/completions`` in turns, before an instant model: processor time of
the gateway by response. Then the demo model, eight answers at once: tokens by second as they are, with five logprobs a
token, and bound to a JSON schema, in turns.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import aiohttp

from benchmarks import harness
from benchmarks.cores import cpu_seconds
from deploy.local.stack import Stack

STREAMS, RESPONSES, ROUNDS = 32, 100, 5
TOGETHER, TOKENS = 8, 64
QUESTION = [{"role": "user", "content": "Tell me about the sea."}]
CHAT = {"model": "generate", "messages": QUESTION}
SURFACES: dict[str, dict[str, Any]] = {"/generate": {"messages": QUESTION}, "/v1/chat/completions": CHAT}
SCHEMA = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
BOUND = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "logprobs": {"logprobs": True, "top_logprobs": 5},
    "json_schema": {"response_format": BOUND},
}


async def read(session: aiohttp.ClientSession, path: str, body: dict[str, Any]) -> bytes:
    """An answer to its end."""
    async with session.post(path, json=body) as response:
        content = await response.read()
        assert response.status == 200, content
    return content


async def relay(stack: Stack) -> dict[str, float]:
    """Gateway microseconds by response, the median of alternated rounds, for each surface."""
    pid = harness.pid_of(stack.gateway)
    found: dict[str, list[float]] = {path: [] for path in SURFACES}
    async with harness.gateway_client(stack) as session:
        for number in range(ROUNDS + 1):
            for path, body in SURFACES.items():
                asked = {**body, "max_tokens": RESPONSES, "temperature": 0, "stream": True}
                used = cpu_seconds(pid)
                await asyncio.gather(*(read(session, path, asked) for _ in range(STREAMS)))
                if number:  # the first round warms up
                    found[path].append((cpu_seconds(pid) - used) / (STREAMS * RESPONSES) * 1e6)
    return {path: harness.median(rows) for path, rows in found.items()}


async def batch(stack: Stack) -> dict[str, float]:
    """Tokens by second of the demo model, the median of alternated rounds, for each kind of request."""
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    async with harness.gateway_client(stack) as session:
        for number in range(ROUNDS + 1):
            for kind, extra in KINDS.items():
                asked = {**CHAT, "max_tokens": TOKENS, "seed": number, "ignore_eos": True, **extra}
                began = time.perf_counter()
                answers = await asyncio.gather(*(read(session, "/v1/chat/completions", asked) for _ in range(TOGETHER)))
                tokens = sum(int(each.split(b'"completion_tokens":')[1].split(b",")[0]) for each in answers)
                if number:
                    found[kind].append(tokens / (time.perf_counter() - began))
    return {kind: harness.median(rows) for kind, rows in found.items()}


def main() -> None:
    """Measure and save."""
    with harness.instant_stack() as stack:
        figures: dict[str, Any] = {"cpu_us_per_response": asyncio.run(relay(stack))}
    with harness.running_stack() as stack:
        figures["tokens_per_second"] = asyncio.run(batch(stack))
    harness.save("openai_surface", figures)


if __name__ == "__main__":
    main()
