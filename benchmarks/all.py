"""Runs every benchmark, one after another, and renews the README's table: ``make bench``."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from benchmarks import harness

NAMES = (
    "batching", "accuracy", "disconnect", "overhead", "throughput", "latency", "streams", "overload", "beside_litellm",
)  # fmt: skip
Row = tuple[str, str, str]


def doors(result: dict[str, Any]) -> list[Row]:
    """What the gateway costs before a model that costs nothing, and what it does when too much is asked."""
    relay, idle, over = result["streams"]["relay"], result["streams"]["idle"], result["overload"]
    most = max(
        (result["throughput"][f"connections_{number}"] for number in (16, 64)), key=lambda row: row["per_second"]
    )
    bare = max((result["throughput"][f"direct_{number}"] for number in (16, 64)), key=lambda row: row["per_second"])
    rows = [
        (
            "requests/s on one gateway core, everything on, instant model",
            f"{most['per_second']:.0f}, {most['cpu_us_per_request']:.0f} us of CPU each (a bare gRPC client there: "
            f"{bare['per_second']:.0f}, {bare['cpu_us_per_request']:.0f} us)",
            "throughput",
        )
    ]
    for rate in (50, 100, 200):
        each = result["latency"][f"rate_{rate}"]
        added = f"{each['added_p50_ms']:+.2f} ms p50, {each['added_p99_ms']:+.2f} ms p99"
        direct = f"direct: {each['direct_p50_ms']:.2f} and {each['direct_p99_ms']:.2f} ms"
        rows.append((f"added at {rate} requests/s, open loop, instant model", f"{added} ({direct})", "latency"))
    return [
        *rows,
        (
            "64 streams at once, CPU by relayed response, word filter on",
            f"{relay['cpu_us_per_response']:.0f} us",
            "streams",
        ),
        (
            f"{idle['streams']} streams open for {idle['seconds']} s",
            f"{idle['kib_per_stream']:.0f} KiB a stream, {idle['errors']} errors, "
            f"health p99 {idle['health_p99_ms']:.0f} ms",
            "streams",
        ),
        (
            "4x overload for 60 s: answers in time, of capacity",
            f"{over['goodput_of_capacity']:.0%}; of those admitted {over['admitted_in_time']:.1%} in time; "
            f"refused within {over['refused_p99_ms']:.0f} ms (p99)",
            "overload",
        ),
        (
            "beside the LiteLLM proxy, one core each, 16 connections",
            f"{result['beside_litellm']['requests_per_second_ratio']:.0f}x its requests/s, "
            f"{result['beside_litellm']['cpu_us_per_streamed_token_ratio']:.0f}x less CPU a streamed token",
            "beside_litellm",
        ),
    ]


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
            "slot free after the client left, median of 50, streaming / not",
            "; ".join(
                f"{door} {disconnect[f'{kind}streaming_median_ms']:.0f} / "
                f"{disconnect[f'{kind}not_streaming_median_ms']:.0f} ms"
                for door, kind in (("`/generate`", ""), ("OpenAI", "openai_"), ("gRPC", "grpc_"))
            ),
            "disconnect",
        ),
    ]
    for clients in (1, 16):
        each = overhead[f"clients_{clients}"]
        added = f"+{each['added_p50_ms']:.1f} ms p50, {each['added_p99_ms']:+.1f} ms p99"
        direct = f"direct: {each['direct_p50_ms']:.0f} and {each['direct_p99_ms']:.0f} ms"
        rows.append((f"gateway overhead, {clients} client{'s'[: clients - 1]}", f"{added} ({direct})", "overhead"))
    rows += doors(result)
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
