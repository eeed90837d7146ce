"""What each precision costs and keeps: ``python -m benchmarks.build`` (``make bench-build``), about fifteen minutes.

SmolLM2-135M-Instruct is built in every precision by the command a user would type. int8 is fitted to
the interpreter's help topics; everything is judged on the docstrings of the standard library, which no build sees
before.
The table in docs/precision.md is made from the manifests.
"""

from __future__ import annotations

import ast
import json
import pydoc_data.topics
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import harness

BUILDS = [("onnxruntime", precision) for precision in ("fp32", "fp16", "int8-weight-only", "int8")]
BUILDS += [("tensorrt-rtx", precision) for precision in ("fp16", "int8-weight-only", "int8")]
ENGINES = ("engine/engine.plan", "engine/model.onnx.data")
PAGE = harness.ROOT / "docs" / "precision.md"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"


def write_texts(folder: Path) -> dict[str, Path]:
    """Calibration and held-out text as JSON lines."""
    topics = [pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics)]
    modules = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    docstrings = (ast.get_docstring(ast.parse(module.read_bytes())) for module in modules)
    files = {}
    for name, texts in (("calibration", topics), ("held-out", docstrings)):
        files[name] = folder / f"{name}.jsonl"
        files[name].write_text("\n".join(json.dumps({"text": text}) for text in texts if text), encoding="utf-8")
    return files


def build(target: str, precision: str, folder: Path, texts: dict[str, Path]) -> dict[str, Any]:
    """One build in a process of its own, so that its peak memory is its own; returns the manifest."""
    source = subprocess.run(
        [sys.executable, "-m", "deploy.local.demo_model"], check=True, capture_output=True, text=True, cwd=harness.ROOT
    ).stdout.strip()
    command = [sys.executable, "-m", "build_engine", "build", "--source", source, "--name", f"{target}-{precision}"]
    command += ["--target", target, "--precision", precision, "--slots", "16", "--sequence-length", "512"]
    command += ["--held-out", str(texts["held-out"]), "--repository", str(folder / "repository")]
    command += ["--work-dir", str(folder / "work")]
    if precision == "int8":
        command += ["--calibration", str(texts["calibration"])]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=harness.ROOT)
    manifest: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return manifest


def figures(manifest: dict[str, Any]) -> dict[str, Any]:
    """What the table says of one build."""
    agreement, files = manifest["accuracy"]["agreement"], manifest["files"]
    return {
        "target": manifest["target"],
        "asked": manifest["accuracy"]["asked"],
        "published": manifest["precision"],
        "kept_back": manifest["accuracy"]["kept"],
        "engine_mb": next(files[name]["bytes"] for name in ENGINES if name in files) / 1e6,
        "build_seconds": sum(manifest["build_seconds"].values()),
        "peak_memory_mb": manifest["peak_memory_bytes"] / 1e6,
        "perplexity_ratio": agreement["perplexity_ratio"],
        "top1": agreement["top1"],
        "kl_mean": agreement["kl_mean"],
        "step_ms_against_fp32": agreement["step_ms"] / agreement["reference_step_ms"],
        "positions": agreement["positions"],
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    head = (
        "| target | precision | engine | build | peak memory | perplexity | top-1 | mean KL | step of 16 on the CPU |"
    )
    lines = [
        f"| {row['target']} | {row['published']}{f' (kept {back} of 210)' if (back := row['kept_back']) else ''} "
        f"| {row['engine_mb']:.0f} MB | {row['build_seconds']:.0f} s | {row['peak_memory_mb'] / 1000:.1f} GB "
        f"| {row['perplexity_ratio']:.4f}x | {row['top1']:.2%} | {row['kl_mean']:.5f} "
        f"| {row['step_ms_against_fp32']:.1f}x fp32 |"
        for row in rows
    ]
    return "\n".join([head, "|---|---|---|---|---|---|---|---|---|", *lines])


def main() -> None:
    """Build, save, renew the page."""
    with tempfile.TemporaryDirectory(prefix="tidegate-bench-") as folder:
        texts = write_texts(Path(folder))
        rows = []
        for number, (target, precision) in enumerate(BUILDS, 1):
            sys.stderr.write(f"[{number}/{len(BUILDS)}] {target} {precision}\n")
            rows.append(figures(build(target, precision, Path(folder), texts)))
    harness.save("build", {"rows": rows})
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{table(rows)}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main()
