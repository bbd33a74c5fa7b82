"""`sqstee -- COMMAND`: starts the command, which is all that is loaded before it, and hands over to supervision."""

from __future__ import annotations

import os

from sqstee.errors import SqsteeError
from sqstee.options import check
from sqstee.run import child, nest, signals
from sqstee.run.ends import Ends
from sqstee.run.folder import absolute, default_root, settled
from sqstee.run.output import keeps_boundaries
from sqstee.run.stream import pump
from sqstee.transports import destination

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from sqstee.options import Settings
    from sqstee.run.redact import Masker


class Front:
    """The process that the caller sees, up to the command's start. Raises SqsteeError for what cannot be meant."""

    def __init__(self, settings: Settings, command: list[str]) -> None:
        self._settings = settings
        self._command = command
        self._destination = destination.parse(settings.to or "local")
        if settings.token_file:
            settings.token_file = absolute(settings.token_file)
        check(settings, self._destination)
        settings.fallback = settled(settings.fallback)
        self._masker: Masker | None = None
        if settings.redact:
            from sqstee.run.redact import Masker

            self._masker = Masker(settings.redact)

    def run(self) -> NoReturn:
        """Start the command, see to it until its end, and end as it ends."""
        ignored = child.inherited_ignores()
        inherited = child.Inherited(child.environment(), signals.block(), ignored)
        try:
            closed = child.occupy_closed_fds()
            others = child.inherited_fds()
            signals.keep_children()
            captured = {1, 2} - closed - self._left_alone(inherited, closed)
            if not captured:
                raise child.passthrough(self._command, inherited, "")
            self._ends = Ends(captured, self._settings, inherited.environ)
            self._mark_nest(inherited)
            self._streams = self._ends.streams()
            null = child.open_null()
            self._child = child.start(self._command, self._ends.of_command, inherited)
        except SqsteeError:
            raise
        except Exception as error:  # no pipe, no pty, no process: the command comes first
            raise child.passthrough(self._command, inherited, str(error)) from None
        self._ends.close_those_of_command()
        for fd in others:
            child.close_quietly(fd)
        for fd in (0, *({1} - captured)):
            os.dup2(null, fd, inheritable=True)
        os.close(null)
        os.umask(0o077)
        self._supervise(signals.ENDING - ignored - inherited.mask)

    def _supervise(self, ending_signals: frozenset[int]) -> NoReturn:
        """From here on the command runs: all that is not needed to start it is loaded now."""
        try:
            from sqstee.run.supervision import Supervision

            supervision = Supervision(
                self._settings,
                self._command,
                self._destination,
                self._masker,
                self._child,
                self._ends,
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
        status = signals.attend(self._child.pid, lambda: pump(self._streams))
        if os.WIFSIGNALED(status):
            signals.die_by(os.WTERMSIG(status))
        os._exit(os.WEXITSTATUS(status))

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
        return absolute(self._destination.name or self._settings.spool or default_root())

    def _mark_nest(self, inherited: child.Inherited) -> None:
        """Tell an inner sqstee what is captured already."""
        mine = nest.entry(self._place(), self._ends.of_command).encode()
        outer = inherited.environ.get(nest.VARIABLE.encode(), b"")
        environ = {**inherited.environ, nest.VARIABLE.encode(): b"%s %s" % (outer, mine) if outer else mine}
        inherited.environ = child.unbuffered(environ) if self._settings.unbuffer else environ
