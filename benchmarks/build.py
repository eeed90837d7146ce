"""What each precision costs and keeps: ``python -m benchmarks.build`` (``make bench-build``), about twenty minutes.
``python -m benchmarks.build openvino`` or ``... tensorrt-rtx:fp16`` renews some of the rows and leaves the others.

SmolLM2-135M-Instruct is built in every precision by the command a user would type. int8 is fitted to
the interpreter's help topics; everything is judged on the docstrings of the standard library, which no build sees
before.
The table in docs/precision.md is made from the manifests.
"""

from __future__ import annotations

import argparse
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

PRECISIONS = ("fp32", "fp16", "int8-weight-only", "int8")
BUILDS = [("openvino", precision) for precision in ("fp32", "int8-weight-only", "int8")]
BUILDS += [(target, precision) for target in ("onnxruntime", "tensorrt-rtx") for precision in PRECISIONS]
ENGINES = ("engine/engine.plan", "engine/model.onnx.data", "engine/openvino.bin")
PAGE, RESULT = harness.ROOT / "docs" / "precision.md", harness.RESULTS / "build.json"


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
    command += ["--target", target, "--precision", precision, "--sequence-length", "512"]
    command += [] if target == "openvino" else ["--slots", "16"]
    command += ["--held-out", str(texts["held-out"]), "--repository", str(folder / "repository")]
    command += ["--work-dir", str(folder / "work")]
    if precision == "int8" and target != "openvino":
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
        "onnx_mb": onnx_bytes(manifest) / 1e6,
        "engine_mb": next(files[name]["bytes"] for name in ENGINES if name in files) / 1e6,
        "build_seconds": sum(manifest["build_seconds"].values()),
        "peak_memory_mb": manifest["peak_memory_bytes"] / 1e6,
        "perplexity_ratio": agreement["perplexity_ratio"],
        "top1": agreement["top1"],
        "kl_mean": agreement["kl_mean"],
        "step_ms_against_fp32": agreement["step_ms"] / agreement["reference_step_ms"],
        "positions": agreement["positions"],
        "date": manifest["created"][:10],
    }


def onnx_bytes(manifest: dict[str, Any]) -> int:
    """Graph and weights of the ONNX file that is served or that the plan was compiled from; 0 where there is none."""
    served = sum(entry["bytes"] for name, entry in manifest["files"].items() if name.startswith("engine/model.onnx"))
    return int(served or sum(manifest["engine"].get("onnx", {}).values()))


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    columns = "target | precision | ONNX | engine | build | peak memory | perplexity | top-1 | mean KL"
    lines = [
        f"| {row['target']} | {named(row)} | {megabytes(row['onnx_mb'])} "
        f"| {row['engine_mb']:.0f} MB | {row['build_seconds']:.0f} s | {row['peak_memory_mb'] / 1000:.1f} GB "
        f"| {row['perplexity_ratio']:.4f}x | {row['top1']:.2%} | {row['kl_mean']:.5f} "
        f"| {row['step_ms_against_fp32']:.2f}x | {row.get('date', '')} |"
        for row in rows
    ]
    return "\n".join([f"| {columns} | step of 16, to fp32's | measured |", "|" + "---|" * 11, *lines])


def megabytes(size: float) -> str:
    """Nothing where there is nothing."""
    return f"{size:.0f} MB" if size else ""


def named(row: dict[str, Any]) -> str:
    """The precision that was asked for, and what came of it where that is something else."""
    kept = f" (kept {row['kept_back']} of 210)" if row["kept_back"] else ""
    fell_back = f", published {row['published']}" if row["published"] != row["asked"] else ""
    return f"{row['asked']}{kept}{fell_back}"


def chosen(names: list[str]) -> list[tuple[str, str]]:
    """The builds that are named as TARGET or TARGET:PRECISION; all without names."""
    found = [each for each in BUILDS if not names or {each[0], ":".join(each)} & {*names}]
    if not found:
        raise SystemExit(f"no such row; there are {', '.join(':'.join(each) for each in BUILDS)}")
    return found


def main() -> None:
    """Build, save, renew the page; a row at a time, so that what was measured is kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="TARGET[:PRECISION]", help="what to renew; everything if not given")
    asked = chosen(parser.parse_args().rows)
    measured = json.loads(RESULT.read_text())["rows"] if RESULT.exists() else []
    known = {(row["target"], row["asked"]): row for row in measured}
    with tempfile.TemporaryDirectory(prefix="tidegate-bench-") as folder:
        texts = write_texts(Path(folder))
        for number, (target, precision) in enumerate(asked, 1):
            sys.stderr.write(f"[{number}/{len(asked)}] {target} {precision}\n")
            known[target, precision] = figures(build(target, precision, Path(folder), texts))
            rows = [known[each] for each in BUILDS if each in known]
            harness.save("build", {"rows": rows})
            harness.renew(PAGE, table(rows))


if __name__ == "__main__":
    main()
