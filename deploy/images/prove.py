"""Runs the Dockerfile's own commands without Docker, and holds the images to their promises:
``python -m deploy.images.prove``.

Each stage becomes a directory; its RUN commands run there with chroot. The stages made from NVIDIA's image, which
cannot be had everywhere, run on the same clean Debian as the gateway, and so on its Python 3.11: their packages are
proven there, and that all of them have wheels for NVIDIA's Python; NVIDIA's libraries are not, and :data:`NVIDIA_ONLY`
names what is left out. As root; about five minutes and 4 GB in the temporary folder.
"""

from __future__ import annotations

import argparse
import json
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from deploy.images import dockerfile, roots
from deploy.images.dockerfile import Instruction, Stage
from deploy.images.roots import Root

REPOSITORY = Path(__file__).resolve().parents[2]
STAGES = ("gateway-packages", "gateway", "triton", "build", "demo")
NVIDIA_ONLY = ("./tensorrt-bindings",)
NVIDIA_PYTHON = "3.12"
UNWANTED = ("gcc", "cc", "g++", "make", "pip", "pip3", "curl", "wget")
START_SECONDS = 30.0
OPEN_ENGINE = """
import sys; sys.path.insert(0, "/models/repository/generate/1")
from pathlib import Path
from tidegate_backend.engines import open_engine
version = Path("/models/repository/generate/1")
engine = open_engine(version, threads=1, cache_tokens=512, step_tokens=64, max_sequences=2)
print(engine.total_tokens())
"""


def build(stage: Stage, made: dict[str, Root], path: Path) -> Root:
    """The stage as a directory. Raises CalledProcessError when one of its commands fails."""
    root = roots.copy(made.get(stage.base, made["clean"]), path)
    for each in stage.instructions:
        root = _apply(root, each, made)
    return root


def _apply(root: Root, instruction: Instruction, made: dict[str, Root]) -> Root:
    text = instruction.text
    if instruction.name == "RUN" and text not in NVIDIA_ONLY:
        _say(f"    RUN {text[:100]}")
        root.run(["/bin/sh", "-c", text], extra=roots.registry(root))
    elif instruction.name == "ENV":
        return Root(root.path, root.environment | dockerfile.environment(text), root.workdir, root.user)
    elif instruction.name == "WORKDIR":
        (root.path / text.lstrip("/")).mkdir(parents=True, exist_ok=True)
        return Root(root.path, root.environment, text, root.user)
    elif instruction.name == "USER":
        return Root(root.path, root.environment, root.workdir, text)
    elif instruction.name == "COPY":
        _copy(root, shlex.split(text), made)
    return root


def _copy(root: Root, arguments: list[str], made: dict[str, Root]) -> None:
    origin = REPOSITORY
    if arguments[0].startswith("--from="):
        origin = made[arguments.pop(0).removeprefix("--from=")].path
    *sources, target = arguments
    folder = root.path / root.workdir.lstrip("/") if target == "./" else root.path / target.lstrip("/")
    for source in sources:
        found = origin / source.lstrip("/")
        if found.is_dir():
            ignored = shutil.ignore_patterns("__pycache__") if origin == REPOSITORY else None
            shutil.copytree(found, folder, symlinks=True, ignore=ignored)
        else:
            where = folder / found.name if target.endswith("/") else folder
            where.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(found, where)


def gateway(stage: Stage, root: Root) -> dict[str, Any]:
    """Start the gateway as the image would be started, with a read-only root; ask it; end it. Returns what was seen."""
    found = root.run(["/bin/sh", "-c", f"for each in {' '.join(UNWANTED)}; do command -v $each; done; true"])
    _hold(not found, f"the gateway's image carries {found.split()}")
    _hold(root.user.split(":")[0] != "0", "the gateway's image runs as root")
    port = _free_port()
    with tempfile.TemporaryDirectory() as folder:
        key, policy = Path(folder) / "jwt_key", REPOSITORY / "deploy" / "policy"
        key.write_text(secrets.token_hex(32))
        key.chmod(0o444)
        for each in ("etc/tidegate/policy", "run/secrets"):
            (root.path / each).mkdir(parents=True, exist_ok=True)
        (root.path / "run/secrets/jwt_key").touch()
        settings = {
            "TIDEGATE_PORT": str(port),
            "TIDEGATE_HOST": "127.0.0.1",
            "TIDEGATE_JWT_KEY_FILE": "/run/secrets/jwt_key",
            "TIDEGATE_POLICY_FILE": "/etc/tidegate/policy/policy.yaml",
        }
        command = root.command(
            [*stage.last("ENTRYPOINT"), *stage.last("CMD")],
            writable=False,
            extra=settings,
            mounts={key: "/run/secrets/jwt_key", policy: "/etc/tidegate/policy"},
        )
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            began = time.monotonic()
            while _status(port, "/health/live") != 200:
                _hold(process.poll() is None and time.monotonic() - began < START_SECONDS, "the gateway did not start")
                time.sleep(0.05)
            started = time.monotonic() - began
            _hold(_status(port, "/health/ready") == 503, "the gateway is ready without a Triton")
            _hold(_status(port, "/generate", b"{}") == 401, "the gateway answered without a token")
            status = Path(f"/proc/{process.pid}/status").read_text()
            _hold(f"Uid:\t{root.user.split(':')[0]}\t" in status, "the gateway does not run as the image's user")
            _hold("CapEff:\t0000000000000000" in status, "the gateway has capabilities")
            health = next(each.text for each in stage.instructions if each.name == "HEALTHCHECK")
            probe = json.loads(health.partition(" CMD ")[2])
            subprocess.run(root.command(probe, writable=False, extra=settings), check=True)
        finally:
            process.send_signal(signal.SIGTERM)
            code = process.wait(timeout=15)
        _hold(code in (0, -signal.SIGTERM), f"SIGTERM ended the gateway with {code}")
    size = int(subprocess.check_output(["du", "-sk", root.path / "opt", root.path / "app", "-c"]).split()[-2])
    return {"start_seconds": round(started, 2), "own_mib": round(size / 1024)}


def wheels(root: Root) -> None:
    """What the stage has installed can be had for NVIDIA's Python too. Raises CalledProcessError when it cannot."""
    where = ["--dry-run", "--ignore-installed", "--target", "/tmp/wheels", "--python-version", NVIDIA_PYTHON]
    what = ["--only-binary", ":all:", "-c", "/opt/tidegate/constraints.txt", "-r", "/opt/tidegate/requirements.txt"]
    root.run(["python3", "-m", "pip", "install", "--quiet", *where, *what], extra=roots.registry(root))


def model(demo: Stage, made: dict[str, Root]) -> dict[str, Any]:
    """The demo image's own command publishes a version; the packages of the Triton image open its engine."""
    root = made["demo"]
    began = time.monotonic()
    root.run([*demo.last("ENTRYPOINT"), *demo.last("CMD")])
    seconds = time.monotonic() - began
    root.run(["python3", "-m", "build_engine", "inspect", "/models/repository"])
    triton = made["triton"]
    command = triton.command(["python3", "-c", OPEN_ENGINE], writable=False, mounts={root.path / "models": "/models"})
    tokens = int(subprocess.check_output(command))
    return {"build_seconds": round(seconds, 1), "engine_tokens": tokens}


def _hold(promise: bool, otherwise: str) -> None:
    if not promise:
        raise SystemExit(f"error: {otherwise}")


def _status(port: int, path: str, body: bytes | None = None) -> int | None:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", body, timeout=2) as response:
            status: int = response.status
            return status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def main() -> None:
    """Prove every stage, and print what was seen as JSON."""
    parser = argparse.ArgumentParser(prog="python -m deploy.images.prove", description=__doc__)
    parser.add_argument("--clean", type=Path, help="where the clean Debian lies or is made, to be used again")
    options = parser.parse_args()
    stages = dockerfile.read(REPOSITORY / "Dockerfile")
    with tempfile.TemporaryDirectory(prefix="tidegate-images-") as folder:
        work = Path(folder)
        _say("a clean Debian")
        made = {"clean": roots.clean(options.clean or work / "clean")}
        for name in STAGES:
            _say(f"{name}")
            made[name] = build(stages[name], made, work / name)
        for name in ("triton", "build"):
            _say(f"{name}: wheels for Python {NVIDIA_PYTHON}")
            wheels(made[name])
        seen = {"stages": list(STAGES), "left_out": list(NVIDIA_ONLY), "wheels_for": NVIDIA_PYTHON}
        seen |= {"gateway": gateway(stages["gateway"], made["gateway"]), "model": model(stages["demo"], made)}
    sys.stdout.write(json.dumps(seen, indent=1) + "\n")


if __name__ == "__main__":
    main()
