"""Progress lines on a terminal: how the verbs fit them into a narrow one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

NARROW_BELOW = 70  # columns; fewer leave no room for a bar


def fitted(parts: Sequence[str], width: int, spare: Sequence[Collection[int]]) -> str:
    """The parts on one line of `width`. If they are too long, the first set in `spare` that helps is left out."""
    text = ""
    for hidden in ((), *spare):
        text = "   ".join(part for number, part in enumerate(parts) if part and number not in hidden)
        if len(text) <= width:
            return text
    return text[:width]
