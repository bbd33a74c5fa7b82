"""Empties destinations into a journal: receive, append, sync in groups, delete."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from sqstee.drain.journal import Journal, meta_of
from sqstee.read.ack_pool import AckPool, Received, by_receiver, message_key
from sqstee.read.decode import problem_of
from sqstee.read.receiver_pool import PAUSE, ReceiverPool
from sqstee.read.stop_signal import StopSignal
from sqstee.read.trouble import START_SECONDS
from sqstee.text import count
from sqstee.transports.base import ReceivedMessage, Receiver
from sqstee.transports.errors import TransportError
from sqstee.wire import DecodeError, unpack

_ANSWER_BYTES = 32 * 1024 * 1024  # of answers that are in memory at once: nine calls of full bodies
_SYNC_SECONDS = 0.1
_SYNC_BYTES = 64 * 1024 * 1024
_POLL_SECONDS = 0.1
_SHORT_POLL_SECONDS = 0.02  # where nothing is polled for: the end comes soon
_STAT_SECONDS = 5.0
_OWN_ATTRIBUTES = frozenset(("content-type", "sqstee", "host", "run", "seq"))


class DrainProgress:
    """Messages and bytes received, messages deleted, those that could not be deleted, and those still in the queue.

    `waiting` is None where it is not known.
    """

    __slots__ = ("bytes", "deleted", "received", "undeleted", "waiting")

    def __init__(
        self, received: int = 0, bytes: int = 0, deleted: int = 0, undeleted: int = 0, waiting: int | None = None
    ) -> None:
        self.received = received
        self.bytes = bytes
        self.deleted = deleted
        self.undeleted = undeleted
        self.waiting = waiting

    def __add__(self, other: DrainProgress) -> DrainProgress:
        return DrainProgress(
            self.received + other.received,
            self.bytes + other.bytes,
            self.deleted + other.deleted,
            self.undeleted + other.undeleted,
            self.waiting if other.waiting is None else other.waiting,
        )


class DrainLimits:
    """How a drain receives.

    `threads` receive at a time, each in long polls of `wait` seconds. The drain ends after `idle` seconds without a
    message. It receives at most `max_messages` (None: all). For `start_timeout` see ReceiverPool.
    """

    __slots__ = ("idle", "max_messages", "start_timeout", "threads", "wait")

    def __init__(
        self,
        threads: int = 16,
        wait: float = 1.0,
        idle: float = 5.0,
        max_messages: int | None = None,
        start_timeout: float = START_SECONDS,
    ) -> None:
        self.threads = threads
        self.wait = wait
        self.idle = idle
        self.max_messages = max_messages
        self.start_timeout = start_timeout

    @property
    def deleters(self) -> int:
        """Threads that delete: a fifth more than receive, because deletes saturate first."""
        return self.threads + max(1, self.threads // 5)


class Journaler:
    """Receives into one journal, in one process."""

    def __init__(
        self, receivers: Sequence[Receiver], journal: Journal, limits: DrainLimits, notice: Callable[[str], None]
    ) -> None:
        self._receivers, self._journal, self._limits, self._notice = receivers, journal, limits, notice
        self._receiver_pool = ReceiverPool(
            receivers,
            self._store,
            notice,
            limits.threads,
            limits.wait,
            _ANSWER_BYTES,
            max_messages=limits.max_messages,
            start_timeout=limits.start_timeout,
        )
        self._receiver_pool.pause = PAUSE
        self._ack_pool = AckPool(limits.deleters, notice=notice)
        self._lock = threading.Lock()
        self._unsynced: list[Received] = []
        self._unsynced_bytes = 0
        self._kept: dict[tuple[int, str], Received] = {}  # stay in the queue; by message, as one may be redelivered
        self._problem = ""  # why the last of them stays
        self._sync_now = threading.Event()
        self._is_over = threading.Event()
        self._failure: OSError | None = None
        self._waiting: int | None = None
        self._stat_at = 0.0
        self._received_at_stat = 0

    def run(self, stop: StopSignal, on_progress: Callable[[DrainProgress], None], count_waiting: bool = False) -> None:
        """Receive until nothing comes any more or `stop` is set. Raises TransportError and OSError.

        Messages that were journaled are deleted even then, and all others released. With `count_waiting` the progress
        includes the messages that wait in the queue.
        """
        idle = 0.0 if all(one.follows for one in self._receivers) else self._limits.idle
        syncer = threading.Thread(target=self._sync_in_groups, daemon=True)
        syncer.start()
        pool = self._receiver_pool
        pool.start()
        try:
            while not (stop.signal or pool.is_over or self._failure):
                if not self._ack_pool.is_patient and pool.is_empty(idle):
                    break
                time.sleep(_POLL_SECONDS if self._limits.wait else _SHORT_POLL_SECONDS)
                if count_waiting:
                    self._count_waiting()
                on_progress(self.progress)
        finally:
            pool.stop()
            self._is_over.set()
            self._sync_now.set()
            syncer.join()
            self._release()
            on_progress(self.progress)
        if failure := self._failure or pool.failure:
            raise failure

    @property
    def progress(self) -> DrainProgress:
        """The progress so far."""
        received, waiting = self._receiver_pool.received, self._waiting
        if waiting is not None:
            waiting = max(0, waiting - (received - self._received_at_stat))
        acks = self._ack_pool
        return DrainProgress(received, self._receiver_pool.bytes, acks.deleted, acks.failed + len(self._kept), waiting)

    def _store(self, receiver: Receiver, messages: list[ReceivedMessage]) -> None:
        """Journal received messages; runs in a receiving thread."""
        received = [(receiver, ReceivedMessage(b"", {}, message.handle, message.id)) for message in messages]
        entries = [_entry(message) for message in messages if not problem_of(message)]
        try:
            if entries:
                self._journal.append(entries)
        except OSError:
            self._keep(received)
            raise
        with self._lock:
            for one, message in zip(received, messages, strict=True):
                if problem := problem_of(message):
                    self._kept[message_key(*one)], self._problem = one, problem
                else:
                    self._kept.pop(message_key(*one), None)  # this delivery could be read
                    self._unsynced.append(one)
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
            self._keep(group)
            return
        for receiver, messages in by_receiver(group):
            if not receiver.follows:
                self._ack_pool.delete(receiver, messages)

    def _keep(self, group: Sequence[Received]) -> None:
        with self._lock:
            self._kept |= {message_key(*one): one for one in group}

    def _release(self) -> None:
        """Release the kept messages, wait for every call that is out, and report failures."""
        for receiver, messages in by_receiver(self._kept.values()):
            if not receiver.follows:
                self._ack_pool.release(receiver, messages)
        self._ack_pool.close()
        for receiver in self._receivers:
            receiver.close()
        if self._kept and not (self._failure or self._receiver_pool.failure):
            are_stored = all(getattr(receiver, "lists_all", False) for receiver, _ in self._kept.values())
            left = f"{count(len(self._kept), 'file')} not read" if are_stored else ""
            left = left or f"{count(len(self._kept), 'message')} left in the queue"
            self._notice(f"{left}: {self._problem}")
        if self._ack_pool.failed:
            failed = count(self._ack_pool.failed, "message")
            problem = self._ack_pool.problem
            self._notice(f"{failed} stored, but could not be acknowledged and will be received again: {problem}")

    def _count_waiting(self) -> None:
        now = time.monotonic()
        if now < self._stat_at:
            return
        self._stat_at = now + _STAT_SECONDS
        self._received_at_stat = self._receiver_pool.received
        try:
            self._waiting = sum(one.stat().visible for one in self._receivers if not one.follows)
        except TransportError:
            self._waiting = None


def _entry(message: ReceivedMessage) -> tuple[bytes, bytes]:
    """A journal entry: the body, decompressed where it can be, and the attributes that are not sqstee's own."""
    attributes = {name: text for name, text in message.attributes.items() if name not in _OWN_ATTRIBUTES}
    try:
        body = unpack(message.data, message.attributes)
        attributes.pop("Content-Encoding", None)
    except DecodeError:
        body = message.data
    return meta_of(message.id, message.sent, attributes), body
