"""A cluster of Triton pods behind gateways, event by event: the scheduler of the generation backend in steps of the
measured length, gateways that take turns over the pods they know, pods that take their time to start and to leave.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from dataclasses import dataclass, field
from itertools import count
from random import Random

from benchmarks.service_times import ServiceTimes
from build_engine.recipe import Recipe

STEP_TOKENS = 2 * Recipe.step_tokens  # halved while others decode
KV_TOKENS, MAX_SEQUENCES = Recipe.kv_cache_tokens, Recipe.max_sequences
CONNECTION_AGE_SECONDS, RESOLUTION_SECONDS = 30.0, 5.0  # Triton's manifest; gateway/triton/channel.py


@dataclass
class Request:
    """``first`` is when its first text leaves; None while there is none."""

    arrived: float
    prompt: int
    output: int
    fed: int = 0
    first: float | None = None


@dataclass
class Pod:
    """One Triton. Steps in which nothing but decoding happens run as one event: ``steps_from`` begins them, ``cut``
    ends them where somebody arrives, ``end_steps`` is what they did.
    """

    times: ServiceTimes
    waiting: deque[Request] = field(default_factory=deque)
    prompts: list[Request] = field(default_factory=list)
    decoding: list[tuple[int, int]] = field(default_factory=list)
    free: int = KV_TOKENS
    cpu_seconds: float = 0.0
    until: float | None = None
    _done: int = 0
    _began: float = 0.0
    _step_seconds: float = 0.0
    _steps: int = 0
    _sizes: dict[int, int] = field(default_factory=dict)
    _numbers: count[int] = field(default_factory=count)
    _chunks: list[tuple[Request, int]] = field(default_factory=list)

    @property
    def requests(self) -> int:
        """Running and waiting: the autoscaler's metric."""
        return len(self.waiting) + len(self.prompts) + len(self.decoding)

    def steps_from(self, now: float) -> float | None:
        """Admit, pick, and begin. Returns when it ends; None when there is nothing to do."""
        while self.waiting and len(self.prompts) + len(self.decoding) < MAX_SEQUENCES:
            size = self.waiting[0].prompt + self.waiting[0].output
            if size > self.free:
                break
            self.free -= size
            self.prompts.append(self.waiting.popleft())
        rows, self._chunks = len(self.decoding), []
        room = STEP_TOKENS if not rows else max(STEP_TOKENS // 2, 2 * rows) - rows
        for request in self.prompts:
            taken = min(room, request.prompt - request.fed)
            if taken > 0:
                self._chunks.append((request, taken))
                room -= taken
        fed = sum(taken for _, taken in self._chunks)
        if not rows and not fed:
            self.until = None
            return None
        self._began, self._step_seconds = now, self.times.step(rows, fed)
        self._steps = 1 if fed else self.decoding[0][0] - self._done
        self.until = now + self._steps * self._step_seconds
        return self.until

    def cut(self, now: float) -> float | None:
        """End at the step that runs now. Returns when that is; None when it is no sooner than known."""
        if self.until is None or self._steps == 1:
            return None
        steps = min(self._steps, math.floor((now - self._began) / self._step_seconds) + 1)
        if steps == self._steps:
            return None
        self._steps = steps
        self.until = self._began + steps * self._step_seconds
        return self.until

    def end_steps(self, now: float) -> None:
        """Every running sequence has its tokens; what is whole leaves, prompts that were fed have their first."""
        self._done += self._steps
        rows = len(self.decoding) + len(self._chunks)
        self.cpu_seconds += self._steps * self._step_seconds * self.times.cores(rows)
        while self.decoding and self.decoding[0][0] <= self._done:
            self.free += self._sizes.pop(heapq.heappop(self.decoding)[1])
        for request, taken in self._chunks:
            request.fed += taken
            if request.fed == request.prompt:
                request.first = now
                self.prompts.remove(request)
                number = next(self._numbers)
                self._sizes[number] = request.prompt + request.output
                heapq.heappush(self.decoding, (self._done + max(1, request.output - 1), number))


@dataclass
class Member:
    """A pod in the cluster: when it is ready and when each gateway knows it; ``leaving`` once it is to go."""

    pod: Pod
    ready_at: float
    known_at: list[float]
    leaving: bool = False


class Cluster:
    """Gateways before pods; a pod takes ``start_seconds`` to be ready."""

    def __init__(self, times: ServiceTimes, gateways: int, start_seconds: float, random: Random) -> None:
        self.times, self.gateways, self.start_seconds, self.random = times, gateways, start_seconds, random
        self.members: list[Member] = []
        self._turns = [0] * gateways

    def resize(self, now: float, wanted: int, *, at_once: bool = False) -> None:
        """Start pods, or let the youngest leave: they take nothing more and finish what they have."""
        staying = [member for member in self.members if not member.leaving]
        for _ in range(wanted - len(staying)):
            ready = now if at_once else now + self.start_seconds
            heard = [0.0 if at_once else self._hears_after() for _ in range(self.gateways)]
            self.members.append(Member(Pod(self.times), ready, [ready + delay for delay in heard]))
        for member in staying[wanted:]:
            member.leaving = True
        self.members = [member for member in self.members if not (member.leaving and not member.pod.requests)]

    def _hears_after(self) -> float:
        """A gateway resolves the name again when one of its connections has come of age."""
        return self.random.uniform(0, CONNECTION_AGE_SECONDS) + RESOLUTION_SECONDS

    def route(self, now: float, request: Request) -> Pod:
        """The next pod in the turn of one of the gateways."""
        gateway = self.random.randrange(self.gateways)
        known = [each for each in self.members if not each.leaving and each.known_at[gateway] <= now]
        known = known or [min(self.members, key=lambda each: each.ready_at)]
        self._turns[gateway] += 1
        pod = known[self._turns[gateway] % len(known)].pod
        pod.waiting.append(request)
        return pod

    def ready(self, now: float) -> list[Member]:
        """The pods whose metrics count."""
        return [each for each in self.members if not each.leaving and each.ready_at <= now]
