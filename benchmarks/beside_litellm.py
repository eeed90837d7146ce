"""The gateway beside the LiteLLM proxy: ``python -m benchmarks.beside_litellm``, three minutes after the first time.

Both answer ``POST /v1/chat/completions`` with a key, on one core, one worker each, in turn (A B A B, medians). Behind
the gateway stands the instant model in a real Triton, with policy, metrics and log on; behind LiteLLM stands the
cheapest upstream there is (:mod:`benchmarks.openai_fake`), which favours LiteLLM, and no guardrail. LiteLLM runs in an
environment of its own under ``.build/peers``, with uvloop and httptools as it installs them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks import harness
from benchmarks.cores import cpu_seconds, pin
from benchmarks.peer_environments import environment
from benchmarks.throughput import wrk

ROUNDS, SECONDS, CONNECTIONS = 3, 4, 16
STREAMS, CHUNKS = 16, 100
MESSAGES = [{"role": "user", "content": "What is the weather in the mountains like in early spring?"}]
BODY: dict[str, Any] = {"model": "generate", "messages": MESSAGES, "max_tokens": 16, "temperature": 0}


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextlib.contextmanager
def litellm(folder: Path) -> Iterator[tuple[str, str, int]]:
    """URL, key and process id of a LiteLLM proxy before the fake."""
    upstream, port, key = free_port(), free_port(), f"sk-{secrets.token_hex(24)}"
    parameters = {"model": "openai/generate", "api_base": f"http://127.0.0.1:{upstream}/v1", "api_key": "none"}
    config = {
        "model_list": [{"model_name": "generate", "litellm_params": parameters}],
        "general_settings": {"master_key": key},
        "litellm_settings": {"telemetry": False},
    }
    (folder / "litellm.yaml").write_text(json.dumps(config), encoding="utf-8")
    python = environment("litellm_proxy")
    quiet = {"HF_HUB_OFFLINE": "1", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "NO_PROXY": "*"}
    fake = [sys.executable, "-m", "uvicorn", "benchmarks.openai_fake:app", "--port", str(upstream), "--no-access-log"]
    proxy = [str(python.with_name("litellm")), "--config", str(folder / "litellm.yaml"), "--port", str(port)]
    with (folder / "litellm.log").open("wb") as log, contextlib.ExitStack() as held:
        running = []
        for command, env in ((fake, os.environ), (proxy, {**os.environ, **quiet})):
            child = subprocess.Popen(
                [*command, "--host", "127.0.0.1"], env=env, cwd=harness.ROOT, stdout=log, stderr=log
            )
            held.callback(child.wait)
            held.callback(child.terminate)
            running.append(child)
        url = f"http://127.0.0.1:{port}"
        _wait(f"{url}/health/liveliness", running[1], folder / "litellm.log")
        pin(running[0].pid, 0)
        pin(running[1].pid, 1)
        yield url, key, running[1].pid


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        if process.poll() is not None:
            raise SystemExit(f"LiteLLM did not start:\n{log.read_text()[-3000:]}")
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2):
            return
        time.sleep(0.2)
    raise SystemExit("LiteLLM was not ready in two minutes")


async def streamed(url: str, key: str) -> None:
    """Read all streams to their end."""
    headers = {"Authorization": f"Bearer {key}"}
    async with aiohttp.ClientSession(url, headers=headers) as session:

        async def one() -> None:
            body = {**BODY, "stream": True, "max_tokens": CHUNKS}
            async with session.post("/v1/chat/completions", json=body) as response:
                assert response.status == 200, await response.text()
                events = [line async for line in response.content if line.startswith(b"data:")]
            assert len(events) >= CHUNKS, events[-1]

        await asyncio.gather(*(one() for _ in range(STREAMS)))


def measure(folder: Path) -> dict[str, Any]:
    """Medians over the rounds, and their ratios."""
    rows: dict[str, list[dict[str, float]]] = {"tidegate": [], "litellm": []}
    with harness.instant_stack() as stack, litellm(folder) as (url, key, pid):
        doors = {
            "tidegate": (stack.url, stack.token(), harness.pid_of(stack.gateway)),
            "litellm": (url, key, pid),
        }
        for number in range(ROUNDS + 1):
            for name, (base, token, process) in doors.items():
                used = cpu_seconds(process)
                row = wrk(base, token, CONNECTIONS, SECONDS, folder / "ask.lua", "/v1/chat/completions", BODY)
                row["cpu_us_per_request"] = (cpu_seconds(process) - used) / row["requests"] * 1e6
                used = cpu_seconds(process)
                asyncio.run(streamed(base, token))
                row["cpu_us_per_streamed_token"] = (cpu_seconds(process) - used) / (STREAMS * CHUNKS) * 1e6
                sys.stderr.write(f"{name}: {row}\n")
                if number:  # the first round warms both up
                    rows[name].append(row)
    figures: dict[str, Any] = {
        name: {key: harness.median([row[key] for row in found]) for key in found[0]} for name, found in rows.items()
    }
    ours, theirs = figures["tidegate"], figures["litellm"]
    figures["requests_per_second_ratio"] = ours["per_second"] / theirs["per_second"]
    for name in ("cpu_us_per_request", "cpu_us_per_streamed_token"):
        figures[f"{name}_ratio"] = theirs[name] / ours[name]
    return figures


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="tidegate-litellm-") as name:
        harness.save("beside_litellm", measure(Path(name)))
