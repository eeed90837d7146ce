"""The seam: a request is admitted with a lease, the lease says how far it may go, and is settled with what was used."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Protocol, TypeVar

from gateway.errors import QuotaExceeded
from gateway.traffic.quotas.account import Reply
from gateway.traffic.quotas.config import UNLIMITED, Kind, Limits, QuotaFile
from gateway.traffic.quotas.headers import policy_field, refusal
from gateway.traffic.quotas.lease import Lease
from gateway.traffic.quotas.stores import Store

Result = TypeVar("Result")
AT_ONCE: tuple[Kind, Kind] = ("requests_per_second", "concurrent_streams")


class QuotaObserver(Protocol):
    """Who counts."""

    def quota_refused(self, kind: Kind) -> None:
        """A request was not admitted."""

    def quota_stopped(self) -> None:
        """A stream was told to stop."""

    def quota_charged(self, tokens: int) -> None:
        """A lease was settled."""


class Quotas:
    """What tenants may use. ``file`` may be replaced at any time; without one nothing is limited."""

    def __init__(self, store: Store, observer: QuotaObserver, file: QuotaFile | None) -> None:
        self.file = file
        self._store, self._observer = store, observer
        self._running: set[asyncio.Task[Any]] = set()

    def require_possible(self, tenant: str, tenant_class: str, answers: int) -> None:
        """Refuse a request of so many answers at once as the tenant never has room for; each counts as a request.
        Raises :class:`gateway.errors.QuotaExceeded` without a time to come again."""
        limits = self._limits(tenant, tenant_class)
        for kind, most in zip(AT_ONCE, (limits.requests_per_second, limits.concurrent_streams), strict=True):
            if most is not None and answers > most:
                self._observer.quota_refused(kind)
                raise QuotaExceeded(
                    f"{kind}: at most {most} answers at once for your tenant; each of n and of several prompts is one, "
                    "ask for fewer",
                    headers={"RateLimit-Policy": policy_field(limits)},
                )

    async def admit(
        self, principal_tenant: str, tenant_class: str, estimated_tokens: int, prompt_tokens: int = 0
    ) -> Lease:
        """Admit a request that may use ``estimated_tokens``, of which ``prompt_tokens`` are certain. As many as may be
        had are held for it, so that a large ``max_tokens`` alone never refuses it; what it must have is room for the
        certain ones and one token of an answer. The lease must be settled, whatever happens.

        Raises :class:`gateway.errors.QuotaExceeded` and :class:`gateway.errors.QuotaUnavailable`.
        """
        limits, priority = self._terms(principal_tenant, tenant_class)
        need = max(prompt_tokens, 0) + 1
        lease = Lease(self, principal_tenant, tenant_class, max(estimated_tokens, need), self._store.low_water)
        lease.priority = priority
        if limits == UNLIMITED:
            return lease
        answer = self._store.admit(lease.tenant, limits, lease.name, lease.estimated, need)
        reply = answer if isinstance(answer, Reply) else await self._admitted(answer, lease, limits)
        if reply.refused is not None:
            self._observer.quota_refused(reply.refused)
            raise QuotaExceeded(**refusal(limits, reply))
        lease.opened(reply, limits)
        return lease

    def extend(self, lease: Lease, more: int) -> Reply | asyncio.Task[Reply | None]:
        """Report what a lease has used, and ask for ``more``."""
        limits = self._limits(lease.tenant, lease.tenant_class)
        answer = self._store.extend(lease.tenant, limits, lease.name, lease.used, more)
        return answer if isinstance(answer, Reply) else self._to_its_end(answer)

    def stopped(self) -> None:
        """A lease is used up."""
        self._observer.quota_stopped()

    async def settle(self, lease: Lease) -> Reply | None:
        """Charge what a lease has used and let go of the rest: done also when the caller is cancelled meanwhile."""
        self._observer.quota_charged(lease.used)
        limits = self._limits(lease.tenant, lease.tenant_class)
        answer = self._store.settle(lease.tenant, limits, lease.name, lease.used)
        return answer if answer is None or isinstance(answer, Reply) else await asyncio.shield(self._to_its_end(answer))

    async def close(self) -> None:
        """Wait for what is still being settled."""
        while self._running:
            await asyncio.wait(self._running)
        await self._store.close()

    def _limits(self, tenant: str, tenant_class: str) -> Limits:
        return self._terms(tenant, tenant_class)[0]

    def _terms(self, tenant: str, tenant_class: str) -> tuple[Limits, int]:
        return (UNLIMITED, 0) if self.file is None else self.file.terms(tenant, tenant_class)

    async def _admitted(self, answer: Coroutine[Any, Any, Reply], lease: Lease, limits: Limits) -> Reply:
        """The store's answer. Should the caller be cancelled, what was held for it by then is given back."""
        admitting = self._to_its_end(answer)
        try:
            return await asyncio.shield(admitting)
        except asyncio.CancelledError:
            self._to_its_end(self._give_back(admitting, lease, limits))
            raise

    async def _give_back(self, admitting: asyncio.Task[Reply], lease: Lease, limits: Limits) -> None:
        await asyncio.wait([admitting])
        if admitting.exception() is None and admitting.result().refused is None:
            answer = self._store.settle(lease.tenant, limits, lease.name, 0)
            if isinstance(answer, Coroutine):
                await answer

    def _to_its_end(self, work: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
        """Run it, whoever waits for it or not."""
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task
