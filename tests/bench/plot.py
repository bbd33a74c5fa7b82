"""Two kinds of plots as SVG: bars on a logarithmic scale, and lines over a logarithmic axis."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, LEFT, RIGHT, ROW = 720, 230, 90, 26
COLOURS = ("#2563eb", "#d97706", "#059669", "#7c3aed")
_FONT = 'font-family="system-ui, sans-serif" font-size="13"'
_GREY = "#e5e7eb"


def bars(title: str, unit: str, values: Mapping[str, float]) -> str:
    """One bar for each value, on a logarithmic scale that begins at a power of ten."""
    low = math.floor(math.log10(min(values.values())))
    high = math.log10(max(values.values()))
    bottom = 44 + ROW * len(values)

    def place(value: float) -> float:
        return LEFT + (math.log10(value) - low) / ((high - low) or 1) * (WIDTH - LEFT - RIGHT)

    parts = [_title(title, f"{unit}, logarithmic")]
    for decade in range(low, math.floor(high) + 1):
        x = place(10.0**decade)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="38" y2="{bottom}" stroke="{_GREY}"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{_number(10.0**decade)}</text>')
    for at, (name, value) in enumerate(values.items()):
        top = 44 + ROW * at
        end = place(value)
        parts.append(f'<text x="{LEFT - 8}" y="{top + 14}" text-anchor="end">{escape(name)}</text>')
        parts.append(f'<rect x="{LEFT}" y="{top}" width="{end - LEFT:.1f}" height="18" fill="{COLOURS[0]}"/>')
        parts.append(f'<text x="{end + 6:.1f}" y="{top + 14}">{_number(value)}</text>')
    return _document(bottom + 28, parts)


def curves(title: str, axis: str, unit: str, series: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """One line for each series of (x, y), both axes logarithmic; every point is marked and named by its value."""
    points = [point for values in series.values() for point in values]
    xs, ys = [math.log10(x) for x, _ in points], [math.log10(max(y, 1e-9)) for _, y in points]
    height, bottom, top, left, right = 400, 340, 76, 110, WIDTH - 60
    low, high = math.floor(min(ys)), math.ceil(max(ys)) or 1

    def place(x: float, y: float) -> tuple[float, float]:
        across = (math.log10(x) - min(xs)) / ((max(xs) - min(xs)) or 1)
        up = (math.log10(max(y, 1e-9)) - low) / ((high - low) or 1)
        return left + across * (right - left), bottom - up * (bottom - top)

    parts = [_title(title, f"{unit}, logarithmic".removeprefix(", ")), _legend(list(series), 46)]
    for decade in range(low, high + 1):
        y = place(points[0][0], 10.0**decade)[1]
        parts.append(f'<line x1="70" x2="{WIDTH - 20}" y1="{y:.1f}" y2="{y:.1f}" stroke="{_GREY}"/>')
        parts.append(f'<text x="62" y="{y + 4:.1f}" text-anchor="end">{_number(10.0**decade)}</text>')
    for x in sorted({x for x, _ in points}):
        parts.append(f'<text x="{place(x, 1)[0]:.1f}" y="{bottom + 20}" text-anchor="middle">{_number(x)}</text>')
    parts.append(f'<text x="{(left + right) / 2}" y="{bottom + 44}" text-anchor="middle">{escape(axis)}</text>')
    labels = []
    for colour, values in zip(COLOURS, series.values(), strict=False):
        places = [place(x, y) for x, y in values]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for (x, y), (at, value) in zip(places, values, strict=True):
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>')
            higher = all(value >= other for where, other in points if where == at)
            place_of = f'x="{x:.1f}" y="{y - 9 if higher else y + 19:.1f}" text-anchor="middle"'
            labels.append(f'<text {place_of} fill="{colour}">{_number(value)}</text>')
    return _document(height, parts + labels)


def _legend(names: Sequence[str], y: float) -> str:
    """The names of the series, each behind its colour."""
    x, parts = 10.0, []
    for colour, name in zip(COLOURS, names, strict=False):
        parts.append(f'<rect x="{x:.0f}" y="{y - 9:.0f}" width="10" height="10" fill="{colour}"/>')
        parts.append(f'<text x="{x + 16:.0f}" y="{y:.0f}">{escape(name)}</text>')
        x += 40 + 7.5 * len(name)
    return "".join(parts)


def _title(title: str, unit: str) -> str:
    left = f'<text x="10" y="24" font-size="15" font-weight="600">{escape(title)}</text>'
    return f'{left}<text x="{WIDTH - 10}" y="24" text-anchor="end" fill="#6b7280">{escape(unit)}</text>'


def _document(height: float, parts: Sequence[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" {_FONT}>'
    ground = '<rect width="100%" height="100%" fill="white"/>'
    return "\n".join((head, ground, *parts, "</svg>")) + "\n"


def _number(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"
