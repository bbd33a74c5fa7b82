"""The end of a run: its exit event, an heir for what is still open, delivery, our own lines, and the status."""

from __future__ import annotations

import os
import time

from sqstee.capture import signals
from sqstee.capture.final_flush import DeliveryStats, FinalFlush, cut_short_by, leftovers
from sqstee.errors import EXIT_FAILURE, EXIT_UNDELIVERED
from sqstee.fds import put_null
from sqstee.ship import shipper_handle
from sqstee.spool import run_events

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable, Collection
    from resource import struct_rusage
    from typing import NoReturn

    from sqstee.capture.loop import CaptureLoop, SpoolFeed
    from sqstee.capture.notices import Notices
    from sqstee.capture.stdio import Stdio
    from sqstee.options import Settings
    from sqstee.ship.shipper_handle import ShipperHandle
    from sqstee.spool.fsync import Syncer
    from sqstee.spool.writer import Writer
else:  # the Python half of signal costs 8 ms (enum)
    import _signal

_SYNC_SECONDS = 30.0  # the longest wait for a disk, unless a signal ends it before
_SYNC_POLL_SECONDS = 0.005
_STREAM_NAMES = ("stdout", "stderr", "output")


class Kept:
    """The run's copy: where it is kept, by whom it is written and shipped. `writer` is None where there is none."""

    def __init__(self) -> None:
        self.root = self.local = self.destination = ""
        self.writer: Writer | None = None
        self.shipment: ShipperHandle | None = None
        self.syncer: Syncer | None = None
        self.writer_lock = self.ship_lock = -1


class Teardown:
    """What is done once the command has ended.

    `run_capture` goes on with the capture loop, calling now and then what it is given; `take` handles signals while we
    wait, `ending` are those that cut the waiting short.
    """

    def __init__(
        self,
        settings: Settings,
        ends: Stdio,
        capture: CaptureLoop,
        spooling: SpoolFeed,
        kept: Kept,
        messages: Notices,
        run_capture: Callable[[Callable[[], None] | None], None],
        take: Callable[[int], None],
        ending: Collection[int],
    ) -> None:
        self._settings = settings
        self._ends = ends
        self._capture = capture
        self._streams = list(capture.all)
        self._spooling = spooling
        self._kept = kept
        self._messages = messages
        self._run_capture = run_capture
        self._take = take
        self._ending = ending
        self._last = os.getpid() == 1  # everybody ends with PID 1
        self._ended = False  # the exit event is written
        self._figures: DeliveryStats | None = None
        self._seconds = 0.0
        self._cut_short = ""  # by a signal, before delivery began
        self._above_unfinished = False  # our progress has put the cursor behind the command's unfinished line
        self._stderr_streams = [stream for stream in self._streams if stream.fd in ends.on_stderr]

    def run(self, status: int, usage: struct_rusage, seconds: float) -> None:
        """All but the exit itself; no step keeps the next ones from being made."""
        self._seconds = seconds
        guarded, advice = self._messages.guarded, "`sqstee flush` ships what is kept"
        guarded("the exit event is missing", advice, lambda: self._end_run(status, usage))
        guarded("the last lines may not survive a power cut", advice, self._sync)
        guarded("output of processes left behind is not captured", "wait for them in the command", self._leave_an_heir)
        guarded("delivery was broken off", advice, self._deliver)
        guarded("this run's end is not told", advice, self._tell)

    def exit(self, status: int | None) -> NoReturn:
        """End as the command ended: by the same signal, or with its status; delivery counts only with --strict."""
        if status is not None and os.WIFSIGNALED(status):
            self._ends.restore_modes()
            signals.die_by(os.WTERMSIG(status))
        code = EXIT_FAILURE if status is None else os.WEXITSTATUS(status)
        if code == 0 and any(stream.error for stream in self._streams):
            code = EXIT_FAILURE
        if code == 0 and self._settings.strict and not self._complete():
            code = EXIT_UNDELIVERED
        os._exit(code)

    def _complete(self) -> bool:
        return self._ended and self._figures is not None and self._figures.complete and not self._spooling.failure

    def _end_run(self, status: int, usage: struct_rusage) -> None:
        """Write the exit event, which closes the run's sequence unless a stream is still open."""
        if self._spooling.failure:
            lines = self._kept.writer.lines if self._kept.writer else 0
            advice = "the command is not affected; please report this"
            self._messages.add(f"the output was captured up to line {lines:,} only: {self._spooling.failure}; {advice}")
        writer = self._spooling.writer
        if writer is None:
            return
        if self._last:
            for stream in self._capture.open:
                writer.cut(stream.number)
        event = run_events.end_of_command(status, usage, self._seconds, writer, self._open_names())
        self._ended = writer.event(event)
        if not self._ended:
            why = f"the spool could not be written ({writer.trouble})"
            self._messages.add(f"the exit event is missing: {why}; make room in {self._kept.root}")
        if self._last or not self._capture.open:
            writer.close()
        elif self._ended:
            writer.note_exit()
            if self._kept.shipment:
                self._kept.shipment.tell(shipper_handle.WAKE)  # else it would send the event with the heir's next line

    def _sync(self) -> None:
        """With --fsync: all that is spooled by now is on the disk before we go on."""
        syncer = self._kept.syncer
        if syncer is None:
            return
        syncer.finish()
        deadline = time.monotonic() + _SYNC_SECONDS
        while syncer.running and (rest := deadline - time.monotonic()) > 0:
            info = _signal.sigtimedwait(signals.WAITED, min(rest, _SYNC_POLL_SECONDS))
            if info and info.si_signo in self._ending:
                self._cut_short = cut_short_by(info.si_signo)
                break
            if info:
                self._take(info.si_signo)
        if syncer.running or syncer.failure:
            why = syncer.failure or "the disk takes too long"
            self._messages.add(f"--fsync: {why}; the last lines may not survive a power cut: see to the disk")

    def _open_names(self) -> list[str]:
        return [_STREAM_NAMES[stream.number] for stream in self._capture.open]

    def _leave_an_heir(self) -> None:
        """Where a grandchild still holds a stream a process of ours goes on with it; the status comes at once."""
        if self._last or not self._capture.open:
            return
        try:
            if os.fork():
                return
        except OSError:  # no process can be had: the status comes late
            self._go_on(tick=self._take_signals)
            self._end_streams()
            return
        try:
            self._inherit()
        finally:
            os._exit(0)

    def _inherit(self) -> None:
        """What the heir does: the same loop, spool, lock and seq, until the last writer has gone."""
        os.setsid()
        _signal.signal(_signal.SIGTERM, _signal.SIG_DFL)
        _signal.pthread_sigmask(_signal.SIG_UNBLOCK, {_signal.SIGTERM})
        for fd in {1, 2} - {stream.fd for stream in self._capture.open}:
            put_null(fd)
        self._ends.leave_modes()
        syncer = self._kept.syncer
        if syncer:
            try:
                syncer.start()
            except RuntimeError:  # no thread can be had: once, at the end
                pass
        self._go_on(give_up_outputs=True)
        self._end_streams()
        if syncer:
            syncer.finish()
            signals.wait_until(lambda: not syncer.running, _SYNC_SECONDS)
        if self._kept.writer_lock >= 0:
            os.close(self._kept.writer_lock)
        if self._kept.shipment:
            self._kept.shipment.tell(shipper_handle.CLOSE)

    def _go_on(self, give_up_outputs: bool = False, tick: Callable[[], None] | None = None) -> None:
        self._capture.give_up_outputs = give_up_outputs
        self._capture.go_on()
        self._run_capture(tick)

    def _take_signals(self) -> None:
        """Where we wait in the heir's place: what would end the command's process, were it still there, ends us."""
        while (info := _signal.sigtimedwait(signals.WAITED, 0)) is not None:
            if info.si_signo in self._ending:
                signals.die_by(info.si_signo)
            self._take(info.si_signo)

    def _end_streams(self) -> None:
        """Close a run whose exit event named open streams."""
        writer = self._spooling.writer
        if writer:
            writer.event(run_events.end_of_streams(writer))
            writer.close()

    def _deliver(self) -> None:
        """Have the rest delivered, and say what stays behind; where an heir goes on we wait only if asked to."""
        settings, writer = self._settings, self._kept.writer
        if writer is None or (self._heir_goes_on() and not (settings.strict or settings.summary)):
            return
        delivery = FinalFlush(
            writer,
            self._kept.shipment,
            settings.flush_timeout,
            self._ending,
            self._take,
            self._unfinished(),
            self._cut_short,
        )
        os.close(self._kept.writer_lock)  # an heir has its own: when it ends the run can be removed
        if self._heir_goes_on():
            delivery.watch()
        else:
            delivery.finish()
        self._above_unfinished = delivery.drew
        self._figures = figures = delivery.figures
        for text in leftovers(figures, self._kept.root):
            self._messages.add(text)
        if figures.complete and not settings.to:
            self._tell_of_local_queue()

    def _heir_goes_on(self) -> bool:
        return bool(self._capture.open) and not self._last

    def _tell_of_local_queue(self) -> None:
        """Once per user, not once per run."""
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
            os.close(os.open(f"{self._kept.root}/.local-told", flags, 0o600))
        except OSError:
            return
        self._messages.add(
            "no destination is configured (--to, SQSTEE_TO): the lines are in the local queue, `sqstee tail` shows them"
        )

    def _tell(self) -> None:
        """Our own lines, after the command's last, never inside an unfinished one of its."""
        for stream in self._streams:
            if stream.error is not None:
                name = "stderr" if stream.fd == 2 else "stdout"
                advice = "it is incomplete, the shipped copy is not"
                self._messages.add(f"{name} could not be written: {stream.error.strerror}; {advice}")
        if self._settings.summary:
            self._messages.add(self._summary())
        self._messages.say(self._unfinished() and not self._above_unfinished)

    def _summary(self) -> str:
        if self._figures is None:
            return "summary: nothing was captured; the line above says why"
        text = self._figures.summary(self._seconds, self._kept.destination)
        still_open = f"; still open: {', '.join(self._open_names())}" if self._heir_goes_on() else ""
        return f"summary: {text}{still_open}"

    def _unfinished(self) -> bool:
        return any(stream.last_byte != b"\n" for stream in self._stderr_streams)
