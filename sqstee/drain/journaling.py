"""Empties destinations into a journal: receive, append, sync in groups, delete."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from sqstee.drain.journal import Journal, meta_of
from sqstee.read.ack_pool import Received, Returns, by_receiver
from sqstee.read.decode import is_pointer
from sqstee.read.receiver_pool import PAUSE, Pump
from sqstee.read.stop_signal import Stop
from sqstee.text import count
from sqstee.transports.base import ReceivedMessage, Receiver
from sqstee.transports.errors import TransportError
from sqstee.wire import DecodeError, unpack

_SYNC_SECONDS = 0.1
_SYNC_BYTES = 64 * 1024 * 1024
_LOOK_SECONDS = 0.1
_ASK_SECONDS = 5.0
_OWN_ATTRIBUTES = frozenset(("content-type", "sqstee", "host", "run", "seq"))


class Progress:
    """How far a collection is: messages and bytes received, messages deleted, and how many are still waiting at the
    queue (None where it was not asked)."""

    __slots__ = ("bytes", "deleted", "received", "waiting")

    def __init__(self, received: int = 0, bytes: int = 0, deleted: int = 0, waiting: int | None = None) -> None:
        self.received = received
        self.bytes = bytes
        self.deleted = deleted
        self.waiting = waiting

    def __add__(self, other: Progress) -> Progress:
        waiting = self.waiting if other.waiting is None else other.waiting
        return Progress(self.received + other.received, self.bytes + other.bytes, self.deleted + other.deleted, waiting)


class Limits:
    """How a collection goes: threads that receive, seconds of a long poll and of emptiness after which it ends, and
    the most messages (None: all)."""

    __slots__ = ("idle", "most", "threads", "wait")

    def __init__(self, threads: int = 16, wait: float = 1.0, idle: float = 5.0, most: int | None = None) -> None:
        self.threads = threads
        self.wait = wait
        self.idle = idle
        self.most = most

    @property
    def deleters(self) -> int:
        """Deletes saturate first: a pool that is a fifth larger."""
        return self.threads + max(1, self.threads // 5)


class Collector:
    """One process's collection into one journal."""

    def __init__(
        self, receivers: Sequence[Receiver], journal: Journal, limits: Limits, remark: Callable[[str], None]
    ) -> None:
        self._receivers, self._journal, self._limits, self._remark = receivers, journal, limits, remark
        self._pump = Pump(receivers, self._take, remark, limits.threads, limits.wait, most=limits.most)
        self._pump.pause = PAUSE
        self._returns = Returns(limits.deleters)
        self._lock = threading.Lock()
        self._unsynced: list[Received] = []
        self._unsynced_bytes = 0
        self._left: dict[tuple[int, str], Received] = {}  # stays in the queue; by message, as it may come again
        self._sync_now = threading.Event()
        self._is_over = threading.Event()
        self._failure: OSError | None = None
        self._waiting: int | None = None
        self._ask_at = 0.0
        self._asked = 0  # messages received when the queue was asked last

    def run(self, stop: Stop, tell: Callable[[Progress], None], ask: bool = False) -> None:
        """Collect until nothing comes any more or `stop` says so. Raises TransportError and OSError.

        What was journaled before is deleted all the same, and everything else given back. With `ask` the progress
        that is told includes what waits at the queue.
        """
        idle = 0.0 if all(one.follows for one in self._receivers) else self._limits.idle
        syncer = threading.Thread(target=self._sync_in_groups, daemon=True)
        syncer.start()
        self._pump.start()
        try:
            while not (stop.signal or self._pump.is_over or self._failure or self._pump.is_empty(idle)):
                time.sleep(_LOOK_SECONDS)
                if ask:
                    self._ask()
                tell(self.progress)
        finally:
            self._pump.stop()
            self._is_over.set()
            self._sync_now.set()
            syncer.join()
            self._give_back()
            tell(self.progress)
        if failure := self._failure or self._pump.failure:
            raise failure

    @property
    def progress(self) -> Progress:
        """How far it is."""
        received, waiting = self._pump.received, self._waiting
        if waiting is not None:
            waiting = max(0, waiting - (received - self._asked))
        return Progress(received, self._pump.bytes, self._returns.deleted, waiting)

    def _take(self, receiver: Receiver, messages: list[ReceivedMessage]) -> None:
        """In a receiving thread: journal what came."""
        handles = [(receiver, ReceivedMessage(b"", {}, message.handle, message.id)) for message in messages]
        entries = [_entry(message) for message in messages if not is_pointer(message)]
        try:
            if entries:
                self._journal.append(entries)
        except OSError:
            self._leave(handles)
            raise
        with self._lock:
            for held, message in zip(handles, messages, strict=True):
                if is_pointer(message):
                    self._left[_key(held)] = held
                else:
                    self._left.pop(_key(held), None)  # this time it could be read
                    self._unsynced.append(held)
            self._unsynced_bytes += sum(len(body) for _, body in entries)
            if self._unsynced_bytes >= _SYNC_BYTES or receiver.ordered:
                self._sync_now.set()

    def _sync_in_groups(self) -> None:
        while not self._is_over.is_set():
            self._sync_now.wait(_SYNC_SECONDS)
            self._sync_now.clear()
            self._sync()
        self._sync()

    def _sync(self) -> None:
        with self._lock:
            group, self._unsynced, self._unsynced_bytes = self._unsynced, [], 0
        if not group:
            return
        try:
            self._journal.sync()
        except OSError as error:
            self._failure = error
            self._leave(group)
            return
        for receiver, messages in by_receiver(group):
            if not receiver.follows:
                self._returns.delete(receiver, messages)

    def _leave(self, group: Sequence[Received]) -> None:
        with self._lock:
            self._left |= {_key(held): held for held in group}

    def _give_back(self) -> None:
        for receiver, messages in by_receiver(self._left.values()):
            if not receiver.follows:
                self._returns.release(receiver, messages)
        self._returns.close()
        for receiver in self._receivers:
            receiver.close()
        if self._left and not (self._failure or self._pump.failure):
            self._remark(f"{count(len(self._left), 'message')} left in the queue: the body in S3 could not be read")
        if self._returns.failed:
            problem = self._returns.problem
            self._remark(f"{self._returns.failed} messages are stored and will come again all the same: {problem}")

    def _ask(self) -> None:
        now = time.monotonic()
        if now < self._ask_at:
            return
        self._ask_at = now + _ASK_SECONDS
        self._asked = self._pump.received
        try:
            self._waiting = sum(one.stat().visible for one in self._receivers if not one.follows)
        except TransportError:
            self._waiting = None


def _key(held: Received) -> tuple[int, str]:
    """What a message is known by over all its deliveries."""
    receiver, message = held
    return id(receiver), message.id or message.handle


def _entry(message: ReceivedMessage) -> tuple[bytes, bytes]:
    """A message as the journal keeps it: unpacked where it can be, with the attributes that are not sqstee's own."""
    attributes = {name: text for name, text in message.attributes.items() if name not in _OWN_ATTRIBUTES}
    try:
        body = unpack(message.data, message.attributes)
        attributes.pop("Content-Encoding", None)
    except DecodeError:
        body = message.data
    return meta_of(message.id, message.sent, attributes), body
