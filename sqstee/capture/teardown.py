"""The end of a run: its exit event, an heir for open streams, delivery, our notices, and the status."""

from __future__ import annotations

import os
import time

from sqstee.capture import signals
from sqstee.capture.final_flush import DeliveryStats, FinalFlush, cut_short_by, leftovers
from sqstee.errors import EXIT_FAILURE, EXIT_UNDELIVERED
from sqstee.fds import put_null
from sqstee.ship import shipper_handle
from sqstee.ship.policy import check_advice
from sqstee.spool import run_events
from sqstee.spool.location import flush_command, is_first_time
from sqstee.trace import trace

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable
    from typing import NoReturn

    from sqstee.capture.wrapped_run import WrappedRun
    from sqstee.spool.spooled_run import SpooledRun
else:  # the Python half of signal costs 8 ms (enum)
    import _signal

_SYNC_SECONDS = 30.0  # the longest wait for a disk, unless a signal ends it earlier
_SYNC_POLL_SECONDS = 0.005
_STREAM_NAMES = ("stdout", "stderr", "output", "stdin")


class Teardown:
    """The steps after the command's end.

    `run_capture` resumes the capture loop, which calls the given function every 20 ms; `handle_signal` gets the number
    of each signal that arrives while we wait, except for the termination signals, which cut the wait short.
    """

    def __init__(
        self,
        run: WrappedRun,
        run_capture: Callable[[Callable[[], None] | None], None],
        handle_signal: Callable[[int], None],
    ) -> None:
        self._run = run
        self._settings = run.settings
        self._notices = run.notices
        self._loop = run.loop
        self._live_notices = run.loop.live_notices
        self._run_capture = run_capture
        self._handle_signal = handle_signal
        self._is_init = os.getpid() == 1  # every process ends with PID 1: there is no heir
        self._exit_event_written = False
        self._refused_event: dict[str, object] = {}  # the exit event, if it is to be tried again
        self._stats: DeliveryStats | None = None
        self._cut_short = ""  # why the delivery is not waited for: a signal came before it began
        self._cursor_moved = False  # our progress line has moved the cursor below the command's unfinished line
        self._stderr_streams = [stream for stream in run.streams if stream.fd in run.stdio.sharing_stderr]

    def run(self) -> None:
        """Take every step but the exit; after a step that failed the next one is taken all the same."""
        guarded, advice = self._notices.guarded, "`sqstee flush` ships the lines in the spool"
        guarded("the exit event is missing", advice, self._end_run)
        guarded("the last lines may not survive a power cut", advice, self._sync)
        guarded("output of processes left behind is not captured", "wait for them in the command", self._leave_an_heir)
        guarded("the delivery was interrupted", advice, self._deliver)
        guarded("the notices of this run are incomplete", advice, self._print_notices)

    def exit(self) -> NoReturn:
        """End as the command ended: by the same signal, or with its status; delivery counts only with --strict.

        Without a command no status is lost if a signal has cut the delivery short: a shell's loop must see that.
        """
        status = self._run.status
        if status is not None and os.WIFSIGNALED(status):
            self._run.stdio.restore_modes()
            signals.die_by(os.WTERMSIG(status))
        if self._run.cut_short_by and not self._run.command:
            signals.die_by(self._run.cut_short_by)
        code = EXIT_FAILURE if status is None else os.WEXITSTATUS(status)
        if code == 0 and any(stream.error for stream in self._run.streams):
            code = EXIT_FAILURE
        if code == 0 and self._settings.strict and not self._delivered():
            code = EXIT_UNDELIVERED
        os._exit(code)

    def _delivered(self) -> bool:
        complete = self._stats is not None and self._stats.complete
        return self._exit_event_written and complete and not self._loop.feed.failure

    def _end_run(self) -> None:
        """Write the exit event, which closes the run's sequence unless a stream is still open."""
        run, feed = self._run, self._loop.feed
        if feed.failure:
            lines = run.spooled.writer.lines if run.spooled else 0
            advice = "the command is not affected; please report this"
            self._notices.add(f"the output was captured up to line {lines:,} only: {feed.failure}; {advice}")
        writer = feed.writer
        if writer is None or run.spooled is None or run.status is None or run.usage is None:
            return
        if self._is_init:
            for stream in self._loop.open:
                writer.cut(stream.number, closing=True)
        usage = run.usage if run.command else None
        event = run_events.command_exit(run.status, usage, run.seconds, writer, self._open_names(), run.spooled.name)
        if not self._heir_goes_on():
            self._exit_event_written = writer.end(event)
            self._refused_event = {} if self._exit_event_written else event
        elif writer.event(event, closing=True):
            self._exit_event_written = True
            writer.mark_exited()
            run.notify_shipper(shipper_handle.WAKE)  # else the event would wait for the heir's next line
        else:
            self._report_missing_exit(run.spooled)

    def _report_missing_exit(self, spooled: SpooledRun) -> None:
        why = f"the spool could not be written ({spooled.writer.last_error})"
        self._notices.add(f"the exit event is missing: {why}; make room in {spooled.root}, then run: sqstee flush")

    def _sync(self) -> None:
        """With --fsync: wait until everything that is spooled by now is on the disk."""
        syncer = self._run.spooled.syncer if self._run.spooled else None
        if syncer is None:
            return
        syncer.finish()
        deadline = time.monotonic() + _SYNC_SECONDS
        while syncer.running and (rest := deadline - time.monotonic()) > 0:
            info = _signal.sigtimedwait(signals.WAITED, min(rest, _SYNC_POLL_SECONDS))
            if info and self._run.is_cut_short_by(info.si_signo):
                self._cut_short = cut_short_by(info.si_signo)
                break
            if info:
                self._handle_signal(info.si_signo)
        if syncer.running or syncer.failure:
            why = syncer.failure or "the disk takes too long"
            self._notices.add(f"--fsync: {why}; the last lines may not survive a power cut: check the disk")

    def _open_names(self) -> list[str]:
        return [_STREAM_NAMES[stream.number] for stream in self._loop.open]

    def _leave_an_heir(self) -> None:
        """If a grandchild still holds a stream, fork a process that goes on capturing, so that we can end at once."""
        if self._is_init or not self._loop.open:
            return
        try:
            pid = os.fork()
        except OSError:  # no process available: we end when the last writer has gone
            self._resume_capture(tick=self._handle_signals_in_heirs_place)
            self._end_streams()
            return
        if pid:
            trace("front", f"process {pid}, the heir, goes on with {self._open_names()}")
            return
        try:
            self._be_the_heir()
        finally:
            os._exit(0)

    def _be_the_heir(self) -> None:
        """The body of the heir: the same loop, spool, lock and seqs, until the last writer has closed the streams."""
        run = self._run
        os.setsid()
        _signal.signal(_signal.SIGTERM, _signal.SIG_DFL)
        _signal.pthread_sigmask(_signal.SIG_UNBLOCK, {_signal.SIGTERM})
        for fd in {1, 2} - {stream.fd for stream in self._loop.open}:
            put_null(fd)
        run.stdio.detach()
        syncer = run.spooled.syncer if run.spooled else None
        if syncer:
            try:
                syncer.start()
            except RuntimeError:  # no thread available: sync once, at the end
                pass
        self._resume_capture(release_outputs=True)
        self._end_streams()
        if syncer:
            syncer.finish()
            signals.wait_until(lambda: not syncer.running, _SYNC_SECONDS)
        if run.spooled:
            run.spooled.close_writer_lock()
        run.notify_shipper(shipper_handle.CLOSE)

    def _resume_capture(self, release_outputs: bool = False, tick: Callable[[], None] | None = None) -> None:
        self._loop.release_outputs = release_outputs
        self._loop.resume()
        self._run_capture(tick)

    def _handle_signals_in_heirs_place(self) -> None:
        """Handle signals while we capture in the heir's place: a termination signal ends us."""
        while (info := _signal.sigtimedwait(signals.WAITED, 0)) is not None:
            if self._run.is_cut_short_by(info.si_signo):
                signals.die_by(info.si_signo)
            self._handle_signal(info.si_signo)

    def _end_streams(self) -> None:
        """Close a run whose exit event named open streams."""
        writer = self._loop.feed.writer
        if writer and not writer.end(run_events.streams_end(writer)):
            writer.close()

    def _deliver(self) -> None:
        """Have the rest delivered and report lines that stay behind; with an heir only for --strict or --summary."""
        run, settings = self._run, self._settings
        if run.spooled is None or (self._heir_goes_on() and not (settings.strict or settings.summary)):
            return
        flush = FinalFlush(run, run.spooled, self._handle_signal, self._unfinished(), self._cut_short)
        if self._refused_event:
            self._exit_event_written = flush.end_run(self._refused_event)
            if not self._exit_event_written:
                run.spooled.writer.close()
                self._report_missing_exit(run.spooled)
        run.spooled.close_writer_lock()  # an heir holds its own: when it ends the run can be removed
        if self._heir_goes_on():
            flush.watch()
        else:
            flush.finish()
        self._cursor_moved = flush.cursor_moved
        self._stats = stats = flush.stats
        trace(
            "front", f"delivery: {stats.waiting} lines wait, {stats.dropped} dropped; {stats.reason or 'nothing waits'}"
        )
        unprinted = self._live_notices.unprinted if self._live_notices else []
        for text in (text for text, keeps in unprinted if not keeps):
            self._notices.add(text)
        refusers = [keeps for _, keeps in unprinted if keeps]
        advice = check_advice(refusers[-1]) if refusers else ""
        root = run.spooled.root
        for text in leftovers(stats, root, flush_command(root, settings), advice):
            self._notices.add(text)
        if not settings.quiet:
            self._give_hints(root, stats.complete)

    def _heir_goes_on(self) -> bool:
        return bool(self._loop.open) and not self._is_init

    def _give_hints(self, root: str, complete: bool) -> None:
        """Once per user, mention where lines go by default and that a pipe carries neither stderr nor exit status."""
        if complete and not self._settings.to and is_first_time(root, "local"):
            self._notices.add(
                "no destination is configured (--to, SQSTEE_TO): the lines are in the local queue, "
                "`sqstee tail` shows them"
            )
        if not self._run.command and os.isatty(2) and is_first_time(root, "stdin"):
            self._notices.add(
                "only stdin was captured; for stderr and the exit status wrap the command: sqstee -- COMMAND [ARG…]"
            )

    def _print_notices(self) -> None:
        """Print our own lines after the command's last one, never inside an unfinished one."""
        for stream in self._run.streams:
            if stream.error is not None:
                name = "stderr" if stream.fd == 2 else "stdout"
                advice = "it is incomplete, the shipped copy is not"
                self._notices.add(f"{name} could not be written: {stream.error.strerror}; {advice}")
        if self._settings.summary:
            self._notices.add(self._summary())
        self._notices.print(self._unfinished() and not self._cursor_moved)

    def _summary(self) -> str:
        if self._stats is None or self._run.policy is None:
            return "summary: nothing was captured; the line above says why"
        to = ", or else to ".join((self._run.policy.to, *self._settings.fallback))
        text = self._stats.summary(self._run.seconds, to)
        still_open = f"; still open: {', '.join(self._open_names())}" if self._heir_goes_on() else ""
        return f"summary: {text}{still_open}"

    def _unfinished(self) -> bool:
        return any(stream.last_byte != b"\n" for stream in self._stderr_streams)
