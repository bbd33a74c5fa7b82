"""Two kinds of plots as SVG: bars on a logarithmic scale, and lines over a logarithmic axis."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, LEFT, RIGHT, ROW = 720, 230, 90, 26
COLOURS = ("#2563eb", "#d97706", "#059669", "#7c3aed")
_FONT = 'font-family="system-ui, sans-serif" font-size="13"'


def bars(title: str, unit: str, values: Mapping[str, float]) -> str:
    """One bar for each value, on a logarithmic scale that begins a decade below the least."""
    low = math.floor(math.log10(min(values.values()))) - 0.5
    high = math.log10(max(values.values()))
    height = 56 + ROW * len(values)
    parts = [_title(title, unit)]
    for at, (name, value) in enumerate(values.items()):
        top = 44 + ROW * at
        length = (math.log10(value) - low) / (high - low) * (WIDTH - LEFT - RIGHT)
        parts.append(f'<text x="{LEFT - 8}" y="{top + 14}" text-anchor="end">{escape(name)}</text>')
        parts.append(f'<rect x="{LEFT}" y="{top}" width="{length:.1f}" height="18" fill="{COLOURS[0]}"/>')
        parts.append(f'<text x="{LEFT + length + 6:.1f}" y="{top + 14}">{_number(value)}</text>')
    return _document(height, parts)


def curves(title: str, axis: str, unit: str, series: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """One line for each series of (x, y), both axes logarithmic; every point is marked and named by its value."""
    points = [point for values in series.values() for point in values]
    xs, ys = [math.log10(x) for x, _ in points], [math.log10(max(y, 1e-9)) for _, y in points]
    height, bottom, top = 380, 330, 50
    low, high = math.floor(min(ys)), math.ceil(max(ys)) or 1

    def place(x: float, y: float) -> tuple[float, float]:
        across = (math.log10(x) - min(xs)) / ((max(xs) - min(xs)) or 1)
        up = (math.log10(max(y, 1e-9)) - low) / ((high - low) or 1)
        return 70 + across * (WIDTH - 70 - RIGHT), bottom - up * (bottom - top)

    parts = [_title(title, unit)]
    for decade in range(low, high + 1):
        y = place(points[0][0], 10.0**decade)[1]
        parts.append(f'<line x1="70" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e5e7eb"/>')
        parts.append(f'<text x="62" y="{y + 4:.1f}" text-anchor="end">{_number(10.0**decade)}</text>')
    for x in sorted({x for x, _ in points}):
        parts.append(f'<text x="{place(x, 1)[0]:.1f}" y="{bottom + 20}" text-anchor="middle">{_number(x)}</text>')
    parts.append(f'<text x="{WIDTH / 2}" y="{bottom + 42}" text-anchor="middle">{escape(axis)}</text>')
    for colour, (name, values) in zip(COLOURS, series.items(), strict=False):
        places = [place(x, y) for x, y in values]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for (x, y), (_, value) in zip(places, values, strict=True):
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>')
            place_of = f'x="{x:.1f}" y="{y - 8:.1f}" text-anchor="middle"'
            parts.append(f'<text {place_of} fill="{colour}">{_number(value)}</text>')
        x, y = places[-1]
        parts.append(f'<text x="{x + 10:.1f}" y="{y + 14:.1f}" fill="{colour}">{escape(name)}</text>')
    return _document(height, parts)


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
