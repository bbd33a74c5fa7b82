"""The state of a wrapped command's run, shared by the parts of the front."""

from __future__ import annotations

import os
import time

from sqstee.capture.notices import Notices
from sqstee.spool import agent_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Set as AbstractSet
    from resource import struct_rusage

    from sqstee.capture.child import Child
    from sqstee.capture.loop import CaptureLoop
    from sqstee.capture.stdio import Stdio
    from sqstee.destination import Destination
    from sqstee.settings import Settings
    from sqstee.ship.policy import DeliveryPolicy
    from sqstee.ship.shipper_handle import ShipperHandle
    from sqstee.spool.redact import Masker
    from sqstee.spool.spooled_run import SpooledRun

_SAME_REQUEST_SECONDS = 5.0  # within which one that ends a tree of processes signals the command and us


class WrappedRun:
    """A run of the wrapped command: the front's settings, and the parts that it has set up since.

    `command` is empty where stdin is shipped; `child` is then the process that reads it.
    `termination_signals` are those that the caller has neither ignored nor blocked. `policy` and `spooled` are None if
    the spool could not be opened, `shipper` if there is no background process. `status`, as of wait(2), and `usage` are
    None while the command runs; `seconds` is how long it ran.
    """

    def __init__(
        self,
        settings: Settings,
        command: list[str],
        destination: Destination,
        masker: Masker | None,
        child: Child,
        stdio: Stdio,
        loop: CaptureLoop,
        termination_signals: frozenset[int],
        start_shared: Callable[[str, str, Callable[[int, float], None]], bool],
        ship_run: Callable[..., None],
    ) -> None:
        self.settings = settings
        self.command = command
        self.destination = destination
        self.masker = masker
        self.child = child
        self.stdio = stdio
        self.streams = loop.streams
        self.termination_signals = termination_signals
        self.start_shared = start_shared
        self.ship_run = ship_run
        self.identity = ""  # of the shared shipper that the run may rely on
        self.notices = Notices(settings.quiet)
        self.loop = loop
        self.policy: DeliveryPolicy | None = None
        self.spooled: SpooledRun | None = None
        self.shipper: ShipperHandle | None = None
        self.status: int | None = None
        self.usage: struct_rusage | None = None
        self.seconds = 0.0
        self.cut_short_by = 0  # the signal that ended the wait for the delivery
        self._ended_at = 0.0
        self._ended_by = 0  # the signal that ended the command and has yet to reach us

    @property
    def program(self) -> str:
        """The run's name if it has no job: the command's program, or `stdin`."""
        return self.command[0] if self.command else "stdin"

    def end(self, status: int, usage: struct_rusage, seen: AbstractSet[int]) -> None:
        """The command has ended; `seen` are the signals that reached us before."""
        self.status, self.usage = status, usage
        self._ended_at = time.monotonic()
        self.seconds = self._ended_at - self.child.began
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status) - 128  # as shells report it
        self._ended_by = 0 if number in seen else number

    def is_cut_short_by(self, number: int) -> bool:
        """Whether a signal that reaches us after the command's end asks us not to wait for the delivery.

        The signal that ended the command does not: a program that ends a tree of processes signals one after the other,
        and often the command before us.
        """
        if number not in self.termination_signals:
            return False
        is_same = number == self._ended_by and time.monotonic() - self._ended_at < _SAME_REQUEST_SECONDS
        self._ended_by = 0
        if not is_same:
            self.cut_short_by = number
        return not is_same

    def served_by(self, root: str) -> str:
        """The file of the agent or shared shipper that ships this run, whose spool folder is `root`; '' without one."""
        assert self.policy
        return agent_file.serving(root, self.policy.to, os.environ, self.identity)

    @property
    def awaits_agent(self) -> bool:
        """Whether to wait until an agent has delivered the run: otherwise that is left to it."""
        return self.settings.strict or self.settings.summary

    def notify_shipper(self, word: bytes) -> None:
        """Send a word of the protocol to the shipper, if there is one."""
        if self.shipper:
            self.shipper.notify(word)
