"""Whether requests should come here: asked by the probes of both doors."""

from __future__ import annotations

from gateway.access import Authenticator
from gateway.traffic.drain import Drain
from gateway.triton import TritonClient


class Readiness:
    """The gateway's own, and of the one model that it cannot do without."""

    def __init__(self, drain: Drain, authenticator: Authenticator, triton: TritonClient, model: str) -> None:
        self._drain, self._authenticator, self._triton, self._model = drain, authenticator, triton, model

    def closed(self) -> str | None:
        """Why this gateway lets nobody in, whatever Triton says."""
        return "this gateway is shutting down" if self._drain.draining else self._authenticator.not_ready()

    async def missing(self) -> str | None:
        """What is missing; None when Triton can be reached and has the model ready, people can be let in, and this
        gateway is not about to stop."""
        return self.closed() or await self._triton.not_ready(self._model)
