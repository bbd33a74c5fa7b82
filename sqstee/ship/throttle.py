"""Pauses shipping while a command writes faster than any shipper could ship: it leaves the command the processor."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from sqstee.spool.quota import SEGMENT_BYTES
from sqstee.spool.segments import segment_name, segment_numbers

_CHECK_SECONDS = 0.1
_FLOOD_BYTES = 64 * 1024 * 1024  # per second: more than a shipper packs, so waiting delays delivery little
_SHARE = 2  # ship regardless once half of --spool-max is used: waiting must not fill the spool


class Throttle:
    """Watches how fast the run in `folder` grows.

    A flood is more than 64 MiB/s. It is ignored if the run's segments take more than half of `spool_max` (bytes, the
    bound for all runs), or if a full spool drops lines (`on_full`).
    """

    def __init__(self, folder: str, spool_max: int, on_full: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = folder
        self._max_kept_bytes = 0 if on_full == "drop" else spool_max // _SHARE
        self._clock = clock
        self._checked_at = clock()
        self._segment_number = self._segment_bytes = 0  # the last segment and its size at the last check
        self._flooding = False

    def until(self) -> float:
        """The time of the monotonic clock until which not to read the spool; 0.0 if there is no flood."""
        now = self._clock()
        if now - self._checked_at >= _CHECK_SECONDS:
            self._flooding = self._growth() > _FLOOD_BYTES * (now - self._checked_at)
            self._checked_at = now
        return self._checked_at + _CHECK_SECONDS if self._flooding else 0.0

    def _growth(self) -> int:
        """The bytes written since the last check; 0 if the spool holds too much to wait."""
        numbers = segment_numbers(self._folder)
        sizes = {number: self._bytes(number) for number in numbers if number >= self._segment_number}
        grown = sum(sizes.values()) - (self._segment_bytes if self._segment_number in sizes else 0)
        if numbers:
            self._segment_number = numbers[-1]
            self._segment_bytes = sizes[self._segment_number]
        return grown if len(numbers) * SEGMENT_BYTES <= self._max_kept_bytes else 0

    def _bytes(self, number: int) -> int:
        try:
            return os.stat(f"{self._folder}/{segment_name(number)}").st_size
        except OSError:  # deleted meanwhile
            return 0
