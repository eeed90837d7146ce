"""A policy built aside: in a process of its own, so that serving does not feel it, and handed over through memory.

What takes seconds (reading, linting, sorting, building) happens there; what is left is to read a few large pieces,
which takes milliseconds. ``python -m gateway.policy.aside FILE DESCRIPTOR`` is the other side.
"""

from __future__ import annotations

import asyncio
import gc
import os
import pickle
import sys
from collections.abc import Iterable
from pathlib import Path

import anyio

from gateway.policy.compiled import Policy, load_policy, with_moderators
from gateway.policy.errors import PolicyError
from gateway.policy.guard import Guarded
from gateway.policy.moderators import Services

LONGEST_SECONDS = 600.0
POLITENESS = 10


async def load_aside(path: Path, services: Services | None = None, before: Iterable[Guarded] = ()) -> Policy:
    """As :func:`~gateway.policy.compiled.load_policy`, without a stall; moderators of ``before`` that are the same
    stay. Raises :class:`PolicyError`."""
    descriptor = os.memfd_create("policy")
    try:
        await _run(path, descriptor)
        built = await asyncio.to_thread(_read, descriptor)
    finally:
        os.close(descriptor)
    if isinstance(built, str):
        raise PolicyError(built)
    return built if services is None else await asyncio.to_thread(with_moderators, built, path.parent, services, before)


async def _run(path: Path, descriptor: int) -> None:
    command = (sys.executable, "-m", "gateway.policy.aside", str(path), str(descriptor))
    try:
        process = await asyncio.create_subprocess_exec(
            *command, pass_fds=(descriptor,), stdin=asyncio.subprocess.DEVNULL
        )
    except OSError as error:
        raise PolicyError(f"{path} could not be built: no process for it: {error.strerror}") from None
    try:
        with anyio.fail_after(LONGEST_SECONDS):
            status = await process.wait()
    except TimeoutError:
        raise PolicyError(f"{path} was not ready after {LONGEST_SECONDS:.0f} seconds") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if status:
        raise PolicyError(f"{path} could not be built: the process for it ended with {status}")


def _read(descriptor: int) -> Policy | str:
    with os.fdopen(os.dup(descriptor), "rb") as file:
        file.seek(0)
        built: Policy | str = pickle.load(file)  # noqa: S301 - written by our own process, into our own memory
    return built


def main(path: Path, descriptor: int) -> int:
    """Build, and write the policy or what is wrong with it."""
    os.nice(POLITENESS)
    gc.disable()  # nothing here lives longer than the process
    built: Policy | str
    try:
        built = load_policy(path)
    except PolicyError as error:
        built = str(error)
    with os.fdopen(descriptor, "wb") as file:
        pickle.dump(built, file, protocol=5)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
