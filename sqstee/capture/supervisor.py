"""While the command runs: wires capture, spool and shipper, relays signals, and answers with its own status."""

from __future__ import annotations

import _thread
import os
import resource  # noqa: F401  # wait3 would import it, when there may be no descriptor left for that
import time

from sqstee.capture import child, signals
from sqstee.capture.loop import CaptureLoop, SpoolFeed, readable_bytes
from sqstee.capture.notices import Notices
from sqstee.capture.stream import Stream, pass_through
from sqstee.capture.teardown import Kept, Teardown
from sqstee.destination import LOCAL_FILE_NAME, Destination, parse
from sqstee.errors import SqsteeError
from sqstee.ship import shipper_handle
from sqstee.spool import run_events, run_folder
from sqstee.spool.location import default_root, open_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable
    from resource import struct_rusage
    from typing import NoReturn

    from sqstee.capture.child import Child
    from sqstee.capture.stdio import Stdio
    from sqstee.options import Settings
    from sqstee.spool.redact import Masker
else:  # the Python half of signal costs 8 ms (enum)
    import _signal

_DRAIN_SECONDS = 0.1  # how long a command's last output before a stop, or an end, may take to get out
_CAPTURED_SECONDS = 5.0  # how long the capture, where no output holds it, may wait for the processor


class Supervisor:
    """The process that the caller sees, once the command runs: it attends to signals, and dies as the command died."""

    def __init__(
        self,
        settings: Settings,
        command: list[str],
        destination: Destination,
        masker: Masker | None,
        child: Child,
        ends: Stdio,
        streams: list[Stream],
        ending_signals: frozenset[int],
    ) -> None:
        self._settings = settings
        self._command = command
        self._destination = destination
        self._child = child
        self._ends = ends
        self._streams = streams
        self._ending_signals = ending_signals
        self._make_writer = run_folder.writer_for(masker)
        self._messages = Notices()
        if destination.is_exposed and (settings.token_file or os.environ.get("SQSTEE_TOKEN")):
            self._messages.add(f"the token goes to {destination.name} unencrypted: https:// would protect it")
        self._status: int | None = None
        self._usage: struct_rusage | None = None
        self._capturing = self._captured = False
        self._relay: signals.Relay | None = None
        self._kept = Kept()
        self._spooling = SpoolFeed(None, None)
        self._capture = CaptureLoop(streams)

    def run(self) -> NoReturn:
        """Everything up to the last exit."""
        try:
            self._supervise()
        except SqsteeError:  # it could not be executed
            raise
        except BaseException as error:
            self._rescue(error)

    def _rescue(self, error: BaseException) -> NoReturn:
        """A bug of ours, with the command running: pass through, wait for it, answer with its status."""
        if self._status is None:
            self._status = signals.attend(self._child.pid, self._see_out)
        else:
            self._see_out()
        try:
            what = f"the run could not be ended as it should be: {type(error).__name__}: {error}"
            self._messages.add(f"{what}; the command is not affected, `sqstee flush` ships what is kept")
            self._messages.say(unfinished=False)
        except Exception:  # the status is worth more than the words
            pass
        self._ending().exit(self._status)

    def _see_out(self) -> None:
        """Pass through what is left of the output."""
        if not self._capturing:
            pass_through(self._streams)
        signals.wait_until(lambda: self._captured or not self._capturing, float("inf"))

    def _supervise(self) -> NoReturn:
        """Whatever fails from here on is ours, and the command must not notice."""
        guarded, flush = self._messages.guarded, "`sqstee flush` ships what is kept"
        guarded("the output was not captured", "choose another folder with --spool DIR", self._open_spool)
        failure = self._child.started()
        if failure is not None:
            guarded("the spool of a run that never was stays", "`sqstee flush` removes it", self._remove_spool)
            raise child.failure_to_start(self._command, failure)
        guarded("the working directory stays in use", "it cannot be unmounted meanwhile", lambda: os.chdir("/"))
        guarded("nothing is shipped in the background", flush, self._begin)
        guarded("signals are not relayed as they should be", "send them to the command", self._make_relay)
        guarded("keys may not reach a pager", "give it the terminal with --tty pass", self._watch_keys)
        if self._kept.syncer:
            guarded("--fsync is not in force", "other lines are kept as without it", self._kept.syncer.start)
        self._spooling = self._capture.spooling = SpoolFeed(
            self._kept.writer, self._kept.shipment, self._settings.flush_timeout
        )
        self._start_capture()
        self._attend()
        assert self._status is not None
        assert self._usage is not None
        ending = self._ending()
        ending.run(self._status, self._usage, self._duration)
        ending.exit(self._status)

    def _ending(self) -> Teardown:
        return Teardown(
            self._settings,
            self._ends,
            self._capture,
            self._spooling,
            self._kept,
            self._messages,
            self._run_capture,
            self._take_while_delivering,
            self._ending_signals,
        )

    def _watch_keys(self) -> None:
        self._capture.watch_keys(self._child.pid)

    def _make_relay(self) -> None:
        self._relay = signals.Relay(self._child.pid, self._kept.shipment)

    def _open_spool(self) -> None:
        """Make the run's folder."""
        settings, kept = self._settings, self._kept
        self._run = run_folder.new_ulid(time.time_ns())
        kept.root = open_root(settings.spool or default_root())
        kept.local = f"{kept.root}/{LOCAL_FILE_NAME}"
        if self._destination.kind == "local":
            kept.local = os.path.abspath(self._destination.name or kept.local)
            self._destination = parse(f"local:{kept.local}")
        kept.destination = self._destination.text
        created = run_folder.create(
            kept.root,
            self._run,
            run_events.meta(settings, self._run, self._destination.text),
            settings.max_line,
            settings.spool_max,
            settings.on_full,
            self._make_writer,
        )
        kept.writer, kept.writer_lock, kept.ship_lock = created
        if settings.fsync:
            from sqstee.spool.fsync import Syncer
            from sqstee.spool.quota import SEGMENT_SUFFIX

            kept.syncer = Syncer(kept.writer.folder, SEGMENT_SUFFIX)
            kept.writer.tell(kept.syncer.note)

    def _remove_spool(self) -> None:
        writer = self._kept.writer
        if writer:
            writer.close()
            run_folder.delete(writer.folder)

    def _begin(self) -> None:
        """Write the start event and fork the shipper."""
        kept = self._kept
        if kept.writer is None:
            return
        command = self._command if self._settings.send_command else None
        from sqstee.spool import agent_file

        kept.writer.event(run_events.start(self._settings.job, self._child.pid, command))
        held = {kept.ship_lock, self._child.pidfd, *self._ends.terminals()}
        served = agent_file.serves(kept.root, kept.destination, os.environ)
        kept.shipment = shipper_handle.fork(held, self._stand_by if served else self._ship)
        os.close(kept.ship_lock)

    def _stand_by(self, wake: int, report: int) -> None:
        """What the process does in the shipper's place while an agent ships."""
        from sqstee.ship import standby
        from sqstee.spool import agent_file

        kept, settings = self._kept, self._settings
        assert kept.writer
        os.close(kept.ship_lock)
        standby.StandBy(
            kept.writer.folder,
            wake,
            report,
            serves=lambda: agent_file.serves(kept.root, kept.destination, os.environ),
            orphaned=self._end_command,
            ship=lambda woken_by: self._ship(woken_by, report),
            flush_timeout=settings.flush_timeout,
            patience=settings.flush_timeout if settings.strict or settings.summary else 0.0,
        ).run()

    def _ship(self, wake: int, report: int) -> None:
        """What the shipper process does."""
        from sqstee.ship import shipper_process  # boto3 and all: only ever in this process

        kept = self._kept
        assert kept.writer
        shipper_process.work(
            kept.writer.folder,
            self._settings,
            self._destination,
            kept.local,
            wake,
            report,
            self._end_command,
        )

    def _end_command(self) -> None:
        child.end_command(self._child.pidfd, self._ends.terminals())

    def _start_capture(self) -> None:
        main = _thread.get_ident()

        def work() -> None:
            self._run_capture()
            _signal.pthread_kill(main, _signal.SIGCHLD)

        self._capturing = True
        try:
            _thread.start_new_thread(work, ())
        except RuntimeError:  # no thread can be had: attend to signals between the chunks
            self._run_capture(self._take_signals)

    def _run_capture(self, tick: Callable[[], None] | None = None) -> None:
        try:
            self._capture.run(tick)
        except Exception as error:
            self._spooling.failure = f"{type(error).__name__}: {error}"
            self._spooling.writer = None
            pass_through(self._capture.open)
        finally:
            self._captured = True

    def _take_signals(self) -> None:
        while (info := _signal.sigtimedwait(signals.WAITED, 0)) is not None:
            self._take(info)

    def _attend(self) -> None:
        """Relay signals until the command has ended and its output is out."""
        while self._status is None or not self._captured:
            info = _signal.sigwaitinfo(signals.WAITED)
            if self._status is not None and info.si_signo in self._ending_signals:
                if not self._capture.stop_waiting():
                    self._end_by(info.si_signo)
                continue
            try:
                self._take(info)
            except Exception as error:
                advice = f"send them to the command, process {self._child.pid}"
                self._messages.add(f"a signal was not relayed: {type(error).__name__}: {error}; {advice}")
                pid, status, usage = os.wait4(self._child.pid, os.WNOHANG)
                if pid:
                    self._command_changed(status, usage)

    def _end_by(self, number: int) -> None:
        """The command has ended: nobody takes the rest of its output, or it is out, and the signal the delivery's."""
        signals.wait_until(lambda: self._captured or self._stalled(), _CAPTURED_SECONDS)
        signals.wait_until(lambda: self._captured, _DRAIN_SECONDS)
        if not self._captured:
            signals.die_by(number)
        os.kill(os.getpid(), number)

    def _take(self, info: _signal.struct_siginfo) -> None:
        if info.si_signo == _signal.SIGCHLD:
            self._reap()
        elif self._status is None:
            if info.si_signo == _signal.SIGWINCH:
                self._ends.copy_sizes()
            if self._relay:
                self._relay.take(info)
            elif info.si_code != signals.SI_KERNEL:
                os.kill(self._child.pid, info.si_signo)

    def _reap(self) -> None:
        """Take the statuses of all who ended; as PID 1 there are others' too."""
        while True:
            try:
                pid, status, usage = os.wait3(os.WNOHANG | os.WUNTRACED)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._child.pid:
                self._command_changed(status, usage)
            elif self._kept.shipment and pid == self._kept.shipment.pid and not os.WIFSTOPPED(status):
                self._kept.shipment.pid = 0

    def _command_changed(self, status: int, usage: struct_rusage) -> None:
        if os.WIFSTOPPED(status):
            signals.wait_until(self._drained, _DRAIN_SECONDS)
            if self._relay:
                self._relay.stop_with(os.WSTOPSIG(status))
            self._ends.copy_modes()
            return
        self._status, self._usage = status, usage
        self._duration = time.monotonic() - self._child.began
        self._capture.finish()

    def _stalled(self) -> bool:
        """Whether an output does not take what the command wrote."""
        return any(stream.stalled for stream in self._capture.open)

    def _drained(self) -> bool:
        """Whether what the command wrote is out."""
        try:
            return not any(stream.pending or readable_bytes(stream.source) for stream in self._capture.open)
        except OSError:
            return True

    def _take_while_delivering(self, number: int) -> None:
        if number in signals.JOB_STOPS:
            signals.stop(number)
        elif number == _signal.SIGCHLD:
            self._reap()
