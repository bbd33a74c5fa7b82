"""Moves messages from sources into a local store: receive, store durably, delete.

A message is deleted once its lines are on the disk, so that a kill at any moment loses nothing. After a kill,
lines that are stored already may be received again, and the store drops them. While the store is full, messages wait,
and no more are received.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from math import inf
from typing import NamedTuple

from sqstee.read.ack_pool import AckPool, Received, by_receiver, message_key
from sqstee.read.decode import problem_of
from sqstee.read.receiver_pool import ReceiverPool
from sqstee.read.trouble import START_SECONDS, Trouble, persist
from sqstee.record import Body
from sqstee.run_summary import seconds_of
from sqstee.transports.base import ReceivedMessage, Receiver
from sqstee.transports.errors import OPEN, TransportError
from sqstee.transports.local import LocalSender
from sqstee.wire import DecodeError, by_run, decode, unpack

_WAITING_BYTES = 16 * 1024 * 1024  # of bodies that are checked and not stored yet; beyond it nothing is received
_GROUP_BODIES = 2000  # stored in one transaction
_AGAIN_SECONDS = 5.0  # until a store that refused is tried again
_MOST_RUN = 128  # characters of a run's id
_MOST_LEFT = 10_000  # messages that are not sqstee's and are released at the end; others wait for their time-out

_Waiting = tuple[Received, list[tuple[Body, float]]]


class PumpCounts(NamedTuple):
    """The counts of a pump so far: messages `received`, `deleted`, and `held`, which are neither stored nor given back.

    `duplicates` counts stretches of records that the store had already. `trouble` tells which part of the work fails.
    """

    received: int
    deleted: int
    held: int
    duplicates: int
    trouble: dict[str, bool]


class StorePump:
    """Moves messages of `receivers` into `store` with threads of its own.

    Messages that are not in the wire format stay where they are: `notice` is called once. `on_failure` is called, in a
    thread, when nothing more can be moved: `failure` says why.
    """

    def __init__(
        self,
        receivers: Sequence[Receiver],
        store: LocalSender,
        notice: Callable[[str], None],
        on_failure: Callable[[], None],
        threads: int = 8,
    ) -> None:
        self._receivers, self._store = receivers, store
        self._notice, self._on_failure = notice, on_failure
        self._pool = ReceiverPool(receivers, self._accept, notice, threads, start_timeout=inf)
        self._acks = AckPool(threads + 1, notice=notice)
        self._changed = threading.Condition()
        self._waiting: list[_Waiting] = []
        self._waiting_bytes = 0
        self._left: OrderedDict[tuple[int, str], Received] = OrderedDict()
        self._is_left_told = self._is_stopping = False
        self._refusal = ""  # why the store takes nothing
        self._first: list[tuple[Receiver, list[ReceivedMessage]]] = []  # what connect() has received
        self._first_received = self._duplicates = 0
        self._storing = 0  # messages in the group that is being stored
        self._failure: Exception | None = None
        self._storer = threading.Thread(target=self._store_all, daemon=True)
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def connect(self) -> None:
        """Receive from each source once. Raises TransportError where one cannot be read."""
        for receiver in self._receivers:
            trouble = Trouble(f"{receiver.name}: receiving", self._notice)
            try:
                messages = persist(partial(receiver.receive, 1, 0.0), trouble, time.sleep, START_SECONDS)
            except TransportError as error:
                error.args = (f"{receiver.name}: {error}",)
                raise
            self._first.append((receiver, messages))
            self._first_received += len(messages)

    def start(self) -> None:
        """Begin."""
        self._storer.start()
        while self._first:
            self._accept(*self._first.pop())
        self._pool.start()
        self._watcher.start()

    @property
    def counts(self) -> PumpCounts:
        """The counts so far."""
        with self._changed:
            held = len(self._waiting) + self._storing + len(self._left)
            trouble = {"receiving": self._pool.is_failing, "storing": bool(self._refusal)}
        trouble["deleting"] = self._acks.is_failing
        received = self._first_received + self._pool.received
        return PumpCounts(received, self._acks.deleted, held, self._duplicates, trouble)

    @property
    def failure(self) -> Exception | None:
        """The error that ended the pump, or None."""
        return self._failure or self._pool.failure

    def stop(self) -> None:
        """Store and delete the messages that have come, as far as the store accepts them, and release the rest."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()
        self._pool.stop()  # what the calls bring that are still out is accepted
        with self._changed:
            self._changed.notify_all()
        if self._storer.ident is None:  # start() was never called
            self._left.update((message_key(*one), one) for one in _each(self._first))
        else:
            self._storer.join()
        rest = [*self._left.values(), *(received for received, _ in self._waiting)]
        for receiver, messages in by_receiver(rest):
            if not receiver.follows:
                self._acks.release(receiver, messages)
        self._acks.close()
        for receiver in self._receivers:
            receiver.close()
        if self._acks.failed:
            problem = f"{self._acks.failed} messages could not be deleted or released, and will be received again"
            self._notice(f"{problem}: {self._acks.problem}")
        self._store.close()

    def _accept(self, receiver: Receiver, messages: list[ReceivedMessage]) -> None:
        """Check messages; runs in a receiving thread, which waits while too many are not stored yet."""
        for message in messages:
            received = receiver, ReceivedMessage(b"", {}, message.handle, message.id)
            try:
                bodies = _bodies(message)
            except Exception as error:  # whatever one message holds, the others are received
                self._leave(received, problem_of(message) or str(error) or type(error).__name__)
                continue
            with self._changed:
                self._left.pop(message_key(*received), None)
                self._changed.wait_for(self._has_room)
                self._waiting.append((received, bodies))
                self._waiting_bytes += _size(bodies)
                self._changed.notify_all()

    def _has_room(self) -> bool:
        """Whether a checked message may wait: while the store refuses, none is received that would only wait longer."""
        return self._is_stopping or (self._waiting_bytes < _WAITING_BYTES and not self._refusal)

    def _leave(self, received: Received, problem: str) -> None:
        with self._changed:
            is_told, self._is_left_told = self._is_left_told, True
            self._left[message_key(*received)] = received
            if len(self._left) > _MOST_LEFT:
                self._left.popitem(last=False)
        if not is_told:
            self._notice(f"{received[0].name}: messages that are not sqstee's stay there: {problem[:200]}")

    def _store_all(self) -> None:
        while group := self._next_group():
            while not self._commit(group):
                with self._changed:
                    if self._failure or self._changed.wait_for(lambda: self._is_stopping, _AGAIN_SECONDS):
                        self._waiting[:0] = group
                        self._storing = 0
                        return
            for receiver, messages in by_receiver(received for received, _ in group):
                if not receiver.follows:
                    self._acks.delete(receiver, messages)

    def _next_group(self) -> list[_Waiting]:
        """The next messages to store; none when all is stored and no more will come."""
        with self._changed:
            self._storing = 0
            self._changed.wait_for(lambda: self._waiting or self._pool.is_over)
            group: list[_Waiting] = []
            bodies = 0
            while self._waiting and bodies < _GROUP_BODIES:
                group.append(self._waiting.pop(0))
                bodies += len(group[-1][1])
            self._waiting_bytes -= sum(_size(one) for _, one in group)
            self._storing = len(group)
            self._changed.notify_all()
            return group

    def _commit(self, group: Sequence[_Waiting]) -> bool:
        """Whether a group is on the disk now. A store that is full, or locked, is tried again."""
        bodies, before = [body for _, bodies in group for body in bodies], self._store.stored
        try:
            self._store.send_dated(bodies)
        except TransportError as error:
            if error.kind == OPEN:
                self._failure = error
            self._notice_refusal(str(error))
            return False
        except Exception as error:  # without this thread nothing would be stored, and nobody would know
            self._failure = TransportError(OPEN, type(error).__name__, str(error))
            return False
        self._duplicates += len(bodies) - (self._store.stored - before)
        self._notice_refusal("")
        return True

    def _notice_refusal(self, problem: str) -> None:
        if problem != self._refusal:
            with self._changed:
                self._refusal = problem
                self._changed.notify_all()
            self._notice(f"{problem}: receiving waits" if problem else "the store takes lines again")

    def _watch(self) -> None:
        while not (self._is_stopping or self._failure or self._pool.is_over):
            time.sleep(0.2)
        if not self._is_stopping:
            self._on_failure()


def _each(received: Iterable[tuple[Receiver, list[ReceivedMessage]]]) -> Iterator[Received]:
    return ((receiver, message) for receiver, messages in received for message in messages)


def _size(bodies: Sequence[tuple[Body, float]]) -> int:
    return sum(len(body.data) for body, _ in bodies)


def _bodies(message: ReceivedMessage) -> list[tuple[Body, float]]:
    """A message as bodies for the store, each with the time when it was sent. Raises DecodeError, ValueError."""
    if problem_of(message):
        raise DecodeError("it points to a body in S3")
    if message.span:  # whoever stored it has checked it
        run, first, last = message.span
        found = [Body(message.data, run, "", first, last)]
    else:
        found = by_run(unpack(message.data, message.attributes))
    if not found:
        raise DecodeError("it has no records")
    if not all(0 < len(body.run) <= _MOST_RUN and body.run.isascii() and body.run.isprintable() for body in found):
        raise DecodeError(f"a run has 1 to {_MOST_RUN} printable ASCII characters")
    return [(body, message.sent or _written(body)) for body in found]


def _written(body: Body) -> float:
    """When the last record of a body was written, by its sender's clock."""
    (item,) = decode(body.data[body.data.rfind(b"\n", 0, -1) + 1 :])
    return min(time.time(), seconds_of(item.timestamp))


__all__ = ["StorePump"]
