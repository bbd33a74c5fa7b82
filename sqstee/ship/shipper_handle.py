"""The protocol between the front and its shipper, a process forked from it: both ends of the two pipes.

The front writes words to the wake pipe: WAKE, there is something to ship; CLOSE, the run has ended; a byte up to 64,
remove the signal of that number from those pending here. End of file: the front has died. The shipper writes lines
to the report pipe: while it ships, notices that the destination refuses all lines (see `send_refusal`); at the end of
the run one line, LEFT or a report (see `send_report`). It need not end then: SIGCHLD tells the front of the report of a
shipper that goes on with other runs (see `let_front_go`).
"""

from __future__ import annotations

import os

from sqstee.fds import close_quietly, open_fds, put_null
from sqstee.spool.quarantine import quarantined_records
from sqstee.text import one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable
else:  # the Python half of signal costs 8 ms (enum)
    import _signal

WAKE, CLOSE = b"w", b"c"
TRY_AGAIN = b"r"  # from an agent: try once more what was refused for good
LEFT = b"left\n"  # an agent ships the rest
_REFUSED = "refused"
_LAST_SIGNAL = 64  # signal(7): SIGRTMAX
_WORDS_BYTES = 4096
_REPORT_BYTES = 65536


class Report:
    """How delivery went.

    `acknowledged` is the first seq that the destination has not accepted, `quarantined` the number of records in
    quarantine, `requests` the number of requests or None if unknown, `reason` why lines are not delivered.
    """

    __slots__ = ("acknowledged", "quarantined", "reason", "requests")

    def __init__(self, acknowledged: int, quarantined: int, requests: int | None, reason: str) -> None:
        self.acknowledged = acknowledged
        self.quarantined = quarantined
        self.requests = requests
        self.reason = reason


class ShipperHandle:
    """The front's end of the protocol; `pid` is 0 once the shipper has ended.

    `report` is the report pipe's reading end. `refusals` are the notices read from it, each with the destination that
    keeps the lines in the spool: empty if the fallback accepts them.
    """

    __slots__ = ("_received", "pid", "refusals", "report", "wake")

    def __init__(self, pid: int, wake: int, report: int) -> None:
        self.pid = pid
        self.wake = wake
        self.report = report
        self.refusals: list[tuple[str, str]] = []
        self._received = b""

    def notify(self, word: bytes) -> None:
        """Send one of the words. If the pipe is full or the shipper has ended it is dropped, and not needed."""
        try:
            os.write(self.wake, word)
        except OSError:
            pass

    def close(self) -> None:
        """Send CLOSE, after which the front sends nothing."""
        self.notify(CLOSE)
        os.close(self.wake)

    @property
    def has_reported(self) -> bool:
        """Whether it has sent its report, or has ended."""
        self.read_refusals()
        return not self.pid or self._received.endswith(b"\n")

    @property
    def ended_early(self) -> bool:
        """Whether it has ended without a report."""
        return self.has_reported and not self._received.endswith(b"\n")

    def leave(self) -> None:
        """In place of a report that was not sent: an agent ships the rest."""
        self._received = LEFT

    def read_refusals(self) -> bool:
        """Read the shipper's reports, without waiting; returns whether it may write more."""
        try:
            data = os.read(self.report, _REPORT_BYTES)
        except OSError:
            return True
        *lines, self._received = (self._received + data).split(b"\n")
        for line in lines:
            kind, _, text = line.decode("utf-8", "replace").partition("\t")
            if kind == _REFUSED:
                keeps, _, notice = text.partition("\t")
                self.refusals.append((notice, keeps))
            else:
                self._received = line + b"\n"
        return bool(data)

    def read_report(self, folder: str, next_seq: int, no_report: str) -> Report:
        """The shipper's report on the run in `folder`, of which `next_seq` is the first seq that was not spooled.

        If the shipper did not report, the checkpoint says how far it got, and `no_report` is the reason for the rest. A
        folder that is gone was delivered whole. Another process may have put records of this run into quarantine.
        """
        self.read_refusals()
        line = self._received
        fields = line.decode("utf-8", "replace").rstrip("\n").split("\t", 3)
        if len(fields) == 4:
            acknowledged, quarantined, requests, reason = fields
            records = int(quarantined) or quarantined_records(folder)
            return Report(int(acknowledged), records, int(requests) if requests else None, reason)
        if line == LEFT or not os.path.exists(folder):
            return Report(next_seq, quarantined_records(folder), None, "")
        from sqstee.spool.checkpoint import Checkpoint

        return Report(Checkpoint(folder).next, quarantined_records(folder), None, no_report)


def fork(kept: set[int], body: Callable[[int, int], None]) -> ShipperHandle:
    """Fork the shipper, which runs `body` with its ends of the two pipes and holds only these and `kept`."""
    wake_reading, wake = os.pipe()
    report, report_writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(wake_reading)
        os.close(report_writing)
        os.set_blocking(wake, False)
        os.set_blocking(report, False)
        return ShipperHandle(pid, wake, report)
    try:
        _keep_only({wake_reading, report_writing, *kept})
        body(wake_reading, report_writing)
    finally:
        os._exit(0)


def read_words(wake: int) -> bytes:
    """The words that the front has sent, empty once it has died; removes their signals from the pending ones."""
    words = os.read(wake, _WORDS_BYTES)
    for number in words:
        if number <= _LAST_SIGNAL:
            _signal.sigtimedwait({number}, 0)
    return words


def send_report(fd: int, report: Report) -> None:
    """Send a report, or nothing if the front has gone."""
    requests = "" if report.requests is None else report.requests
    line = f"{report.acknowledged}\t{report.quarantined}\t{requests}\t{report.reason}\n"
    send_line(fd, line.encode(errors="replace"))


def send_refusal(fd: int, notice: str, keeps: str) -> None:
    """Send a notice that all lines are refused; `keeps` as in `ShipperHandle.refusals`."""
    send_line(fd, f"{_REFUSED}\t{one_line(keeps)}\t{one_line(notice)}\n".encode(errors="replace"))


def send_line(fd: int, line: bytes) -> None:
    """Write a line to the report pipe, or nothing if the front has gone."""
    try:
        os.write(fd, line)
    except OSError:
        pass


def let_front_go(front: int) -> None:
    """After the report: leave the session of `front`, our parent, and wake it, so that it need not wait for our end."""
    os.setsid()
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, {_signal.SIGTERM})
    if os.getppid() == front:
        os.kill(front, _signal.SIGCHLD)


def closed_wake() -> int:
    """A wake pipe's reading end for a shipper whose run has ended already."""
    reading, writing = os.pipe()
    os.write(writing, CLOSE)
    os.close(writing)
    return reading


def _keep_only(kept: set[int]) -> None:
    """Close every descriptor but these, and put /dev/null in place of 0 to 2."""
    for fd in open_fds():
        if fd > 2 and fd not in kept:
            close_quietly(fd)
    for fd in (0, 1, 2):
        put_null(fd)
