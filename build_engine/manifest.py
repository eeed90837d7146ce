"""What a version is made of: hashes, the manifest, and the check of a version against it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from build_engine.errors import CorruptSource

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
KEYS = {
    "schema_version": int,
    "name": str,
    "source": dict,
    "input_hash": str,
    "architecture": str,
    "decoder": dict,
    "target": str,
    "precision": str,
    "serving": dict,
    "engine": dict,
    "files": dict,
    "total_bytes": int,
    "toolchain": dict,
    "build_seconds": dict,
    "peak_memory_bytes": int,
    "created": str,
}
TOOLS = (
    "tidegate",
    "openvino",
    "onnx",
    "onnxruntime",
    "tensorrt",
    *(f"tensorrt-cu{cuda}{part}" for cuda in (12, 13) for part in ("", "-bindings")),
    "tensorrt-rtx-cu12-libs",
    "numpy",
    "tokenizers",
    "gguf",
    "tritonclient",
)


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


class HashCache:
    """SHA-256 of big source files, remembered by path, size and modification time in ``file``."""

    def __init__(self, file: Path) -> None:
        self._file = file
        try:
            known = json.loads(file.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            known = {}
        self._known: dict[str, str] = known if isinstance(known, dict) else {}

    def sha256(self, path: Path) -> str:
        """The hash, computed only when the file's size or time has changed."""
        status = path.stat()
        key = f"{path.resolve()}|{status.st_size}|{status.st_mtime_ns}"
        if key not in self._known:
            self._known[key] = sha256_of(path)
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._file.write_text(json.dumps(self._known, indent=1))
        return self._known[key]


def hashes(files: Mapping[str, Path], work_dir: Path) -> dict[str, str]:
    """SHA-256 of named files, remembered in the work folder. Raises OSError."""
    known = HashCache(work_dir / "source-hashes.json")
    return {name: known.sha256(file) for name, file in files.items()}


class Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what is inside."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = round(time.monotonic() - began, 3)


def input_hash(
    files: Mapping[str, str], recipe: Mapping[str, Any], where: Collection[str], host: Mapping[str, str]
) -> str:
    """Everything that decides what is published: the hashes of the source's ``files``, the recipe but for the fields
    that only say ``where`` something lies, this builder's own code, the tools, and what a plan takes of its ``host``
    (:func:`build_engine.tensorrt_api.host_of`)."""
    package = Path(__file__).parent
    code = {str(path.relative_to(package)): sha256_of(path) for path in package.rglob("*.py")}
    wanted = {field: value for field, value in recipe.items() if field not in where}
    return digest_of([files, wanted, code, toolchain(), host])


def digest_of(value: object) -> str:
    """Hexadecimal SHA-256 of a JSON value, keys sorted."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def toolchain() -> dict[str, str]:
    """Versions of what took part."""
    versions = {"python": platform.python_version()}
    for name in TOOLS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def list_files(directory: Path, pattern: str = "*") -> dict[str, dict[str, Any]]:
    """Size and hash of every file beneath that fits ``pattern``, by relative path; the manifest itself is left out."""
    files = sorted(path for path in directory.rglob(pattern) if path.is_file() and path.name != MANIFEST)
    return {
        str(path.relative_to(directory)): {"bytes": path.stat().st_size, "sha256": sha256_of(path)} for path in files
    }


def facts_of(staged: Path, clock: Clock) -> dict[str, Any]:
    """What every manifest says of a version's files and of its build."""
    files = list_files(staged)
    return {
        "files": files,
        "total_bytes": sum(entry["bytes"] for entry in files.values()),
        "toolchain": toolchain(),
        "build_seconds": dict(clock.seconds),
        "peak_memory_bytes": peak_memory_bytes(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def peak_memory_bytes() -> int:
    """The most memory this process has held (VmHWM of proc(5)), mapped files included."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def read_manifest(version: Path) -> dict[str, Any]:
    """The manifest of a version folder. Raises :class:`CorruptSource`."""
    try:
        manifest: dict[str, Any] = json.loads((version / MANIFEST).read_text())
    except FileNotFoundError:
        raise CorruptSource(f"{version} has no {MANIFEST}; it was not published by this builder") from None
    except ValueError as error:
        raise CorruptSource(f"{version / MANIFEST} is not JSON: {error}") from None
    kinds = {name: type(manifest.get(name)) for name in KEYS} if isinstance(manifest, dict) else {}
    if kinds != KEYS or not all(isinstance(entry, dict) for entry in manifest["files"].values()):
        raise CorruptSource(f"{version / MANIFEST} is no manifest of this builder")
    return manifest


def differences(version: Path, manifest: dict[str, Any]) -> list[str]:
    """What differs between the files of a version and its manifest, one line each; empty when they agree."""
    found = {path: entry for path, entry in list_files(version).items() if "__pycache__" not in path}
    wanted: dict[str, dict[str, Any]] = manifest["files"]
    lines = [f"{path} is missing" for path in sorted(wanted.keys() - found.keys())]
    lines += [f"{path} is not in the manifest" for path in sorted(found.keys() - wanted.keys())]
    common = sorted(wanted.keys() & found.keys())
    return lines + [f"{path} has another content" for path in common if wanted[path] != found[path]]
