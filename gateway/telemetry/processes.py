"""``process_*`` of a gateway that is several processes: the parent and its workers, added up from proc(5).

The time of workers that have ended is the parent's ``cutime`` and ``cstime``, so the sum never goes back.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

PROC = Path("/proc")
TICKS, PAGE = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
ATTEMPTS = 5


class Usage(NamedTuple):
    """Of one process: seconds of its own, of its children that have ended, since boot when it started; bytes."""

    cpu: float
    ended: float
    started: float
    virtual: int
    resident: int
    files: int


class Processes(Collector):
    """This process, its parent, and the parent's other children."""

    def collect(self) -> Iterator[Metric]:
        """Names and meanings are those of prometheus_client's own collector."""
        parent, workers = family(os.getppid())
        everybody = [parent, *workers]
        cpu = parent.ended + sum(each.cpu for each in everybody)
        yield CounterMetricFamily("process_cpu_seconds_total", "User and system CPU time spent, in seconds.", cpu)
        gauges = {
            "process_resident_memory_bytes": (
                "Resident memory size in bytes.",
                sum(each.resident for each in everybody),
            ),
            "process_virtual_memory_bytes": ("Virtual memory size in bytes.", sum(each.virtual for each in everybody)),
            "process_open_fds": ("Number of open file descriptors.", sum(each.files for each in everybody)),
            "process_start_time_seconds": (
                "Start time of the process since unix epoch in seconds.",
                _boot_time() + parent.started,
            ),
        }
        for name, (text, value) in gauges.items():
            yield GaugeMetricFamily(name, text, value)


def family(parent: int) -> tuple[Usage, list[Usage]]:
    """Usage of ``parent`` and of its children. Read again if a child has ended meanwhile: its time would be missing, or
    count twice."""
    for _ in range(ATTEMPTS):
        before = usage(parent)
        children = [each for pid in _children(parent) if (each := usage(pid)) is not None]
        after = usage(parent)
        if before is not None and after is not None and before.ended == after.ended:
            return after, children
    own = usage(os.getpid())
    assert own is not None, "/proc has this process"  # noqa: S101 - proc(5)
    return after or own, children


def _children(pid: int) -> list[int]:
    try:
        return [int(each) for each in (PROC / str(pid) / "task" / str(pid) / "children").read_text().split()]
    except OSError:  # a kernel without CONFIG_PROC_CHILDREN
        return [os.getpid()]


def usage(pid: int) -> Usage | None:
    """None if there is no such process."""
    try:
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    try:
        files = len(os.listdir(PROC / str(pid) / "fd"))
    except OSError:  # it has ended, and its parent has not asked for its status yet
        files = 0
    user, system, ended_user, ended_system = (int(each) / TICKS for each in fields[11:15])
    return Usage(
        cpu=user + system,
        ended=ended_user + ended_system,
        started=int(fields[19]) / TICKS,
        virtual=int(fields[20]),
        resident=int(fields[21]) * PAGE,
        files=files,
    )


def _boot_time() -> int:
    lines = (PROC / "stat").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("btime"))
