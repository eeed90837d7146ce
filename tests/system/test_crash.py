"""What dies under load: of Triton the gateway says so at once, of one of its own workers nobody can; it goes on."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from benchmarks.resilience import kill_triton, kill_worker, workers_of
from build_engine.pipeline import build
from build_engine.recipe import Recipe
from deploy.local import stack as local
from deploy.local.stack import Stack
from tests.build_engine.checkpoints import Shape, write_directory

from .conftest import make_stack

CLEAR = {"ok", "triton_unavailable"}
DROPPED = {"ok", "cut", "connection"}
"""A dead worker can say nothing: the connections that it had end."""


def built(folder: Path) -> Stack:
    """A stack with a small model."""
    source = write_directory(folder / "source", Shape(layers=1, context=1024))
    repository = folder / "models" / "repository"
    build(Recipe(source, "generate", repository, folder / "work", precision="fp32"), quiet=True)
    return make_stack(repository, folder / "run")


def test_triton_killed_under_load(tmp_path: Path) -> None:
    """`kill -9` with 16 streams running: not ready within two seconds; each request that ran or came meanwhile ends
    with an answer or with `triton_unavailable`, soon, none hangs; a Triton that starts again is found by itself."""
    stack = built(tmp_path)
    try:
        local.start(stack)
        seen = asyncio.run(kill_triton(stack, settle_seconds=2.0))
    finally:
        local.stop(stack)
    assert seen["not_ready_after_seconds"] < 2.0
    assert seen["ready_again_after_seconds"] is not None
    assert set(seen["running_when_killed"]) <= CLEAR
    assert set(seen["begun_until_recovery"]) <= CLEAR
    assert seen["running_when_killed"]["triton_unavailable"] > 0
    assert seen["begun_until_recovery"]["ok"] >= 16
    assert seen["hung"] == 0
    assert seen["longest_wait_for_an_error_seconds"] < 5.0


def test_a_worker_killed_under_load(tmp_path: Path) -> None:
    """`kill -9` of one of two: what it had ends at once without a word, and no request hangs; requests that come
    meanwhile are answered by the other, the gateway stays ready, and a new worker takes the place."""
    stack = built(tmp_path)
    try:
        local.start_triton(stack)
        command = [sys.executable, "-m", "gateway", "serve"]
        stack.gateway.start(command, stack.gateway_environment() | {"TIDEGATE_WORKERS": "2"})
        local.start(stack)
        before = workers_of(stack.gateway)
        seen = asyncio.run(kill_worker(stack, before, settle_seconds=2.0))
        after = workers_of(stack.gateway)
    finally:
        local.stop(stack)
    assert seen["hung"] == 0
    assert set(seen["running_when_killed"]) <= DROPPED
    assert set(seen["running_when_killed"]) - {"ok"}
    assert set(seen["begun_until_recovery"]) <= DROPPED
    assert seen["begun_until_recovery"]["ok"] >= 16
    assert seen["longest_wait_for_an_error_seconds"] < 5.0
    assert seen["not_ready_after_seconds"] is None
    assert len(after) == 2
    assert len(set(after) & set(before)) == 1
