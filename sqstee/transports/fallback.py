"""A second destination for bodies that the first one refuses, or cannot accept for a while."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from sqstee.jsonbytes import encode_object
from sqstee.record import Body, Encoder
from sqstee.text import count
from sqstee.transports.base import Sender
from sqstee.transports.errors import OPEN, POISON, REFRESH, RETRY, SIZE, Failure, TransportError
from sqstee.transports.fallback_ledger import DivertedRange, FallbackLedger
from sqstee.wire import by_run

_PROBE_SECONDS = 30.0  # between two tries of the primary while the circuit is open
_MOST_REFUSED_ALONE = 8  # after so many single records refused, and nothing accepted, the primary is at fault


class FallbackSender:
    """Sends to `primary`, and to `fallback` instead while the circuit is open.

    The circuit opens on a permanent refusal, and when the primary has accepted none of the bodies offered to it for
    `after` seconds, or asks to be left alone for that long. Every 30 s the next real bodies try the primary first; when
    it accepts them the circuit closes, and the primary gets a gap event for each range that went to the fallback
    (reason `fallback`, `at` names the fallback; `ledger` keeps the ranges until then). A single record that the primary
    refuses for good goes to the fallback alone; if the primary accepts nothing else either, the circuit opens.
    Bodies whose call got no answer may be at both destinations: readers drop duplicates by seq.

    The fallback may be such a sender itself, `standing_by` as its time without progress starts with its first call.
    Each primary gets a gap event for each range that it lacks, which names the destination that accepted the range.

    While the circuit is open, `linger` is the fallback's, and consecutive bodies of a request are joined if the
    fallback takes one body per call: an object in S3 costs as much as twelve requests to SQS.
    """

    def __init__(
        self,
        primary: Sender,
        fallback: Sender,
        at: str,
        after: float,
        clock: Callable[[], float] = time.monotonic,
        ledger: FallbackLedger | None = None,
        standing_by: bool = False,
    ) -> None:
        self._primary = primary
        self._fallback = fallback
        self._at = at
        self._after = after
        self._shortened = (after, 0.0)  # what counts in place of `after`, and until when
        self._clock = clock
        self._lock = threading.Lock()
        # the start of the first call since the last one that was accepted
        self._failing_since: float | None = None if standing_by else clock()
        self._probe_at: float | None = None  # None while the circuit is closed
        self._reached = False
        self._refused_alone = 0  # single records that the primary has refused since it last accepted anything
        self.refusal = ("", "")  # why the circuit is open and who refused, where no retry will mend that; else empty
        self._ledger = ledger or FallbackLedger("", {})
        self.ordered = primary.ordered or fallback.ordered
        self.max_entries = primary.max_entries
        self.max_request_bytes = primary.max_request_bytes
        self.body_bytes = primary.body_bytes

    @property
    def linger(self) -> float:
        """That of the destination in use."""
        return self._primary.linger if self._probe_at is None else self._fallback.linger

    @property
    def refusals(self) -> list[tuple[str, str]]:
        """`refusal`, and those of the fallback if it has one itself."""
        own = [self.refusal] if self.refusal[0] else []
        if self._probe_at is None or not isinstance(self._fallback, FallbackSender):
            return own
        return own + [(reason, at or self._at) for reason, at in self._fallback.refusals]

    def shorten_waits(self, seconds: float, lasts: float = math.inf) -> None:
        """For so long as it `lasts`, somebody waits for `seconds` at most: keep half of them for the fallback."""
        if lasts == math.inf or self._shortened[1] != math.inf:
            self._shortened = (min(self._after, seconds / 2), self._clock() + lasts)
        shorten_waits(self._fallback, seconds / 2, lasts)

    def open(self) -> int:
        """Reach the primary, or else the fallback; the largest message of the one that was reached."""
        self._begin()
        try:
            limit = self._primary.open()
        except TransportError as error:
            if not self._gives_up(error):
                raise _as_retry(error) from error
            self._open_circuit(error)
            return self._reach_fallback()
        self._close_circuit()
        return limit

    def send(self, bodies: Sequence[Body]) -> list[Failure]:
        """Send to the primary or the fallback; a failure for each body that neither accepted. Raises TransportError."""
        return self.place(bodies)[0]

    def place(self, bodies: Sequence[Body]) -> tuple[list[Failure], list[str]]:
        """As `send`; also where each body is: empty for the primary, and without meaning for one that failed."""
        if not self._tries_primary():
            return self._to_fallback(bodies)
        self._begin()
        try:
            failures = self._offer_to_primary(bodies)
        except TransportError as error:
            if not self._gives_up(error):
                raise _as_retry(error) from error
            self._open_circuit(error)
            return self._to_fallback(bodies)
        if len(failures) < len(bodies):
            self._close_circuit()
            self._send_gap_events()
        elif all(self._gives_up(failure) for failure in failures):
            self._open_circuit(failures[-1])
            return self._to_fallback(bodies)
        return self._divert(bodies, failures)

    def _offer_to_primary(self, bodies: Sequence[Body]) -> list[Failure]:
        """As the primary's `send`; a body that is refused for good in a call of its own is a failure as any other."""
        try:
            return self._primary.send(bodies)
        except TransportError as error:
            if len(bodies) > 1 or error.kind not in (POISON, SIZE):
                raise
            return [Failure(0, error.kind, error.code, error.message, error.at)]

    def report_diverted(self) -> int:
        """Send the primary a gap event for every diverted range; their number. Raises TransportError."""
        self._primary.open()
        reported = 0
        while count := self._send_gap_events():
            reported += count
        return reported

    def close(self) -> None:
        """Close the connections, and leave the gap events that the primary still lacks to the next sender."""
        self._primary.close()
        self._fallback.close()
        self._ledger.close()

    def _tries_primary(self) -> bool:
        with self._lock:
            if self._probe_at is None:
                return True
            if self._clock() < self._probe_at:
                return False
            self._probe_at = self._clock() + _PROBE_SECONDS  # so that no other thread probes meanwhile
            return True

    def _begin(self) -> None:
        with self._lock:
            if self._failing_since is None:
                self._failing_since = self._clock()

    def _gives_up(self, error: TransportError | Failure) -> bool:
        if error.kind in (SIZE, POISON):
            return False
        with self._lock:
            if error.kind == OPEN or self._probe_at is not None:
                return True
            now, (shortened, until) = self._clock(), self._shortened
            after = shortened if now < until else self._after
            return self._failing_since is not None and now + error.after - self._failing_since >= after

    def _open_circuit(self, error: TransportError | Failure) -> None:
        with self._lock:
            self.refusal = (str(error), error.at) if error.kind != RETRY else ("", "")
            self._probe_at = self._clock() + _PROBE_SECONDS

    def _close_circuit(self) -> None:
        with self._lock:
            self._failing_since = None
            self._probe_at = None
            self._refused_alone = 0
            self.refusal = ("", "")

    def _reach_fallback(self) -> int:
        try:
            limit = self._fallback.open()
        except TransportError as error:
            self._blame_fallback(error)
            raise
        self._reached = True
        return limit

    def _blame_fallback(self, error: TransportError) -> None:
        if not error.at:  # else it has a fallback itself, which is to blame
            error.blame(self._at)

    def _to_fallback(self, bodies: Sequence[Body]) -> tuple[list[Failure], list[str]]:
        if not self._reached:
            self._reach_fallback()
        failures: list[Failure] = []
        places: list[str] = []
        for part in self._calls(bodies):
            try:
                found, where = self._call_fallback(part)
            except TransportError as error:
                if not places:
                    self._blame_fallback(error)
                    raise
                found = [Failure(at, error.kind, error.code, error.message, error.at) for at in range(len(part))]
                where = [self._at] * len(part)
            failed = {failure.index for failure in found}
            self._note_diverted((body, where[at]) for at, body in enumerate(part) if at not in failed)
            start = len(places)
            failures += [
                Failure(start + one.index, one.kind, one.code, one.message, one.at or self._at) for one in found
            ]
            places += where
        return failures, places

    def _calls(self, bodies: Sequence[Body]) -> Iterator[Sequence[Body]]:
        """The bodies of each call to the fallback."""
        part: list[Body] = []
        for body in bodies:
            if part and not (len(part) < self._fallback.max_entries or self._continues(part, body)):
                yield part
                part = []
            part.append(body)
        if part:
            yield part

    def _continues(self, part: Sequence[Body], body: Body) -> bool:
        """Whether a body can be joined to those before it, within the fallback's body size."""
        before = part[-1]
        follows = bool(body.run) and before.run == body.run and before.last + 1 == body.first
        alike = before.encoding == body.encoding
        size = sum(len(one.data) for one in part) + len(body.data)
        return self._fallback.max_entries == 1 and follows and alike and size <= self._fallback.body_bytes

    def _call_fallback(self, part: Sequence[Body]) -> tuple[list[Failure], list[str]]:
        """One call, with the bodies joined if they are too many; if it is refused, each body in a call of its own."""
        if len(part) <= self._fallback.max_entries:
            return self._offer(part)
        try:
            failures, places = self._offer([_joined(part)])
        except TransportError as error:
            if error.kind not in (SIZE, POISON):
                raise
            failures, places = [Failure(0, error.kind, error.code, error.message)], [self._at]
        if not failures:
            return [], places * len(part)
        alone = [self._offer([body]) for body in part]
        failures = [
            Failure(at, one.kind, one.code, one.message, one.at) for at, (found, _) in enumerate(alone) for one in found
        ]
        return failures, [place for _, where in alone for place in where]

    def _offer(self, bodies: Sequence[Body]) -> tuple[list[Failure], list[str]]:
        """Offer bodies to the fallback; also the destination that has each."""
        if not isinstance(self._fallback, FallbackSender):
            return self._fallback.send(bodies), [self._at] * len(bodies)
        failures, places = self._fallback.place(bodies)
        return failures, [place or self._at for place in places]

    def _divert(self, bodies: Sequence[Body], failures: list[Failure]) -> tuple[list[Failure], list[str]]:
        """Send the bodies to the fallback that the primary will never accept; the failures that remain."""
        left = []
        places = [""] * len(bodies)
        for failure in failures:
            body = bodies[failure.index]
            alone = failure.kind in (POISON, SIZE) and _is_single(body)
            if failure.kind != OPEN and not alone:
                left.append(failure)
                continue
            if alone and len(failures) == len(bodies):
                self._count_refused_alone(failure)
            try:
                found, (places[failure.index],) = self._to_fallback([body])
                left += [Failure(failure.index, one.kind, one.code, one.message, one.at) for one in found]
            except TransportError:
                left.append(failure)
        return left, places

    def _count_refused_alone(self, failure: Failure) -> None:
        with self._lock:
            self._refused_alone += 1
            is_at_fault = self._refused_alone >= _MOST_REFUSED_ALONE
        if is_at_fault:
            self._open_circuit(failure)

    def _note_diverted(self, placed: Iterable[tuple[Body, str]]) -> None:
        """Note which seqs of which run the primary does not have, and where they are."""
        by_place: dict[str, list[Body]] = {}
        for body, place in placed:
            parts = [body] if body.run else by_run(body.plain().data)
            by_place.setdefault("" if place == self._at else place, []).extend(parts)
        for place, parts in by_place.items():
            self._ledger.add(parts, place)

    def _send_gap_events(self) -> int:
        """Send gap events to the primary, whose readers would wait for these lines otherwise; the number accepted.

        Events that fail stay in the ledger.
        """
        ranges = self._ledger.unreported(self._primary.max_entries)
        if not ranges:
            return 0
        try:
            failures = self._offer_to_primary([self._gap(one) for one in ranges])
        except TransportError:
            return 0
        # an event that is refused for good would be refused each time: it counts as reported
        failed = {failure.index for failure in failures if failure.kind not in (POISON, SIZE)}
        reported = [one for at, one in enumerate(ranges) if at not in failed]
        self._ledger.mark_reported(reported)
        return len(reported)

    def _gap(self, lacking: DivertedRange) -> Body:
        first, last, at = lacking.first, lacking.last, lacking.at or self._at
        fields: dict[str, object] = {
            "event": "gap",
            "message": f"{count(last - first + 1, 'line')} went to {at}",
            "from": first,
            "to": last,
            "reason": "fallback",
            "at": at,
        }
        data = Encoder(lacking.run, lacking.host).event(encode_object(fields), time.time_ns(), first)
        return Body(data, lacking.run, lacking.host, first, last)


def shorten_waits(sender: Sender, seconds: float, lasts: float = math.inf) -> None:
    """Somebody waits for `seconds` at most: a sender with a fallback must turn to it in time, while that `lasts`."""
    if isinstance(sender, FallbackSender):
        sender.shorten_waits(seconds, lasts)


def refusals_by_primaries(sender: Sender) -> list[tuple[str, str]]:
    """Why a sender's primary destination gets nothing, where no retry will help and the fallback is used.

    The reason, and `at` as in TransportError; then those of each fallback that has one itself.
    """
    return sender.refusals if isinstance(sender, FallbackSender) else []


def _as_retry(error: TransportError) -> TransportError:
    """The error to raise before the fallback's turn.

    Neither missing credentials nor a long wait that the primary asks for must end the run before it.
    """
    if error.kind != REFRESH and not error.after:
        return error
    passing = TransportError(RETRY if error.kind == REFRESH else error.kind, error.code, error.message)
    if error.at:
        passing.blame(error.at)
    return passing


def _is_single(body: Body) -> bool:
    """Whether a body is one record of one run, and no gap event."""
    return bool(body.run) and body.first == body.last and not body.is_gap


def _joined(part: Sequence[Body]) -> Body:
    """Consecutive bodies as one."""
    first, last = part[0], part[-1]
    found = Body(b"".join(body.plain().data for body in part), first.run, first.host, first.first, last.last)
    return found.compressed() if first.encoding else found
