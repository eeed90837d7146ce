"""A tenant's class decides its place in Triton's queue: the real Triton's, with a model that takes one at a time."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest

from build_engine.pipeline import build
from build_engine.recipe import Recipe
from deploy.local import stack as local
from tests.build_engine.checkpoints import Shape, write_directory

from .conftest import backend_metric, make_stack
from .test_leaving import until

QUOTAS = """
default: batch
classes:
  batch: {priority: 3}
  interactive: {priority: 1}
tenants:
  gold: {class: interactive}
"""
ASKED = {"text_input": "the th", "max_tokens": 16, "ignore_eos": True}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[local.Stack]:
    """Triton with a tiny model, one place and three levels; a gateway with two classes."""
    folder = tmp_path_factory.mktemp("priority")
    source = write_directory(folder / "source", Shape(layers=1, context=8192))
    recipe = Recipe(source, "generate", folder / "repository", folder / "work", precision="fp32")
    build(Recipe(**{**vars(recipe), "max_sequences": 1, "priority_levels": 3}), quiet=True)
    (folder / "quotas.yaml").write_text(QUOTAS)
    each = make_stack(folder / "repository", folder / "run")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("TIDEGATE_QUOTA_FILE", str(folder / "quotas.yaml"))
        try:
            local.start(each)
            yield each
        finally:
            local.stop(each)


def bearer(stack: local.Stack, tenant: str) -> dict[str, str]:
    """A token of the tenant."""
    command = [sys.executable, "-m", "gateway", "token", "--subject", "you", "--tenant", tenant]
    done = subprocess.run(command, env=stack.gateway_environment(), check=True, stdout=subprocess.PIPE, text=True)
    return {"Authorization": f"Bearer {done.stdout.strip()}"}


def pending(stack: local.Stack) -> int:
    """Requests in Triton's queue."""
    text = httpx.get(f"http://127.0.0.1:{stack.ports.metrics}/metrics").text
    lines = [line for line in text.splitlines() if line.startswith("nv_inference_pending_request_count{")]
    return int(float(lines[0].rsplit(" ", 1)[1]))


async def test_who_has_a_higher_class_overtakes_in_tritons_queue(stack: local.Stack) -> None:
    """One runs, six of the class `batch` wait, and one of the class `interactive` comes last. It is answered before all
    of them but the one that Triton had already handed over."""
    batch, gold = bearer(stack, "somebody"), bearer(stack, "gold")
    answered: list[str] = []

    async with httpx.AsyncClient(base_url=stack.url, timeout=60) as client:

        async def ask(name: str, headers: dict[str, str]) -> None:
            response = await client.post("/generate", json=ASKED, headers=headers)
            assert response.status_code == 200, response.text
            answered.append(name)

        running = asyncio.create_task(client.post("/generate", json={**ASKED, "max_tokens": 4000}, headers=batch))
        await asyncio.to_thread(until, lambda: backend_metric(stack, "tidegate_backend_running_sequences") == 1)
        waiting = [asyncio.create_task(ask(f"batch {number}", batch)) for number in range(6)]
        await asyncio.to_thread(until, lambda: pending(stack) >= 5)
        before = pending(stack)
        waiting.append(asyncio.create_task(ask("gold", gold)))
        await asyncio.to_thread(until, lambda: pending(stack) == before + 1)
        assert not running.done(), "the first request was answered before the others had come"
        running.cancel()
        await asyncio.gather(*waiting)
    assert "gold" in answered[:2], answered
