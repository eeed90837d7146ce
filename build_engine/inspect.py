"""What a published version is, for a person, and whether its files are still what the manifest says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from build_engine import manifest as manifests
from build_engine.errors import SourceError
from build_engine.publish import is_settled, versions


def find_versions(path: Path) -> list[Path]:
    """``path`` is a version, a model or a repository. Raises :class:`SourceError` when it is none of them."""
    if (path / manifests.MANIFEST).exists():
        return [path]
    models = [path, *sorted(child for child in path.iterdir() if child.is_dir())] if path.is_dir() else []
    found = [version for model in models for version in versions(model)]
    if not found:
        raise SourceError(f"{path} is no model version, model or repository of this builder")
    return found


def inspect(version: Path) -> dict[str, Any]:
    """The manifest, with ``path`` and ``problems`` (one line for each file that differs) added."""
    manifest = manifests.read_manifest(version)
    path = str(version)
    problems = manifests.differences(version, manifest)
    version = version.resolve()
    newest = versions(version.parent)[-1:] == [version]
    if newest and not is_settled(version, manifests.sha256_of(version / manifests.MANIFEST)):
        problems.append("config.pbtxt belongs to another version, or the manifest was changed; build again to repair")
    return {"path": path, **manifest, "problems": problems}


def as_text(report: dict[str, Any]) -> str:
    """A report as a person reads it."""
    megabyte = 1e6
    seconds = report["build_seconds"]
    engine = report.get("engine", {})
    lines = [
        f"{report['path']}",
        f"  model      {report['name']}: {report['architecture']}, {report['decoder']['layers']} layers",
        f"  engine     {report['target']}, {report['precision']}, {report['total_bytes'] / megabyte:.0f} MB",
        *([] if engine.get("gpu_verified", True) else [f"  gpu        never run on one; built for {_gpus(engine)}"]),
        f"  serving    {', '.join(f'{key} {value}' for key, value in report['serving'].items())}",
        f"  source     {report['source']['name']}"
        + (f" with the adapter {report['adapter']}" if report.get("adapter") else ""),
        *(f"             {name} sha256 {digest[:16]}…" for name, digest in report["source"]["sha256"].items()),
        f"  built      {report['created']} in {sum(seconds.values()):.1f} s, "
        f"at most {report['peak_memory_bytes'] / megabyte:.0f} MB of memory",
        f"  tools      {', '.join(f'{name} {version}' for name, version in report['toolchain'].items())}",
    ]
    problems = report["problems"]
    verdict = [f"  PROBLEM    {problem}" for problem in problems] or [
        f"  files      {len(report['files'])}, all as the manifest says"
    ]
    return "\n".join(lines + verdict)


def _gpus(engine: dict[str, Any]) -> str:
    """What a TensorRT engine runs on, and with which version."""
    builder = engine["builder"]
    gpu = builder["gpu"] or f"compute capability {', '.join(builder['compute_capabilities'])}"
    return f"{gpu} with {builder['module']} {builder['version']}"
