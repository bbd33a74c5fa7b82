"""When a command writes faster than anyone could ship, shipping would only take cores away from it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from sqstee.spool.quota import SEGMENT_BYTES
from sqstee.spool.segments import segment_name, segment_numbers

_LOOK_SECONDS = 0.1
_FLOOD_BYTES = 64 * 1024 * 1024  # a second: more than a shipper packs, so that waiting costs it next to nothing
_SHARE = 2  # of the spool's bound: waiting must not be what fills it


class Throttle:
    """Watches how fast the run in `folder` grows.

    A flood is more than 64 MiB/s, unless what is kept takes more than half of `spool_max` (bytes), the bound for all
    runs, or lines would be dropped (`on_full`) where there is no room.
    """

    def __init__(self, folder: str, spool_max: int, on_full: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = folder
        self._most = 0 if on_full == "drop" else spool_max // _SHARE
        self._clock = clock
        self._looked = clock()
        self._number = self._size = 0  # the last segment, and how large it was
        self._rises = False

    def until(self) -> float:
        """When to look again, by the monotonic clock; 0.0 where there is no flood."""
        now = self._clock()
        if now - self._looked >= _LOOK_SECONDS:
            self._rises = self._look() > _FLOOD_BYTES * (now - self._looked)
            self._looked = now
        return self._looked + _LOOK_SECONDS if self._rises else 0.0

    def _look(self) -> int:
        """How many bytes were written since the last look; 0 where too much is kept."""
        numbers = segment_numbers(self._folder)
        sizes = {number: self._bytes(number) for number in numbers if number >= self._number}
        grown = sum(sizes.values()) - (self._size if self._number in sizes else 0)
        if numbers:
            self._number = numbers[-1]
            self._size = sizes[self._number]
        return grown if len(numbers) * SEGMENT_BYTES <= self._most else 0

    def _bytes(self, number: int) -> int:
        try:
            return os.stat(f"{self._folder}/{segment_name(number)}").st_size
        except OSError:  # freed meanwhile
            return 0
