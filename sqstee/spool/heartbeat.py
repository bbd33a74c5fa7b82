"""A silent run's sign of life: an `alive` event, so that readers can tell a silent run from a host that is gone."""

from __future__ import annotations

import os
import time

from sqstee.spool import run_events

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sqstee.spool.writer import Writer

_EARLY_SHARE = 0.1  # of the interval: a beat that comes early by so little is the one that was due


class Heartbeat:
    """Beats at the multiples of `interval` seconds on the wall clock, at which all runs of a host beat.

    So their events come together, and a shared shipper sends them in one request. `due` is the next beat's time of the
    monotonic clock; `usage` returns the fields with the run's resource usage.
    """

    def __init__(self, interval: float, usage: Callable[[], dict[str, object]]) -> None:
        self.due = self._following(interval)
        self._interval = interval
        self._usage = usage
        self._next_seq = -1  # the writer's, at the last beat

    def beat(self, writer: Writer) -> None:
        """Write the event if the run has written nothing since the last beat."""
        self.due = self._following(self._interval)
        if writer.next_seq == self._next_seq:
            writer.alive(run_events.alive(writer, self._usage()))
        self._next_seq = writer.next_seq

    @staticmethod
    def _following(interval: float) -> float:
        rest = interval - time.time() % interval
        return time.monotonic() + (rest if rest > _EARLY_SHARE * interval else rest + interval)


def process_usage(pid: int) -> dict[str, object]:
    """A process's usage so far: CPU seconds, with those of the children that it has waited for, and memory."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            times = file.read().rpartition(b") ")[2].split()[11:15]  # utime, stime, cutime, cstime: see proc(5)
        with open(f"/proc/{pid}/status", "rb") as file:
            peak = file.read().partition(b"\nVmHWM:")[2].split(None, 2)[:2]  # a number and kB; a zombie has none
        found: dict[str, object] = {"cpu_s": round(sum(map(int, times)) / os.sysconf("SC_CLK_TCK"), 3)}
        return found | ({"max_rss": int(peak[0]) * 1024} if peak else {})
    except (OSError, ValueError):  # no /proc, or the process has just ended
        return {}
