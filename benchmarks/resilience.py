"""What a rollout and a crash do to 16 streams: ``python -m benchmarks.resilience``.

* Rollout and rollback of the demo model by the real command: failed requests, seconds by stage, the memory of Triton
  while two versions are loaded, time to the first text before and meanwhile.
* ``kill -9`` of Triton, which a supervisor starts again as Kubernetes would: seconds until the gateway says that it is
  not ready, what became of every request, seconds until the first whole answer.
* ``kill -9`` of a gateway worker while another goes on.

Every request ends in one of the counted ways; one that takes a minute is ``hung``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks import harness
from benchmarks.load import STREAMS, Load, Outcome, under_load
from build_engine.pipeline import build
from build_engine.recipe import Recipe
from deploy.local import stack as local
from deploy.local import triton_server
from deploy.local.demo_model import demo_model
from deploy.local.processes import Background

PAGE = harness.ROOT / "docs" / "rollout.md"
BEGIN, END = "<!-- resilience: begin -->", "<!-- resilience: end -->"
MAX_TOKENS = 48
PROBE_SECONDS = 0.05
SETTLE_SECONDS = 10.0
PAUSE_SECONDS = 0.2
RECOVERY_SECONDS = 180.0


def two_versions(folder: Path) -> Path:
    """A repository with the demo model as version 1, and as version 2 for half the context, pinned to version 1."""
    repository = folder / "models" / "repository"
    for number, context_length in enumerate((None, 4096), 1):
        recipe = Recipe(
            source=demo_model(),
            name="generate",
            repository=folder / f"built-{number}",
            work_dir=folder / "work",
            context_length=context_length,
        )
        build(recipe, quiet=True)
        asyncio.run(command("publish", "--from", folder / f"built-{number}" / "generate", "--repository", repository))
    return repository


async def command(*arguments: object) -> tuple[dict[str, Any], dict[str, float]]:
    """``python -m build_engine ...``: its result, and the seconds at which it named each stage."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "build_engine", *map(str, arguments)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    if process.returncode != 0:
        raise RuntimeError(err.decode())
    stages: dict[str, float] = {}
    for line in err.decode().splitlines():
        seconds, _, rest = line.strip().partition(" s  ")
        stages.setdefault(rest.partition(":")[0], float(seconds))
    result: dict[str, Any] = json.loads(out.decode().splitlines()[-1])
    return result, stages


def memory_bytes(session: int) -> int:
    """The memory of every process of a session, shared pages divided among those that share them (Pss of proc(5))."""
    total = 0
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError, ProcessLookupError):
                if os.getsid(int(folder.name)) == session:
                    lines = (folder / "smaps_rollup").read_text().splitlines()
                    total += 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total


@contextlib.asynccontextmanager
async def sampled(read: Callable[[], int], every: float = 0.5) -> AsyncIterator[list[int]]:
    """What ``read`` returns, again and again while inside."""
    values: list[int] = []

    async def sample() -> None:
        while True:
            values.append(await asyncio.to_thread(read))
            await asyncio.sleep(every)

    task = asyncio.create_task(sample())
    try:
        yield values
    finally:
        task.cancel()


async def roll(stack: local.Stack) -> dict[str, Any]:
    """Promote version 2 and roll back to version 1, under load."""
    headers = {"Authorization": f"Bearer {stack.token()}"}
    where = ("--repository", stack.repository, "--name", "generate", "--triton", f"127.0.0.1:{stack.ports.grpc}")
    figures: dict[str, Any] = {}
    session = stack.triton.pid() or 0
    async with under_load(stack.url, headers, max_tokens=MAX_TOKENS) as load:
        await asyncio.sleep(SETTLE_SECONDS)
        figures["memory_one_version_bytes"] = memory_bytes(session)
        before = len(load.outcomes)
        figures["before"] = _latency(load.outcomes)
        for name, arguments in (("promote", ("promote",)), ("rollback", ("rollback",))):
            began, first = time.monotonic(), len(load.outcomes)
            async with sampled(lambda: memory_bytes(session)) as memory:
                result, stages = await command(*arguments, *where)
            figures[name] = {
                "seconds": time.monotonic() - began,
                "stages_begin_seconds": stages,
                "smoke": next(iter(result["smoke"].values())),
                "drained": all(result["drained"].values()),
                "most_memory_bytes": max(memory),
                "requests": len(load.outcomes) - first,
                "failed": sum(bool(outcome.error) for outcome in load.outcomes[first:]),
                "latency": _latency(load.outcomes[first:]),
            }
        await asyncio.sleep(2.0)
    figures["requests"] = len(load.outcomes)
    figures["outcomes"] = load.counts()
    figures["failed"] = len(load.failed)
    figures["requests_before"] = before
    figures["by_version"] = {
        version: sum(outcome.version == version for outcome in load.outcomes) for version in sorted(load.versions)
    }
    return figures


async def kill_triton(stack: local.Stack, settle_seconds: float = SETTLE_SECONDS) -> dict[str, Any]:
    """Kill Triton under load, and start it again at once, as a platform does."""

    def kill() -> None:
        pid = stack.triton.pid()
        assert pid is not None, "Triton runs"
        os.kill(pid, signal.SIGKILL)

    supervisor = asyncio.create_task(_supervise(stack))
    try:
        return await _crash(stack, kill, settle_seconds)
    finally:
        supervisor.cancel()


async def kill_worker(
    stack: local.Stack, workers: Sequence[int], settle_seconds: float = SETTLE_SECONDS
) -> dict[str, Any]:
    """Kill the busiest of the gateway's ``workers`` (process ids) under load; its parent is expected to replace it.
    What it was answering is cut: nobody is left to say why."""

    def kill() -> None:
        os.kill(max(workers, key=_cpu_ticks), signal.SIGKILL)

    return await _crash(stack, kill, settle_seconds)


def _cpu_ticks(pid: int) -> int:
    """Time that a process has computed (utime and stime of proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


async def _supervise(stack: local.Stack) -> None:
    """Start Triton again whenever it has died. Its Python stubs outlive it (in a container they would not): they go
    first."""
    session = stack.triton.pid()
    while True:
        if stack.triton.pid() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(session or 0, signal.SIGKILL)
            stack.triton.start(
                triton_server.command(stack.repository, stack.run_dir, stack.ports), triton_server.environment()
            )
            session = stack.triton.pid()
        await asyncio.sleep(0.1)


async def _crash(stack: local.Stack, kill: Callable[[], None], settle_seconds: float) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {stack.token()}"}
    async with under_load(stack.url, headers, max_tokens=MAX_TOKENS, pause=PAUSE_SECONDS) as load:
        await asyncio.sleep(settle_seconds)
        watching = asyncio.create_task(_watch(stack.url))
        await asyncio.sleep(0.5)
        killed = time.monotonic()
        kill()
        while not _recovered(load, killed):
            if time.monotonic() - killed > RECOVERY_SECONDS:
                raise RuntimeError(f"no recovery within {RECOVERY_SECONDS:.0f} s: {load.counts()}")
            await asyncio.sleep(0.05)
        await asyncio.sleep(2.0)
        watching.cancel()
        seen = await asyncio.gather(watching, return_exceptions=True)
    probes: list[tuple[float, int]] = [] if isinstance(seen[0], BaseException) else seen[0]
    return _aftermath(load, killed, probes)


def _recovered(load: Load, killed: float) -> bool:
    """Whether a full set of streams has begun and ended well since the crash."""
    return sum(not outcome.error and outcome.began > killed for outcome in load.outcomes) >= STREAMS


async def _watch(url: str) -> list[tuple[float, int]]:
    """The readiness by time, until cancelled; status 0 where nobody answers."""
    probes: list[tuple[float, int]] = []
    timeout = aiohttp.ClientTimeout(total=2)
    try:
        while True:
            # A connection a probe, as a kubelet does: so the probe may meet any worker.
            async with aiohttp.ClientSession(url, timeout=timeout) as session:
                try:
                    async with session.get("/health/ready") as response:
                        probes.append((time.monotonic(), response.status))
                except (aiohttp.ClientError, TimeoutError):
                    probes.append((time.monotonic(), 0))
            await asyncio.sleep(PROBE_SECONDS)
    except asyncio.CancelledError:
        return probes


def _aftermath(load: Load, killed: float, probes: Sequence[tuple[float, int]]) -> dict[str, Any]:
    """What the crash did. Times are seconds behind it; None where it did not happen."""
    away = [at - killed for at, status in probes if at > killed and status != 200]
    back = [at - killed for at, status in probes if away and at - killed > away[-1] and status == 200]
    running = [each for each in load.outcomes if each.began <= killed < each.ended]
    later = [each for each in load.outcomes if each.began > killed]
    answered = [each.ended - killed for each in later if not each.error]
    failed = [each for each in running + later if each.error]
    return {
        "not_ready_after_seconds": away[0] if away else None,
        "ready_again_after_seconds": back[0] if back else None,
        "first_answer_after_seconds": min(answered) if answered else None,
        "running_when_killed": Load(running).counts(),
        "begun_until_recovery": Load(later).counts(),
        "hung": sum(each.error == "hung" for each in failed),
        "longest_failed_request_seconds": max((each.seconds for each in failed), default=0.0),
        "longest_wait_for_an_error_seconds": max(
            (each.ended - max(killed, each.began) for each in failed), default=0.0
        ),
    }


def _latency(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Milliseconds to the first text and between two, of whole answers."""
    first = [outcome.gaps[0] for outcome in outcomes if not outcome.error and outcome.gaps]
    between = [gap for outcome in outcomes if not outcome.error for gap in outcome.gaps[1:]]
    return {
        "first_text_p50_ms": 1e3 * harness.percentile(first, 0.5),
        "first_text_p99_ms": 1e3 * harness.percentile(first, 0.99),
        "between_texts_p50_ms": 1e3 * harness.percentile(between, 0.5),
        "between_texts_p99_ms": 1e3 * harness.percentile(between, 0.99),
        "between_texts_max_ms": 1e3 * max(between),
    }


def workers_of(gateway: Background) -> list[int]:
    """The processes that answer for a gateway with more than one worker."""
    pid = gateway.pid()
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def table(record: dict[str, Any]) -> str:
    """The figures of ``docs/rollout.md`` as Markdown."""
    roll, triton, worker = record["rollout"], record["kill_triton"], record["kill_worker"]
    up, back, machine = roll["promote"], roll["rollback"], record["machine"]
    one, most = roll["memory_one_version_bytes"], max(up["most_memory_bytes"], back["most_memory_bytes"])
    rows = [
        ("promote and rollback: failed requests", f"{roll['failed']} of {roll['requests']}"),
        ("promote, rollback: seconds", f"{up['seconds']:.0f}, {back['seconds']:.0f}"),
        ("Triton's memory: one version, at most", f"{one / 1e6:.0f} MB, {most / 1e6:.0f} MB"),
        (
            "first text p50 before, while it promotes",
            f"{roll['before']['first_text_p50_ms']:.0f} ms, {up['latency']['first_text_p50_ms']:.0f} ms",
        ),
        (
            "between two texts p50 before, while it promotes",
            f"{roll['before']['between_texts_p50_ms']:.0f} ms, {up['latency']['between_texts_p50_ms']:.0f} ms",
        ),
    ]
    for what, crash in (("Triton", triton), ("one of two gateway workers", worker)):
        away = crash["not_ready_after_seconds"]
        rows += [
            (f"`kill -9` of {what}: not ready after", "never: the other answers" if away is None else f"{away:.2f} s"),
            (f"{what}: requests that ran", _counted(crash["running_when_killed"])),
            (f"{what}: requests begun until recovery", _counted(crash["begun_until_recovery"])),
            (f"{what}: longest wait for an error", f"{crash['longest_wait_for_an_error_seconds']:.2f} s"),
            (f"{what}: first whole answer of a new request after", f"{crash['first_answer_after_seconds']:.1f} s"),
        ]
    where = f"{record['streams']} streams, {machine['cores']} cores of {machine['cpu']}, {machine['date']}"
    lines = [f"| {what} | {figure} |" for what, figure in rows]
    head = f"Measured with {where}; SmolLM2-135M-Instruct int8: `python -m benchmarks.resilience`."
    return "\n".join([BEGIN, head, "", "| what | figure |", "|---|---|", *lines, END])


def _counted(outcomes: dict[str, int]) -> str:
    return ", ".join(f"{count} `{name}`" for name, count in sorted(outcomes.items(), key=lambda each: -each[1]))


def main() -> None:
    """Each part with a stack of its own; the third with two workers."""
    with tempfile.TemporaryDirectory() as folder:
        repository = two_versions(Path(folder))
        figures: dict[str, Any] = {"streams": STREAMS, "max_tokens": MAX_TOKENS}
        with harness.running_stack(repository) as stack:
            figures["rollout"] = asyncio.run(roll(stack))
        with harness.running_stack(repository) as stack:
            figures["kill_triton"] = asyncio.run(kill_triton(stack))
        os.environ["TIDEGATE_WORKERS"] = "2"
        with harness.running_stack(repository) as stack:
            figures["kill_worker"] = asyncio.run(kill_worker(stack, workers_of(stack.gateway)))
    harness.save("resilience", figures)
    before, _, rest = PAGE.read_text().partition(BEGIN)
    record = json.loads((harness.RESULTS / "resilience.json").read_text())
    PAGE.write_text(before + table(record) + rest.partition(END)[2])


if __name__ == "__main__":
    main()
