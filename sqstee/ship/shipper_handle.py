"""The front's side of the shipper process: start it, wake it, and hear how it went."""

from __future__ import annotations

import os

from sqstee.fds import close_quietly, open_fds, put_null
from sqstee.spool.quarantine import quarantined_records

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable
else:  # the Python half of signal costs 8 ms (enum)
    import _signal

_LAST_SIGNAL = 64  # signal(7): SIGRTMAX

# What the front tells: there is something; the run has ended. A byte up to 64: take that signal off your pending ones.
WAKE, CLOSE = b"w", b"c"
LEFT = b"left\n"  # the answer of a process that leaves the rest to an agent


class ShipperHandle:
    """A run's shipper: `pid` is 0 once it has ended."""

    __slots__ = ("_report", "pid", "wake")

    def __init__(self, pid: int, wake: int, report: int) -> None:
        self.pid = pid
        self.wake = wake
        self._report = report

    def tell(self, word: bytes) -> None:
        """Send one of the words above; the pipe being full, or the shipper gone, is no fault."""
        try:
            os.write(self.wake, word)
        except OSError:
            pass

    def close(self) -> None:
        """Tell it that the run has ended, as far as we are concerned."""
        self.tell(CLOSE)
        os.close(self.wake)

    def answer(self, folder: str, everything: int, unsaid: str) -> tuple[int, int, int | None, str]:
        """The first seq that was not taken, how many records were quarantined, the number of requests, and why lines
        stay behind.

        Where the shipper could not say it the state file and `unsaid` do; without the folder nothing was left to do.
        What another process has put aside for this run is in the run's file.
        """
        os.set_blocking(self._report, False)
        try:
            words = os.read(self._report, 65536).decode("utf-8", "replace")
        except OSError:
            words = ""
        if words.encode() == LEFT:
            return everything, quarantined_records(folder), None, ""
        answer = words.rstrip("\n").split("\t", 3)
        if len(answer) == 4:
            quarantined = int(answer[1]) or quarantined_records(folder)
            return int(answer[0]), quarantined, int(answer[2]) if answer[2] else None, answer[3]
        if not os.path.exists(folder):
            return everything, quarantined_records(folder), None, ""
        from sqstee.spool.checkpoint import Checkpoint

        return Checkpoint(folder).next, quarantined_records(folder), None, unsaid


def fork(kept: set[int], body: Callable[[int, int], None]) -> ShipperHandle:
    """Fork the shipper, which runs `body` with its ends of the two pipes and holds only these and `kept`."""
    wake_reading, wake = os.pipe()
    report, report_writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(wake_reading)
        os.close(report_writing)
        os.set_blocking(wake, False)
        return ShipperHandle(pid, wake, report)
    try:
        _keep_only({wake_reading, report_writing, *kept})
        body(wake_reading, report_writing)
    finally:
        os._exit(0)


def _keep_only(kept: set[int]) -> None:
    """Close every descriptor but these, and put /dev/null in the place of 0 to 2."""
    for fd in open_fds():
        if fd > 2 and fd not in kept:
            close_quietly(fd)
    for fd in (0, 1, 2):
        put_null(fd)


def consume_signals(words: bytes) -> None:
    """Take the signals among what the front tells (see shipment) off those pending for this process, the witness."""
    for number in words:
        if number <= _LAST_SIGNAL:
            _signal.sigtimedwait({number}, 0)
