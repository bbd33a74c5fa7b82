"""Shipping a run: what is read and packed is sent, acknowledged and freed, and what is refused is dealt with."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable

from sqstee.ship.backoff import Backoff
from sqstee.ship.pace import Pace
from sqstee.ship.request import BILLED_UNIT_BYTES, PendingBody, Request, RequestLimits
from sqstee.ship.sender_pool import IN_FLIGHT, SenderPool
from sqstee.ship.shipper_handle import CLOSE, consume_signals
from sqstee.ship.source import RunSource, Source
from sqstee.transports.base import Sender
from sqstee.transports.errors import OPEN, POISON, RETRY, SIZE, TIMEOUT, Failure, TransportError

_LONGEST_WAIT_SECONDS = 3600.0  # poll takes milliseconds that fit an int
_LOOK_AGAIN_SECONDS = 0.11  # a little over the tenth of a second for which the front may keep a wake-up back
_SHORT_SECONDS = 60.0
_ALONE = 8  # so many records refused one by one, and none taken: the destination is at fault
_Trouble = tuple[str, str, float]  # the refusal's kind, why, for how many seconds it asks to be left alone


class Shipper:
    """Ships one run, or whatever `supply` makes, until it is closed and empty, or its time is over.

    `linger` and `message_bytes` are the sender's own where the user does not say. `flood` says until when nothing more
    is to be read, by the monotonic clock.
    """

    def __init__(
        self,
        folder: str,
        sender: Sender,
        wake: int,
        *,
        linger: float | None,
        message_bytes: int | None,
        flush_timeout: float,
        compress: str,
        orphaned: Callable[[], None] = lambda: None,
        reached: Callable[[], None] = lambda: None,
        closing: Callable[[float], None] = lambda seconds: None,
        in_flight: int = IN_FLIGHT,
        flood: Callable[[], float] = lambda: 0.0,
        supply: Callable[[RequestLimits], Source] | None = None,
    ) -> None:
        body_bytes = message_bytes or sender.body_bytes
        self._make_supply = supply or (lambda limits: RunSource(folder, body_bytes, limits, compress))
        self._senders = SenderPool(sender, in_flight)
        self._in_flight = 1 if sender.ordered else in_flight
        self._flood = flood
        self._held_until = 0.0
        self._reached = reached
        self._closing = closing
        self._wake = wake
        self._flush_timeout = flush_timeout
        self._orphaned = orphaned
        self._sender = sender
        self._lingers_as_sender = linger is None
        self._pace = Pace(sender.linger if linger is None else linger)
        self._health = Backoff()
        self._source: Source | None = None
        self._limits = RequestLimits(sender.max_request_bytes, sender.max_entries)
        self._again: list[PendingBody] = []  # refused, to be sent again
        self._suspects: list[PendingBody] = []  # records that were refused by themselves, as nothing else was
        self._awake_until = 0.0
        self._close_at: float | None = None
        self._poll = select.poll()
        self._poll.register(self._senders.ready, select.POLLIN)
        self._poll.register(wake, select.POLLIN)

    @property
    def reason(self) -> str:
        """Why lines stayed behind, if they did."""
        return self._health.reason

    @property
    def acknowledged(self) -> int:
        """Every seq below this one was taken by the destination."""
        return self._source.acknowledged if self._source else 0

    @property
    def requests(self) -> int:
        """How many requests were made for bodies."""
        return self._senders.requests

    @property
    def quarantined(self) -> int:
        """How many records no message could hold."""
        return self._source.quarantined if self._source else 0

    def run(self) -> bool:
        """Ship; whether everything was taken."""
        while True:
            now = time.monotonic()
            self._step(now)
            if self._complete():
                return True
            if self._close_at is not None and self._hopeless(now):
                return False
            self._wait(now)
            self._collect()

    def close(self) -> None:
        """End the threads that send, and close the files, once `run` has returned."""
        self._senders.close()
        if self._source:
            self._source.close()

    def remove(self) -> None:
        """Delete the run's folder, once it is shipped."""
        if self._source:
            self._source.close()
            self._source.remove()

    def _step(self, now: float) -> None:
        if now < self._health.not_before or (not self._health.well and self._senders.busy):
            return
        if self._source is None:
            if not self._senders.busy:
                self._senders.submit(None)
            return
        self._held_until = self._flood() if self._close_at is None else 0.0
        if self._held_until > now:
            return
        if self._lingers_as_sender:
            self._pace.linger = self._sender.linger  # while a fallback stands in it is the fallback's
        self._source.read()
        if self._source.waiting:
            self._pace.waiting(now)
        if self._suspects and not (self._again or self._senders.busy or self._source.waiting):
            self._convict(self._source)  # their gap events tell whether the destination takes anything
        self._send_again(self._source)
        self._send_full(self._source, now)
        self._send_partial(self._source, now)

    def _send_again(self, source: Source) -> None:
        while self._again and self._may_send():
            request = Request(self._limits)
            while self._again and request.fits(self._again[0]):
                request.add(self._again.pop(0))
            self._submit(source, request)

    def _send_full(self, source: Source, now: float) -> None:
        while self._may_send() and not (self._again and self._senders.ordered):
            request = source.full_request()
            if request is None:
                return
            self._submit(source, request)
            source.read()
            self._pace.full_left(now, source.waiting)

    def _send_partial(self, source: Source, now: float) -> None:
        due = now if self._close_at is not None else self._pace.due(self._senders.busy)
        if not source.caught_up or due is None or due > now:
            return
        source.close_open_body()
        while self._may_send():
            request = source.partial_request()
            if not request.planned:
                return
            self._submit(source, request)
            self._pace.partial_left(now, source.waiting)

    def _may_send(self) -> bool:
        return self._senders.busy < (self._in_flight if self._health.well else 1)

    def _submit(self, source: Source, request: Request) -> None:
        source.plan(request.planned)
        self._senders.submit(request.planned)

    def _wait(self, now: float) -> None:
        times = [self._close_at] if self._close_at is not None else []
        if self._health.not_before > now:
            times.append(self._health.not_before)
        elif self._held_until > now:
            times.append(self._held_until)
        elif self._source:
            due = self._pace.due(self._senders.busy)
            if due is not None and self._may_send() and self._source.caught_up:
                times.append(due)
        if self._awake_until > now:
            times.append(self._awake_until)
        timeout = min(_LONGEST_WAIT_SECONDS, max(0.0, min(times) - now)) * 1000 if times else None
        for fd, _ in self._poll.poll(timeout):
            if fd == self._wake:
                self._woken()

    def _woken(self) -> None:
        words = os.read(self._wake, 4096)
        consume_signals(words)
        now = time.monotonic()
        self._awake_until = now + _LOOK_AGAIN_SECONDS
        if words and CLOSE not in words:
            return
        self._poll.unregister(self._wake)
        if not words:
            self._orphaned()
        self._close_at = now + self._flush_timeout
        self._closing(self._flush_timeout)
        self._health.end(now)
        if self._flush_timeout <= _SHORT_SECONDS:  # nobody waits for what takes longer: it must not press
            self._health.hurry(now)

    def _collect(self) -> None:
        for bodies, answer in self._senders.collect():
            now = time.monotonic()
            if isinstance(answer, int):
                self._limits.message_at_most(answer)
                self._begin(now)
            elif self._source is None:
                assert isinstance(answer, TransportError)
                self._health.failure(answer.kind, str(answer), now, answer.after)
            elif isinstance(answer, TransportError):
                self._refused_whole(self._source, bodies, answer, now)
            else:
                self._answered(self._source, bodies, answer, now)

    def _begin(self, now: float) -> None:
        """The destination is there: begin to read, or later where nothing can be read (the disk was full so far)."""
        try:
            self._source = self._make_supply(self._limits)
        except (OSError, ValueError) as error:
            self._health.failure(OPEN, str(error), now)
            return
        self._health.success()
        self._reached()

    def _answered(self, source: Source, bodies: list[PendingBody], failures: list[Failure], now: float) -> None:
        """Some bodies of a request were taken, and some perhaps not."""
        failed = {failure.index for failure in failures}
        taken = [planned for at, planned in enumerate(bodies) if at not in failed]
        if taken:
            self._health.success()
            self._limits.success([planned.body.size for planned in taken])
            self._acknowledge(source, taken, now)
        troubles = [self._refused_one(source, bodies[failure.index], failure) for failure in failures]
        self._note(next(filter(None, reversed(troubles)), None), now)  # one answer is one failure
        if any(planned.original is None for planned in taken):
            self._convict(source)

    def _acknowledge(self, source: Source, taken: list[PendingBody], now: float) -> None:
        try:
            source.acknowledge(taken)
        except OSError as error:  # the quarantine file: the gap events are sent again, until there is room for it
            self._send_later([planned for planned in taken if not planned.done])
            self._health.failure(RETRY, f"{error.strerror} ({error.filename})", now)

    def _refused_whole(self, source: Source, bodies: list[PendingBody], refusal: TransportError, now: float) -> None:
        """A call failed: nobody knows which of its bodies was the reason, nor, after some errors, whether it failed."""
        size = sum(planned.body.size for planned in bodies)
        if refusal.kind == SIZE and refusal.limit:
            self._limits.request_at_most(refusal.limit)
        elif refusal.kind == SIZE and len(bodies) > 1:
            self._limits.request_refused(size)
        elif refusal.code == TIMEOUT:
            self._limits.too_slow(size)
        if len(bodies) == 1 and refusal.kind in (SIZE, POISON):
            self._note(self._refused_one(source, bodies[0], refusal), now)
        elif refusal.kind == POISON or (refusal.kind == SIZE and size <= self._limits.request):
            for planned in bodies:
                planned.alone = True
            self._send_later(bodies)
        elif refusal.code == TIMEOUT and len(bodies) == 1 and size > BILLED_UNIT_BYTES and not self._senders.ordered:
            self._send_later(source.divide(bodies[0], 2))  # readers drop what comes twice
            self._health.failure(refusal.kind, str(refusal), now, refusal.after)
        else:
            self._send_later(bodies)
            if refusal.kind != SIZE:
                self._health.failure(refusal.kind, str(refusal), now, refusal.after)

    def _note(self, trouble: _Trouble | None, now: float) -> None:
        if trouble:
            kind, reason, after = trouble
            self._health.failure(kind, reason, now, after)

    def _refused_one(self, source: Source, planned: PendingBody, refusal: Failure | TransportError) -> _Trouble | None:
        """One body was refused by itself; what that tells of the destination's health."""
        if planned.original is not None and refusal.kind in (SIZE, POISON):
            source.reinstate(planned)
            self._send_later([planned])
            return OPEN, str(refusal), 0.0
        if refusal.kind == SIZE:
            self._too_large(source, planned, refusal.limit)
            return None
        if refusal.kind == POISON:
            parts = source.divide(planned)
            if parts == [planned]:
                return self._suspect(planned, str(refusal))
            self._send_later(parts)
            return None
        self._send_later([planned])
        return refusal.kind, str(refusal), refusal.after

    def _too_large(self, source: Source, planned: PendingBody, limit: int | None) -> None:
        size = planned.body.size
        told = limit if limit and limit < size else None
        if told:
            self._limits.message_at_most(told)
        parts = source.refit(planned, told or min(size // 2, self._limits.packed))
        if parts == [planned]:  # a record by itself, of which nothing follows for what several are packed into
            source.substitute(planned, "larger than the destination takes")
        elif not told:
            self._limits.message_refused(size)
        self._send_later(parts)

    def _suspect(self, planned: PendingBody, reason: str) -> _Trouble | None:
        """A record was refused by itself: it is to blame, unless the destination takes nothing else either."""
        planned.reason = f"refused by the destination: {reason}"
        self._suspects.append(planned)
        if len(self._suspects) < _ALONE:
            return None
        self._send_later(self._suspects)
        self._suspects = []
        return OPEN, reason, 0.0

    def _convict(self, source: Source) -> None:
        """Something else was taken: gap events in the place of the suspects."""
        for planned in self._suspects:
            source.substitute(planned, planned.reason)
        self._send_later(self._suspects)
        self._suspects = []

    def _send_later(self, bodies: list[PendingBody]) -> None:
        self._again = sorted(self._again + bodies, key=lambda planned: planned.body.first)

    def _complete(self) -> bool:
        if self._close_at is None or self._source is None or self._senders.busy or self._again or self._suspects:
            return False
        if self._source.done:
            self._source.read()
        return self._source.done

    def _hopeless(self, now: float) -> bool:
        assert self._close_at is not None
        return now >= self._close_at or (self._health.permanent and not self._senders.busy)
