"""Somebody's own code as a moderator: ``package.module:factory``, called once with the configured options."""

from __future__ import annotations

import asyncio
import contextvars
import importlib
import inspect
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from gateway.policy.errors import PolicyError
from gateway.policy.verdict import Context, Moderator, Verdict


class _InThread:
    """A moderator whose ``check`` is an ordinary function: it runs in a thread. The threads are its own, so that checks
    that never end hold up nobody else, and no more run than may."""

    def __init__(self, inner: Any, concurrency: int) -> None:
        self._inner, self._threads = inner, ThreadPoolExecutor(concurrency, "moderator")

    async def check(self, segment: str, context: Context) -> Verdict:
        """See :class:`~gateway.policy.verdict.Moderator`."""
        check = partial(contextvars.copy_context().run, self._inner.check, segment, context)
        verdict: Verdict = await asyncio.get_running_loop().run_in_executor(self._threads, check)
        return verdict

    async def close(self) -> None:
        """Let the threads end."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def load_moderator(entry_point: str, options: Mapping[str, Any], concurrency: int) -> Moderator:
    """The factory's moderator, with so many threads if it needs some. Raises :class:`PolicyError` naming module and
    attribute."""
    module_name, colon, attribute = entry_point.partition(":")
    if not (colon and module_name and attribute):
        raise PolicyError(f"entry_point '{entry_point}' must be package.module:factory")
    try:
        factory = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, SyntaxError) as error:
        raise PolicyError(f"entry_point '{entry_point}' cannot be loaded: {error}") from None
    except Exception as error:
        raise PolicyError(f"entry_point '{entry_point}' cannot be loaded: {type(error).__name__}") from error
    try:
        made = factory(dict(options))
    except Exception as error:
        raise PolicyError(f"entry_point '{entry_point}' failed with {type(error).__name__}") from error
    if not callable(getattr(made, "check", None)):
        raise PolicyError(f"entry_point '{entry_point}' made something without a method check(segment, context)")
    moderator: Moderator = made if inspect.iscoroutinefunction(made.check) else _InThread(made, concurrency)
    return moderator
