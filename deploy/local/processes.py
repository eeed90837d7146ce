"""Background processes by name: started once, found again, stopped exactly.

A process is remembered as ``<run_dir>/<name>.json`` with its id and its kernel start time, so an id that the system
has given to somebody else in the meantime is never mistaken for ours.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Background:
    """One background process: where it is remembered, where its output goes."""

    name: str
    run_dir: Path

    @property
    def log(self) -> Path:
        """Standard output and error of the process."""
        return self.run_dir / f"{self.name}.log"

    @property
    def _record(self) -> Path:
        return self.run_dir / f"{self.name}.json"

    def start(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start in a session of its own, so that it outlives this shell. ``command[0]`` is a path."""
        self.run_dir.mkdir(parents=True, exist_ok=True)
        append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        # posix_spawn, not Popen: the process is meant to outlive us, and an abandoned Popen warns about that.
        pid = os.posix_spawn(
            command[0],
            list(command),
            environment,
            setsid=True,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(self.log), append, 0o644),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
        )
        record = {"pid": pid, "start_time": _start_time(pid)}
        self._record.write_text(json.dumps(record))

    def pid(self) -> int | None:
        """The id of the running process, None when it does not run."""
        try:
            record = json.loads(self._record.read_text())
        except FileNotFoundError:
            return None
        alive = _start_time(record["pid"])
        return record["pid"] if alive is not None and alive == record["start_time"] else None

    def stop(self, grace_seconds: float) -> bool:
        """SIGTERM, then SIGKILL to its session after ``grace_seconds``. False when there was nothing to stop."""
        pid = self.pid()
        if pid is not None:
            os.kill(pid, signal.SIGTERM)
            deadline = time.monotonic() + grace_seconds
            while self.pid() is not None and time.monotonic() < deadline:
                time.sleep(0.05)
            if self.pid() is not None:
                os.killpg(pid, signal.SIGKILL)
            _reap(pid)
        self._record.unlink(missing_ok=True)
        return pid is not None

    def tail(self, lines: int = 20) -> str:
        """The last lines of its log."""
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        except FileNotFoundError:
            return "(no log)"


def _start_time(pid: int) -> int | None:
    """Kernel start time in clock ticks since boot (proc(5), field 22); None when gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] == "Z" else int(fields[19])


def _reap(pid: int) -> None:
    """Collect our own child, so that it does not stay as a zombie; somebody else's child is left alone."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)
