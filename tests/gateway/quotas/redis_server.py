"""A real redis-server on a port of its own, that can be killed, started again and stopped in its tracks."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from tests.gateway.conftest import free_port


class RedisServer:
    """Started at once; ``folder`` is where it runs. It keeps nothing on disk."""

    def __init__(self, folder: Path) -> None:
        program = shutil.which("redis-server")
        assert program, "there is no redis-server here: run deploy/local/install-test-tools"
        self._folder, self.port = folder, free_port()
        self._command = [program, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        """For clients."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it, and wait until it listens."""
        self._process = subprocess.Popen(self._command, cwd=self._folder, stdout=subprocess.DEVNULL)
        until = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except ConnectionRefusedError:
                assert self._process.poll() is None, "redis-server did not start"
                assert time.monotonic() < until, "redis-server does not listen"
                time.sleep(0.02)

    def kill(self) -> None:
        """Gone, and all it knew with it."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def freeze(self) -> None:
        """It accepts and answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on, and does what it was sent meanwhile."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)
