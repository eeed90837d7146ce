"""A real Triton server from the wheel ``nvidia-pytriton``, without Docker.

The wheel carries the ``tritonserver`` binary, the Python backend and one backend stub per Python version. Triton wants
the stub beside the backend's library, so a small backend directory of links is laid out in ``run_dir``; the installed
package itself is never written to.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path


class TritonUnavailable(Exception):
    """This environment cannot run the wheel's Triton; the message says what is missing."""


@dataclass(frozen=True)
class Ports:
    """Loopback ports."""

    http: int = 8000
    grpc: int = 8001
    metrics: int = 8002


def command(repository: Path, run_dir: Path, ports: Ports) -> list[str]:
    """The command line that serves every model of ``repository`` on loopback. Lays out the backend directory."""
    home = _package_dir()
    return [
        str(home / "bin" / "tritonserver"),
        f"--model-repository={repository.resolve()}",
        f"--backend-directory={_backend_directory(home, run_dir)}",
        f"--cache-directory={home / 'caches'}",
        "--model-control-mode=explicit",
        "--load-model=*",
        "--exit-timeout-secs=10",
        "--http-address=127.0.0.1",
        f"--http-port={ports.http}",
        "--grpc-address=127.0.0.1",
        f"--grpc-port={ports.grpc}",
        "--metrics-address=127.0.0.1",
        f"--metrics-port={ports.metrics}",
        "--allow-gpu-metrics=false",
        "--log-verbose=0",
    ]


def environment() -> dict[str, str]:
    """What the server and the Python stub beneath it need to find libraries and packages."""
    site_packages = sysconfig.get_path("purelib")
    libraries = [str(_package_dir().parents[1] / "nvidia_pytriton.libs"), sysconfig.get_config_var("LIBDIR")]
    return {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "HOME": str(Path.home()),
        "LD_LIBRARY_PATH": ":".join(libraries),
        "PYTHONPATH": site_packages,
        "PYTHONDONTWRITEBYTECODE": "1",
        "LANG": "C.UTF-8",
    }


def _package_dir() -> Path:
    spec = importlib.util.find_spec("pytriton")
    if spec is None or spec.origin is None:
        raise TritonUnavailable("nvidia-pytriton is not installed: run `make up`, or pip install '.[triton]'")
    return Path(spec.origin).parent / "tritonserver"


def _backend_directory(home: Path, run_dir: Path) -> Path:
    """``<run_dir>/backends/python`` with the backend's files and the stub of this Python version."""
    version = ".".join(platform.python_version_tuple()[:2])
    stub = home / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.exists():
        raise TritonUnavailable(f"nvidia-pytriton has no backend stub for Python {version}")
    backends = (run_dir / "backends").resolve()
    python = backends / "python"
    shutil.rmtree(python, ignore_errors=True)
    python.mkdir(parents=True)
    for file in (home / "backends" / "python").iterdir():
        if file.is_file():
            os.symlink(file, python / file.name)
    os.symlink(stub, python / stub.name)
    return backends
