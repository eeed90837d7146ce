"""Several answers to one request, and their pieces as they are said."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import aclosing
from typing import Any

from gateway.access import Principal
from gateway.answer import Answer, Ask
from gateway.generation import Admitted, Generation
from gateway.triton import Delta
from gateway.triton.contract import Value

SEED_STEP = 0x9E3779B97F4A7C15
"""2**64 over the golden ratio: seeds far from each other, none of them twice."""
Choice = asyncio.Future[Answer]
"""Done once it has begun."""


async def start_choices(
    generation: Generation, principal: Principal, asks: Sequence[Ask], n: int, *, whole: bool
) -> list[Choice]:
    """``n`` answers to each of ``asks``, in order; each prompt is checked once. A choice's seed is that of the request,
    moved on by its number. When it returns, all have begun if they are wanted as a ``whole``, else at least one. Raises
    what any of them raises until then, and then none is running. They are to be closed (:func:`close_choices`)."""
    if len(asks) * n > 1:
        generation.require_possible(principal, asks[0], len(asks) * n)
    admitted = await _admitted([generation.admit(principal, ask, n) for ask in asks])
    starts: list[Coroutine[Any, Any, Answer]] = []
    for each in admitted:
        for number in range(n):
            starts.append(generation.begin(each, number, _changes(each, len(starts))))
    choices: list[Choice] = []
    try:
        if len(starts) == 1:
            choices.append(asyncio.get_running_loop().create_future())
            choices[0].set_result(await starts[0])
            return choices
        choices += [asyncio.ensure_future(each) for each in starts]
        until = asyncio.FIRST_EXCEPTION if whole else asyncio.FIRST_COMPLETED
        for choice in (await asyncio.wait(choices, return_when=until))[0]:
            choice.result()
        return choices
    except BaseException:
        await close_choices(choices)
        for each in admitted:
            await each.release()
        raise


async def close_choices(choices: Sequence[Choice]) -> None:
    """Cancel what still runs. Safe to call again."""
    if beginning := [each for each in choices if not each.done()]:
        for each in beginning:
            each.cancel()
        await asyncio.wait(beginning)
    for each in choices:
        if not each.cancelled() and each.exception() is None:
            await each.result().close()


def _changes(admitted: Admitted, choice: int) -> dict[str, Value] | None:
    seed = admitted.values.get("seed")
    if choice == 0:
        return None
    return {"seed": (seed + choice * SEED_STEP) % 2**64} if isinstance(seed, int) else {}


async def _admitted(works: Sequence[Coroutine[Any, Any, Admitted]]) -> list[Admitted]:
    if len(works) == 1:
        return [await works[0]]
    tasks = [asyncio.ensure_future(each) for each in works]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        for done in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(done, Admitted):
                await done.release()
        raise


async def merged(choices: Sequence[Choice]) -> AsyncGenerator[tuple[int, Delta], None]:
    """The responses of all of them, each with the number of its choice. Raises what any of them raises."""
    if len(choices) == 1:
        async for each in choices[0].result():
            yield 0, each
        return
    iterators = [_deltas(choice) for choice in choices]
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


async def _deltas(choice: Choice) -> AsyncGenerator[Delta, None]:
    async with aclosing(aiter(await choice)) as deltas:
        async for each in deltas:
            yield each


async def _next(iterator: AsyncGenerator[Delta, None]) -> Delta | None:
    return await anext(iterator, None)
