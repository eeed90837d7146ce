"""Identity put together from plain settings: who may sign, which keys count, what is revoked."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from gateway.access.api_keys import ApiKeyLine, ApiKeys
from gateway.access.authenticator import Authenticator, Background
from gateway.access.errors import AccessError, read_text
from gateway.access.issuer import FixedKeys, Issuer
from gateway.access.issuers import IssuerPart, KeyPart, is_safe
from gateway.access.keys import Key, KeySet, key_of, key_set
from gateway.access.lines import Lines, follow, read_lines
from gateway.access.observer import AccessObserver, Source
from gateway.access.revocation import Revocations, RevokedLine, merged

LOGGER = logging.getLogger("tidegate")
Line = TypeVar("Line", bound=BaseModel)


@dataclass(frozen=True)
class Setup:
    """Everything there is to say. Files of ``issuers`` lie in ``folder``; ``where`` is what a message blames for them.
    Lists are looked at every ``look_seconds``. ``development`` allows weak keys and keys without TLS."""

    issuers: Sequence[IssuerPart] = ()
    folder: Path = Path()
    where: str = "TIDEGATE_ISSUERS_FILE"
    api_keys_file: Path | None = None
    revocation_file: Path | None = None
    redis_url: str | None = None
    look_seconds: float = 1.0
    development: bool = False


def build(setup: Setup, observer: AccessObserver) -> Authenticator:
    """Raises :class:`AccessError` for keys and files that cannot be used. Fetches nothing yet."""
    issuers, fetched = [], []
    for part in setup.issuers:
        try:
            if part.jwks_url is None:
                issuers.append(Issuer(part, FixedKeys(_fixed(part, setup))))
            else:
                fetched.append(_fetched(part, observer, setup))
                issuers.append(Issuer(part, fetched[-1]))
        except AccessError as error:
            raise AccessError(f"{setup.where}: issuer '{part.name}': {error}") from None
    background: list[Background] = [lambda: _fetching(fetched)] if fetched else []
    api_keys = ApiKeys() if setup.api_keys_file is not None else None
    if api_keys is not None and setup.api_keys_file is not None:
        background.append(_following_api_keys(setup.api_keys_file, api_keys, setup.look_seconds, observer))
    revocations = Revocations(["revocation_redis"] if setup.redis_url is not None else [])
    if setup.revocation_file is not None:
        background.append(_following_file(setup.revocation_file, revocations, setup.look_seconds, observer))
    if setup.redis_url is not None:
        background.append(_following_redis(setup.redis_url, revocations, setup.look_seconds, observer))
    authenticator = Authenticator(issuers, api_keys, revocations, background)
    for each in fetched:
        each.on_change = authenticator.forget
    return authenticator


def _fixed(part: IssuerPart, setup: Setup) -> KeySet:
    if part.jwks_file is not None:
        text = read_text(setup.folder / part.jwks_file)
        return key_set(text, part.algorithms, published=False, development=setup.development)
    return KeySet([_key(each, number, setup) for number, each in enumerate(part.keys)])


def _key(part: KeyPart, number: int, setup: Setup) -> Key:
    if part.file is not None:
        text = read_text(setup.folder / part.file).strip()
    else:
        text = part.value.get_secret_value().strip() if part.value is not None else ""
    try:
        return key_of(text, part.algorithm, part.kid, development=setup.development)
    except AccessError as error:
        raise AccessError(f"keys.{number}: {error}") from None


def _fetched(part: IssuerPart, observer: AccessObserver, setup: Setup) -> Any:
    if not is_safe(str(part.jwks_url), development=setup.development):
        raise AccessError("jwks_url must be https: whoever is on the way could put in keys of their own")
    return _module("jwks", "jwks", "jwks_url").FetchedKeys(part, observer, development=setup.development)


@contextlib.asynccontextmanager
async def _fetching(fetched: Sequence[Any]) -> AsyncIterator[None]:
    """All are fetched at once before the first request; one that is down does not keep the others from starting."""
    await asyncio.gather(*(each.refresh() for each in fetched))
    async with contextlib.AsyncExitStack() as stack:
        for each in fetched:
            await stack.enter_async_context(each.running())
        yield


def _module(name: str, extra: str, needed_by: str) -> Any:
    """A module that needs an extra."""
    try:
        return importlib.import_module(f"gateway.access.{name}")
    except ImportError:
        raise AccessError(f"{needed_by} needs pip install 'tidegate[{extra}]'") from None


def _following_api_keys(path: Path, api_keys: ApiKeys, seconds: float, observer: AccessObserver) -> Background:
    def looked(problems: list[str]) -> None:
        observer.api_keys_expire(api_keys.first_expiry())
        report(problems)

    first, report = _first(path, ApiKeyLine, "TIDEGATE_API_KEYS_FILE"), _Reporter("api_keys", observer)
    api_keys.replace(first.entries)
    return lambda: _running(looked, follow(path, ApiKeyLine, seconds, first, apply=api_keys.replace, report=looked))


def _following_file(path: Path, revocations: Revocations, seconds: float, observer: AccessObserver) -> Background:
    def apply(entries: list[RevokedLine]) -> None:
        revocations.replace("revocation_file", merged(entries))

    first, report = _first(path, RevokedLine, "TIDEGATE_REVOCATION_FILE"), _Reporter("revocation_file", observer)
    apply(first.entries)
    return lambda: _running(report, follow(path, RevokedLine, seconds, first, apply=apply, report=report))


def _following_redis(url: str, revocations: Revocations, seconds: float, observer: AccessObserver) -> Background:
    module = _module("redis_revocation", "redis", "TIDEGATE_REDIS_URL")
    shared = module.RedisRevocations(module.connect(url), revocations, observer)

    @contextlib.asynccontextmanager
    async def running() -> AsyncIterator[None]:
        await shared.look()
        try:
            async with _task(shared.follow(seconds)):
                yield
        finally:
            await shared.close()

    return running


def _first(path: Path, model: type[Line], setting: str) -> Lines[Line]:
    """At the start a file must hold as a whole: a name mistyped is found here, and not when it is too late."""
    try:
        lines = read_lines(path, model)
    except AccessError as error:
        raise AccessError(f"{setting}: {error}") from None
    if lines.problems:
        raise AccessError(f"{setting}: {lines.problems[0]}")
    return lines


class _Reporter:
    """Tells the observer of each look, and the log of each new problem."""

    def __init__(self, source: Source, observer: AccessObserver) -> None:
        self._source, self._observer, self._known = source, observer, list[str]()

    def __call__(self, problems: list[str]) -> None:
        if problems and problems != self._known:
            fields = {"source": self._source, "reason": problems[0], "problems": len(problems)}
            LOGGER.error("a list of identity does not hold; the rest of it is in force", extra={"fields": fields})
        self._known = problems
        self._observer.list_read(self._source, ok=not problems)


@contextlib.asynccontextmanager
async def _running(report: Callable[[list[str]], None], work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    report([])  # the file was read, and held, when this was built
    async with _task(work):
        yield


@contextlib.asynccontextmanager
async def _task(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
