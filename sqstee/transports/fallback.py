"""A second destination for what the first one refuses, or cannot take for a while."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence

from sqstee.jsonbytes import encode_object
from sqstee.record import Body, Encoder
from sqstee.transports.base import Sender
from sqstee.transports.errors import OPEN, POISON, REFRESH, RETRY, SIZE, Failure, TransportError
from sqstee.transports.fallback_ledger import Owed
from sqstee.wire import by_run

_PROBE_SECONDS = 30.0  # how long the first destination is left alone before the next bodies try it again


class FallbackSender:
    """Sends to `primary`, and to `fallback` instead while the circuit is open.

    It opens on a permanent refusal, and when nothing of what was offered was taken for `after` seconds. Every 30 s the
    next real bodies try the primary first; when it takes them the circuit closes, and the primary gets a gap event for
    what went elsewhere (reason `fallback`, `at` says where; `owed` keeps that until it is told). A single record that
    the primary refuses for good goes to the fallback by itself. What went to the primary without an answer may be at
    both: readers drop it by its seq.

    While the circuit is open `linger` is the fallback's, and bodies of a request that follow on one another are joined
    where it takes one at a time: an object in S3 costs as much as twelve requests to SQS.
    """

    def __init__(
        self,
        primary: Sender,
        fallback: Sender,
        at: str,
        after: float,
        clock: Callable[[], float] = time.monotonic,
        owed: Owed | None = None,
    ) -> None:
        self._primary = primary
        self._fallback = fallback
        self._at = at
        self._after = after
        self._clock = clock
        self._lock = threading.Lock()
        self._since: float | None = clock()  # when the first call began of those since which nothing was taken
        self._probe_at: float | None = None  # None while the circuit is closed
        self._reached = False
        self._owed = owed or Owed("", {})
        self.ordered = primary.ordered
        self.max_entries = primary.max_entries
        self.max_request_bytes = primary.max_request_bytes
        self.body_bytes = primary.body_bytes
        self.linger = primary.linger

    def hurry(self, seconds: float) -> None:
        """Nothing more will come, and `seconds` are left: half of them belong to the fallback."""
        self._after = min(self._after, seconds / 2)

    def open(self) -> int:
        """Reach the primary, else the fallback; the largest message of whoever is there."""
        self._begin()
        try:
            limit = self._primary.open()
        except TransportError as error:
            if not self._gives_up(error):
                raise _borne(error) from error
            self._open_circuit()
            return self._reach_fallback()
        self._took()
        return limit

    def send(self, bodies: Sequence[Body]) -> list[Failure]:
        """Hand over to whichever takes them; what neither did. Raises TransportError."""
        if not self._tries_primary():
            return self._to_fallback(bodies)
        self._begin()
        try:
            failures = self._primary.send(bodies)
        except TransportError as error:
            if not self._gives_up(error):
                raise _borne(error) from error
            self._open_circuit()
            return self._to_fallback(bodies)
        if len(failures) < len(bodies):
            self._took()
            self._tell()
        elif all(self._gives_up(failure) for failure in failures):
            self._open_circuit()
            return self._to_fallback(bodies)
        return self._divert(bodies, failures)

    def settle(self) -> int:
        """Tell the primary all that it is owed; how many ranges that were. Raises TransportError where it is away."""
        self._primary.open()
        told = 0
        while owed := self._tell():
            told += owed
        return told

    def close(self) -> None:
        """Give connections back."""
        self._primary.close()
        self._fallback.close()

    def _tries_primary(self) -> bool:
        with self._lock:
            if self._probe_at is None:
                return True
            if self._clock() < self._probe_at:
                return False
            self._probe_at = self._clock() + _PROBE_SECONDS  # the others do not wait for this one
            return True

    def _begin(self) -> None:
        with self._lock:
            if self._since is None:
                self._since = self._clock()

    def _gives_up(self, error: TransportError | Failure) -> bool:
        if error.kind in (SIZE, POISON):
            return False
        with self._lock:
            if error.kind == OPEN or self._probe_at is not None:
                return True
            return self._since is not None and self._clock() - self._since >= self._after

    def _open_circuit(self) -> None:
        with self._lock:
            self._probe_at = self._clock() + _PROBE_SECONDS
            self.linger = self._fallback.linger

    def _took(self) -> None:
        with self._lock:
            self._since = None
            self._probe_at = None
            self.linger = self._primary.linger

    def _reach_fallback(self) -> int:
        limit = self._fallback.open()
        self._reached = True
        return limit

    def _to_fallback(self, bodies: Sequence[Body]) -> list[Failure]:
        if not self._reached:
            self._reach_fallback()
        failures: list[Failure] = []
        start = 0
        for part in self._calls(bodies):
            try:
                found = self._sent(part)
            except TransportError as error:
                if not start:
                    raise
                found = [Failure(at, error.kind, error.code, error.message) for at in range(len(part))]
            failed = {failure.index for failure in found}
            self._owe([body for at, body in enumerate(part) if at not in failed])
            failures += [Failure(start + one.index, one.kind, one.code, one.message) for one in found]
            start += len(part)
        return failures

    def _calls(self, bodies: Sequence[Body]) -> Iterator[Sequence[Body]]:
        """The bodies as they go to the fallback, those of one call together."""
        part: list[Body] = []
        for body in bodies:
            if part and not (len(part) < self._fallback.max_entries or self._continues(part, body)):
                yield part
                part = []
            part.append(body)
        if part:
            yield part

    def _continues(self, part: Sequence[Body], body: Body) -> bool:
        """Whether a body can be joined to those before it, as one of the fallback's own size."""
        before = part[-1]
        follows = bool(body.run) and before.run == body.run and before.last + 1 == body.first
        alike = before.encoding == body.encoding
        size = sum(len(one.data) for one in part) + len(body.data)
        return self._fallback.max_entries == 1 and follows and alike and size <= self._fallback.body_bytes

    def _sent(self, part: Sequence[Body]) -> list[Failure]:
        """One call, with the bodies joined where it takes one only; each by itself if they are refused so."""
        if len(part) <= self._fallback.max_entries:
            return self._fallback.send(part)
        try:
            failures = self._fallback.send([_joined(part)])
        except TransportError as error:
            if error.kind not in (SIZE, POISON):
                raise
            failures = [Failure(0, error.kind, error.code, error.message)]
        if not failures:
            return []
        alone = [(at, self._fallback.send([body])) for at, body in enumerate(part)]
        return [Failure(at, one.kind, one.code, one.message) for at, found in alone for one in found]

    def _divert(self, bodies: Sequence[Body], failures: list[Failure]) -> list[Failure]:
        """Send to the fallback what the primary will never take: single records, and what it refuses altogether."""
        left = []
        for failure in failures:
            body = bodies[failure.index]
            if failure.kind != OPEN and not (failure.kind in (POISON, SIZE) and _is_single(body)):
                left.append(failure)
                continue
            try:
                left += [Failure(failure.index, one.kind, one.code, one.message) for one in self._to_fallback([body])]
            except TransportError:
                left.append(failure)
        return left

    def _owe(self, bodies: Sequence[Body]) -> None:
        """Note which seqs of which run the primary does not have."""
        self._owed.add(part for body in bodies for part in ([body] if body.run else by_run(body.plain().data)))

    def _tell(self) -> int:
        """Gap events for the primary, whose readers would miss these lines otherwise; what fails is told later.

        How many were told.
        """
        owed = self._owed.due(self._primary.max_entries)
        if not owed:
            return 0
        try:
            failures = self._primary.send([self._gap(body) for body in owed])
        except TransportError:
            return 0
        failed = {failure.index for failure in failures if failure.kind not in (POISON, SIZE)}  # these never will be
        told = [body for at, body in enumerate(owed) if at not in failed]
        self._owed.paid(told)
        return len(told)

    def _gap(self, body: Body) -> Body:
        lines = body.last - body.first + 1
        fields: dict[str, object] = {
            "event": "gap",
            "message": f"{lines} line{'' if lines == 1 else 's'} went to {self._at}",
            "from": body.first,
            "to": body.last,
            "reason": "fallback",
            "at": self._at,
        }
        data = Encoder(body.run, body.host).event(encode_object(fields), time.time_ns(), body.first)
        return Body(data, body.run, body.host, body.first, body.last)


def hurry(sender: Sender, seconds: float) -> None:
    """The end is near: a sender that has a fallback turns to it in time."""
    if isinstance(sender, FallbackSender):
        sender.hurry(seconds)


def _borne(error: TransportError) -> TransportError:
    """What is raised while the fallback's time is still to come: the end must not give missing credentials up."""
    if error.kind == REFRESH:
        return TransportError(RETRY, error.code, error.message, error.after)
    return error


def _is_single(body: Body) -> bool:
    """Whether a body is one line, and no event; one with the lines of several runs has no range of its own."""
    return bool(body.run) and body.first == body.last and b'"event":' not in body.plain().data


def _joined(part: Sequence[Body]) -> Body:
    """Bodies that follow on one another as one."""
    first, last = part[0], part[-1]
    found = Body(b"".join(body.plain().data for body in part), first.run, first.host, first.first, last.last)
    return found.compressed() if first.encoding else found
