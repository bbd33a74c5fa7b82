"""What the benches share: tables, memory, and the machine that they ran on."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path

DOLLARS = 0.40 / 1_000_000  # a billed request of a standard queue, us-east-1
Row = Sequence[object]


def machine() -> str:
    """The machine, the date and the command, for the head of a table."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    command = f"python {' '.join(os.path.relpath(word) if os.path.exists(word) else word for word in sys.argv)}"
    return (
        f"{os.cpu_count()} × {model}, Linux {platform.release().split('-')[0]}, "
        f"Python {platform.python_version()}, {datetime.now():%Y-%m-%d}, `{command}`"
    )


def table(head: Sequence[str], rows: Iterable[Row]) -> str:
    """A Markdown table; numbers to the right, floats with three figures."""
    texts = [[_text(cell) for cell in row] for row in rows]
    widths = [max(len(head[at]), *(len(row[at]) for row in texts)) for at in range(len(head))]
    lines = [
        "| " + " | ".join(text.ljust(width) for text, width in zip(head, widths, strict=True)) + " |",
        "|" + "|".join("-" * (width + 1) + (":" if at else "-") for at, width in enumerate(widths)) + "|",
    ]
    for row in texts:
        first, *rest = zip(row, widths, strict=True)
        cells = [first[0].ljust(first[1])] + [text.rjust(width) for text, width in rest]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _text(cell: object) -> str:
    if isinstance(cell, float):
        return f"{cell:,.0f}" if abs(cell) >= 100 else f"{cell:.3g}"
    return f"{cell:,}" if isinstance(cell, int) else str(cell)


def median(found: Sequence[float]) -> float:
    """The middle one."""
    return sorted(found)[len(found) // 2]


def proportional_kib(pids: Iterable[int], word: bytes = b"sqstee") -> int:
    """Proportional set size of those processes whose command line holds `word`: shared pages count once."""
    total = 0
    for pid in pids:
        try:
            if word in Path(f"/proc/{pid}/cmdline").read_bytes():
                lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
                total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        except (OSError, StopIteration):
            pass
    return total
