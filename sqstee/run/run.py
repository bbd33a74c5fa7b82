"""`sqstee -- COMMAND`: wires child, capture, spool and shipper, and answers with the command's own status."""

from __future__ import annotations

import _thread
import os
import stat
import time

from sqstee import __version__
from sqstee.errors import EXIT_FAILURE, SqsteeError
from sqstee.record import encode_object
from sqstee.run import child, spool
from sqstee.run.capture import Capture, Spooling, open_streams
from sqstee.transports import destination

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from resource import struct_rusage
    from typing import NoReturn

    from sqstee.options import Settings
else:  # the Python half of signal costs 8 ms (enum)
    import _signal

_SI_KERNEL = 128
_TERMINAL_SIGNALS = frozenset(
    (
        _signal.SIGHUP,
        _signal.SIGINT,
        _signal.SIGQUIT,
        _signal.SIGCONT,
        _signal.SIGTSTP,
        _signal.SIGTTIN,
        _signal.SIGTTOU,
        _signal.SIGWINCH,
    )
)
_ENDING_SIGNALS = frozenset((_signal.SIGHUP, _signal.SIGINT, _signal.SIGQUIT, _signal.SIGTERM))
_GRACE_SECONDS = 1.0  # over the flush timeout, for the shipper to say how it went


def run(settings: Settings, command: list[str]) -> NoReturn:
    """Run `command` and end as it ends."""
    Front(settings, command).run()


class Shipment:
    """What the front knows of its shipper."""

    __slots__ = ("pid", "report", "wake")

    def __init__(self, pid: int, wake: int, report: int) -> None:
        self.pid = pid
        self.wake = wake
        self.report = report


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
        self._captured = False
        self._shipment: Shipment | None = None
        self._writer: spool.Writer | None = None
        self._writer_lock = -1

    def run(self) -> NoReturn:
        """Everything from the first fork to the last exit."""
        closed = child.occupy_closed_fds()
        inherited = child.inherited_fds()
        environ = child.environment()
        self._mask = _signal.pthread_sigmask(_signal.SIG_BLOCK, _signal.valid_signals())
        self._waited = _signal.valid_signals() - {_signal.SIGKILL, _signal.SIGSTOP}
        try:
            sources, fds = _pipes(closed)
            self._child = child.start(self._command, fds, environ, self._mask)
        except OSError as error:
            raise child.passthrough(self._command, environ, self._mask, str(error)) from None
        self._started = time.monotonic()
        for fd in (*fds.values(), *inherited):
            _close(fd)
        child.put_null(0)
        self._open_spool()
        failure = self._child.started()
        if failure is not None:
            self._remove_spool()
            raise child.failure_to_start(self._command, failure)
        os.chdir("/")
        self._begin()
        self._capture = self._start_capture(sources)
        self._attend()
        self._end()
        self._deliver()
        self._say_warnings()
        self._exit()

    def _open_spool(self) -> None:
        """Make the run's folder; where that fails the output passes through uncaptured, with one warning."""
        settings = self._settings
        self._run = spool.new_ulid(time.time_ns())
        self._host = settings.host or os.uname().nodename
        try:
            self._root = spool.open_root(settings.spool or spool.default_root())
            self._local = f"{self._root}/{destination.LOCAL_FILE_NAME}"
            if self._destination.kind == "local":
                self._local = os.path.abspath(self._destination.name or self._local)
                self._destination = destination.parse(f"local:{self._local}")
            created = spool.create(self._root, self._run, self._meta(), settings.max_line)
            self._writer, self._writer_lock, self._ship_lock = created
        except SqsteeError as error:
            self._warnings.append(f"the output was not captured: {error.message} ({error.hint})")
        except OSError as error:
            self._warnings.append(f"the output was not captured: the spool cannot be written: {error.strerror}")

    def _meta(self) -> bytes:
        settings = self._settings
        meta: dict[str, object] = {
            "version": __version__,
            "run": self._run,
            "host": self._host,
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
        if self._writer is None:
            return
        name = self._settings.job or "run"
        fields: dict[str, object] = {"event": "start", "message": f"{name} started"}
        if self._settings.job:
            fields["job"] = self._settings.job
        fields["pid"] = self._child.pid
        fields["version"] = __version__
        if self._settings.send_command:
            fields["command"] = [os.fsencode(word).decode("utf-8", "replace") for word in self._command]
        self._writer.event(fields)
        try:
            self._shipment = self._fork_shipper(self._writer.folder)
        except OSError as error:
            self._warnings.append(f"nothing is shipped yet: no background process: {error.strerror}")
        os.close(self._ship_lock)

    def _fork_shipper(self, folder: str) -> Shipment:
        wake_reading, wake = os.pipe()
        report, report_writing = os.pipe()
        pid = os.fork()
        if pid:
            os.close(wake_reading)
            os.close(report_writing)
            os.set_blocking(wake, False)
            return Shipment(pid, wake, report)
        try:
            _keep_only({wake_reading, report_writing, self._ship_lock, self._child.pidfd})
            from sqstee.run import ship  # boto3 and all: only ever in this process

            ship.background(
                folder,
                self._settings,
                self._destination,
                self._local,
                wake_reading,
                report_writing,
                self._child.pidfd,
            )
        finally:
            os._exit(0)

    def _start_capture(self, sources: dict[int, int]) -> Capture:
        wake = self._shipment.wake if self._shipment else -1
        self._spooling = Spooling(self._writer, wake)
        capture = Capture(open_streams(sources), self._spooling)
        main = _thread.get_ident()

        def work() -> None:
            try:
                capture.run()
            finally:
                self._captured = True
                _signal.pthread_kill(main, _signal.SIGCHLD)

        _thread.start_new_thread(work, ())
        return capture

    def _attend(self) -> None:
        """Relay signals until the command has ended and its output is out."""
        while self._status is None or not self._captured:
            info = _signal.sigwaitinfo(self._waited)
            if info.si_signo == _signal.SIGCHLD:
                self._reap()
            elif self._status is None:
                self._relay(info)
            elif info.si_signo in _ENDING_SIGNALS:
                return

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
                if os.WIFSTOPPED(status):
                    self._stop(os.WSTOPSIG(status))
                else:
                    self._status, self._usage = status, usage
                    self._duration = time.monotonic() - self._started
            elif self._shipment and pid == self._shipment.pid:
                self._shipment.pid = 0

    def _stop(self, number: int) -> None:
        """The command was stopped: stop as well, by the same signal, so that the shell sees its job stopped."""
        _signal.pthread_sigmask(_signal.SIG_UNBLOCK, {number})
        os.kill(os.getpid(), number)
        _signal.pthread_sigmask(_signal.SIG_BLOCK, {number})

    def _relay(self, info: _signal.struct_siginfo) -> None:
        """Forward a signal, except what the terminal gave to the command as well."""
        if info.si_code == _SI_KERNEL and info.si_signo in _TERMINAL_SIGNALS:
            return
        try:
            os.kill(self._child.pid, info.si_signo)
        except OSError:
            pass

    def _end(self) -> None:
        """Close the run's sequence with its exit event."""
        if self._spooling.writer is None:
            if self._spooling.failure:
                self._warnings.append(f"the output was no longer captured: {self._spooling.failure}")
            return
        writer = self._spooling.writer
        writer.event(self._exit_event(writer))
        writer.close()
        if writer.dropped:
            lines = _count(writer.dropped, "line")
            self._warnings.append(f"{lines} dropped: the spool could not be written (a gap event says which)")

    def _exit_event(self, writer: spool.Writer) -> dict[str, object]:
        assert self._status is not None
        assert self._usage is not None
        fields: dict[str, object] = {"event": "exit"}
        if os.WIFSIGNALED(self._status):
            number = os.WTERMSIG(self._status)
            fields["message"] = f"killed by signal {number}"
            fields["signal"] = number
        else:
            fields["message"] = f"exited with status {os.WEXITSTATUS(self._status)}"
            fields["exit_code"] = os.WEXITSTATUS(self._status)
        fields["duration_s"] = round(self._duration, 3)
        fields["lines"] = writer.lines
        fields["bytes"] = writer.bytes
        fields["dropped"] = writer.dropped
        fields["max_rss"] = self._usage.ru_maxrss * 1024
        fields["cpu_s"] = round(self._usage.ru_utime + self._usage.ru_stime, 3)
        return fields

    def _deliver(self) -> None:
        """Give the shipper its time to deliver the rest, and say what stays behind."""
        if self._writer is None:
            return
        os.close(self._writer_lock)
        acknowledged, reason = 0, "there is no background process"
        if self._shipment:
            self._close_shipment(self._shipment)
            acknowledged, reason = self._answer(self._shipment)
        waiting = self._writer.next_seq - acknowledged
        if waiting > 0:
            events = 1 + (acknowledged == 0)
            lines = _count(max(0, waiting - events), "line")
            why = f" ({reason})" if reason else ""
            self._warnings.append(f"{lines} not delivered yet{why}: kept in {self._root}, `sqstee flush` ships them")
        elif not self._settings.to:
            self._tell_of_local_queue()

    def _close_shipment(self, shipment: Shipment) -> None:
        try:
            os.write(shipment.wake, b"c")
        except OSError:
            pass
        os.close(shipment.wake)
        deadline = time.monotonic() + self._settings.flush_timeout + _GRACE_SECONDS
        while shipment.pid:
            info = _signal.sigtimedwait(self._waited, max(0.0, deadline - time.monotonic()))
            if info is None or info.si_signo in _ENDING_SIGNALS:
                os.kill(shipment.pid, _signal.SIGKILL)  # the spool is right at every moment
                os.waitpid(shipment.pid, 0)
                return
            self._reap()

    def _answer(self, shipment: Shipment) -> tuple[int, str]:
        """What the shipper said last; where it could not, what it had written to the state file."""
        os.set_blocking(shipment.report, False)
        try:
            words = os.read(shipment.report, 65536).decode("utf-8", "replace")
        except OSError:
            words = ""
        acknowledged, tab, reason = words.rstrip("\n").partition("\t")
        if tab:
            return int(acknowledged), reason
        from sqstee.run.replay import State

        assert self._writer is not None
        return State(self._writer.folder).next, "the background process was ended"

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
        for stream in self._capture.streams:
            if stream.error is not None:
                name = "stderr" if stream.number else "stdout"
                self._warnings.insert(0, f"{name}: {stream.error.strerror}")
        if not self._warnings:
            return
        unfinished = any(stream.last_byte != b"\n" for stream in self._capture.streams if _is_stderr(stream.number + 1))
        text = "".join(f"sqstee: {warning}\n" for warning in self._warnings)
        try:
            os.write(2, (("\n" if unfinished else "") + text).encode(errors="replace"))
        except OSError:
            pass

    def _exit(self) -> NoReturn:
        status = self._status
        if status is not None and os.WIFSIGNALED(status):
            _die_by(os.WTERMSIG(status))
        code = EXIT_FAILURE if status is None else os.WEXITSTATUS(status)
        if code == 0 and any(stream.error for stream in self._capture.streams):
            code = EXIT_FAILURE
        os._exit(code)


def _pipes(closed: set[int]) -> tuple[dict[int, int], dict[int, int]]:
    """A pipe for each of stdout and stderr that is open: our ends, and the command's, by descriptor."""
    sources, fds = {}, {}
    for fd in {1, 2} - closed:
        sources[fd], fds[fd] = os.pipe()
    return sources, fds


def _close(fd: int) -> None:
    try:
        os.close(fd)
    except OSError:
        pass


def _keep_only(kept: set[int]) -> None:
    """Close every descriptor but these, and put /dev/null in the place of 0 to 2."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in kept:
            _close(int(name))
    for _ in range(3 - len(kept & {0, 1, 2})):
        os.open("/dev/null", os.O_RDWR)


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


def _die_by(number: int) -> NoReturn:
    """End by the signal that ended the command, without a core of our own."""
    import resource

    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        _signal.signal(number, _signal.SIG_DFL)
    except (OSError, ValueError):
        pass
    os.kill(os.getpid(), number)
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, {number})
    os._exit(128 + number)
