"""Prints the shipper's notices while the command runs, between two lines of the command's own output."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqstee.capture.notices import Notices
    from sqstee.capture.stream import Stream
    from sqstee.ship.shipper_handle import ShipperHandle

_UNFINISHED_SECONDS = 5.0  # on a terminal: a progress bar's line, or a prompt's, may never be finished
_AGAIN_SECONDS = 1.0


class LiveNotices:
    """The shipper's notices, printed to stderr as soon as that breaks nothing.

    `streams` lead to the same place as our stderr. A notice waits until all of them are at the start of a line: a file
    or a pipe's reader must get each line of the command whole. On a terminal it comes below a line that stays
    unfinished, and waits while a program has the whole screen. `fd` becomes readable when there is something to read.
    """

    def __init__(self, notices: Notices, shipper: ShipperHandle, streams: Sequence[Stream]) -> None:
        self.fd = shipper.report
        self._notices = notices
        self._shipper = shipper
        self._streams = streams
        self._next = 0  # the first of the shipper's notices that has not been printed
        self._since: float | None = None  # when it came

    @property
    def unprinted(self) -> list[tuple[str, str]]:
        """The notices that have not been printed, in the form of `ShipperHandle.refusals`."""
        return self._shipper.refusals[self._next :]

    def read(self) -> bool:
        """Read the shipper's reports; returns whether it may write more."""
        return self._shipper.read_refusals()

    def print(self, now: float) -> float | None:
        """Print the notices that can be printed now.

        Returns the time to look again, None for after the command's next output.
        """
        if self._next == len(self._shipper.refusals):
            return None
        if self._since is None:
            self._since = now
        if any(stream.pending or (stream.pty and stream.pty.full_screen) for stream in self._streams):
            return now + _AGAIN_SECONDS
        unfinished = any(stream.last_byte != b"\n" for stream in self._streams)
        below = self._since + _UNFINISHED_SECONDS if all(stream.pty for stream in self._streams) else None
        if unfinished and (below is None or now < below):
            return below
        if not self._notices.print_now(self.unprinted[0][0], unfinished):
            return now + _AGAIN_SECONDS
        self._next += 1
        self._since = None
        return now if self.unprinted else None
