"""A second destination for what the first one refuses, or cannot take for a while."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from sqstee.record import Body, Encoder, by_run, encode_object
from sqstee.transports.base import OPEN, POISON, SIZE, Failure, Sender, TransportError

_PROBE_SECONDS = 30.0  # how long the first destination is left alone before the next bodies try it again


class FallbackSender:
    """Sends to `primary`, and to `fallback` instead while the circuit is open.

    It opens on a permanent refusal, and after `after` seconds in which nothing was taken. Every 30 s the next real
    bodies try the primary first; when it takes them the circuit closes, and the primary gets a gap event for what went
    elsewhere (reason `fallback`, `at` says where). A single record that the primary refuses for good goes to the
    fallback by itself. What went to the primary without an answer may be at both: readers drop it by its seq.
    """

    def __init__(
        self,
        primary: Sender,
        fallback: Sender,
        at: str,
        after: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._primary = primary
        self._fallback = fallback
        self._at = at
        self._after = after
        self._clock = clock
        self._lock = threading.Lock()
        self._progress = clock()
        self._probe_at: float | None = None  # None while the circuit is closed
        self._reached = False
        self._owed: list[Body] = []
        self.ordered = primary.ordered
        self.max_entries = primary.max_entries
        self.max_request_bytes = primary.max_request_bytes
        self.body_bytes = primary.body_bytes
        self.linger = primary.linger

    def hurry(self, seconds: float) -> None:
        """The command has ended, and `seconds` are left: half of them belong to the fallback."""
        self._after = min(self._after, seconds / 2)

    def open(self) -> int:
        """Reach the primary, else the fallback; the largest message of whoever is there."""
        try:
            limit = self._primary.open()
        except TransportError as error:
            if not self._gives_up(error):
                raise
            self._open_circuit()
            return self._reach_fallback()
        self._took()
        return limit

    def send(self, bodies: Sequence[Body]) -> list[Failure]:
        """Hand over to whichever takes them; what neither did. Raises TransportError."""
        if not self._tries_primary():
            return self._to_fallback(bodies)
        try:
            failures = self._primary.send(bodies)
        except TransportError as error:
            if not self._gives_up(error):
                raise
            self._open_circuit()
            return self._to_fallback(bodies)
        if len(failures) < len(bodies):
            self._took()
            self._tell()
        return self._divert(bodies, failures)

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

    def _gives_up(self, error: TransportError) -> bool:
        if error.kind in (SIZE, POISON):
            return False
        with self._lock:
            return error.kind == OPEN or self._probe_at is not None or self._clock() - self._progress >= self._after

    def _open_circuit(self) -> None:
        with self._lock:
            self._probe_at = self._clock() + _PROBE_SECONDS

    def _took(self) -> None:
        with self._lock:
            self._progress = self._clock()
            self._probe_at = None

    def _reach_fallback(self) -> int:
        limit = self._fallback.open()
        self._reached = True
        return limit

    def _to_fallback(self, bodies: Sequence[Body]) -> list[Failure]:
        if not self._reached:
            self._reach_fallback()
        failures: list[Failure] = []
        size = self._fallback.max_entries
        for start in range(0, len(bodies), size):
            part = bodies[start : start + size]
            try:
                found = self._fallback.send(part)
            except TransportError as error:
                if not start:
                    raise
                found = [Failure(at, error.kind, error.code, error.message) for at in range(len(part))]
            failed = {failure.index for failure in found}
            self._owe([body for at, body in enumerate(part) if at not in failed])
            failures += [Failure(start + one.index, one.kind, one.code, one.message) for one in found]
        return failures

    def _divert(self, bodies: Sequence[Body], failures: list[Failure]) -> list[Failure]:
        """Send to the fallback what the primary will never take: single records, and what it refuses altogether."""
        left = []
        for failure in failures:
            body = bodies[failure.index]
            single = failure.kind in (POISON, SIZE) and body.first == body.last and b'"event":' not in body.plain().data
            if not single and failure.kind != OPEN:
                left.append(failure)
                continue
            try:
                left += [Failure(failure.index, one.kind, one.code, one.message) for one in self._to_fallback([body])]
            except TransportError:
                left.append(failure)
        return left

    def _owe(self, bodies: Sequence[Body]) -> None:
        """Note which seqs of which run the primary does not have; ranges side by side become one."""
        for body in bodies:
            for part in [body] if body.run else by_run(body.plain().data):
                with self._lock:
                    for before in self._owed:
                        if before.run == part.run and before.last + 1 == part.first:
                            before.last = part.last
                            break
                    else:
                        self._owed.append(Body(b"", part.run, part.host, part.first, part.last))

    def _tell(self) -> None:
        """Gap events for the primary, whose readers would miss these lines otherwise; what fails is told later."""
        with self._lock:
            owed, self._owed = self._owed[: self.max_entries], self._owed[self.max_entries :]
        if not owed:
            return
        try:
            failed = {failure.index for failure in self._primary.send([self._gap(body) for body in owed])}
        except TransportError:
            failed = set(range(len(owed)))
        with self._lock:
            self._owed += [body for at, body in enumerate(owed) if at in failed]

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
