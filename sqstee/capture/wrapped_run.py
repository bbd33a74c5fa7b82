"""The state of a wrapped command's run, shared by the parts of the front."""

from __future__ import annotations

from sqstee.capture.loop import CaptureLoop
from sqstee.capture.notices import Notices

TYPE_CHECKING = False
if TYPE_CHECKING:
    from resource import struct_rusage

    from sqstee.capture.child import Child
    from sqstee.capture.stdio import Stdio
    from sqstee.capture.stream import Stream
    from sqstee.destination import Destination
    from sqstee.options import Settings
    from sqstee.ship.policy import DeliveryPolicy
    from sqstee.ship.shipper_handle import ShipperHandle
    from sqstee.spool.redact import Masker
    from sqstee.spool.spooled_run import SpooledRun


class WrappedRun:
    """A run of the wrapped command: the front's settings, and the parts that it has set up since.

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
        streams: list[Stream],
        termination_signals: frozenset[int],
    ) -> None:
        self.settings = settings
        self.command = command
        self.destination = destination
        self.masker = masker
        self.child = child
        self.stdio = stdio
        self.streams = streams
        self.termination_signals = termination_signals
        self.notices = Notices(settings.quiet)
        self.loop = CaptureLoop(streams)
        self.policy: DeliveryPolicy | None = None
        self.spooled: SpooledRun | None = None
        self.shipper: ShipperHandle | None = None
        self.status: int | None = None
        self.usage: struct_rusage | None = None
        self.seconds = 0.0

    def notify_shipper(self, word: bytes) -> None:
        """Send a word of the protocol to the shipper, if there is one."""
        if self.shipper:
            self.shipper.notify(word)
