"""What the verbs' progress on a terminal has in common: what is shown where there is little room."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

NARROW_BELOW = 70  # columns without room for a bar


def fitted(parts: Sequence[str], width: int, spare: Sequence[Collection[int]]) -> str:
    """The parts on one line of `width`; where they are too long, without those of the first of `spare` that helps."""
    text = ""
    for hidden in ((), *spare):
        text = "   ".join(part for number, part in enumerate(parts) if part and number not in hidden)
        if len(text) <= width:
            return text
    return text[:width]
