"""The figures of docs/policy.md, made from the result files: ``python -m benchmarks.policy_figures``."""

from __future__ import annotations

import json
from typing import Any

from benchmarks import harness

BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
PAGE = harness.ROOT / "docs" / "policy.md"
NAMES = ("policy", "evasion", "streaming_equals_whole", "reload", "policy_overhead")
PEERS = {
    "gorget": "gorget 0.5.0 (BanSubstrings)",
    "litellm": "LiteLLM 1.109.1 (content filter)",
    "better_profanity": "better-profanity 0.7.0",
    "pyahocorasick": "pyahocorasick 2.3.1, no folds",
    "daachorse": "daachorse 0.5.0, no folds",
}
Row = tuple[str, str, str]


def page() -> str:
    """The section between the markers."""
    results = {name: json.loads((harness.RESULTS / f"{name}.json").read_text()) for name in NAMES}
    machine = results["policy"]["machine"]
    rows = [*_policy(results["policy"]), *_others(results)]
    lines = [f"| {what} | {figure} | `python -m benchmarks.{name}` |" for what, figure, name in rows]
    where = f"Measured on {machine['cores']} cores of {machine['cpu']}, Python {machine['python']}, {machine['date']}."
    table = ["| what | figure | command |", "|---|---|---|", *lines]
    return "\n".join([BEGIN, where, "", *table, "", *_peers(results), "", *_families(results["evasion"]), END])


def _policy(result: dict[str, Any]) -> list[Row]:
    speed, stream, build = result["us_per_prompt"], result["stream"], result["build_100000"]
    rows = [
        (f"500-character prompt, every fold on, {int(size):,} words", f"{speed[size]['tidegate']:.0f} us", "policy")
        for size in ("10000", "100000")
    ]
    for size in ("10000", "100000"):
        faster = speed[size]["gorget"] / speed[size]["tidegate"]
        rows.append((f"the same beside gorget, {int(size):,} words", f"{faster:,.0f}x faster", "policy"))
    for size in ("10000", "100000"):
        figure = f"{stream[size]['us_per_piece']:.1f} us a piece, {stream[size]['mean_held']:.2f} characters held"
        rows.append((f"stream, two characters at a time, {int(size):,} words, mean", figure, "policy"))
    memory = f"{build['seconds']:.1f} s, {build['bytes'] / 1e6:.0f} MB (at most {build['peak_bytes'] / 1e6:.0f} MB)"
    rows.append(("matcher of 100,000 words, made ready", memory, "policy"))
    rows.append(
        ("whole policy of 100,000 words, read, linted, made ready", f"{build['policy_seconds']:.1f} s", "policy")
    )
    benign, folds = result["shipped_policy"], result["folds_on_10000_words"]
    blocked = f"{benign['blocked']} of {benign['texts']:,} reviews"
    rows.append(("ordinary texts that the shipped policy blocks", blocked, "policy"))
    extra = f"{folds['only_folded']} of {folds['texts']:,} ({folds['as_written']} hold one as it is written)"
    rows.append(("ordinary texts in which only the folds find one of 10,000 words", extra, "policy"))
    return rows


def _others(results: dict[str, Any]) -> list[Row]:
    evasion, equal, reload = results["evasion"], results["streaming_equals_whole"], results["reload"]
    found = f"{evasion['recall_promised']:.1%} found, least {evasion['lowest_recall_promised']:.0%} of a family; "
    found += f"{evasion['exact_promised']:.1%} of them exactly where they stand"
    rows = [
        (f"evasions: {evasion['families_promised']} families by character", found, "evasion"),
        (
            "streamed equals whole equals brute force",
            f"{equal['matches_disagreements'] + equal['policies_disagreements']} disagreements in "
            f"{equal['matches_examples'] + equal['policies_examples']:,} examples",
            "streaming_equals_whole",
        ),
        (
            f"longest stall of the event loop, {reload['words']:,} words read anew",
            f"{reload['stall_ms']:.0f} ms, the median of several reloads; the most {reload['stall_ms_most']:.0f} ms "
            f"(the machine alone {reload['machine_alone_ms']:.0f} ms, the most "
            f"{reload['machine_alone_ms_most']:.0f} ms; the process's own work at most {reload['own_ms_most']:.0f} ms)",
            "reload",
        ),
    ]
    for kind in ("whole", "streamed"):
        each = results["policy_overhead"][kind]
        figure = f"{each['overhead']:+.1%} of {each['empty_p50_ms']:.0f} ms (noise {each['noise']:.1%})"
        rows.append((f"the shipped policy on `/generate`, p50, {kind}", figure, "policy_overhead"))
    return rows


def _peers(results: dict[str, Any]) -> list[str]:
    speed, recall = results["policy"]["us_per_prompt"], results["evasion"]["peers_recall_promised"]
    lines = [
        "| us of processor time a prompt | 1,000 words | 10,000 | 100,000 | evasions found |",
        "|---|--:|--:|--:|--:|",
    ]
    ours = results["evasion"]["recall_promised"]
    for kind, name in (("tidegate", "tidegate, every fold"), *PEERS.items()):
        cells = [f"{speed[size][kind]:,.0f}" if kind in speed[size] else "" for size in ("1000", "10000", "100000")]
        share = ours if kind == "tidegate" else recall.get(kind)
        lines.append(f"| {name} | {' | '.join(cells)} | {'' if share is None else f'{share:.0%}'} |")
    return lines


def _families(result: dict[str, Any]) -> list[str]:
    families = result["families"].items()
    others = [f"{name} {each['recall']:.0%}" for name, each in families if not each["promised"]]
    kept = [f"{name} {each['recall']:.0%}" for name, each in families if each["promised"] and each["recall"] < 1]
    lines = ["Not promised, and found as often as this: " + "; ".join(others) + "."]
    spelled = [f"{name} {share:.0%}" for name, share in result["recall_with_pinyin"].items()]
    lines += ["", "With `pinyin: true`: " + "; ".join(spelled) + "."]
    return [*lines, *(["", "Promised, and not found always: " + "; ".join(kept) + "."] if kept else [])]


def main() -> None:
    """Write the page anew."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    PAGE.write_text(before + page() + rest.partition(END)[2], encoding="utf-8")


if __name__ == "__main__":
    main()
