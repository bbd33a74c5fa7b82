"""`sqstee -- COMMAND`: starts the command, which is all that is loaded before it, and hands over to supervision."""

from __future__ import annotations

import os

from sqstee.capture import child, signals
from sqstee.capture.output import keeps_boundaries
from sqstee.capture.stdio import Stdio
from sqstee.capture.stream import pass_through
from sqstee.errors import SqsteeError
from sqstee.fds import close_quietly, open_null
from sqstee.spool.location import resolve, root_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import NoReturn

    from sqstee.options import Settings
    from sqstee.spool.redact import Masker

NEST_VARIABLE = "SQSTEE_NEST"


class Front:
    """The process that the caller sees, up to the command's start. Raises SqsteeError for what cannot be meant."""

    def __init__(self, settings: Settings, command: list[str]) -> None:
        self._settings = settings
        self._command = command
        self._destination = resolve(settings)
        self._masker: Masker | None = None
        if settings.redact:
            from sqstee.spool.redact import Masker

            self._masker = Masker(settings.redact)

    def run(self) -> NoReturn:
        """Start the command, see to it until its end, and end as it stdio."""
        ignored = child.inherited_ignores()
        inherited = child.Inherited(child.environment(), signals.block(), ignored)
        try:
            closed = child.occupy_closed_fds()
            others = child.inherited_fds()
            signals.keep_children()
            captured = {1, 2} - closed - self._left_alone(inherited, closed)
            if not captured:
                raise child.passthrough(self._command, inherited, "")
            self._stdio = Stdio(captured, self._settings, inherited.environ)
            self._mark_nest(inherited)
            self._streams = self._stdio.streams()
            null = open_null()
            self._child = child.start(self._command, self._stdio.of_command, inherited)
        except SqsteeError:
            raise
        except Exception as error:  # no pipe, no pty, no process: the command comes first
            raise child.passthrough(self._command, inherited, str(error)) from None
        self._stdio.close_those_of_command()
        for fd in others:
            close_quietly(fd)
        for fd in (0, *({1} - captured)):
            os.dup2(null, fd, inheritable=True)
        os.close(null)
        os.umask(0o077)
        self._supervise(signals.TERMINATION_SIGNALS - ignored - inherited.mask)

    def _supervise(self, ending_signals: frozenset[int]) -> NoReturn:
        """From here on the command runs: all that is not needed to start it is loaded now."""
        try:
            from sqstee.capture.supervisor import Supervisor

            supervision = Supervisor(
                self._settings,
                self._command,
                self._destination,
                self._masker,
                self._child,
                self._stdio,
                self._streams,
                ending_signals,
            )
        except Exception as error:  # its files have gone, or there is no memory: the command comes first
            self._pass_through(f"{type(error).__name__}: {error}")
        supervision.run()

    def _pass_through(self, reason: str) -> NoReturn:
        """Without supervision: the output, the signals that are sent to us, and the status."""
        failure = self._child.started()
        if failure is not None:
            raise child.failure_to_start(self._command, failure)
        child.say_uncaptured(reason)
        status = signals.wait_for_command(self._child.pid, lambda: pass_through(self._streams))
        if os.WIFSIGNALED(status):
            signals.die_by(os.WTERMSIG(status))
        os._exit(os.WEXITSTATUS(status))

    def _left_alone(self, inherited: child.Inherited, closed: set[int]) -> set[int]:
        """The outputs that are not ours to capture: an outer sqstee does, they are an interactive shell's, or each
        write to them is a message of its own."""
        value = os.fsdecode(inherited.environ.get(NEST_VARIABLE.encode(), b""))
        left = captured_by_outer(value, self._place()) if value else set()
        left |= {fd for fd in {1, 2} - closed if keeps_boundaries(fd)}
        terminals = {fd for fd in (1, 2) if os.isatty(fd)}
        if not terminals or self._settings.tty not in ("auto", "pass"):
            return left
        from sqstee.capture.shells import is_interactive_shell

        if self._settings.tty == "pass" or is_interactive_shell(self._command):
            return left | terminals
        return left

    def _place(self) -> str:
        """The destination, with what tells two local queues apart."""
        if self._destination.kind != "local":
            return self._destination.text
        return self._destination.name or root_path(self._settings.spool)

    def _mark_nest(self, inherited: child.Inherited) -> None:
        """Tell an inner sqstee what is captured already."""
        mine = nest_entry(self._place(), self._stdio.of_command).encode()
        outer = inherited.environ.get(NEST_VARIABLE.encode(), b"")
        environ = {**inherited.environ, NEST_VARIABLE.encode(): b"%s %s" % (outer, mine) if outer else mine}
        inherited.environ = child.unbuffered(environ) if self._settings.unbuffer else environ


def captured_by_outer(value: str, destination: str) -> set[int]:
    """Those of descriptors 1 and 2 that lead to an outer sqstee, alive, that ships them to `destination`.

    `value` is what the outer ones left in the environment: `pid:hash:dev.inode,…` each, separated by blanks, the
    innermost last. A pipe that we hold cannot have been another before, so its inode is proof enough; the outer one, or
    its heir, is alive if there is a reader. A terminal's inode is its number, which the next one gets: it must look as
    ours do.
    """
    outer: dict[str, str] = {}
    for entry in value.split():
        _, digest, streams = [*entry.split(":"), "", "", ""][:3]
        outer |= dict.fromkeys(streams.split(","), digest)
    mine = _hash(destination)
    return {fd for fd in (1, 2) if outer.get(_identity(fd)) == mine and _has_reader(fd) and not _is_others_terminal(fd)}


def nest_entry(destination: str, command_fds: Mapping[int, int]) -> str:
    """What to leave for an inner sqstee: the command's ends of the streams that we capture, and for whom."""
    streams = ",".join(_identity(fd) for fd in command_fds.values())
    return f"{os.getpid()}:{_hash(destination)}:{streams}"


def _identity(fd: int) -> str:
    """What a descriptor leads to: `dev.inode`, empty where it is closed."""
    try:
        found = os.fstat(fd)
    except OSError:
        return ""
    return f"{found.st_dev}.{found.st_ino}"


def _hash(destination: str) -> str:
    """FNV-1a, in 64 bits: it needs no module that would have to be loaded before the command's start."""
    found = 0xCBF29CE484222325
    for byte in os.fsencode(destination):
        found = (found ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return f"{found:016x}"


def _is_others_terminal(fd: int) -> bool:
    if not os.isatty(fd):
        return False
    from sqstee.capture.pty import is_captured  # rarely needed

    return not is_captured(fd)


def _has_reader(fd: int) -> bool:
    import select

    poll = select.poll()
    poll.register(fd, 0)
    return not poll.poll(0)
