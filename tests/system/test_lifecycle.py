"""Up, down, and Triton going away under a running gateway."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx

from deploy.local import stack as local
from deploy.local import triton_server
from deploy.local.processes import Background

from .conftest import INT8_REPOSITORY, make_stack


def test_a_stopped_process_is_gone_and_a_stranger_is_left_alone(tmp_path: Path) -> None:
    """`stop` ends what `start` began; a record whose id now belongs to somebody else ends nothing."""
    sleeper = Background("sleeper", tmp_path)
    sleeper.start([sys.executable, "-c", "import time; time.sleep(600)"], dict(os.environ))
    pid = sleeper.pid()
    assert pid is not None
    assert sleeper.stop(5.0)
    assert not Path(f"/proc/{pid}").exists()
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (tmp_path / "sleeper.json").write_text(json.dumps({"pid": stranger.pid, "start_time": 1}))
    assert not sleeper.stop(5.0)
    assert stranger.poll() is None
    stranger.kill()
    stranger.wait()


def test_triton_may_go_and_come_back(tmp_path: Path) -> None:
    """While Triton is down: 503 with Retry-After and not ready; when it returns, the same gateway answers again.
    Starting twice changes nothing; stopping leaves no process."""
    stack = make_stack(INT8_REPOSITORY, tmp_path)
    try:
        local.start(stack)
        pids = stack.triton.pid(), stack.gateway.pid()
        local.start(stack)
        assert (stack.triton.pid(), stack.gateway.pid()) == pids
        headers = {"Authorization": f"Bearer {stack.token()}"}
        with httpx.Client(base_url=stack.url, headers=headers, timeout=30) as client:
            body = {"text_input": "hi", "max_tokens": 4}
            assert client.post("/generate", json=body).status_code == 200
            os.killpg(pids[0] or 0, signal.SIGKILL)
            assert not stack.triton.stop(1.0) or stack.triton.pid() is None
            refused = client.post("/generate", json=body)
            assert refused.status_code == 503
            assert refused.json()["error"]["code"] == "triton_unavailable"
            assert int(refused.headers["retry-after"]) >= 1
            assert client.get("/health/ready").status_code == 503
            assert client.get("/health/live").status_code == 200
            stack.triton.start(
                triton_server.command(stack.repository, stack.run_dir, stack.ports),
                triton_server.environment(),
            )
            deadline = time.monotonic() + 60
            while client.get("/health/ready").status_code != 200:
                assert time.monotonic() < deadline, stack.triton.tail()
                time.sleep(0.1)
            assert client.post("/generate", json=body).status_code == 200
    finally:
        local.stop(stack)
    assert stack.triton.pid() is None
    assert stack.gateway.pid() is None
