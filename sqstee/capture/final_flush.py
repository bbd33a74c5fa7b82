"""The final flush: waits until the shipper has delivered the rest of a run, and counts its lines by their outcome."""

from __future__ import annotations

import os
import time

from sqstee.capture import signals
from sqstee.capture.stdio import output_of
from sqstee.spool import agent_file
from sqstee.spool.agent_file import AWAITED
from sqstee.spool.quarantine import quarantine_notice, quarantined_records
from sqstee.spool.run_folder import DeliveryTrouble
from sqstee.spool.writer import RATE_LIMIT
from sqstee.text import count

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable, Mapping

    from sqstee.capture.output import Output
    from sqstee.capture.wrapped_run import WrappedRun
    from sqstee.ship.shipper_handle import ShipperHandle
    from sqstee.spool.spooled_run import SpooledRun
else:  # the Python half of signal costs 8 ms (enum)
    import _signal

_GRACE_SECONDS = 1.0  # beyond the flush timeout, for the shipper to report; and for its death by SIGKILL
_LONGEST_WAIT_SECONDS = 3600.0
_POLL_SECONDS = 0.02
_WAKE_AGAIN_SECONDS = 0.5  # the word to an agent that has just died is lost
_PROGRESS_AFTER_SECONDS = 1.0
_PROGRESS_SECONDS = 0.25
_COLUMNS = 80  # of a terminal that does not know its width
_NAMES = {1: "SIGHUP", 2: "SIGINT", 3: "SIGQUIT", 15: "SIGTERM"}


class DeliveryStats:
    """A run's lines by their outcome: those `captured` and not `waiting`, `dropped` or `quarantined` are delivered.

    `bytes` counts the captured ones; `reasons` maps each reason for dropping lines to their number, `uncovered` of them
    without a gap event. `waiting_events` is the number of the run's own events that wait; `requests` is None where
    nobody could count them; `reason` says why lines or events wait.
    """

    def __init__(self, captured: int, size: int, reasons: Mapping[str, int]) -> None:
        self.captured = captured
        self.bytes = size
        self.reasons = reasons
        self.dropped = sum(reasons.values())
        self.uncovered = self.quarantined = self.waiting = self.waiting_events = 0
        self.requests: int | None = None
        self.reason = ""

    @property
    def delivered(self) -> int:
        """How many lines the destination accepted."""
        return max(0, self.captured - self.waiting - self.dropped - self.quarantined)

    @property
    def complete(self) -> bool:
        """Whether nothing stayed behind, the run's own events included."""
        return not (self.waiting or self.waiting_events or self.dropped or self.quarantined)

    def count_waiting(self, acknowledged: int, next_seq: int, dropped: int = 0, heartbeats: int = 0) -> None:
        """Count the waiting lines and events among the seqs below `next_seq`, the last of which is the exit event's.

        `dropped` is the number of dropped lines from `acknowledged` on, which are counted apart, `heartbeats` that of
        the events of heartbeats.
        """
        seqs = max(0, next_seq - acknowledged - dropped)
        self.waiting_events = min(seqs, 1 + (acknowledged == 0) + heartbeats)
        waiting = seqs - self.waiting_events  # seqs, which the pieces of one line have each
        self.waiting = min(waiting, max(0, self.captured - self.dropped - self.quarantined))

    def summary(self, seconds: float, destination: str) -> str:
        """Everything in one line."""
        requests = "" if self.requests is None else f" in {count(self.requests, 'request')}"
        quarantined = f", {self.quarantined:,} quarantined" if self.quarantined else ""
        return (
            f"{count(self.captured, 'line')} ({self.bytes:,} bytes) in {seconds:.1f} s: {self.delivered:,} delivered"
            f"{requests}, {self.waiting:,} waiting, {self.dropped:,} dropped{quarantined}; to {destination}"
        )


class ProgressLine:
    """One line on a terminal, redrawn in place and erased at the end; only where we are in its foreground."""

    def __init__(self, unfinished: bool, quiet: bool = False) -> None:
        self._unfinished = unfinished
        self._quiet = quiet
        self._output: Output | None = None
        self._drawn = False

    @property
    def wanted(self) -> bool:
        """Whether our stderr is a terminal that shows our job."""
        try:
            return not self._quiet and os.isatty(2) and os.tcgetpgrp(2) == os.getpgrp()
        except OSError:
            return False

    def draw(self, text: str) -> None:
        """Show `text`, below an unfinished line of the command."""
        if self._output is None:
            self._output = output_of(2)
        try:
            columns = os.get_terminal_size(2).columns or _COLUMNS
        except OSError:
            columns = _COLUMNS
        start = "\n\r" if self._unfinished and not self._drawn else "\r"
        self._drawn = True
        self._write(f"{start}{text[: columns - 1]}\x1b[K")

    def erase(self) -> bool:
        """Erase the line; returns whether we have moved the cursor to the start of a line."""
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

    `handle_signal` gets the number of each signal that arrives meanwhile, except for the termination signals, which cut
    the wait short. `unfinished` says whether the command's last line on stderr lacks its newline, `cut_short` why not
    to wait at all.
    """

    def __init__(
        self,
        run: WrappedRun,
        spooled: SpooledRun,
        handle_signal: Callable[[int], None],
        unfinished: bool,
        cut_short: str = "",
    ) -> None:
        self._run = run
        self._writer = spooled.writer
        self._seconds = run.settings.flush_timeout
        self._handle_signal = handle_signal
        self._started = time.monotonic()
        self._late = f"not done within {self._seconds:g} s"
        self._cut_short = cut_short
        self._progress = ProgressLine(unfinished, run.notices.quiet)
        self.stats = DeliveryStats(spooled.writer.lines, spooled.writer.bytes, spooled.writer.reasons)
        self.cursor_moved = False  # our progress line has moved the cursor below the command's unfinished line

    def end_run(self, fields: dict[str, object]) -> bool:
        """Write the event that closes the run, which the disk has refused, as soon as the shipper has freed segments.

        Returns whether it is written; if there is still no room when all that is spooled is delivered, or none for the
        checkpoint that has to be saved before a segment is freed, it is not.
        """
        writer = self._writer
        ended = delivered = False

        def over() -> bool:
            nonlocal ended, delivered
            before, delivered = delivered, self._acknowledged(writer.spooled) >= writer.spooled
            ended = writer.end(fields)
            return ended or before or not self._is_shipped() or not self._can_free()

        self._wait(0.0, over, _POLL_SECONDS)
        return ended

    def finish(self) -> None:
        """Have the shipper deliver the rest within the flush timeout, and kill it if it takes longer.

        Undelivered lines stay in the spool, which is consistent at every moment.
        """
        stats, writer, shipper = self.stats, self._writer, self._run.shipper
        if shipper is None:
            stats.reason = "the background process could not be started"
            self._count_waiting(0)
            return
        shipper.close()
        self._wait(_GRACE_SECONDS, lambda: shipper.has_reported)
        no_report = "the background process ended early"
        if not shipper.has_reported:
            no_report = self._late
            self._kill(shipper)
        elif shipper.ended_early:
            no_report = self._await_agent(shipper) or no_report
        report = shipper.read_report(writer.folder, writer.next_seq, no_report)
        stats.quarantined, stats.requests = report.quarantined, report.requests
        self._count_waiting(report.acknowledged)
        if stats.waiting or stats.waiting_events:
            stats.reason = self._cut_short or report.reason or self._late

    def _await_agent(self, shipper: ShipperHandle) -> str:
        """The stand-by was killed: wait in its place for the process that serves the run, if there is one.

        Returns why that one has not delivered the run; '' as well if the rest is left to it.
        """
        run, folder = self._run, self._writer.folder
        root, name = os.path.split(folder)
        trouble = DeliveryTrouble()
        path = run.served_by(root)
        if path and not (self._seconds and (run.awaits_agent or agent_file.is_shared(path))):
            shipper.leave()
            return ""
        wake_at = 0.0

        def over() -> bool:
            nonlocal trouble, path, wake_at
            path = run.served_by(root)
            if path and (now := time.monotonic()) >= wake_at:
                wake_at = now + _WAKE_AGAIN_SECONDS
                agent_file.wake(path, AWAITED, name)
            trouble = DeliveryTrouble.read(folder)
            return not path or trouble.is_final or not os.path.exists(folder)

        self._wait(0.0, over, _POLL_SECONDS)
        return trouble.reason or (self._late if path else "")

    def _is_shipped(self) -> bool:
        """Whether the shipper lives, or the process for which it stood by."""
        shipper = self._run.shipper
        return bool(shipper and (shipper.pid or self._run.served_by(os.path.dirname(self._writer.folder))))

    def watch(self) -> None:
        """Wait until everything captured up to now is delivered; an heir goes on with the run."""
        writer = self._writer
        everything = writer.spooled
        self._wait(0.0, lambda: not self._is_shipped() or self._acknowledged(everything) >= everything, _POLL_SECONDS)
        self._count_waiting(self._acknowledged(writer.next_seq))
        self.stats.quarantined = quarantined_records(writer.folder)
        if self.stats.waiting or self.stats.waiting_events:
            self.stats.reason = self._cut_short or self._late

    def _wait(self, grace: float, done: Callable[[], bool], look: float = _LONGEST_WAIT_SECONDS) -> None:
        """Wait until `done`, checked after each signal and every `look` s, a termination signal or the deadline."""
        deadline = self._started + self._seconds + grace
        while not done() and not self._cut_short and (now := time.monotonic()) < deadline:
            wait = min(look, self._draw_progress(now), deadline - now)
            info = _signal.sigtimedwait(signals.WAITED, wait)
            if info is None:
                continue
            if self._run.is_cut_short_by(info.si_signo):
                self._cut_short = cut_short_by(info.si_signo)
            else:
                self._handle_signal(info.si_signo)
        self.cursor_moved = self._progress.erase()

    def _draw_progress(self, now: float) -> float:
        """Draw the progress line if it is due; returns the seconds until it is due again."""
        if not self._progress.wanted:
            return _LONGEST_WAIT_SECONDS
        early = self._started + _PROGRESS_AFTER_SECONDS - now
        if early > 0:
            return early
        rest = max(0.0, self._started + self._seconds - now)
        self._count_waiting(self._acknowledged(self._writer.next_seq))
        lines = count(self.stats.waiting, "line")
        self._progress.draw(f"sqstee: delivering {lines}, {rest:.0f} s left; ^C leaves them in the spool")
        return _PROGRESS_SECONDS

    def _count_waiting(self, acknowledged: int) -> None:
        writer = self._writer
        self.stats.uncovered = writer.next_seq - writer.spooled
        dropped, heartbeats = writer.dropped_since(acknowledged), writer.alive_since(acknowledged)
        self.stats.count_waiting(acknowledged, writer.next_seq, dropped, heartbeats)

    def _acknowledged(self, everything: int) -> int:
        """The first seq that is not acknowledged, by the checkpoint; `everything` where the folder has gone."""
        from sqstee.spool.checkpoint import Checkpoint

        folder = self._writer.folder
        return Checkpoint(folder).next if os.path.exists(folder) else everything

    def _can_free(self) -> bool:
        from sqstee.spool.checkpoint import Checkpoint

        return Checkpoint(self._writer.folder).has_room()

    def _kill(self, shipper: ShipperHandle) -> None:
        """Kill the shipper; wait for its death for a second only, or up to a termination signal: the disk may hang."""
        os.kill(shipper.pid, _signal.SIGKILL)
        deadline = time.monotonic() + _GRACE_SECONDS
        while shipper.pid and (rest := deadline - time.monotonic()) > 0:
            info = _signal.sigtimedwait(signals.WAITED, rest)
            if info is None or self._run.is_cut_short_by(info.si_signo):
                return
            self._handle_signal(info.si_signo)


def cut_short_by(number: int) -> str:
    """The reason of a wait that a termination signal ended."""
    return f"cut short by {_NAMES[number]}"


def leftovers(stats: DeliveryStats, root: str, flush: str, advice: str = "") -> list[str]:
    """Notices about undelivered lines: how many, where they are, why, and the next step; `advice` on waiting ones.

    `flush` is the command that ships them.
    """
    found = []
    for reason, number in stats.reasons.items():
        found.append(f"{count(number, 'line')} dropped: {_why_dropped(reason, root, flush, not stats.uncovered)}")
    if stats.quarantined:
        found.append(quarantine_notice(count(stats.quarantined, "line"), root, flush))
    if stats.waiting or stats.waiting_events:
        waiting = count(stats.waiting, "line") if stats.waiting else "the run's own events"
        why = f" ({stats.reason})" if stats.reason else ""
        advice = f"{advice}, " if advice else ""
        them = "it" if stats.waiting == 1 else "them"
        found.append(f"{waiting} not delivered yet{why}: kept in {root}, {advice}`{flush}` ships {them}")
    return found


def _why_dropped(reason: str, root: str, flush: str, covered: bool) -> str:
    gap = "a gap event says which lines; " if covered else "readers are not told, since no gap event could be written; "
    if reason == RATE_LIMIT:
        return f"--rate-limit allows no more; {gap}raise it to ship more"
    if reason.startswith("masking"):
        return f"{reason}; {gap}check the patterns of --redact"
    if reason.startswith("full"):
        return f"the spool is {reason}: `{flush}` ships the waiting lines, --spool-max raises the bound"
    return f"the spool could not be written ({reason}); {gap}make room in {root}"
