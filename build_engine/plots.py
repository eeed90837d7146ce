"""The plots of the report: plain SVG, drawn here, that needs no script and no network."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape

WIDTH, LABEL = 760, 200
INK, FAINT, GRID = "#1c2733", "#5d6b78", "#dde3e8"
BLUE, ORANGE, GREEN, RED = "#3f77ad", "#d9822b", "#1a7f4b", "#b3261e"
Colour = tuple[int, int, int]
COOL = (232, 240, 248), (22, 66, 118)
WARM = (250, 222, 190), (196, 98, 10)


def bars(rows: Sequence[tuple[str, float, str]]) -> str:
    """Horizontal bars of (name, value, value as text)."""
    top = max((value for _, value, _ in rows), default=0.0) or 1.0
    lines = []
    for number, (name, value, said) in enumerate(rows):
        y, wide = 24 * number, (WIDTH - LABEL - 110) * value / top
        lines.append(
            _text(LABEL - 8, y + 16, name, anchor="end") + _rect((LABEL, y + 4, max(wide, 1), 16), BLUE, name, said)
        )
        lines.append(_text(LABEL + max(wide, 1) + 6, y + 16, said, FAINT))
    return _svg(24 * len(rows), lines)


def shares(groups: Sequence[tuple[str, Sequence[tuple[str, float, str]]]]) -> str:
    """How much of what is allowed was used: groups of (name, share, said), a line at 1, what is beyond it in red."""
    full, lines, y = (WIDTH - LABEL - 150) / 2, [], 0
    height = sum(24 + 22 * len(rows) for _, rows in groups)
    for share in (0.5, 1.0, 1.5, 2.0):
        x = LABEL + share * full
        ink = INK if share == 1 else GRID
        lines.append(f'<line x1="{x}" y1="16" x2="{x}" y2="{height}" stroke="{ink}" stroke-width="1"/>')
        lines.append(_text(x, 11, f"{share:.0%}", FAINT, anchor="middle"))
    for name, rows in groups:
        lines.append(_text(0, y + 18, name, weight=600))
        y += 24
        for what, share, said in rows:
            wide = max(min(share, 2.0) * full, 1)
            lines.append(_text(LABEL - 8, y + 14, what, FAINT, anchor="end"))
            lines.append(_rect((LABEL, y + 3, wide, 14), GREEN if share <= 1 else RED, what, said))
            lines.append(_text(LABEL + wide + 6, y + 14, said + (" →" if share > 2 else "")))
            y += 22
    return _svg(height, lines)


def heat(
    rows: Sequence[str], columns: int, values: Mapping[tuple[str, int], float], marked: set[tuple[str, int]]
) -> str:
    """A cell for each row and column, darker where the value is larger (logarithmic); orange
    where it is marked."""
    wide, tall = min(24.0, (WIDTH - LABEL) / max(columns, 1)), 22
    low, high = _bounds(values.values())
    lines = [_text(LABEL - 8, 16 + tall * number + 15, name, anchor="end") for number, name in enumerate(rows)]
    step = max(1, round(columns / 15))
    lines += [_text(LABEL + wide * (n + 0.5), 11, str(n), FAINT, anchor="middle") for n in range(0, columns, step)]
    for (row, column), value in values.items():
        x, y = LABEL + wide * column, 16 + tall * rows.index(row)
        share = (math.log10(max(value, low)) - math.log10(low)) / _span(low, high)
        colour = _shade(share, WARM if (row, column) in marked else COOL)
        lines.append(_rect((x, y, wide - 1, tall - 1), colour, f"layer {column}, {row}", f"{value:.3g}"))
    y = 16 + tall * len(rows) + 10
    for number in range(24):
        lines.append(
            f'<rect x="{LABEL + 6 * number}" y="{y}" width="6" height="10" fill="{_shade(number / 23, COOL)}"/>'
        )
    lines.append(
        _text(LABEL - 8, y + 10, f"{low:.2g}", FAINT, anchor="end") + _text(LABEL + 152, y + 10, f"{high:.2g}", FAINT)
    )
    lines.append(_rect((LABEL + 240, y, 14, 10), ORANGE, "kept") + _text(LABEL + 260, y + 10, "kept from int8", FAINT))
    return _svg(y + 14, lines)


def ranked(values: Sequence[tuple[str, float, bool]]) -> str:
    """Values from the largest on, logarithmic, with a scale; those that are marked in orange."""
    height, left = 200, 64
    ordered = sorted(values, key=lambda each: -each[1])
    low, high = _bounds([value for _, value, _ in ordered])
    wide = (WIDTH - left) / max(len(ordered), 1)

    def place(value: float) -> float:
        return 8 + (height - 8) * (1 - (math.log10(max(value, low)) - math.log10(low)) / _span(low, high))

    lines = []
    for power in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1):
        y = place(10.0**power)
        lines.append(f'<line x1="{left}" y1="{y:.1f}" x2="{WIDTH}" y2="{y:.1f}" stroke="{GRID}" stroke-width="1"/>')
        lines.append(_text(left - 8, y + 4, f"1e{power}", FAINT, anchor="end"))
    for number, (name, value, marked) in enumerate(ordered):
        y = min(place(value), height - 1)
        colour = ORANGE if marked else BLUE
        lines.append(_rect((left + wide * number, y, max(wide - 1, 0.6), height - y), colour, name, f"{value:.3g}"))
    lines.append(
        _rect((left, height + 8, 14, 10), ORANGE, "kept") + _text(left + 20, height + 17, "kept from int8", FAINT)
    )
    lines.append(_rect((left + 120, height + 8, 14, 10), BLUE, "int8") + _text(left + 140, height + 17, "int8", FAINT))
    return _svg(height + 22, lines)


def _bounds(values: Iterable[float]) -> tuple[float, float]:
    """The least and the largest positive value, apart."""
    positive = [value for value in values if value > 0] or [1.0]
    low, high = min(positive), max(positive)
    return low, max(high, 1.01 * low)


def _span(low: float, high: float) -> float:
    return math.log10(high) - math.log10(low)


def _shade(share: float, ramp: tuple[Colour, Colour]) -> str:
    """The colour at ``share`` of the way along a ramp."""
    return "#" + "".join(f"{round(a + share * (b - a)):02x}" for a, b in zip(*ramp, strict=True))


def _rect(box: tuple[float, float, float, float], colour: str, name: str, said: str = "") -> str:
    """``box`` is x, y, width and height; with what it stands for when pointed at."""
    x, y, width, height = box
    title = escape(f"{name}: {said}" if said else name)
    return (
        f'<rect x="{x:.2f}" y="{y:.1f}" width="{width:.2f}" height="{height:.1f}" fill="{colour}">'
        f"<title>{title}</title></rect>"
    )


def _text(x: float, y: float, said: str, ink: str = INK, *, anchor: str = "start", weight: int = 400) -> str:
    style = f'fill="{ink}" text-anchor="{anchor}" font-weight="{weight}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(said)}</text>'


def _svg(height: float, parts: Sequence[str]) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" role="img">{"".join(parts)}</svg>'
