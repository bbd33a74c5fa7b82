"""Starting the command: fork and execve; everything that it inherits is as it was before Python started.

Where the command is empty, the child copies stdin instead (see stdin_copy).
"""

from __future__ import annotations

import errno
import os
import time

from sqstee.capture import signals
from sqstee.errors import EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND, SqsteeError
from sqstee.fds import _is_open, open_fds, open_null, write_stderr

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Mapping
else:  # the Python half of signal costs 8 ms (enum)
    import _signal

_SET_BY_PYTHON = (_signal.SIGPIPE, _signal.SIGXFSZ)  # ignored before any code of ours runs
_PARENTS_PASSING_IGNORES = frozenset(
    ("sh", "bash", "dash", "zsh", "ksh", "mksh", "fish", "tcsh", "csh", "ash", "busybox", "systemd")
)
_POLL_MS = 50  # between checks whether a process that has not executed the command yet was stopped
_DEFAULT_PATH = b"/bin:/usr/bin"  # confstr(_CS_PATH), searched by execvp(3) if PATH is unset


def environment() -> dict[bytes, bytes]:
    """The environment that the process was started with.

    os.environb also holds Python's own addition: LC_CTYPE, where PEP 538 coerces the locale.
    """
    try:
        with open("/proc/self/environ", "rb") as file:
            entries = file.read().split(b"\0")
    except OSError:
        return dict(os.environb)
    pairs = (entry.partition(b"=") for entry in entries)
    return {name: value for name, equals, value in pairs if equals and name}  # execve refuses an empty name


def occupy_closed_fds() -> set[int]:
    """Open /dev/null for those of 0 to 2 that are closed, so that no descriptor of ours gets their numbers.

    Returns which were closed. They are closed in the command too: the replacements are close-on-exec.
    """
    closed = {fd for fd in (0, 1, 2) if not _is_open(fd)}
    for fd in sorted(closed):
        if open_null() != fd:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    return closed


def inherited_fds() -> list[int]:
    """The descriptors from 3 on that the process was started with; call it before opening any."""
    return [fd for fd in open_fds() if fd > 2]


def warn_uncaptured(reason: str) -> None:
    """Warn that the command runs without being captured."""
    write_stderr(f"sqstee: the output is not captured: {reason}\n")


def inherited_ignores() -> set[int]:
    """The signals that were ignored when the process was started.

    Python ignores SIGPIPE and SIGXFSZ before any code of ours runs. For these two the parent's dispositions
    count, if the parent is a shell or systemd, which pass theirs on.
    """
    ignored = {number for number in _signal.valid_signals() if _signal.getsignal(number) == _signal.SIG_IGN}
    return (ignored - set(_SET_BY_PYTHON)) | _ignored_by_parent()


def _ignored_by_parent() -> set[int]:
    try:
        with open(f"/proc/{os.getppid()}/status", "rb") as file:
            text = file.read()
    except OSError:
        return set()
    name = text[6 : text.index(b"\n")].decode("utf-8", "replace")
    if name.rpartition("/")[2] not in _PARENTS_PASSING_IGNORES:
        return set()
    start = text.find(b"\nSigIgn:")
    mask = int(text[start + 8 : text.index(b"\n", start + 1)], 16) if start >= 0 else 0
    return {number for number in _SET_BY_PYTHON if mask >> number - 1 & 1}


class Child:
    """The running command. `pidfd` stays valid if its pid is reused; `began` is when it was forked."""

    __slots__ = ("_failure", "began", "pid", "pidfd")

    def __init__(self, pid: int, failure: int) -> None:
        self.pid = pid
        self.began = time.monotonic()
        self._failure = failure
        try:
            self.pidfd = os.pidfd_open(pid)
        except OSError:
            self.pidfd = -1

    def wait_for_exec(self) -> OSError | None:
        """Wait until the command is executed, and stop if it is stopped before; returns the error if it cannot be."""
        import select

        ready = select.poll()
        ready.register(self._failure, select.POLLIN)
        while not ready.poll(_POLL_MS):
            self._stop_with_command()
        answer = os.read(self._failure, 16)
        os.close(self._failure)
        if not answer:
            return None
        os.waitpid(self.pid, 0)
        code = int(answer)
        return OSError(code, os.strerror(code))

    def _stop_with_command(self) -> None:
        """Stop if ^Z has stopped the process that is to execute the command; otherwise the shell would wait for us."""
        found = os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOHANG)
        if found and found.si_status in signals.JOB_STOPS:
            signals.stop(found.si_status)
            os.kill(self.pid, _signal.SIGCONT)  # the SIGCONT may have been sent to us alone, and nothing relays it yet


def kill_command(pidfd: int, terminals: Mapping[int, list[object]]) -> None:
    """Clean up after a front that died without a status: kill the command, whose output nobody will read, and give the
    terminals their modes back."""
    try:
        _signal.pidfd_send_signal(pidfd, _signal.SIGKILL)
    except OSError:
        pass
    for real, saved in terminals.items():
        from sqstee.capture.pty import restore

        restore(real, saved)


class Inherited:
    """The environment, signal mask and ignored signals that we inherited, and that the command must get."""

    __slots__ = ("environ", "ignored", "mask")

    def __init__(self, environ: dict[bytes, bytes], mask: set[int], ignored: set[int]) -> None:
        self.environ = environ
        self.mask = mask
        self.ignored = ignored

    def restore_signals(self) -> None:
        """Restore the dispositions and the mask; execve itself resets the signals that have a handler."""
        for number in (*_SET_BY_PYTHON, _signal.SIGCHLD):
            _signal.signal(number, _signal.SIG_IGN if number in self.ignored else _signal.SIG_DFL)
        _signal.pthread_sigmask(_signal.SIG_SETMASK, self.mask)


def start(command: list[str], fds: Mapping[int, int], inherited: Inherited) -> Child:
    """Fork the command; `fds` maps its descriptors to ours."""
    reading, writing = os.pipe()
    pending = signals.pending_terminal_signals()
    pid = os.fork()
    if pid:
        os.close(writing)
        return Child(pid, reading)
    try:
        for target, source in fds.items():
            os.dup2(source, target, inheritable=True)
        inherited.restore_signals()
        for number in pending:
            os.kill(os.getpid(), number)
        error = execute(command, inherited.environ)
        os.write(writing, str(error.errno).encode())
    except OSError as error:
        os.write(writing, str(error.errno).encode())
    except BaseException:
        os.write(writing, str(errno.EINVAL).encode())
    finally:
        os._exit(EXIT_NOT_FOUND)


def execute(command: list[str], environ: Mapping[bytes, bytes]) -> OSError:
    """Replace this process by the command, found as by execvp(3); returns the error if that fails."""
    if not command:
        from sqstee.capture.stdin_copy import copy_stdin

        copy_stdin()
    arguments = [os.fsencode(word) for word in command]
    failure = OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    for path in _candidates(arguments[0], environ):
        try:
            os.execve(path, arguments, environ)
        except OSError as error:
            if error.errno == errno.ENOEXEC:  # a script without a #! line: run it as every shell does
                os.execve(b"/bin/sh", [b"/bin/sh", path, *arguments[1:]], environ)
            if error.errno == errno.EACCES:
                failure = error
            elif error.errno not in (errno.ENOENT, errno.ENOTDIR):
                return error
    return failure


def failure_to_start(command: list[str], error: OSError) -> SqsteeError:
    """The message and exit status for a command that could not be executed."""
    name = "".join(char if char.isprintable() else "?" for char in command[0]) if command else "stdin"
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        missing = "" if "/" in command[0] else "check its name and PATH"
        return SqsteeError(f"{name}: command not found", missing, EXIT_NOT_FOUND)
    return SqsteeError(f"{name}: {error.strerror}", "", EXIT_NOT_EXECUTABLE)


def _candidates(name: bytes, environ: Mapping[bytes, bytes]) -> list[bytes]:
    if b"/" in name:
        return [name]
    folders = environ.get(b"PATH", _DEFAULT_PATH).split(b":")
    return [folder + b"/" + name if folder else name for folder in folders] if name else []


def unbuffered(environ: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """An environment in which Python and programs that use C's stdio write each line at once, as with stdbuf -oL."""
    changed = {**environ, b"PYTHONUNBUFFERED": b"1"}
    library = _stdbuf_library()
    if library:
        preload = environ.get(b"LD_PRELOAD", b"")
        changed[b"LD_PRELOAD"] = preload + b":" + library if preload else library
        changed[b"_STDBUF_O"] = changed[b"_STDBUF_E"] = b"L"
    return changed


def _stdbuf_library() -> bytes:
    folders = [b"/usr/libexec/coreutils", b"/usr/lib/coreutils"]
    try:
        folders += [b"/usr/lib/%s/coreutils" % name for name in os.listdir(b"/usr/lib") if b"linux" in name]
    except OSError:
        pass
    found = [folder + b"/libstdbuf.so" for folder in folders if os.path.exists(folder + b"/libstdbuf.so")]
    return found[0] if found else b""


def exec_uncaptured(command: list[str], inherited: Inherited, reason: str = "") -> SqsteeError:
    """Replace this process by the uncaptured command; returns the error if it cannot be executed.

    A `reason` says why the output is not captured although it should have been, and is printed.
    """
    if reason:
        warn_uncaptured(reason)
    inherited.restore_signals()
    return failure_to_start(command, execute(command, inherited.environ))


def run_uncaptured(command: list[str], reason: str) -> SqsteeError:
    """As `exec_uncaptured`, in a process that has changed nothing yet."""
    mask = _signal.pthread_sigmask(_signal.SIG_BLOCK, ())
    return exec_uncaptured(command, Inherited(environment(), mask, inherited_ignores()), reason)
