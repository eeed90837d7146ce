"""Somebody's own code as a moderator: ``package.module:factory``, called once with the configured options."""

from __future__ import annotations

import asyncio
import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from gateway.policy.errors import PolicyError
from gateway.policy.verdict import Context, Moderator, Verdict


class _InThread:
    """A moderator whose ``check`` is an ordinary function: it runs in a thread."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    async def check(self, segment: str, context: Context) -> Verdict:
        """See :class:`~gateway.policy.verdict.Moderator`."""
        verdict: Verdict = await asyncio.to_thread(self._inner.check, segment, context)
        return verdict


def load_moderator(entry_point: str, options: Mapping[str, Any]) -> Moderator:
    """The factory's moderator. Raises :class:`PolicyError` naming module and attribute."""
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
    moderator: Moderator = made if inspect.iscoroutinefunction(made.check) else _InThread(made)
    return moderator
