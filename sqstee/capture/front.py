"""`sqstee -- COMMAND`: starts the command and hands over to the supervisor, which is loaded only then."""

from __future__ import annotations

import os
import sys

from sqstee.capture import child, signals
from sqstee.capture.output import is_message_socket
from sqstee.capture.stdio import Stdio
from sqstee.capture.stream import pass_through, watch
from sqstee.errors import SqsteeError, reason_of
from sqstee.fds import close_quietly, open_null
from sqstee.spool.location import absolute, default_root, resolve

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import NoReturn

    from sqstee.capture.loop import CaptureLoop
    from sqstee.capture.stream import Stream
    from sqstee.settings import Settings
    from sqstee.spool.redact import Masker

NEST_VARIABLE = "SQSTEE_NEST"


class Front:
    """The process that the caller sees, up to the command's start. Raises SqsteeError for invalid settings.

    Without a `command` it ships the data from stdin, as if it were the output of a command (see stdin_copy).
    `start_shared` starts the shared shipper of a spool folder and an identity; it returns whether there is one, and
    waits for it by its third argument (see `StandBy`). `ship_run` is the body of the shipper process.
    """

    def __init__(
        self,
        settings: Settings,
        command: list[str],
        start_shared: Callable[[str, str, Callable[[int, float], None]], bool],
        ship_run: Callable[..., None],
    ) -> None:
        self._settings = settings
        self._start_shared = start_shared
        self._ship_run = ship_run
        self._command = command
        self._destination = resolve(settings)
        if not command:
            settings.tty = "never"  # whoever writes to a pipe expects no terminal
        self._masker: Masker | None = None
        if settings.redact:
            from sqstee.spool.redact import Masker

            self._masker = Masker(settings.redact)

    def run(self) -> NoReturn:
        """Start the command, serve it until it ends, and end as it ends."""
        ignored = child.inherited_ignores()
        inherited = child.Inherited(child.environment(), signals.block(), ignored)
        try:
            closed = child.occupy_closed_fds()
            others = child.inherited_fds()
            signals.reset_sigchld()
            # stdin is shipped even if stdout is closed: /dev/null has its number
            wanted = {1, 2} - closed if self._command else {1}
            captured = wanted - self._uncaptured(inherited, closed)
            if not captured:
                raise child.exec_uncaptured(self._command, inherited)
            self._stdio = Stdio(captured, self._settings, inherited.environ, is_stdin=not self._command)
            self._add_nest_entry(inherited)
            self._streams = self._stdio.streams()
            null = open_null()
            self._epoll = watch(self._streams)
            self._child = child.start(self._command, self._stdio.command_fds, inherited)
        except SqsteeError:
            raise
        except Exception as error:  # no pipe, no pty, no process: the command comes first
            _trace(f"runs the command uncaptured: {reason_of(error)}")
            reason = "" if self._settings.quiet else reason_of(error)
            raise child.exec_uncaptured(self._command, inherited, reason) from None
        self._stdio.close_command_fds()
        for fd in others:
            close_quietly(fd)
        for fd in (0, *({1} - captured)):
            os.dup2(null, fd, inheritable=True)
        os.close(null)
        os.umask(0o077)
        self._supervise(signals.TERMINATION_SIGNALS - ignored - inherited.mask)

    def _supervise(self, termination_signals: frozenset[int]) -> NoReturn:
        """Hand over to the supervisor. The command runs: modules that were not needed to start it are loaded now."""
        loop = None
        try:
            from sqstee.capture.loop import CaptureLoop

            loop = CaptureLoop(self._streams, self._epoll)
            with _LookBeforeImports(loop):
                from sqstee.capture.supervisor import Supervisor
                from sqstee.capture.wrapped_run import WrappedRun
            run = WrappedRun(
                self._settings,
                self._command,
                self._destination,
                self._masker,
                self._child,
                self._stdio,
                loop,
                termination_signals,
                self._start_shared,
                self._ship_run,
            )
            supervisor = Supervisor(run)
        except Exception as error:  # our files are gone, or there is no memory: the command comes first
            self._pass_through(loop.remaining() if loop else self._streams, reason_of(error))
        supervisor.run()

    def _pass_through(self, streams: list[Stream], reason: str) -> NoReturn:
        """Without a supervisor: pass the output through, relay signals, and end with the command's status."""
        failure = self._child.wait_for_exec()
        if failure is not None:
            raise child.failure_to_start(self._command, failure)
        _trace(f"passes the output through: {reason}")
        if not self._settings.quiet:
            child.warn_uncaptured(reason)
        status = signals.wait_for_command(self._child.pid, lambda: pass_through(streams))
        if os.WIFSIGNALED(status):
            signals.die_by(os.WTERMSIG(status))
        os._exit(os.WEXITSTATUS(status))

    def _uncaptured(self, inherited: child.Inherited, closed: set[int]) -> set[int]:
        """The outputs that are not ours to capture.

        An outer sqstee captures them already; or each write to them is a message of its own; or they are a terminal
        that an interactive shell needs, or that --tty pass leaves to the command.
        """
        value = os.fsdecode(inherited.environ.get(NEST_VARIABLE.encode(), b""))
        nested = captured_by_outer(value, self._destination_identity()) if value else set()
        messages = {fd for fd in {1, 2} - closed if is_message_socket(fd)}
        terminals = {fd for fd in (1, 2) if os.isatty(fd)} if self._settings.tty in ("auto", "pass") else set()
        if terminals and self._settings.tty == "auto":
            from sqstee.capture.shells import is_interactive_shell

            terminals = terminals if is_interactive_shell(self._command) else set()
        for fds, reason in (
            (nested, "an outer sqstee captures it"),
            (messages, "each write to it is a message of its own"),
            (terminals, "--tty pass, or an interactive shell"),
        ):
            for fd in sorted(fds):
                _trace(f"output {fd} is not captured: {reason}")
        return nested | messages | terminals

    def _destination_identity(self) -> str:
        """The destination; for a local queue with its path, or the spool folder that holds it."""
        if self._destination.kind != "local":
            return self._destination.text
        return self._destination.name or absolute(self._settings.spool or default_root())

    def _add_nest_entry(self, inherited: child.Inherited) -> None:
        """Record in the command's environment which streams are captured, for an inner sqstee."""
        mine = nest_entry(self._destination_identity(), self._stdio.command_fds).encode()
        outer = inherited.environ.get(NEST_VARIABLE.encode(), b"")
        environ = {**inherited.environ, NEST_VARIABLE.encode(): b"%s %s" % (outer, mine) if outer else mine}
        inherited.environ = child.unbuffered(environ) if self._settings.unbuffer else environ


class _LookBeforeImports:
    """An import hook that reads the command's output and finds no module: loading ours takes some milliseconds."""

    def __init__(self, loop: CaptureLoop) -> None:
        self._loop = loop

    def __enter__(self) -> None:
        sys.meta_path.insert(0, self)

    def __exit__(self, *_: object) -> None:
        sys.meta_path.remove(self)

    def find_spec(self, *_: object) -> None:
        self._loop.look()


def captured_by_outer(value: str, destination: str) -> set[int]:
    """Those of descriptors 1 and 2 that lead to a live outer sqstee that ships to `destination`.

    `value` holds one entry `pid:hash:dev.inode,…` for each outer sqstee, separated by blanks, the innermost last. The
    inode of a pipe proves that it is the same one, since it cannot be reused while we hold it; the outer sqstee, or its
    heir, is alive if the pipe has a reader. The inode of a terminal is its number, which is reused: it must be a pty of
    sqstee too.
    """
    outer: dict[str, str] = {}
    for entry in value.split():
        _, digest, streams = [*entry.split(":"), "", "", ""][:3]
        outer |= dict.fromkeys(streams.split(","), digest)
    mine = _hash(destination)
    return {fd for fd in (1, 2) if outer.get(_identity(fd)) == mine and _has_reader(fd) and not _is_others_terminal(fd)}


def nest_entry(destination: str, command_fds: Mapping[int, int]) -> str:
    """Our entry for an inner sqstee: the destination's hash, and the command's ends of the streams that we capture."""
    streams = ",".join(_identity(fd) for fd in command_fds.values())
    return f"{os.getpid()}:{_hash(destination)}:{streams}"


def _identity(fd: int) -> str:
    """A descriptor's file as `dev.inode`; empty where it is closed."""
    try:
        found = os.fstat(fd)
    except OSError:
        return ""
    return f"{found.st_dev}.{found.st_ino}"


def _hash(destination: str) -> str:
    """FNV-1a, 64 bits: hashlib is too slow to load before the command's start."""
    found = 0xCBF29CE484222325
    for byte in os.fsencode(destination):
        found = (found ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return f"{found:016x}"


def _is_others_terminal(fd: int) -> bool:
    if not os.isatty(fd):
        return False
    from sqstee.capture.pty import is_sqstee_pty  # rarely needed

    return not is_sqstee_pty(fd)


def _has_reader(fd: int) -> bool:
    import select

    poll = select.poll()
    poll.register(fd, 0)
    return not poll.poll(0)


def _trace(text: str) -> None:
    """Trace a decision; the module is not loaded before the command's start unless a trace was asked for."""
    if "SQSTEE_DEBUG" in os.environ:
        try:
            from sqstee.trace import trace

            trace("front", text)
        except Exception:  # no descriptor is left to load it: the command comes first
            pass
