"""--rate-limit: how many of a run's lines may still be shipped. Excess lines are dropped, counted and reported."""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_COVER_SECONDS = 1.0  # in a longer period, what is dropped is covered by a gap event this often


class RateLimit:
    """At most `lines` in each period of `seconds`, all of them at once if need be.

    A period begins with the first line behind the one before. So the lines that are dropped in a row are many, and a
    gap event covers them together, where a steady trickle of permissions would leave gaps between single lines.
    """

    def __init__(self, lines: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._lines = lines
        self._seconds = seconds
        self._clock = clock
        self._left = 0
        self._ends_at = 0.0
        self._cover_at = 0.0

    def split(self, chunk: bytes, start: int, begun: bool) -> int:
        """Where the part of a chunk that may be shipped ends: at the chunk's end, after a newline, or at `start`.

        The chunk's lines are counted from `start` on, and each when it ends; an unfinished one needs to be allowed to
        begin. The first one has `begun` already, and is never dropped.
        """
        now = self._clock()
        if now >= self._ends_at:
            self._ends_at, self._left, self._cover_at = now + self._seconds, self._lines, now + _COVER_SECONDS
        lines = chunk.count(b"\n", start)
        allowed = min(lines, max(self._left, begun))
        self._left = max(0, self._left - allowed)
        if allowed == lines and (chunk.endswith(b"\n") or self._left or (begun and not lines)):
            return len(chunk)
        for _ in range(allowed):
            start = chunk.find(b"\n", start) + 1
        return start

    def give_back(self, lines: int) -> None:
        """Lines that were counted could not be spooled: they come again."""
        self._left += lines

    def cover_is_due(self) -> bool:
        """Whether a gap event for the dropped lines is due now, rather than before the next line."""
        now = self._clock()
        if now < self._cover_at:
            return False
        self._cover_at = now + _COVER_SECONDS
        return True
