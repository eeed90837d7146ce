"""The whole service on one machine, without Docker: ``python -m deploy.local.stack up|down|status``.

``up`` starts Triton and the gateway in the background, waits until both are ready, sends one real request and prints
what a newcomer wants to paste. Run again it finds them running. ``down`` stops exactly those processes.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from build_engine.serving import served
from deploy.local import triton_server
from deploy.local.processes import Background

TRITON_GRACE_SECONDS = 20.0
GATEWAY_GRACE_SECONDS = 15.0
READY_SECONDS = 120.0
FIRST_PROMPT = "What is 2 + 2?"
SHIPPED_POLICY = Path(__file__).resolve().parents[1] / "policy" / "policy.yaml"


class StackError(Exception):
    """The stack did not come up; the message names the log to read."""


@dataclass(frozen=True)
class Stack:
    """Where the stack lives and listens. Everything is on loopback."""

    repository: Path
    run_dir: Path
    gateway_port: int
    ports: triton_server.Ports
    model: str = "generate"

    @property
    def url(self) -> str:
        """The gateway's base URL."""
        return f"http://127.0.0.1:{self.gateway_port}"

    @property
    def triton(self) -> Background:
        """The Triton server."""
        return Background("triton", self.run_dir)

    @property
    def gateway(self) -> Background:
        """The gateway."""
        return Background("gateway", self.run_dir)

    def key_file(self) -> Path:
        """The development key: random, made once, readable by its owner only."""
        path = self.run_dir / "development_jwt_key"
        if not path.exists():
            self.run_dir.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_hex(32))
        return path

    def gateway_environment(self) -> dict[str, str]:
        """The caller's environment with the settings of this stack."""
        return {
            **os.environ,
            "TIDEGATE_ENVIRONMENT": "development",
            "TIDEGATE_JWT_KEY_FILE": str(self.key_file()),
            "TIDEGATE_PORT": str(self.gateway_port),
            "TIDEGATE_TRITON_URL": f"127.0.0.1:{self.ports.grpc}",
            "TIDEGATE_MODEL": self.model,
            "TIDEGATE_POLICY_FILE": os.environ.get("TIDEGATE_POLICY_FILE", str(SHIPPED_POLICY)),
        }

    def token(self, scope: str = "generate") -> str:
        """A development token, minted by the gateway's own command."""
        command = [
            sys.executable,
            "-m",
            "gateway",
            "token",
            "--subject",
            "you",
            "--tenant",
            "demo",
            "--scope",
            scope,
        ]
        done = subprocess.run(command, env=self.gateway_environment(), check=True, stdout=subprocess.PIPE, text=True)
        return done.stdout.strip()


def start_triton(stack: Stack) -> None:
    """Start Triton, if it does not run yet, and wait until it is ready. Raises :class:`StackError`."""
    if stack.triton.pid() is None:
        command = triton_server.command(stack.repository, stack.run_dir, stack.ports)
        stack.triton.start(command, triton_server.environment())
    _wait("Triton", stack.triton, lambda: _status(f"http://127.0.0.1:{stack.ports.http}/v2/health/ready") == 200)


def start(stack: Stack) -> None:
    """Start what does not run yet and wait until all of it is ready. Raises :class:`StackError`."""
    start_triton(stack)
    _reload_if_rebuilt(stack)
    if stack.gateway.pid() is None:
        stack.gateway.start([sys.executable, "-m", "gateway", "serve"], stack.gateway_environment())
    _wait("gateway", stack.gateway, lambda: _status(f"{stack.url}/health/ready") == 200)


def stop(stack: Stack) -> None:
    """Stop what :func:`start` started, the gateway first."""
    for background, grace in ((stack.gateway, GATEWAY_GRACE_SECONDS), (stack.triton, TRITON_GRACE_SECONDS)):
        stopped = background.stop(grace)
        _say(f"{background.name}: {'stopped' if stopped else 'was not running'}")


def generate(stack: Stack, prompt: str) -> str:
    """One real answer through the front door."""
    body = json.dumps({"messages": [{"role": "user", "content": prompt}], "max_tokens": 32}).encode()
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {stack.token()}"}
    request = urllib.request.Request(f"{stack.url}/generate", body, headers)
    with urllib.request.urlopen(request, timeout=60) as response:
        answer: str = json.load(response)["text_output"]
    return answer


def _reload_if_rebuilt(stack: Stack) -> None:
    """A Triton that was already running takes up a version that was published since, unless a rollout has pinned
    another: `python -m build_engine promote` is for that."""
    version = served(stack.repository / stack.model).version
    base = f"http://127.0.0.1:{stack.ports.http}/v2"
    if version is not None and _status(f"{base}/models/{stack.model}/versions/{version}/ready") != 200:
        _say(f"loading {stack.model} version {version}")
        urllib.request.urlopen(
            urllib.request.Request(f"{base}/repository/models/{stack.model}/load", b"{}"), timeout=120
        )


def _wait(what: str, process: Background, ready: Callable[[], bool]) -> None:
    began = time.monotonic()
    while not ready():
        waited = time.monotonic() - began
        if process.pid() is None or waited > READY_SECONDS:
            _say("")
            state = "stopped" if process.pid() is None else f"was not ready after {READY_SECONDS:.0f} s"
            raise StackError(f"{what} {state}; the end of {process.log}:\n{process.tail()}")
        _progress(f"waiting for {what} {waited:4.1f} s")
        time.sleep(0.1)
    _progress(f"{what} is ready{' ' * 20}\n")


def _status(url: str) -> int | None:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            status: int = response.status
            return status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def _progress(text: str) -> None:
    sys.stderr.write(f"\r{text}")
    sys.stderr.flush()


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _greeting(stack: Stack) -> str:
    body = json.dumps({"messages": [{"role": "user", "content": FIRST_PROMPT}], "max_tokens": 32, "stream": True})
    return "\n".join([
        "",
        f"  > {FIRST_PROMPT}",
        f"  {generate(stack, FIRST_PROMPT)}",
        "",
        f"  gateway   {stack.url}/generate    docs {stack.url}/docs",
        f"  health    {stack.url}/health/ready",
        f"  metrics   {stack.url}/metrics",
        f"  Triton    grpc 127.0.0.1:{stack.ports.grpc}, metrics http://127.0.0.1:{stack.ports.metrics}/metrics",
        f"  logs      {stack.gateway.log}  {stack.triton.log}",
        "",
        "Try it (a development token, valid for a day):",
        "",
        f"curl -N {stack.url}/generate \\",
        "  -H 'Content-Type: application/json' \\",
        f"  -H 'Authorization: Bearer {stack.token()}' \\",
        f"  -d '{body}'",
        "",
        "Stop it: make down",
    ])  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m deploy.local.stack", description=__doc__)
    parser.add_argument("action", choices=("up", "down", "status"))
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument("--run-dir", type=Path, default=Path(".run"))
    parser.add_argument("--gateway-port", type=int, default=8080)
    parser.add_argument(
        "--triton-ports", type=int, nargs=3, default=(8000, 8001, 8002), metavar=("HTTP", "GRPC", "METRICS")
    )
    options = parser.parse_args(argv)
    ports = triton_server.Ports(*options.triton_ports)
    stack = Stack(options.repository, options.run_dir.resolve(), options.gateway_port, ports)
    if options.action == "down":
        stop(stack)
        return 0
    if options.action == "status":
        running = {process.name: process.pid() for process in (stack.triton, stack.gateway)}
        _say(
            "\n".join(f"{name}: {f'running, process {pid}' if pid else 'not running'}" for name, pid in running.items())
        )
        return 0 if all(running.values()) else 1
    try:
        start(stack)
        _say(_greeting(stack))
    except (StackError, triton_server.TritonUnavailable) as error:
        _say(f"error: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
