"""Handles bodies that the destination refuses: they are sent again, divided, or replaced by a gap event.

A refusal is classified in transports/errors. SIZE: the body is packed anew, smaller. POISON: it is divided until one
record stands alone. That record is a suspect until the destination accepts something else: then it is convicted, and a
gap event takes its place. If nothing at all is accepted the destination is at fault, not the records. Everything else
is sent again as it is, once the back-off allows it.
"""

from __future__ import annotations

from sqstee.ship.backoff import Backoff
from sqstee.ship.request import BILLED_UNIT_BYTES, PendingBody, RequestLimits
from sqstee.ship.source import Source
from sqstee.trace import trace
from sqstee.transports.errors import OPEN, POISON, SIZE, TIMEOUT, Failure, TransportError

_MAX_SUSPECTS = 8  # after so many single records refused, and nothing accepted, the destination is at fault
_Refusal = tuple[str, str, float, str]  # class, reason, seconds that the destination asks to wait, `at`


class Refusals:
    """Handles the refused bodies of one shipper.

    `again` are the bodies to be sent again, in seq order; `ordered` says whether the destination keeps its messages in
    order. Refusals adjust the sizes in `limits` and the waiting time in `backoff`.
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

        It is unknown which body is the reason and, after some errors, whether the destination accepted it after all.
        """
        size = sum(pending.body.size for pending in bodies)
        self._learn_limit(refusal, size, len(bodies))
        if len(bodies) == 1 and refusal.kind in (SIZE, POISON):
            self._back_off(self._one(source, bodies[0], refusal), now)
        elif refusal.kind == POISON or (refusal.kind == SIZE and size <= self._limits.request):
            for pending in bodies:
                pending.alone = True
            self.send_again(bodies)
        elif refusal.code == TIMEOUT and len(bodies) == 1 and size > BILLED_UNIT_BYTES and not self._ordered:
            trace("shipper", f"{_range(bodies[0])} timed out, divided into 2")
            self.send_again(source.divide(bodies[0], 2))  # readers drop lines that come twice
            self._backoff.failure(refusal.kind, str(refusal), now, refusal.after, at=refusal.at)
        else:
            self.send_again(bodies)
            if refusal.kind != SIZE:
                self._backoff.failure(refusal.kind, str(refusal), now, refusal.after, at=refusal.at)

    def bodies(self, source: Source, bodies: list[PendingBody], failures: list[Failure], now: float) -> None:
        """Some bodies of a request were refused; together they count as one failure of the destination."""
        found = [self._one(source, bodies[failure.index], failure) for failure in failures]
        self._back_off(next(filter(None, reversed(found)), None), now, answered=True)

    def convict(self, source: Source) -> None:
        """The destination accepts other bodies: replace the suspects with gap events."""
        for pending in self._suspects:
            source.substitute(pending, pending.reason)
        self.send_again(self._suspects)
        self._suspects = []

    def _learn_limit(self, refusal: TransportError, size: int, count: int) -> None:
        if refusal.kind == SIZE and count > 1:  # of one body the limit is a message's
            self._limits.request_at_most(refusal.limit) if refusal.limit else self._limits.request_refused(size)
        elif refusal.code == TIMEOUT:
            self._limits.too_slow(size)
        else:
            return
        trace("shipper", f"{refusal.code} for {size} bytes in {count} bodies; limit now {self._limits.request}")

    def _back_off(self, refusal: _Refusal | None, now: float, answered: bool = False) -> None:
        if refusal:
            kind, reason, after, at = refusal
            self._backoff.failure(kind, reason, now, after, answered, at)

    def _one(self, source: Source, pending: PendingBody, refusal: Failure | TransportError) -> _Refusal | None:
        """Handle the refusal of one body; returns it if the destination is at fault and not the body."""
        if pending.original is not None and refusal.kind in (SIZE, POISON):
            source.reinstate(pending)
            self.send_again([pending])
            return OPEN, str(refusal), 0.0, refusal.at
        if refusal.kind == SIZE:
            self._too_large(source, pending, refusal.limit)
            return None
        if refusal.kind == POISON:
            parts = source.divide(pending)
            if parts == [pending]:
                return self._suspect(pending, refusal)
            trace("shipper", f"{_range(pending)} refused, divided into {len(parts)}: {refusal}")
            self.send_again(parts)
            return None
        self.send_again([pending])
        return refusal.kind, str(refusal), refusal.after, refusal.at

    def _too_large(self, source: Source, pending: PendingBody, limit: int | None) -> None:
        size = pending.body.size
        named = limit if limit and limit < size else None
        if named:
            self._limits.message_at_most(named)
        parts = source.refit(pending, named or min(size // 2, self._limits.packed))
        trace("shipper", f"{_range(pending)} too large with {size} bytes, refitted into {len(parts)}; {limit=}")
        if parts == [pending]:  # a single record: its size is no limit for bodies of several
            source.substitute(pending, "larger than the destination takes")
        elif not named:
            self._limits.message_refused(size)
        self.send_again(parts)

    def _suspect(self, pending: PendingBody, refusal: Failure | TransportError) -> _Refusal | None:
        """Suspect a record that was refused alone; the destination is at fault if it accepts nothing else either."""
        trace("shipper", f"{_range(pending)} refused alone, a suspect: {refusal}")
        pending.reason = f"refused by the destination: {refusal}"
        self._suspects.append(pending)
        if len(self._suspects) < _MAX_SUSPECTS:
            return None
        self.send_again(self._suspects)
        self._suspects = []
        return OPEN, str(refusal), 0.0, refusal.at


def _range(pending: PendingBody) -> str:
    """The run and seqs of a body, for the trace."""
    return f"{pending.body.run} {pending.body.first}..{pending.body.last}"
