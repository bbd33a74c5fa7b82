"""What a shipper ships from: one run's `Source`, or a `Fleet` of many."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from sqstee.run.pack import MAX_ENTRIES, Planned, Request


class Supply(Protocol):
    """Bodies to send, and what becomes of them."""

    quarantined: int  # how many records were put aside

    @property
    def acknowledged(self) -> int:
        """How far the destination has taken it: of one run every seq below this one."""

    @property
    def waiting(self) -> bool:
        """Whether lines wait that have not been handed out."""

    @property
    def done(self) -> bool:
        """Whether nothing waits and nothing is unacknowledged, as far as was read."""

    @property
    def caught_up(self) -> bool:
        """Whether the last `read` came to the end of what is written."""

    def read(self) -> None:
        """Pack what is written by now, until there is a full request, or as much as memory may hold."""

    def close_open_body(self) -> None:
        """Make what is packed so far ready, although the body is not full."""

    def full_request(self) -> Request | None:
        """The next bodies that fill a request, once there are enough of them."""

    def partial_request(self) -> Request:
        """The next bodies that fit a request, however few."""

    def plan(self, handed: Iterable[Planned]) -> None:
        """Remember, before they are sent for the first time, the ranges that are handed out."""

    def acknowledge(self, taken: Iterable[Planned]) -> None:
        """The destination has these. Raises OSError where one cannot be freed; that one is not acknowledged."""

    def divide(self, planned: Planned, parts: int = MAX_ENTRIES) -> list[Planned]:
        """Have at most `parts` bodies in the place of one that was handed out; it alone if it is one record.

        None where it is not to be sent any more; so with `refit`.
        """

    def refit(self, planned: Planned, size: int) -> list[Planned]:
        """Have bodies of at most `size` in the place of one that was handed out; it alone if it is one record."""

    def substitute(self, planned: Planned, reason: str) -> None:
        """Put a gap event in the place of a record that is refused for good."""

    def reinstate(self, planned: Planned) -> None:
        """Take the gap event back."""

    def close(self) -> None:
        """Close the files."""

    def remove(self) -> None:
        """Delete what is shipped and closed."""
