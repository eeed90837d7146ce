"""Runs every benchmark, one after another, and renews the README's table: ``make bench``."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from benchmarks import harness

NAMES = ("batching", "accuracy", "disconnect", "overhead")


def table() -> str:
    """The README's figures as Markdown, from the result files."""
    result: dict[str, Any] = {name: json.loads((harness.RESULTS / f"{name}.json").read_text()) for name in NAMES}
    batching, accuracy = result["batching"], result["accuracy"]
    disconnect, overhead = result["disconnect"], result["overhead"]
    goldens = accuracy["fp32_goldens"]
    rows = [
        ("16 streams together, against one after another", f"{batching['speedup']:.1f}x faster", "batching"),
        (
            "fp32 greedy text equal to transformers fp32",
            f"{goldens['equal_alone']}/16 alone, {goldens['equal_16_at_once']}/16 at once",
            "accuracy",
        ),
        (
            f"int8 perplexity against fp32 ({accuracy['positions']} unseen positions)",
            f"{accuracy['int8_perplexity_ratio']:.4f}x, top-1 agreement {accuracy['int8_top1_agreement']:.1%}",
            "accuracy",
        ),
        (
            "slot free after the client left, median of 50",
            f"{disconnect['streaming_median_ms']:.0f} ms streaming, {disconnect['not_streaming_median_ms']:.0f} ms not",
            "disconnect",
        ),
    ]
    for clients in (1, 16):
        each = overhead[f"clients_{clients}"]
        added = f"+{each['added_p50_ms']:.1f} ms p50, {each['added_p99_ms']:+.1f} ms p99"
        direct = f"direct: {each['direct_p50_ms']:.0f} and {each['direct_p99_ms']:.0f} ms"
        rows.append((f"gateway overhead, {clients} client{'s'[: clients - 1]}", f"{added} ({direct})", "overhead"))
    lines = [f"| {what} | {figure} | `python -m benchmarks.{name}` |" for what, figure, name in rows]
    machine = batching["machine"]
    where = (
        f"Measured on {machine['cores']} cores of {machine['cpu']}, {machine['date']}; SmolLM2-135M-Instruct; no GPU."
    )
    return "\n".join([where, "", "| what | figure | command |", "|---|---|---|", *lines])


def main() -> None:
    """Run all, then write the table."""
    for number, name in enumerate(NAMES, 1):
        sys.stderr.write(f"[{number}/{len(NAMES)}] {name}\n")
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=True, cwd=harness.ROOT)
    harness.renew(harness.ROOT / "README.md", table())


if __name__ == "__main__":
    main()
