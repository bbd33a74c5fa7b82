"""What becomes of bodies that the destination refuses: sent again, divided, or replaced by a gap event.

A refusal is classified in transports/errors. SIZE: the body is packed anew, smaller. POISON: it is divided until one
record stands alone. That record is a suspect until the destination accepts something else: then it is convicted, and a
gap event takes its place. If nothing at all is accepted the destination is at fault, not the records. Everything else
is sent again as it is, once the back-off allows it.
"""

from __future__ import annotations

from sqstee.ship.backoff import Backoff
from sqstee.ship.request import BILLED_UNIT_BYTES, PendingBody, RequestLimits
from sqstee.ship.source import Source
from sqstee.transports.errors import OPEN, POISON, SIZE, TIMEOUT, Failure, TransportError

_MOST_SUSPECTS = 8  # that many records refused one by one, and nothing accepted: the destination is at fault
_Trouble = tuple[str, str, float]  # a refusal's class, its reason, for how many seconds the destination asks to wait


class Refusals:
    """Deals with refused bodies of one shipper.

    `again` are the bodies to be sent again, in seq order; `ordered` says whether the destination keeps its messages in
    order. What a refusal says about sizes goes into `limits`, what it says about the destination into `backoff`.
    """

    def __init__(self, limits: RequestLimits, backoff: Backoff, ordered: bool) -> None:
        self.again: list[PendingBody] = []
        self._suspects: list[PendingBody] = []
        self._limits = limits
        self._backoff = backoff
        self._ordered = ordered

    @property
    def suspected(self) -> bool:
        """Whether records wait to be convicted or acquitted."""
        return bool(self._suspects)

    def send_again(self, bodies: list[PendingBody]) -> None:
        """Have bodies sent again."""
        self.again = sorted(self.again + bodies, key=lambda pending: pending.body.first)

    def request(self, source: Source, bodies: list[PendingBody], refusal: TransportError, now: float) -> None:
        """A whole request was refused.

        Which of its bodies is the reason is unknown, and so is, after some errors, whether it was refused at all.
        """
        size = sum(pending.body.size for pending in bodies)
        self._learn_limit(refusal, size, len(bodies))
        if len(bodies) == 1 and refusal.kind in (SIZE, POISON):
            self._report(self._one(source, bodies[0], refusal), now)
        elif refusal.kind == POISON or (refusal.kind == SIZE and size <= self._limits.request):
            for pending in bodies:
                pending.alone = True
            self.send_again(bodies)
        elif refusal.code == TIMEOUT and len(bodies) == 1 and size > BILLED_UNIT_BYTES and not self._ordered:
            self.send_again(source.divide(bodies[0], 2))  # readers drop what comes twice
            self._backoff.failure(refusal.kind, str(refusal), now, refusal.after)
        else:
            self.send_again(bodies)
            if refusal.kind != SIZE:
                self._backoff.failure(refusal.kind, str(refusal), now, refusal.after)

    def bodies(self, source: Source, bodies: list[PendingBody], failures: list[Failure], now: float) -> None:
        """Some bodies of a request were refused; one answer counts as one failure of the destination."""
        troubles = [self._one(source, bodies[failure.index], failure) for failure in failures]
        self._report(next(filter(None, reversed(troubles)), None), now)

    def convict(self, source: Source) -> None:
        """Something else was accepted: put gap events in the place of the suspects."""
        for pending in self._suspects:
            source.substitute(pending, pending.reason)
        self.send_again(self._suspects)
        self._suspects = []

    def _learn_limit(self, refusal: TransportError, size: int, count: int) -> None:
        if refusal.kind == SIZE and refusal.limit:
            self._limits.request_at_most(refusal.limit)
        elif refusal.kind == SIZE and count > 1:
            self._limits.request_refused(size)
        elif refusal.code == TIMEOUT:
            self._limits.too_slow(size)

    def _report(self, trouble: _Trouble | None, now: float) -> None:
        if trouble:
            kind, reason, after = trouble
            self._backoff.failure(kind, reason, now, after)

    def _one(self, source: Source, pending: PendingBody, refusal: Failure | TransportError) -> _Trouble | None:
        """One body was refused by itself; returns what that says about the destination, if anything."""
        if pending.original is not None and refusal.kind in (SIZE, POISON):
            source.reinstate(pending)
            self.send_again([pending])
            return OPEN, str(refusal), 0.0
        if refusal.kind == SIZE:
            self._too_large(source, pending, refusal.limit)
            return None
        if refusal.kind == POISON:
            parts = source.divide(pending)
            if parts == [pending]:
                return self._suspect(pending, str(refusal))
            self.send_again(parts)
            return None
        self.send_again([pending])
        return refusal.kind, str(refusal), refusal.after

    def _too_large(self, source: Source, pending: PendingBody, limit: int | None) -> None:
        size = pending.body.size
        named = limit if limit and limit < size else None
        if named:
            self._limits.message_at_most(named)
        parts = source.refit(pending, named or min(size // 2, self._limits.packed))
        if parts == [pending]:  # a record alone: it says nothing about how many records fit into a message
            source.substitute(pending, "larger than the destination takes")
        elif not named:
            self._limits.message_refused(size)
        self.send_again(parts)

    def _suspect(self, pending: PendingBody, reason: str) -> _Trouble | None:
        """A record was refused alone: it is at fault, unless the destination accepts nothing else either."""
        pending.reason = f"refused by the destination: {reason}"
        self._suspects.append(pending)
        if len(self._suspects) < _MOST_SUSPECTS:
            return None
        self.send_again(self._suspects)
        self._suspects = []
        return OPEN, reason, 0.0
