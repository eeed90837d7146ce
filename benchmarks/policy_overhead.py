"""What the policy costs a request: ``python -m benchmarks.policy_overhead``, about five minutes.

Two gateways before one Triton with the demo model, one with the shipped policy and one with an empty one, asked in
turn (A B B A): the same 160-character prompts, 16 tokens, not streamed and streamed. The difference of the medians,
beside the median, is what the policy costs; pairs of the same gateway tell the noise.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import aiohttp

from benchmarks import harness
from benchmarks.policy import make_prompts
from deploy.local.stack import SHIPPED_POLICY, Stack
from gateway.policy.benign import shipped_texts

ROUNDS, REQUESTS, TOKENS, CHARACTERS = 25, 4, 16, 160


@contextlib.contextmanager
def second_gateway(stack: Stack, policy: Path, folder: Path) -> Iterator[str]:
    """Another gateway before the same Triton."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    environment = {**stack.gateway_environment(), "TIDEGATE_POLICY_FILE": str(policy), "TIDEGATE_PORT": str(port)}
    with (folder / f"{port}.log").open("wb") as log:
        command = [sys.executable, "-m", "gateway", "serve"]
        child = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=harness.ROOT)
        try:
            for _ in range(300):
                if child.poll() is not None:
                    raise SystemExit((folder / f"{port}.log").read_text())
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            child.terminate()
            child.wait()


async def ask(session: aiohttp.ClientSession, url: str, prompt: str, stream: bool) -> float:
    """Seconds of one request, read to its end."""
    began = time.perf_counter()
    body = {"text_input": prompt, "max_tokens": TOKENS, "temperature": 0, "stream": stream}
    async with session.post(f"{url}/generate", json=body) as response:
        content = await response.read()
        if response.status != 200:
            raise RuntimeError(content.decode())
    return time.perf_counter() - began


async def measure(token: str, shipped: str, empty: str) -> dict[str, object]:
    """Milliseconds of the medians, and the policy's share."""
    chinese = [each for each in shipped_texts() if not each.isascii()]
    prompts = [prompt[:CHARACTERS] for prompt in make_prompts(chinese, Random(1))]
    figures: dict[str, object] = {"requests_each": 2 * ROUNDS * REQUESTS, "tokens": TOKENS}
    headers = {"Authorization": f"Bearer {token}"}
    async with aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(total=300)) as session:
        for stream in (False, True):
            times: dict[str, list[float]] = {shipped: [], empty: []}
            for number in range(ROUNDS + 1):
                for url in (shipped, empty, empty, shipped):
                    spent = [await ask(session, url, prompts[(number + each) % 8], stream) for each in range(REQUESTS)]
                    if number:  # the first round warms
                        times[url] += spent
            with_policy, without = (1e3 * harness.median(times[url]) for url in (shipped, empty))
            figures["streamed" if stream else "whole"] = {
                "shipped_p50_ms": with_policy,
                "empty_p50_ms": without,
                "overhead": with_policy / without - 1,
                "noise": _noise(times[empty]),
            }
    return figures


def _noise(seconds: list[float]) -> float:
    """How far apart the medians of the two halves of one gateway's own requests are, as a share."""
    one, other = harness.median(seconds[::2]), harness.median(seconds[1::2])
    return abs(one / other - 1)


def main() -> None:
    """Start, measure, save."""
    with harness.running_stack() as stack, tempfile.TemporaryDirectory(prefix="tidegate-overhead-") as name:
        folder = Path(name)
        (folder / "empty.yaml").write_text("version: empty\n", encoding="utf-8")
        with (
            second_gateway(stack, SHIPPED_POLICY, folder) as one,
            second_gateway(stack, folder / "empty.yaml", folder) as other,
        ):
            harness.save("policy_overhead", asyncio.run(measure(stack.token(), one, other)))


if __name__ == "__main__":
    main()
