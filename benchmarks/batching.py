"""How much faster 16 streams finish together than one after another: ``python -m benchmarks.batching``.

The same 16 prompts, streamed through the gateway, 32 tokens each; together and in turn, alternated in one run.
"""

from __future__ import annotations

import asyncio
import time

from benchmarks import harness
from deploy.local.stack import Stack

STREAMS, TOKENS, ROUNDS = 16, 32, 5
PROMPT = (
    "Question {}: a traveller walks from one town to the next, and on the way he meets a farmer, a smith and a "
    "baker. Tell what each of them says to him about the weather, the road and the price of bread."
)


async def measure(url_stack: Stack) -> dict[str, object]:
    """Seconds for all 16, per round and way."""
    bodies = [
        {"text_input": PROMPT.format(number), "max_tokens": TOKENS, "ignore_eos": True, "stream": True}
        for number in range(STREAMS)
    ]
    together, in_turn = [], []
    async with harness.gateway_client(url_stack) as session:
        await harness.ask_gateway(session, bodies[0])
        for _ in range(ROUNDS):
            began = time.perf_counter()
            for body in bodies:
                await harness.ask_gateway(session, body)
            in_turn.append(time.perf_counter() - began)
            began = time.perf_counter()
            await asyncio.gather(*(harness.ask_gateway(session, body) for body in bodies))
            together.append(time.perf_counter() - began)
    tokens = STREAMS * TOKENS
    return {
        "streams": STREAMS,
        "tokens_each": TOKENS,
        "rounds": ROUNDS,
        "in_turn_seconds": in_turn,
        "together_seconds": together,
        "speedup": harness.median(in_turn) / harness.median(together),
        "together_tokens_per_second": tokens / harness.median(together),
        "in_turn_tokens_per_second": tokens / harness.median(in_turn),
    }


if __name__ == "__main__":
    with harness.running_stack() as stack:
        harness.save("batching", asyncio.run(measure(stack)))
