"""Bodies on their way to the destination, and the requests that they go in. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from sqstee.record import Body
from sqstee.spool.frame import Position

# Amazon SQS: a batch has at most ten entries and 1 MiB, each message at most 1 MiB, attributes included.
MAX_ENTRIES = 10
MAX_REQUEST_BYTES = 1024 * 1024
BILLED_UNIT_BYTES = 64 * 1024  # of payload: each started one is a request on the bill


class PendingBody:
    """A body with the position in the spool from which everything behind it can be rebuilt (None: not from here)."""

    __slots__ = ("alone", "body", "done", "in_plan", "original", "reason", "resume")

    def __init__(self, body: Body, resume: Position | None) -> None:
        self.body = body
        self.resume = resume
        self.in_plan = False  # its range is in the plan: it may have been sent
        self.done = False  # the destination has it
        self.alone = False  # a request that held it with others was refused as a whole
        self.original: Body | None = None  # what `body`, a gap event, stands in for
        self.reason = ""  # why it does


class RequestLimits:
    """The most bytes that a message and a request may count, attributes included, as learned from the destination.

    A request has at most `entries` messages. What it does not say is guessed: more than `packed` is not put into one
    message, but a record that is larger alone is tried, as long as it is no more than `message`.

    After a request that took too long the next one is half as large, down to one billed unit; each success grows it.
    """

    def __init__(self, request: int = MAX_REQUEST_BYTES, entries: int = MAX_ENTRIES) -> None:
        self.message = self.packed = self._most = self.request = request
        self.entries = entries
        self._taken_message = self._taken_request = BILLED_UNIT_BYTES  # the largest so far; less is not guessed

    def message_at_most(self, size: int) -> None:
        """It does not take messages of more than `size`, as it says."""
        self.message = max(1, min(self.message, size))
        self.packed = min(self.packed, self.message)

    def request_at_most(self, size: int) -> None:
        """It does not take requests of more than `size`, as it says."""
        self._most = self.request = max(1, min(self._most, size))

    def message_refused(self, size: int) -> None:
        """A message of `size` was too large for one that does not say what it takes."""
        self.packed = min(self.packed, max(size // 2, self._taken_message))
        self.request_refused(size)

    def request_refused(self, size: int) -> None:
        """A request of `size` was too large for one that does not say what it takes."""
        self._most = self.request = min(self._most, max(size // 2, self._taken_request))

    def too_slow(self, size: int) -> None:
        """A request of `size` took too long."""
        self.request = min(self._most, max(BILLED_UNIT_BYTES, min(self.request, size) // 2))

    def success(self, sizes: Sequence[int]) -> None:
        """Messages of these sizes were taken, in one request."""
        self._taken_message = max(self._taken_message, *sizes)
        self._taken_request = max(self._taken_request, sum(sizes))
        self.request = min(self._most, 2 * self.request)


class Request:
    """Bodies of one call: within `limits`, attributes included, but always one."""

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
        return len(self.bodies) < self._limits.entries and self.size + pending.body.size <= self._limits.request

    def add(self, pending: PendingBody) -> None:
        """Add a body that fits."""
        self.bodies.append(pending)
        self.size += pending.body.size


def compress(request: Request, mode: str) -> None:
    """Compress the bodies of a request in place, with `auto` where the plain request exceeds 64 KiB."""
    if mode != "auto" or request.size <= BILLED_UNIT_BYTES:
        return
    for pending in request.bodies:
        if not pending.body.encoding:
            pending.body = pending.body.compressed()
