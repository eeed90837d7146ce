"""One page that a person can judge a build by: ``report.html``, beside the engine.

No script, no network: plain HTML with SVG drawn here (:mod:`build_engine.plots`), so it opens from a mail, a bucket or
a laptop on a train.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from build_engine.manifest import list_files
from build_engine.plots import bars, heat, ranked, shares

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 50rem; margin: 2rem auto; padding: 0 1rem; color: #1c2733 }
h1 { font-size: 1.5rem; margin-bottom: 0 } h2 { font-size: 1.15rem; margin: 2rem 0 .3rem } p { margin: .3rem 0 .8rem }
table { border-collapse: collapse; margin: 1.2rem 0; width: 100%; font-size: 14px }
tr { border-bottom: 1px solid #dde3e8 }
td, th { padding: .25rem .6rem; text-align: right; font-weight: 400 } th { color: #5d6b78 }
td:first-child, th:first-child, td:last-child, th:last-child { text-align: left }
td:nth-child(n+2):not(:last-child) { white-space: nowrap }
.good { color: #1a7f4b } .bad { color: #b3261e } .faint { color: #5d6b78 }
svg { max-width: 100%; height: auto; display: block } text { font: 12px system-ui, sans-serif }
"""
PROJECTION = re.compile(r".*\.layers?\.(?P<layer>\d+)\.(?:.*\.)?(?P<kind>\w+?)(?:_proj)?\.weight")


def add(staged: Path, manifest: dict[str, Any], accuracy: dict[str, Any]) -> None:
    """Write the page into the version folder ``staged``, and its hash into ``manifest``."""
    (staged / "engine" / "report.html").write_text(render(manifest, accuracy), encoding="utf-8")
    manifest["files"] |= list_files(staged, "report.html")
    manifest["total_bytes"] = sum(entry["bytes"] for entry in manifest["files"].values())


def render(manifest: dict[str, Any], accuracy: dict[str, Any]) -> str:
    """The page, from the manifest and the content of ``accuracy.json``, of a decoder or of a classifier."""
    title = f"{manifest['name']}: {manifest['architecture']}, {manifest['target']} {manifest['precision']}"
    verdict = '<b class="good">passes its gate</b>' if accuracy["passed"] else '<b class="bad">fails its gate</b>'
    held_out = accuracy["held_out"]
    amount = f"{held_out['positions']} positions" if "positions" in held_out else f"{held_out['texts']} texts"
    fell_back = "" if accuracy["asked"] == manifest["precision"] else f" ({escape(accuracy['asked'])} was asked for)"
    attempts = _labels if manifest.get("task") == "text-classification" else _agreements
    total = sum(manifest["build_seconds"].values())
    parts = [
        f"<h1>{escape(title)}</h1>",
        f"<p>It {verdict}{fell_back}, on {amount} of {escape(held_out['file'])} "
        f"(sha256 {escape(held_out['sha256'][:12])}…), which calibration never saw.</p>"
        f'<p class="faint">Built {escape(manifest["created"])} from {escape(manifest["source"]["name"])} in '
        f"{total:.0f} s with at most {manifest['peak_memory_bytes'] / 1e9:.1f} GB of memory.</p>",
        *attempts(accuracy["attempts"]),
        *_layers(accuracy.get("layers", [])),
        "<h2>Sizes</h2>",
        bars([(name, entry["bytes"] / 1e6, f"{entry['bytes'] / 1e6:.3g} MB") for name, entry in _sizes(manifest)]),
        "<h2>Time by stage</h2>",
        bars([(name, seconds, f"{seconds:.3g} s") for name, seconds in _times(manifest, accuracy)]),
    ]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style><body>{''.join(parts)}</body></html>\n"
    )


def _agreements(attempts: Sequence[dict[str, Any]]) -> list[str]:
    """What was tried in turn, against fp32: how much of each limit it used, and the numbers."""
    groups, rows = [], []
    for attempt in attempts:
        found, gate = attempt["agreement"], attempt["gate"]
        if found is None:  # it did not run, or said what is no number
            rows.append(_row(attempt["what"], [""] * 5, "; ".join(attempt["failures"])))
            continue
        groups.append((
            f"{attempt['what']}, on the {attempt['text']} text",
            (
                ("perplexity", *_share(found["perplexity_ratio"] - 1, gate["perplexity_ratio"] - 1)),
                ("top-1 disagreement", *_share(1 - found["top1"], 1 - gate["top1"])),
                ("mean KL divergence", *_share(found["kl_mean"], gate["kl"])),
            ),
        ))  # fmt: skip
        cells = [
            f"{found['perplexity_ratio']:.4f}x",
            f"{found['top1']:.2%}",
            f"{found['kl_mean']:.5f}",
            f"{found['kl_p99']:.4f}",
            f"{found['step_ms']:.1f} / {found['reference_step_ms']:.1f}",
        ]
        rows.append(_row(attempt["what"], cells, "; ".join(attempt["failures"])))
    head = ("tried", "perplexity", "top-1", "mean KL", "KL, 99 %", "step / fp32, ms", "verdict")
    return [
        "<h2>Against fp32</h2>",
        "<p>Share of what the gate allows; beyond 100 % it is missed.</p>",
        shares(groups),
        _table(head, rows),
    ]


def _labels(attempts: Sequence[dict[str, Any]]) -> list[str]:
    """The same of a classifier, whose gate is about labels."""
    groups, rows = [], []
    for attempt in attempts:
        limit, agreement = attempt["gate"]["label_agreement"], attempt["label_agreement"]
        if agreement is None:
            rows.append(_row(attempt["precision"], [""] * 3, attempt["failure"]))
            continue
        groups.append((attempt["precision"], (("labels that differ", *_share(1 - agreement, 1 - limit)),)))
        cells = [
            f"{agreement:.2%}",
            f"{attempt['largest_score_difference']:.4f}",
            f"{attempt['batch_ms']:.1f} / {attempt['reference_batch_ms']:.1f}",
        ]
        rows.append(_row(attempt["precision"], cells, attempt["failure"]))
    head = ("tried", "labels agree", "largest difference of a score", "batch of 16 / fp32, ms", "verdict")
    return [
        "<h2>Against fp32</h2>",
        "<p>Share of what the gate allows; beyond 100 % it is missed.</p>",
        shares(groups),
        _table(head, rows),
    ]


def _share(value: float, limit: float) -> tuple[float, str]:
    """Of the limit; nothing is better than nothing."""
    share = max(value, 0.0) / limit
    return share, f"{share:.0%}"


def _row(name: str, cells: Sequence[str], failure: str) -> str:
    verdict = f'<td class="bad">{escape(failure)}</td>' if failure else '<td class="good">passes</td>'
    return f"<tr><td>{escape(name)}</td>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}{verdict}</tr>"


def _table(head: Sequence[str], rows: Sequence[str]) -> str:
    return f"<table><tr>{''.join(f'<th>{escape(each)}</th>' for each in head)}</tr>{''.join(rows)}</table>"


def _layers(layers: Sequence[dict[str, Any]]) -> list[str]:
    """Each projection's error in int8 and what rounding its input costs the model; which ones were kept."""
    if not layers:
        return []
    kept = sum(layer["kept"] for layer in layers)
    places = {layer["name"]: _place(layer["name"]) for layer in layers}
    kinds = list(dict.fromkeys(kind for kind, _ in places.values()))
    errors = {places[layer["name"]]: layer["error"] for layer in layers}
    marked = {places[layer["name"]] for layer in layers if layer["kept"]}
    return [
        "<h2>Error by layer</h2>",
        f"<p>Relative output error of each projection in int8; {kept} of {len(layers)} (orange) were kept.</p>",
        heat(kinds, 1 + max(layer for _, layer in places.values()), errors, marked),
        "<h2>What rounding costs the model</h2>",
        "<p>KL divergence from fp32, in nats, when the input of one projection alone is rounded. The costliest were "
        "kept, until the rest together is within the gate.</p>",
        ranked([(layer["name"], layer["kl"], layer["kept"]) for layer in layers]),
    ]


def _place(name: str) -> tuple[str, int]:
    """Kind and layer of a projection, from the name of its weight."""
    found = PROJECTION.fullmatch(name)
    return (found["kind"], int(found["layer"])) if found else (name, 0)


def _sizes(manifest: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The files that matter, and the ONNX graph that a plan was compiled from."""
    files = dict(manifest["files"])
    onnx = sum(manifest.get("engine", {}).get("onnx", {}).values())
    if onnx:
        files["the ONNX it is made from"] = {"bytes": onnx}
    ordered = sorted(files.items(), key=lambda item: -int(item[1]["bytes"]))
    return [(name, entry) for name, entry in ordered if entry["bytes"] >= 0.001 * ordered[0][1]["bytes"]]


def _times(manifest: dict[str, Any], accuracy: dict[str, Any]) -> list[tuple[str, float]]:
    """Seconds of each stage, and what the stage that proves was busy with."""
    inside = [("· calibration", accuracy["calibration_seconds"])] if accuracy.get("calibration_seconds") else []
    inside += [
        (f"· {attempt.get('what', attempt['precision'])}", attempt["seconds"]) for attempt in accuracy["attempts"]
    ]
    rows: list[tuple[str, float]] = []
    for name, seconds in manifest["build_seconds"].items():
        rows.append((name, seconds))
        if name == ("prove" if "prove" in manifest["build_seconds"] else "emit"):
            rows += [(what[:32], each) for what, each in inside]
    return rows
