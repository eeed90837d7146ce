"""One page that a person can judge a build by: ``report.html``, beside the engine.

No script, no network: plain HTML with SVG drawn here, so it opens from a mail, a bucket or a laptop on a train.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1c2733 }
table { border-collapse: collapse; margin: .5rem 0 1.5rem } td, th { padding: .2rem .8rem; text-align: right }
td:first-child, th:first-child { text-align: left } tr { border-bottom: 1px solid #dde3e8 }
.good { color: #1a7f4b } .bad { color: #b3261e } svg { max-width: 100%; height: auto } text { font-size: 11px }
"""
BAR, KEPT, INK = "#4c7fb5", "#d9822b", "#1c2733"


def render(manifest: dict[str, Any], accuracy: dict[str, Any]) -> str:
    """The page, from the manifest and the content of ``accuracy.json``."""
    title = f"{manifest['name']}: {manifest['architecture']}, {manifest['target']} {manifest['precision']}"
    verdict = '<b class="good">passes its gate</b>' if accuracy["passed"] else '<b class="bad">fails its gate</b>'
    held_out = accuracy["held_out"]
    parts = [
        f"<h1>{escape(title)}</h1>",
        f"<p>Built {escape(manifest['created'])} from {escape(manifest['source']['name'])}. It {verdict}, on "
        f"{held_out['positions']} positions of {escape(held_out['file'])} "
        f"(sha256 {escape(held_out['sha256'][:12])}…), which calibration never saw.</p>",
        "<h2>Against fp32</h2>",
        _attempts(accuracy["attempts"]),
        *_layers(accuracy.get("layers", [])),
        "<h2>Sizes</h2>",
        _bars([(name, entry["bytes"] / 1e6, BAR) for name, entry in _largest(manifest["files"])], "MB"),
        "<h2>Time by stage</h2>",
        _bars([(name, seconds, BAR) for name, seconds in manifest["build_seconds"].items()], "s"),
    ]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style><body>{''.join(parts)}</body></html>\n"
    )


def _attempts(attempts: Sequence[dict[str, Any]]) -> str:
    """What was tried in turn, and what became of it."""
    head = "<tr><th>tried</th><th>perplexity</th><th>top-1</th><th>mean KL</th><th>step, ms</th><th>verdict</th></tr>"
    rows = []
    for attempt in attempts:
        agreement = attempt["agreement"]
        failures = "; ".join(attempt["failures"])
        verdict = f'<td class="bad">{escape(failures)}</td>' if failures else '<td class="good">passes</td>'
        rows.append(
            f"<tr><td>{escape(attempt['what'])}</td><td>{agreement['perplexity_ratio']:.4f}x</td>"
            f"<td>{agreement['top1']:.2%}</td><td>{agreement['kl_mean']:.5f}</td>"
            f"<td>{agreement['step_ms']:.1f} (fp32 {agreement['reference_step_ms']:.1f})</td>{verdict}</tr>"
        )
    return f"<table>{head}{''.join(rows)}</table>"


def _layers(layers: Sequence[dict[str, Any]]) -> list[str]:
    """The error of each quantised projection; those kept in 16 bits in another colour."""
    if not layers:
        return []
    kept = sum(layer["kept"] for layer in layers)
    bars = [(layer["name"], layer["error"], KEPT if layer["kept"] else BAR) for layer in layers]
    return [
        "<h2>Error by layer</h2>",
        f"<p>Relative output error of each projection in int8, logarithmic; {kept} (orange) were kept in fp16.</p>",
        _columns(bars),
    ]


def _largest(files: dict[str, dict[str, Any]], most: int = 6) -> list[tuple[str, dict[str, Any]]]:
    return sorted(files.items(), key=lambda item: -int(item[1]["bytes"]))[:most]


def _bars(bars: Sequence[tuple[str, float, str]], unit: str) -> str:
    """Horizontal bars with their names and values."""
    top = max((value for _, value, _ in bars), default=0.0) or 1.0
    lines = []
    for number, (name, value, colour) in enumerate(bars):
        y, width = 22 * number, 420 * value / top
        lines.append(
            f'<text x="215" y="{y + 14}" text-anchor="end" fill="{INK}">{escape(name)}</text>'
            f'<rect x="220" y="{y + 3}" width="{width:.1f}" height="15" fill="{colour}"/>'
            f'<text x="{226 + width:.1f}" y="{y + 14}" fill="{INK}">{value:.3g} {escape(unit)}</text>'
        )
    return f'<svg viewBox="0 0 720 {22 * len(bars)}" width="720" role="img">{"".join(lines)}</svg>'


def _columns(columns: Sequence[tuple[str, float, str]], height: int = 220) -> str:
    """Vertical bars on a logarithmic scale; the name shows when pointed at."""
    floor = min((value for _, value, _ in columns if value > 0), default=1e-6) / 2
    low, high = math.log10(floor), math.log10(max(*(value for _, value, _ in columns), 2 * floor))
    width = 720 / len(columns)
    lines = []
    for number, (name, value, colour) in enumerate(columns):
        tall = height * (math.log10(max(value, floor)) - low) / (high - low)
        lines.append(
            f'<rect x="{number * width:.2f}" y="{height - tall:.1f}" width="{max(width - 1, 0.5):.2f}" '
            f'height="{tall:.1f}" fill="{colour}"><title>{escape(name)}: {value:.4g}</title></rect>'
        )
    scale = "".join(
        f'<text x="724" y="{height * (1 - (power - low) / (high - low)) + 4:.1f}" fill="{INK}">1e{power}</text>'
        for power in range(math.ceil(low), math.floor(high) + 1)
    )
    return f'<svg viewBox="0 0 770 {height + 4}" width="770" role="img">{"".join(lines)}{scale}</svg>'
