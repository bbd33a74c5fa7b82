"""Bounds the work that a packed object can cause: gzip packs a thousand empty lines into one byte. Pure."""

from __future__ import annotations

from sqstee.text import count

_SHORTEST_RECORD = 64  # bytes: the names of its fields, without their values, have as many
_FEW_LINES = 1000  # in an object of any size


def short_lines(part: bytes) -> int:
    """How many lines in a part of a file are too short to be records, at least: 0 where all may be long enough."""
    return max(0, part.count(b"\n") - len(part) // _SHORTEST_RECORD)


class ShortLines:
    """Counts the lines of a packed object that are too short to be records.

    One per packed byte is allowed: a plain object of that size has no more.
    """

    def __init__(self) -> None:
        self._number = 0

    def add(self, part: bytes, packed: int) -> None:
        """Count those of the next part; `packed`: the bytes that were unpacked so far. Raises ValueError."""
        self._number += short_lines(part)
        if self._number > _FEW_LINES + packed:
            unpacked = f"{count(packed, 'packed byte')} have more than {count(_FEW_LINES + packed, 'line')}"
            raise ValueError(f"{unpacked} not written by sqstee: not read any further")
