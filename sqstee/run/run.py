"""`sqstee -- COMMAND`: wires child, capture, spool and shipper, and answers with the command's own status."""

from __future__ import annotations

import _thread
import os
import stat
import time

from sqstee import __version__
from sqstee.errors import EXIT_FAILURE, SqsteeError
from sqstee.record import encode_object
from sqstee.run import child, events, nest, shipment, signals, spool
from sqstee.run.capture import Capture, Spooling, Stream, pump
from sqstee.run.ends import Ends, output_of
from sqstee.run.output import keeps_boundaries, readable_bytes
from sqstee.transports import destination

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable
    from resource import struct_rusage
    from typing import NoReturn

    from sqstee.options import Settings
    from sqstee.run.shipment import Shipment
else:  # the Python half of signal costs 8 ms (enum)
    import _signal

_DRAIN_SECONDS = 0.1  # how long a command's last output before a stop may take to get out


def run(settings: Settings, command: list[str]) -> NoReturn:
    """Run `command` and end as it ends."""
    Front(settings, command).run()


class Front:
    """The process that the caller sees: it starts the others, attends to signals, and dies as the command died."""

    def __init__(self, settings: Settings, command: list[str]) -> None:
        self._settings = settings
        self._command = command
        self._destination = destination.parse(settings.to or "local")
        if self._destination.kind in ("s3", "http"):
            hint = "use a queue name, URL or ARN, or local"
            raise SqsteeError(f"{self._destination.kind} destinations are not part of this version", hint)
        self._warnings: list[str] = []
        self._status: int | None = None
        self._usage: struct_rusage | None = None
        self._capturing = self._captured = False
        self._relay: signals.Relay | None = None
        self._shipment: Shipment | None = None
        self._writer: spool.Writer | None = None
        self._streams: list[Stream] = []
        self._writer_lock = self._ship_lock = -1
        self._root = self._local = ""

    def run(self) -> NoReturn:
        """Everything from the first fork to the last exit."""
        ignored = child.inherited_ignores()
        inherited = child.Inherited(child.environment(), signals.block(), ignored)
        try:
            closed = child.occupy_closed_fds()
            others = child.inherited_fds()
            import resource  # noqa: F401  # wait3 would import it, when there may be no descriptor left for that

            signals.keep_children()
            captured = {1, 2} - closed - self._left_alone(inherited, closed)
            if not captured:
                raise child.passthrough(self._command, inherited, "")
            self._ends = Ends(captured, self._settings, inherited.environ)
            self._mark_nest(inherited)
            self._streams = self._ends.streams()
            self._capture = Capture(self._streams)
            self._stderr_streams = [stream for stream in self._streams if _is_stderr(stream.fd)]
            self._null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
            self._child = child.start(self._command, self._ends.of_command, inherited)
        except SqsteeError:
            raise
        except Exception as error:  # no pipe, no pty, no process: the command comes first
            raise child.passthrough(self._command, inherited, str(error)) from None
        self._started = time.monotonic()
        self._ends.close_those_of_command()
        for fd in others:
            child.close_quietly(fd)
        for fd in (0, *({1} - captured)):
            os.dup2(self._null, fd)
        os.umask(0o077)
        try:
            self._supervise()
        except SqsteeError:  # it could not be executed
            raise
        except BaseException:
            self._rescue()

    def _rescue(self) -> NoReturn:
        """A bug of ours, with the command running: pass through, wait for it, answer with its status."""
        if not self._capturing:
            pump(self._streams)
        signals.wait_until(lambda: self._captured or not self._capturing, float("inf"))
        if self._status is None:
            self._status = os.waitpid(self._child.pid, 0)[1]
        self._exit()

    def _supervise(self) -> NoReturn:
        """From here on the command runs: whatever fails is ours, and it must not notice."""
        self._guarded("the spool", self._open_spool)
        failure = self._child.started()
        if failure is not None:
            self._guarded("the spool", self._remove_spool)
            raise child.failure_to_start(self._command, failure)
        self._guarded("the working directory", lambda: os.chdir("/"))
        self._guarded("the background process", self._begin)
        self._guarded("signals", self._make_relay)
        self._guarded("keys", lambda: self._capture.watch_keys(self._child.pid))
        self._spooling = self._capture.spooling = Spooling(self._writer, self._shipment, self._settings.flush_timeout)
        self._start_capture()
        self._attend()
        self._guarded("the spool", self._end)
        self._guarded("the heir", self._leave_an_heir)
        if not self._open_streams() or os.getpid() == 1:
            self._guarded("delivery", self._deliver)
        self._guarded("messages", self._say_warnings)
        self._exit()

    def _make_relay(self) -> None:
        self._relay = signals.Relay(self._child.pid, self._shipment)

    def _guarded(self, what: str, step: Callable[[], None]) -> None:
        """A step of ours that may fail: then the output passes through, and one warning says so."""
        try:
            step()
        except SqsteeError as error:
            self._warnings.append(f"the output was not captured: {error.message} ({error.hint})")
        except Exception as error:
            reason = error.strerror if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
            self._warnings.append(f"{what} failed: {reason}")

    def _left_alone(self, inherited: child.Inherited, closed: set[int]) -> set[int]:
        """The outputs that are not ours to capture: an outer sqstee does, they are an interactive shell's, or each
        write to them is a message of its own."""
        value = os.fsdecode(inherited.environ.get(nest.VARIABLE.encode(), b""))
        left = nest.captured_by_outer(value, self._place()) if value else set()
        left |= {fd for fd in {1, 2} - closed if keeps_boundaries(fd)}
        terminals = {fd for fd in (1, 2) if os.isatty(fd)}
        if not terminals or self._settings.tty not in ("auto", "pass"):
            return left
        from sqstee.run.terminal import is_interactive_shell

        if self._settings.tty == "pass" or is_interactive_shell(self._command):
            return left | terminals
        return left

    def _place(self) -> str:
        """The destination, with what tells two local queues apart."""
        if self._destination.kind != "local":
            return self._destination.text
        path = self._destination.name or self._settings.spool or spool.default_root()
        try:
            return os.path.abspath(path)
        except OSError:  # the folder that we are in is gone
            return path

    def _mark_nest(self, inherited: child.Inherited) -> None:
        """Tell an inner sqstee what is captured already."""
        mine = nest.entry(self._place(), self._ends.of_command).encode()
        outer = inherited.environ.get(nest.VARIABLE.encode(), b"")
        environ = {**inherited.environ, nest.VARIABLE.encode(): b"%s %s" % (outer, mine) if outer else mine}
        inherited.environ = child.unbuffered(environ) if self._settings.unbuffer else environ

    def _open_spool(self) -> None:
        """Make the run's folder."""
        settings = self._settings
        self._run = spool.new_ulid(time.time_ns())
        self._root = spool.open_root(settings.spool or spool.default_root())
        self._local = f"{self._root}/{destination.LOCAL_FILE_NAME}"
        if self._destination.kind == "local":
            self._local = os.path.abspath(self._destination.name or self._local)
            self._destination = destination.parse(f"local:{self._local}")
        created = spool.create(
            self._root, self._run, self._meta(), settings.max_line, settings.spool_max, settings.on_full
        )
        self._writer, self._writer_lock, self._ship_lock = created

    def _meta(self) -> bytes:
        settings = self._settings
        meta: dict[str, object] = {
            "version": __version__,
            "run": self._run,
            "host": settings.host or os.uname().nodename,
            "job": settings.job,
            "labels": dict(settings.labels),
            "to": self._destination.text,
            "linger": settings.linger,
            "message_bytes": settings.message_bytes,
            "compress": settings.compress,
            "local_max": settings.local_max,
        }
        return encode_object(meta)

    def _remove_spool(self) -> None:
        if self._writer is None:
            return
        self._writer.close()
        for name in os.listdir(self._writer.folder):
            os.unlink(f"{self._writer.folder}/{name}")
        os.rmdir(self._writer.folder)

    def _begin(self) -> None:
        """Write the start event and fork the shipper."""
        if self._writer is None:
            return
        command = self._command if self._settings.send_command else None
        self._writer.event(events.start(self._settings.job, self._child.pid, command))
        terminals = self._ends.terminals()
        kept = {self._ship_lock, self._child.pidfd, *terminals}
        self._shipment = shipment.fork(kept, self._ship)
        os.close(self._ship_lock)

    def _ship(self, wake: int, report: int) -> None:
        """What the shipper process does."""
        from sqstee.run import background  # boto3 and all: only ever in this process

        assert self._writer
        background.work(
            self._writer.folder,
            self._settings,
            self._destination,
            self._local,
            wake,
            report,
            self._child.pidfd,
            self._ends.terminals(),
        )

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
            pump(self._capture.open)
        finally:
            self._captured = True

    def _take_signals(self) -> None:
        while (info := _signal.sigtimedwait(signals.WAITED, 0)) is not None:
            self._take(info)

    def _attend(self) -> None:
        """Relay signals until the command has ended and its output is out."""
        while self._status is None or not self._captured:
            info = _signal.sigwaitinfo(signals.WAITED)
            if self._status is not None and info.si_signo in signals.ENDING:
                if self._capture.stop_waiting():
                    continue
                signals.die_by(info.si_signo)  # the command has ended, but nobody takes the rest of its output
            try:
                self._take(info)
            except Exception as error:
                self._warnings = [f"signals are no longer relayed: {type(error).__name__}: {error}"]
                pid, status = os.waitpid(self._child.pid, os.WNOHANG)
                if pid:
                    self._status = status

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
            elif self._shipment and pid == self._shipment.pid and not os.WIFSTOPPED(status):
                self._shipment.pid = 0

    def _command_changed(self, status: int, usage: struct_rusage) -> None:
        if os.WIFSTOPPED(status):
            signals.wait_until(self._drained, _DRAIN_SECONDS)
            if self._relay:
                self._relay.stop_with(os.WSTOPSIG(status))
            self._ends.copy_modes()
            return
        self._status, self._usage = status, usage
        self._duration = time.monotonic() - self._started
        self._capture.finish()

    def _open_streams(self) -> list[Stream]:
        """The streams that have not ended."""
        return self._capture.open

    def _drained(self) -> bool:
        """Whether what the command wrote is out."""
        try:
            return not any(stream.pending or readable_bytes(stream.source) for stream in self._open_streams())
        except OSError:
            return True

    def _end(self) -> None:
        """Write the exit event, which closes the run's sequence unless a stream is still open."""
        writer = self._spooling.writer
        if self._spooling.failure:
            self._warnings.append(f"the output was no longer captured: {self._spooling.failure}")
        if writer is None:
            return
        assert self._status is not None
        assert self._usage is not None
        still_open = [_STREAM_NAMES[stream.number] for stream in self._open_streams()]
        writer.event(events.end_of_command(self._status, self._usage, self._duration, writer, still_open))
        if not still_open or os.getpid() == 1:
            writer.close()
        for reason, number in writer.reasons.items():
            self._warnings.append(f"{_count(number, 'line')} dropped: {self._why_dropped(reason)}")

    def _why_dropped(self, reason: str) -> str:
        if reason.startswith("full"):
            return f"the spool is {reason}: `sqstee flush` ships what waits, --spool-max gives more room"
        return f"the spool could not be written ({reason}), a gap event says which"

    def _leave_an_heir(self) -> None:
        """Where a grandchild still holds a stream a process of ours goes on with it; the status comes at once."""
        if not self._open_streams() or os.getpid() == 1:  # everybody ends with PID 1
            return
        try:
            if os.fork():
                return
        except OSError:  # no process can be had: the status comes late
            self._go_on()
            self._end_streams()
            return
        try:
            self._inherit()
        finally:
            os._exit(0)

    def _go_on(self, give_up_outputs: bool = False) -> None:
        self._capture.give_up_outputs = give_up_outputs
        self._capture.go_on()
        self._run_capture()

    def _end_streams(self) -> None:
        """Close a run whose exit event named open streams."""
        writer = self._spooling.writer
        if writer:
            writer.event(events.end_of_streams(writer))
            writer.close()

    def _inherit(self) -> None:
        """What the heir does: the same loop, spool, lock and seq, until the last writer has gone."""
        os.setsid()
        _signal.signal(_signal.SIGTERM, _signal.SIG_DFL)
        _signal.pthread_sigmask(_signal.SIG_UNBLOCK, {_signal.SIGTERM})
        for fd in {1, 2} - {stream.fd for stream in self._open_streams()}:
            child.put_null(fd)
        self._ends.leave_modes()
        self._go_on(give_up_outputs=True)
        self._end_streams()
        if self._writer_lock >= 0:
            os.close(self._writer_lock)
        if self._shipment:
            self._shipment.tell(shipment.CLOSE)

    def _take_while_delivering(self, number: int) -> None:
        if number in signals.JOB_STOPS:
            signals.stop(number)
        elif number == _signal.SIGCHLD:
            self._reap()

    def _deliver(self) -> None:
        """Give the shipper its time to deliver the rest, and say what stays behind."""
        if self._writer is None:
            return
        os.close(self._writer_lock)
        acknowledged, quarantined, reason = 0, 0, "there is no background process"
        if self._shipment:
            seconds = self._settings.flush_timeout
            self._shipment.close(seconds, signals.WAITED, signals.ENDING, self._take_while_delivering)
            answer = self._shipment.answer(self._writer.folder, self._writer.next_seq)
            acknowledged, quarantined, reason = answer
        waiting = self._writer.next_seq - acknowledged
        if quarantined:
            lines = _count(quarantined, "line")
            self._warnings.append(f"{lines} larger than the destination takes: kept in {self._root}/quarantine")
        if waiting > 0:
            own_events = 1 + (acknowledged == 0)
            own_events += self._writer.dropped  # what was dropped is said by itself
            what = _count(waiting - own_events, "line") if waiting > own_events else "the run's own events"
            why = f" ({reason})" if reason else ""
            self._warnings.append(f"{what} not delivered yet{why}: kept in {self._root}, `sqstee flush` ships them")
        elif not self._settings.to:
            self._tell_of_local_queue()

    def _tell_of_local_queue(self) -> None:
        """Once per user, not once per run."""
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            os.close(os.open(f"{self._root}/.local-told", flags, 0o600))
        except OSError:
            return
        self._warnings.append(
            "no destination is configured (--to, SQSTEE_TO): the lines are in the local queue, `sqstee tail` shows them"
        )

    def _say_warnings(self) -> None:
        """Our own lines, after the command's last, never inside an unfinished one of its."""
        for stream in self._streams:
            if stream.error is not None:
                name = "stderr" if stream.fd == 2 else "stdout"
                self._warnings.insert(0, f"{name}: {stream.error.strerror}")
        if not self._warnings:
            return
        unfinished = any(stream.last_byte != b"\n" for stream in self._stderr_streams)
        text = "".join(f"sqstee: {warning}\n" for warning in self._warnings)
        try:  # without waiting for room: a stderr that nobody reads must not hold us
            output_of(2).write(memoryview((("\n" if unfinished else "") + text).encode(errors="replace")))
        except OSError:
            pass

    def _exit(self) -> NoReturn:
        status = self._status
        if status is not None and os.WIFSIGNALED(status):
            self._ends.restore_modes()
            signals.die_by(os.WTERMSIG(status))
        code = EXIT_FAILURE if status is None else os.WEXITSTATUS(status)
        if code == 0 and any(stream.error for stream in self._streams):
            code = EXIT_FAILURE
        os._exit(code)


_STREAM_NAMES = ("stdout", "stderr", "output")


def _is_stderr(fd: int) -> bool:
    """Whether what was written to `fd` and our own messages end up in one place."""
    if fd == 2:
        return True
    try:
        one, other = os.fstat(fd), os.fstat(2)
    except OSError:
        return False
    return (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino) and not stat.S_ISREG(one.st_mode)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
