"""The send loop: read, pack, send, acknowledge and delete, until the run is closed and delivered, or out of time."""

from __future__ import annotations

import select
import time
from collections.abc import Callable

from sqstee.settings import Settings
from sqstee.ship.backoff import Backoff
from sqstee.ship.pace import Pace
from sqstee.ship.refusals import Refusals
from sqstee.ship.request import PendingBody, Request, RequestLimits
from sqstee.ship.sender_pool import MAX_IN_FLIGHT, SenderPool
from sqstee.ship.shipper_handle import CLOSE, TRY_AGAIN, read_words
from sqstee.ship.source import RunSource, Source
from sqstee.trace import trace
from sqstee.transports.base import Sender
from sqstee.transports.errors import OPEN, RETRY, Failure, TransportError
from sqstee.transports.fallback import refusals_by_primaries

_ASK_AGAIN_SECONDS = 600.0  # how often a destination that takes less than it might is asked for its limit
_LONGEST_WAIT_SECONDS = 3600.0  # poll(2) takes milliseconds that fit an int
_REREAD_SECONDS = 0.11  # read again this long after a wake-up: the front omits others within a tenth of a second
_SHORT_SECONDS = 60.0  # up to this flush timeout a user is assumed to wait for the end of delivery


class Shipper:
    """Ships the run in `folder`, or the source from `make_source`, until it is closed and delivered, or out of time.

    `wake` is the reading end of the wake pipe (see shipper_handle). Only the SHIPPER_OPTIONS of `options` count; the
    sender provides the linger and the message size that the user has not set.

    `on_refusal` is called when the destination begins to refuse everything, for a reason that no retry will fix, with
    that reason, whether the fallback gets the lines, and `at` as in TransportError. `on_connect` is called when the
    destination has answered for the first time, `on_front_death` when the wake pipe has no writer left, and `on_close`
    when the run has ended, with the seconds that are left to deliver the rest. `throttled_until` returns the time of
    the monotonic clock before which the spool is not read.
    """

    def __init__(
        self,
        folder: str,
        sender: Sender,
        wake: int,
        options: Settings,
        *,
        flush_timeout: float,
        on_refusal: Callable[[str, bool, str], None] = lambda reason, diverted, at: None,
        on_connect: Callable[[], None] = lambda: None,
        on_front_death: Callable[[], None] = lambda: None,
        on_close: Callable[[float], None] = lambda seconds: None,
        throttled_until: Callable[[], float] = lambda: 0.0,
        in_flight: int = MAX_IN_FLIGHT,
        make_source: Callable[[RequestLimits], Source] | None = None,
    ) -> None:
        body_bytes = options.message_bytes or sender.body_bytes
        self._make_source = make_source or (lambda limits: RunSource(folder, body_bytes, limits, options.compress))
        self._sender = sender
        self._senders = SenderPool(sender, in_flight)
        self._flush_timeout = flush_timeout
        self._on_refusal = on_refusal
        self._on_connect = on_connect
        self._on_front_death = on_front_death
        self._on_close = on_close
        self._throttled_until = throttled_until
        self._read_at = 0.0  # do not read the spool before this time
        self._lingers_as_sender = options.linger is None
        self._pace = Pace(sender.linger if options.linger is None else options.linger)
        self._backoff = Backoff()
        self._limits = RequestLimits(sender.max_request_bytes, sender.max_entries, sender.ordered)
        self._refusals = Refusals(self._limits, self._backoff, sender.ordered)
        self._source: Source | None = None
        self.refused = False  # by the destination, as `on_refusal` was told
        self._refused_as: set[tuple[bool, str]] = set()  # the last two arguments of `on_refusal`, while it is refused
        self._ask_at = 0.0  # do not ask for the destination's limit before this time
        self._reread_at = 0.0
        self._close_at: float | None = None
        self._wake = wake
        self._poll = select.poll()
        self._poll.register(self._senders.ready, select.POLLIN)
        self._poll.register(wake, select.POLLIN)

    @property
    def reason(self) -> str:
        """Why lines are not delivered, if any are not."""
        return self._backoff.reason

    @property
    def refused_at(self) -> float:
        """When the destination refused last; a time of the monotonic clock."""
        return self._backoff.refused_at

    @property
    def lacks_credentials(self) -> bool:
        """Whether the destination refuses everything because of our credentials."""
        return self._backoff.lacks_credentials

    @property
    def acknowledged(self) -> int:
        """The destination has accepted every seq below this one."""
        return self._source.acknowledged if self._source else 0

    @property
    def requests(self) -> int:
        """The number of requests that sent bodies."""
        return self._senders.requests

    @property
    def quarantined(self) -> int:
        """The number of records that went to quarantine."""
        return self._source.quarantined if self._source else 0

    def run(self) -> bool:
        """Ship; returns whether everything was delivered."""
        while True:
            now = time.monotonic()
            self._step(now)
            if self._complete():
                return True
            if self._close_at is not None and self._must_give_up(now):
                trace("shipper", f"gives up: {self._backoff.reason or 'out of time'}")
                return False
            self._wait(now)
            self._collect_answers()

    def close(self) -> None:
        """End the sender threads and close the files, once `run` has returned."""
        self._senders.close()
        if self._source:
            self._source.close()

    def remove(self) -> None:
        """Delete the run's folder if it is closed and delivered."""
        if self._source:
            self._source.close()
            self._source.remove()

    def _step(self, now: float) -> None:
        if now < self._backoff.not_before or (not self._backoff.healthy and self._senders.busy):
            return
        if self._source is None:
            if not self._senders.busy:
                self._senders.submit(None)
            return
        self._ask_again(now)
        self._read_at = self._throttled_until() if self._close_at is None else 0.0
        if self._read_at > now:
            return
        if self._lingers_as_sender:
            self._pace.linger = self._sender.linger  # it changes while a fallback is in use
        self._source.read()
        if self._source.waiting:
            self._pace.waiting(now, self._source.can_wait)
        if self._refusals.suspected and not (self._refusals.again or self._senders.busy or self._source.waiting):
            self._refusals.convict(self._source)  # gap events show whether the destination accepts anything
        self._send_again(self._source)
        self._send_full(self._source, now)
        self._send_partial(self._source, now)

    def _ask_again(self, now: float) -> None:
        """Ask for the destination's limit now and then: an agent outlives a queue's settings."""
        if self._limits.reduced and now >= self._ask_at and self._close_at is None and self._may_send():
            self._ask_at = now + _ASK_AGAIN_SECONDS
            self._senders.submit(None)

    def _send_again(self, source: Source) -> None:
        again = self._refusals.again
        while again and self._may_send():
            request = Request(self._limits)
            while again and request.fits(again[0]):
                request.add(again.pop(0))
            self._submit(source, request)

    def _send_full(self, source: Source, now: float) -> None:
        while self._may_send() and not (self._refusals.again and self._senders.ordered):
            request = source.full_request()
            if request is None:
                return
            self._submit(source, request)
            source.read()
            self._pace.full_left(now, source.waiting)

    def _send_partial(self, source: Source, now: float) -> None:
        urgent = self._close_at is not None or source.urgent
        due = now if urgent else self._pace.due(self._senders.busy)
        if not source.caught_up or due is None or due > now:
            return
        source.close_open_body()
        while self._may_send():
            request = source.partial_request()
            if not request.bodies:
                return
            self._submit(source, request)
            if urgent:
                self._pace.full_left(now, source.waiting)
            else:
                self._pace.partial_left(now, source.waiting)

    def _may_send(self) -> bool:
        return self._senders.busy < (self._senders.window.size if self._backoff.healthy else 1)

    def _submit(self, source: Source, request: Request) -> None:
        source.plan(request.bodies)
        self._senders.submit(request.bodies)

    def _wait(self, now: float) -> None:
        times = [self._close_at] if self._close_at is not None else []
        if self._backoff.not_before > now:
            times.append(self._backoff.not_before)
        elif self._read_at > now:
            times.append(self._read_at)
        elif self._source:
            due = now if self._source.urgent else self._pace.due(self._senders.busy)
            if due is not None and self._may_send() and self._source.caught_up:
                times.append(due)
        if self._reread_at > now:
            times.append(self._reread_at)
        timeout = min(_LONGEST_WAIT_SECONDS, max(0.0, min(times) - now)) * 1000 if times else None
        for fd, _ in self._poll.poll(timeout):
            if fd == self._wake:
                self._read_wake()

    def _read_wake(self) -> None:
        words = read_words(self._wake)
        now = time.monotonic()
        self._reread_at = now + _REREAD_SECONDS
        if TRY_AGAIN in words:
            self._backoff.allow_last_try(now)
        if words and CLOSE not in words:
            return
        self._poll.unregister(self._wake)
        if not words:
            self._on_front_death()
        trace("shipper", f"{'the run has ended' if words else 'the front has died'}: {self._flush_timeout:g} s left")
        self._close_at = now + self._flush_timeout
        self._on_close(self._flush_timeout)
        self._backoff.allow_last_try(now)
        if self._flush_timeout <= _SHORT_SECONDS:  # nobody waits for a longer one: retry at the usual pace
            self._backoff.shorten(now)

    def _collect_answers(self) -> None:
        for bodies, answer in self._senders.collect():
            now = time.monotonic()
            if isinstance(answer, int):
                self._limits.restate(answer)
                if self._source is None:
                    self._start_reading(now)
                    self._check_refusal(False)
                continue
            if self._source is None:
                assert isinstance(answer, TransportError)
                self._backoff.failure(answer.kind, str(answer), now, answer.after, at=answer.at)
            elif not bodies:
                pass  # asked again in vain: what is known stays in force
            elif isinstance(answer, TransportError):
                self._refusals.request(self._source, bodies, answer, now)
            else:
                self._handle_answer(self._source, bodies, answer, now)
            self._check_refusal(self._backoff.permanent)

    def _check_refusal(self, permanent: bool) -> None:
        """Report once for each destination that it refuses everything, until it accepts something."""
        diverted = not permanent
        found = refusals_by_primaries(self._sender) if diverted else [(self._backoff.reason, self._backoff.at)]
        refusers = {(diverted, at): reason for reason, at in found if reason}
        known, self._refused_as = self._refused_as, set(refusers)
        self.refused = bool(refusers)
        for (_, at), reason in reversed(refusers.items()):  # an agent passes on the last one: the first destination's
            if (diverted, at) not in known:
                self._on_refusal(reason, diverted, at)

    def _start_reading(self, now: float) -> None:
        """The destination has answered: open the spool, or try later if that fails (the disk was full)."""
        try:
            self._source = self._make_source(self._limits)
        except (OSError, ValueError) as error:
            self._backoff.failure(OPEN, str(error), now)
            return
        trace("shipper", f"connected; largest message {self._limits.message}, largest request {self._limits.request}")
        self._ask_at = now + _ASK_AGAIN_SECONDS
        self._backoff.success()
        self._on_connect()

    def _handle_answer(self, source: Source, bodies: list[PendingBody], failures: list[Failure], now: float) -> None:
        """A request was answered: each of its bodies was accepted or has a failure."""
        failed = {failure.index for failure in failures}
        accepted = [pending for at, pending in enumerate(bodies) if at not in failed]
        if accepted:
            self._backoff.success()
            known = self._limits.message
            self._limits.success([pending.body.size for pending in accepted])
            if self._limits.message > known:
                self._ask_at = now
            self._acknowledge(source, accepted, now)
        self._refusals.bodies(source, bodies, failures, now)
        if any(pending.original is None for pending in accepted):
            self._refusals.convict(source)

    def _acknowledge(self, source: Source, accepted: list[PendingBody], now: float) -> None:
        try:
            source.acknowledge(accepted)
        except OSError as error:  # the quarantine file cannot be written: send the gap events again until it can
            self._refusals.send_again([pending for pending in accepted if not pending.done])
            self._backoff.failure(RETRY, f"{error.strerror} ({error.filename})", now)

    def _complete(self) -> bool:
        if self._close_at is None or self._source is None or self._senders.busy:
            return False
        if self._refusals.again or self._refusals.suspected:
            return False
        if self._source.done:
            self._source.read()
        return self._source.done

    def _must_give_up(self, now: float) -> bool:
        assert self._close_at is not None
        hopeless = self._backoff.permanent or self._backoff.retry_after_until > self._close_at
        return now >= self._close_at or (hopeless and not self._senders.busy)
