"""The final flush: what was captured is delivered within its time, or stays in the spool; and the figures of both."""

from __future__ import annotations

import os
import time

from sqstee.capture import signals
from sqstee.capture.stdio import output_of
from sqstee.spool.quarantine import quarantine_notice, quarantined_records
from sqstee.text import count

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable, Collection, Mapping

    from sqstee.capture.output import Output
    from sqstee.ship.shipper_handle import ShipperHandle
    from sqstee.spool.writer import Writer
else:  # the Python half of signal costs 8 ms (enum)
    import _signal

_GRACE_SECONDS = 1.0  # over the flush timeout, for the shipper to say how it went; and for its death by SIGKILL
_LONGEST_WAIT_SECONDS = 3600.0
_POLL_SECONDS = 0.02
_PROGRESS_AFTER_SECONDS = 1.0
_PROGRESS_SECONDS = 0.25
_COLUMNS = 80  # of a terminal that does not know
_NAMES = {1: "SIGHUP", 2: "SIGINT", 3: "SIGQUIT", 15: "SIGTERM"}


class DeliveryStats:
    """What became of a run's lines: of `captured` those not `waiting`, `dropped` or `quarantined` are delivered.

    `reasons` say why how many were dropped,
    `waiting_events` are the run's own that wait, `requests` is None where nobody could count them, `reason` says why
    something waits.
    """

    def __init__(self, captured: int, size: int, reasons: Mapping[str, int]) -> None:
        self.captured = captured
        self.bytes = size
        self.reasons = reasons
        self.dropped = sum(reasons.values())
        self.quarantined = self.waiting = self.waiting_events = 0
        self.requests: int | None = None
        self.reason = ""

    @property
    def delivered(self) -> int:
        """The lines that the destination took."""
        return max(0, self.captured - self.waiting - self.dropped - self.quarantined)

    @property
    def complete(self) -> bool:
        """Whether nothing stayed behind, the run's own events included."""
        return not (self.waiting or self.waiting_events or self.dropped or self.quarantined)

    def waits(self, acknowledged: int, next_seq: int) -> None:
        """Count what waits, of the seqs up to `next_seq` (the last is the exit event's), by what is acknowledged."""
        seqs = max(0, next_seq - acknowledged - self.dropped)  # what was dropped is said by itself
        self.waiting_events = min(seqs, 1 + (acknowledged == 0))
        self.waiting = seqs - self.waiting_events

    def summary(self, seconds: float, destination: str) -> str:
        """All in one line."""
        requests = "" if self.requests is None else f" in {count(self.requests, 'request')}"
        aside = f", {self.quarantined:,} put aside" if self.quarantined else ""
        return (
            f"{count(self.captured, 'line')} ({self.bytes:,} bytes) in {seconds:.1f} s: {self.delivered:,} delivered"
            f"{requests}, {self.waiting:,} waiting, {self.dropped:,} dropped{aside}; to {destination}"
        )


class ProgressLine:
    """One line on a terminal, redrawn in place and wiped at the end; nothing anywhere else, or in the background."""

    def __init__(self, unfinished: bool) -> None:
        self._unfinished = unfinished
        self._output: Output | None = None
        self._drawn = False

    @property
    def wanted(self) -> bool:
        """Whether there is somebody to look at it."""
        try:
            return os.isatty(2) and os.tcgetpgrp(2) == os.getpgrp()
        except OSError:
            return False

    def draw(self, text: str) -> None:
        """Show `text`; the command's unfinished line is left as it is, on a line of its own."""
        if self._output is None:
            self._output = output_of(2)
        try:
            columns = os.get_terminal_size(2).columns or _COLUMNS
        except OSError:
            columns = _COLUMNS
        start = "\n\r" if self._unfinished and not self._drawn else "\r"
        self._drawn = True
        self._write(f"{start}{text[: columns - 1]}\x1b[K")

    def wipe(self) -> bool:
        """Remove it; whether the cursor is at the start of a line because of us."""
        if self._drawn:
            self._write("\r\x1b[K")
        if self._output is not None:
            self._output.close()
            self._output = None
        return self._drawn

    def _write(self, text: str) -> None:
        assert self._output
        try:
            self._output.write(memoryview(text.encode()))
        except OSError:
            pass


class FinalFlush:
    """Waits for a run's shipper.

    `ending` are the signals that cut the waiting short; all others are handed to `take` by their number.
    """

    def __init__(
        self,
        writer: Writer,
        shipment: ShipperHandle | None,
        seconds: float,
        ending: Collection[int],
        take: Callable[[int], None],
        unfinished: bool,
        cut_short: str = "",
    ) -> None:
        self._writer = writer
        self._shipment = shipment
        self._seconds = seconds
        self._ending = ending
        self._take = take
        self._started = time.monotonic()
        self._late = f"not done within {seconds:g} s"
        self._cut_short = cut_short
        self._progress = ProgressLine(unfinished)
        self.figures = DeliveryStats(writer.lines, writer.bytes, writer.reasons)
        self.drew = False  # whether our progress has ended the command's unfinished line

    def finish(self) -> None:
        """The run is closed: give the shipper its time for the rest, and end it where it is not done by then.

        What it has not done stays in the spool, which is right at every moment.
        """
        figures, writer = self.figures, self._writer
        if self._shipment is None:
            figures.reason = "there is no background process"
            figures.waits(0, writer.next_seq)
            return
        shipment = self._shipment
        shipment.close()
        self._wait(_GRACE_SECONDS, lambda: not shipment.pid)
        unsaid = "the background process was ended"
        if shipment.pid:
            unsaid = self._late
            self._kill(shipment)
        answer = shipment.answer(writer.folder, writer.next_seq, unsaid)
        acknowledged, figures.quarantined, figures.requests, reason = answer
        figures.waits(acknowledged, writer.next_seq)
        if not figures.complete:
            figures.reason = self._cut_short or reason or self._late

    def watch(self) -> None:
        """The run goes on without us: see that what was captured up to now is delivered."""
        shipment, writer = self._shipment, self._writer
        if shipment is not None:
            everything = writer.spooled
            self._wait(0.0, lambda: not shipment.pid or self._acknowledged(everything) >= everything, _POLL_SECONDS)
        self.figures.waits(self._acknowledged(writer.next_seq), writer.next_seq)
        self.figures.quarantined = quarantined_records(writer.folder)
        if not self.figures.complete:
            self.figures.reason = self._cut_short or self._late

    def _wait(self, grace: float, done: Callable[[], bool], look: float = _LONGEST_WAIT_SECONDS) -> None:
        """Until it is `done` (looked at after each signal, and every `look` seconds), cut short, or too late."""
        deadline = self._started + self._seconds + grace
        while not done() and not self._cut_short and (now := time.monotonic()) < deadline:
            wait = min(look, self._show(now), deadline - now)
            info = _signal.sigtimedwait(signals.WAITED, wait)
            if info is None:
                continue
            if info.si_signo in self._ending:
                self._cut_short = cut_short_by(info.si_signo)
            else:
                self._take(info.si_signo)
        self.drew = self._progress.wipe()

    def _show(self, now: float) -> float:
        """Draw the progress where it is due; in how many seconds it is due again."""
        if not self._progress.wanted:
            return _LONGEST_WAIT_SECONDS
        early = self._started + _PROGRESS_AFTER_SECONDS - now
        if early > 0:
            return early
        rest = max(0.0, self._started + self._seconds - now)
        self.figures.waits(self._acknowledged(self._writer.next_seq), self._writer.next_seq)
        lines = count(self.figures.waiting, "line")
        self._progress.draw(f"sqstee: delivering {lines}, {rest:.0f} s left; ^C leaves them in the spool")
        return _PROGRESS_SECONDS

    def _acknowledged(self, everything: int) -> int:
        """As far as the state file tells; without the folder all is done."""
        from sqstee.spool.checkpoint import Checkpoint

        folder = self._writer.folder
        return Checkpoint(folder).next if os.path.exists(folder) else everything

    def _kill(self, shipment: ShipperHandle) -> None:
        """End the shipper; one that hangs in the disk, or another signal, is not waited for."""
        os.kill(shipment.pid, _signal.SIGKILL)
        deadline = time.monotonic() + _GRACE_SECONDS
        while shipment.pid and (rest := deadline - time.monotonic()) > 0:
            info = _signal.sigtimedwait(signals.WAITED, rest)
            if info is None or info.si_signo in self._ending:
                return
            self._take(info.si_signo)


def cut_short_by(number: int) -> str:
    """Why a wait ended before its time."""
    return f"cut short by {_NAMES[number]}"


def leftovers(figures: DeliveryStats, root: str) -> list[str]:
    """What to say about lines that are not where they should be: how many, where, why, and what to do."""
    found = []
    for reason, number in figures.reasons.items():
        found.append(f"{count(number, 'line')} dropped: {_why_dropped(reason, root)}")
    if figures.quarantined:
        found.append(quarantine_notice(count(figures.quarantined, "line"), root))
    if figures.waiting or figures.waiting_events:
        what = count(figures.waiting, "line") if figures.waiting else "the run's own events"
        why = f" ({figures.reason})" if figures.reason else ""
        found.append(f"{what} not delivered yet{why}: kept in {root}, `sqstee flush` ships them")
    return found


def _why_dropped(reason: str, root: str) -> str:
    if reason.startswith("masking"):
        return f"{reason}, see the patterns of --redact; a gap event says which"
    if reason.startswith("full"):
        return f"the spool is {reason}: `sqstee flush` ships what waits, --spool-max gives more room"
    return f"the spool could not be written ({reason}), a gap event says which; make room in {root}"
