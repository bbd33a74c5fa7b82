"""Bodies that wait to be delivered, and the requests that hold them. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from sqstee.record import Body
from sqstee.spool.frame import Position

# Amazon SQS: a batch has at most ten entries and 1 MiB, each message at most 1 MiB, attributes included.
MAX_ENTRIES = 10
MAX_REQUEST_BYTES = 1024 * 1024
MAX_IN_FLIGHT_BYTES = 16 * MAX_REQUEST_BYTES  # held in memory until they are acknowledged
BILLED_UNIT_BYTES = 64 * 1024  # SQS bills one request per started 64 KiB of payload


class PendingBody:
    """A body that is not acknowledged yet.

    Once it is, everything after it can be rebuilt from the spool position `resume` on (None: no such position here).
    """

    __slots__ = ("alone", "body", "done", "in_plan", "original", "reason", "resume")

    def __init__(self, body: Body, resume: Position | None) -> None:
        self.body = body
        self.resume = resume
        self.in_plan = False  # its range is in the plan: it may have been sent
        self.done = False  # the destination has accepted it
        self.alone = False  # send it without others: a request that held it was refused as a whole
        self.original: Body | None = None  # the refused record that `body`, a gap event, replaces
        self.reason = ""  # why the record was refused


class RequestLimits:
    """The most bytes of a message and of a request, attributes included, as learned from the destination.

    A request has at most `entries` messages and, where the destination keeps the order, one of each run: an entry that
    fails would be overtaken by later ones. `message` is the limit that the destination states. Bodies are packed up to
    `packed`, a limit that takes refusals into account, too. A larger single record is still tried, up to `largest`, the
    highest limit that a destination of this kind can have: the limit may have been raised since.

    After a request that timed out the next one is half as large, down to one billed unit; each success doubles it.
    """

    def __init__(self, request: int = MAX_REQUEST_BYTES, entries: int = MAX_ENTRIES, ordered: bool = False) -> None:
        self.largest = self.message = self.packed = self._max_request = self.request = request
        self.entries = entries
        self.ordered = ordered
        self._accepted_message = self._accepted_request = BILLED_UNIT_BYTES  # largest so far: guesses stay above

    @property
    def reduced(self) -> bool:
        """Whether a limit is lower than it could be: the destination may have been set to take more since."""
        return min(self.packed, self._max_request) < self.largest

    def restate(self, size: int) -> None:
        """The destination, asked again, states that `size` is the most for a message: the learned limits are void."""
        self.message = self.packed = self._max_request = self.largest
        self.message_at_most(size)

    def message_at_most(self, size: int) -> None:
        """The destination states that `size` is the most for a message."""
        self.message = max(1, min(self.message, size))
        self.packed = min(self.packed, self.message)

    def request_at_most(self, size: int) -> None:
        """The destination states that `size` is the most for a request."""
        self._max_request = self.request = max(1, min(self._max_request, size))

    def message_refused(self, size: int) -> None:
        """A message of `size` was too large, and the destination did not state its limit."""
        self.packed = min(self.packed, max(size // 2, self._accepted_message))
        self.request_refused(size)

    def request_refused(self, size: int) -> None:
        """A request of `size` was too large, and the destination did not state its limit."""
        self._max_request = self.request = min(self._max_request, max(size // 2, self._accepted_request))

    def too_slow(self, size: int) -> None:
        """A request of `size` timed out."""
        self.request = min(self._max_request, max(BILLED_UNIT_BYTES, min(self.request, size) // 2))

    def success(self, sizes: Sequence[int]) -> None:
        """Messages of these sizes were accepted, in one request."""
        self._accepted_message = max(self._accepted_message, *sizes)
        self.message = max(self.message, *sizes)
        self._accepted_request = max(self._accepted_request, sum(sizes))
        self.request = min(self._max_request, 2 * self.request)


class Request:
    """The bodies of one call: within `limits`, attributes included, but at least one of any size."""

    def __init__(self, limits: RequestLimits) -> None:
        self.bodies: list[PendingBody] = []
        self.size = 0
        self._limits = limits

    def fits(self, pending: PendingBody) -> bool:
        """Whether a body can be added."""
        if not self.bodies:
            return True
        if pending.alone or self.bodies[0].alone:
            return False
        if self._limits.ordered and any(body.body.run == pending.body.run for body in self.bodies):
            return False
        return len(self.bodies) < self._limits.entries and self.size + pending.body.size <= self._limits.request

    def add(self, pending: PendingBody) -> None:
        """Add a body that fits."""
        self.bodies.append(pending)
        self.size += pending.body.size


def compress(request: Request, mode: str) -> None:
    """With --compress auto (`mode`), compress the bodies of a request in place if it exceeds 64 KiB."""
    if mode != "auto" or request.size <= BILLED_UNIT_BYTES:
        return
    for pending in request.bodies:
        if not pending.body.encoding:
            pending.body = pending.body.compressed()
