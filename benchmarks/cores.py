"""Who runs on which core, and how much processor time a process has used."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def tree(pid: int) -> list[int]:
    """``pid`` and every process under it."""
    found, left = [], [pid]
    while left:
        found.append(each := left.pop())
        for task in Path(f"/proc/{each}/task").iterdir():
            with contextlib.suppress(OSError):
                left += [int(child) for child in (task / "children").read_text().split()]
    return found


def pin(pid: int, core: int) -> None:
    """Keep ``pid``, its threads and its children on ``core``; on a machine of one core, nothing."""
    allowed = sorted(os.sched_getaffinity(0))
    for process in tree(pid):
        for task in Path(f"/proc/{process}/task").iterdir():
            with contextlib.suppress(OSError):
                os.sched_setaffinity(int(task.name), {allowed[core % len(allowed)]})


def cpu_seconds(pid: int) -> float:
    """Processor time of ``pid`` and its children so far (schedstat: nanoseconds on a core)."""
    total = 0
    for process in tree(pid):
        for task in Path(f"/proc/{process}/task").iterdir():
            with contextlib.suppress(OSError):
                total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def resident_bytes(pid: int) -> int:
    """Memory that ``pid`` holds."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))
