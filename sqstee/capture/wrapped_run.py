"""What the parts of the front share about the run that they serve."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from resource import struct_rusage

    from sqstee.capture.child import Child
    from sqstee.capture.loop import CaptureLoop
    from sqstee.capture.notices import Notices
    from sqstee.capture.stdio import Stdio
    from sqstee.capture.stream import Stream
    from sqstee.destination import Destination
    from sqstee.options import Settings
    from sqstee.ship.policy import DeliveryPolicy
    from sqstee.ship.shipper_handle import ShipperHandle
    from sqstee.spool.redact import Masker
    from sqstee.spool.spooled_run import SpooledRun


class WrappedRun:
    """A run of the wrapped command: what the front started with, and what it has set up for it since.

    `termination_signals` are those that would end the command, as the caller left them. `policy` and `spooled` are None
    where the spool could not be opened, `shipper` where there is no background process. `status`, as wait(2) gives it,
    and `usage` are None while the command runs; `seconds` is how long it ran.
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
        notices: Notices,
        loop: CaptureLoop,
    ) -> None:
        self.settings = settings
        self.command = command
        self.destination = destination
        self.masker = masker
        self.child = child
        self.stdio = stdio
        self.streams = streams
        self.termination_signals = termination_signals
        self.notices = notices
        self.loop = loop
        self.policy: DeliveryPolicy | None = None
        self.spooled: SpooledRun | None = None
        self.shipper: ShipperHandle | None = None
        self.status: int | None = None
        self.usage: struct_rusage | None = None
        self.seconds = 0.0

    def notify_shipper(self, word: bytes) -> None:
        """Send the shipper a word, if there is a shipper."""
        if self.shipper:
            self.shipper.notify(word)
