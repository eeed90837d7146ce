"""Several answers to one request: all are started or none, and their pieces come as they are said."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Sequence
from typing import Any

from gateway.access import Principal
from gateway.generation import Admitted, Answer, Ask, Generation
from gateway.triton import Delta
from gateway.triton.contract import Value

SEED_STEP = 0x9E3779B97F4A7C15
"""2**64 over the golden ratio: seeds far from each other, none of them twice."""


async def start_choices(generation: Generation, principal: Principal, asks: Sequence[Ask], n: int) -> list[Answer]:
    """``n`` answers to each of ``asks``, in order; each prompt is checked once. A choice's seed is that of the request,
    moved on by its number. Raises what the first one raises, and then none is running."""
    if len(asks) * n > 1:
        generation.require_possible(principal, asks[0], len(asks) * n)
    admitted: list[Admitted] = await _all([generation.admit(principal, ask, n) for ask in asks])
    starts: list[Coroutine[Any, Any, Answer]] = []
    for each in admitted:
        for number in range(n):
            starts.append(generation.begin(each, number, _changes(each, len(starts))))
    try:
        return await _all(starts)
    except BaseException:
        for each in admitted:
            await each.release()
        raise


def _changes(admitted: Admitted, choice: int) -> dict[str, Value] | None:
    seed = admitted.values.get("seed")
    if choice == 0:
        return None
    return {"seed": (seed + choice * SEED_STEP) % 2**64} if isinstance(seed, int) else {}


async def _all(works: Sequence[Coroutine[Any, Any, Any]]) -> list[Any]:
    if len(works) == 1:
        return [await works[0]]
    tasks = [asyncio.ensure_future(each) for each in works]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        for done in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(done, Answer):
                await done.close()
            elif isinstance(done, Admitted):
                await done.release()
        raise


async def merged(answers: Sequence[Answer]) -> AsyncGenerator[tuple[int, Delta], None]:
    """The responses of all of them, each with the number of its answer. Raises what any of them raises."""
    if len(answers) == 1:
        async for each in answers[0]:
            yield 0, each
        return
    iterators = [aiter(answer) for answer in answers]
    waiting = {asyncio.ensure_future(_next(iterator)): number for number, iterator in enumerate(iterators)}
    try:
        while waiting:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                number, delta = waiting.pop(task), task.result()
                if delta is not None:
                    waiting[asyncio.ensure_future(_next(iterators[number]))] = number
                    yield number, delta
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        for iterator in iterators:
            await iterator.aclose()


async def _next(iterator: AsyncGenerator[Delta, None]) -> Delta | None:
    return await anext(iterator, None)
