"""A histogram, in SVG, of the gaps between a message and its duplicate. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 720, 320, 50, 50, 50
_COLOURS = {"short": "#d97706", "long": "#2563eb"}
_BARS = 20
_LEAST = 0.001  # ms
_STEPS = (1, 2, 5)


def bins(values: Sequence[float], bars: int = _BARS) -> tuple[float, int]:
    """(width, number) of bins from 0: the width is 1, 2 or 5 times a power of ten, the number at most `bars`."""
    most = max([_LEAST, *values])
    power = 10.0 ** math.floor(math.log10(most / bars))
    width = next(step * power for step in (*_STEPS, 10, 20) if most / (step * power) < bars)
    return width, math.floor(most / width) + 1


def svg(gaps_ms: Mapping[str, Sequence[float]], title: str) -> str:
    """The histogram of gaps in ms, with the modes side by side in each bin."""
    width, count = bins([gap for gaps in gaps_ms.values() for gap in gaps])
    counts = {mode: [0] * count for mode in gaps_ms}
    for mode, gaps in gaps_ms.items():
        for gap in gaps:
            counts[mode][min(count - 1, max(0, math.floor(gap / width)))] += 1
    top = max((value for column in counts.values() for value in column), default=0) or 1
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="20" font-size="14">{_escaped(title)}</text>',
        *_bars(counts, top),
        *_axes(width, count, top),
        *_legend(gaps_ms),
        "</svg>\n",
    ]
    return "\n".join(parts)


def _bars(counts: Mapping[str, Sequence[int]], top: int) -> list[str]:
    found = []
    for at, (mode, column) in enumerate(counts.items()):
        slot = (_WIDTH - 2 * _LEFT) / len(column)
        each = slot * 0.9 / len(counts)
        for index, value in enumerate(column):
            if not value:
                continue
            height = (_HEIGHT - _BOTTOM - _TOP) * value / top
            x, y = _LEFT + slot * (index + 0.05) + each * at, _HEIGHT - _BOTTOM - height
            found.append(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{each:.1f}" height="{height:.1f}" '
                f'fill="{_COLOURS[mode]}"><title>{mode}: {value}</title></rect>'
            )
    return found


def _axes(width: float, count: int, top: int) -> list[str]:
    base, right = _HEIGHT - _BOTTOM, _WIDTH - _LEFT
    found = [f'<path d="M{_LEFT} {_TOP}V{base}H{right}" fill="none" stroke="black"/>']
    found.append(f'<text x="{_LEFT - 6}" y="{_TOP + 4}" text-anchor="end">{top}</text>')
    found.append(f'<text x="{_LEFT - 6}" y="{base}" text-anchor="end">0</text>')
    for index in range(0, count + 1, max(1, count // 10)):
        x = _LEFT + (right - _LEFT) * index / count
        found.append(f'<text x="{x:.1f}" y="{base + 16}" text-anchor="middle">{index * width:g}</text>')
    found.append(f'<text x="{(_LEFT + right) / 2}" y="{base + 36}" text-anchor="middle">gap, ms</text>')
    return found


def _legend(gaps_ms: Mapping[str, Sequence[float]]) -> list[str]:
    found = []
    for at, (mode, gaps) in enumerate(gaps_ms.items()):
        x = _LEFT + 180 * at
        found.append(f'<rect x="{x}" y="28" width="10" height="10" fill="{_COLOURS[mode]}"/>')
        found.append(f'<text x="{x + 16}" y="38">{mode} polling, {len(gaps)} duplicates</text>')
    return found


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
