"""Triton dies under load: the gateway says so at once, everybody is told, and it serves again when Triton does."""

from __future__ import annotations

import asyncio
from pathlib import Path

from benchmarks.resilience import kill_triton
from build_engine.pipeline import build
from build_engine.recipe import Recipe
from deploy.local import stack as local
from tests.build_engine.checkpoints import Shape, write_directory

from .conftest import make_stack

CLEAR = {"ok", "triton_unavailable"}


def test_triton_killed_under_load(tmp_path: Path) -> None:
    """`kill -9` with 16 streams running: not ready within two seconds; each request that ran or came meanwhile ends
    with an answer or with `triton_unavailable`, soon, none hangs; a Triton that starts again is found by itself."""
    source = write_directory(tmp_path / "source", Shape(layers=1, context=1024))
    repository = tmp_path / "models" / "repository"
    build(Recipe(source, "generate", repository, tmp_path / "work", precision="fp32"), quiet=True)
    stack = make_stack(repository, tmp_path / "run")
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
