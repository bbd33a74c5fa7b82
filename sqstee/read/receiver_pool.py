"""Threads that receive in parallel.

To stop: first `ReceiverPool.stop`, which waits for every call that is out (a message that such a call brings is in
flight, and must be known to be released), then release, then `AckPool.close`.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from math import inf
from typing import TypeAlias

from sqstee.read.trouble import START_SECONDS, Trouble, is_final, pause_after
from sqstee.transports.base import ReceivedMessage, Receiver
from sqstee.transports.errors import OPEN, TransportError

PAUSE = 0.15  # seconds: longer than the interval at which a reader checks for the end
_BATCH = 10  # SQS: messages of one call
_CALL_BYTES = 1024 * 1024  # bytes of bodies that one call asks for
_FIRST_GUESS = 256 * 1024  # bytes of an average body before any was seen
_COPIES = 3.5  # an answer, its text and its bodies are in memory at the same time
_FOLLOW_SECONDS = 0.1  # one poll of a destination that is followed without consuming
_STAT_SECONDS = 1.0  # between two questions whether a queue is empty
_GIVE_UP_SECONDS = 30.0
_OVER_LIMIT_SECONDS = 5.0  # SQS OverLimit: 120,000 messages are in flight

OnMessages: TypeAlias = Callable[[Receiver, list[ReceivedMessage]], None]


class ReceiverPool:
    """Receives and passes each answer's messages to `on_messages`, which runs in the receiving thread.

    `wait`: seconds of one long poll. `budget`: bytes of answers that may be in memory at once. `max_messages`: stop
    after this many. While nothing comes, only one thread of each receiver polls. `failure` is the error that stopped
    the pool: a mistake, or passing trouble of a receiver that has given no answer for `start_timeout` seconds from the
    start. Later trouble is tolerated for ever; `notice` is called when it begins and when it is over. `pause`: seconds
    to wait after an empty answer, so that a reader can decide to stop before the next long poll begins; 0 where lines
    are to be shown at once.
    """

    def __init__(
        self,
        receivers: Sequence[Receiver],
        on_messages: OnMessages,
        notice: Callable[[str], None],
        threads: int = 4,
        wait: float = 2.0,
        budget: int = 16 * 1024 * 1024,
        max_messages: int | None = None,
        start_timeout: float = START_SECONDS,
    ) -> None:
        self._on_messages, self._notice = on_messages, notice
        self._troubles = {id(one): Trouble(f"{one.name}: receiving", notice) for one in receivers}
        self._answered: set[int] = set()  # the receivers that have given an answer
        self._start_timeout = start_timeout
        self._started = 0.0
        self._receivers = receivers
        self._stat_at = 0.0
        self._wait, self._budget = wait, budget
        self._changed = threading.Condition()
        self._left = max_messages
        self._average = float(_FIRST_GUESS)
        self._reserved = 0.0
        self._calls = 0
        self._stopping = threading.Event()
        self._busy = {id(receiver): threading.Event() for receiver in receivers}
        self.pause = 0.0
        self.failure: Exception | None = None
        self.received = self.bytes = 0
        self._empty_answers = {id(receiver): 0 for receiver in receivers}
        self._listed: set[int] = set()  # the receivers that have given an empty answer
        self._unlisted = [one for one in receivers if not getattr(one, "lists_all", False)]
        self.last_message = time.monotonic()
        self._threads = [
            threading.Thread(target=self._poll, args=(receiver, number == 0), daemon=True)
            for receiver in receivers
            for number in range(1 if receiver.follows else threads)
        ]

    def start(self) -> None:
        """Start to receive."""
        self._started = self.last_message = time.monotonic()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Make no more calls, and wait for those under way; `on_messages` gets their messages."""
        self._stopping.set()
        with self._changed:
            self._changed.notify_all()
        for event in self._busy.values():
            event.set()
        for thread in self._threads:
            if thread.is_alive():  # not before start()
                thread.join()

    @property
    def is_failing(self) -> bool:
        """Whether a receiver's last call has failed."""
        return any(trouble.is_failing for trouble in self._troubles.values())

    @property
    def is_over(self) -> bool:
        """Whether the pool has stopped by itself: after a failure, or after `max_messages`."""
        with self._changed:
            return self._stopping.is_set() or (self._left == 0 and not self._calls)

    @property
    def lists_all(self) -> bool:
        """Whether an empty answer of each receiver is final."""
        return not self._unlisted

    @property
    def listed(self) -> set[int]:
        """The ids of the receivers that have given an empty answer."""
        with self._changed:
            return set(self._listed)

    @property
    def has_listed_all(self) -> bool:
        """Whether everything was received that a store had at the start."""
        with self._changed:
            return len(self._listed) == len(self._receivers)

    def is_empty(self, seconds: float) -> bool:
        """Whether all was read: nothing came for `seconds`, several answers were empty, and no message is visible.

        For a store, which lists all that it has, one empty answer suffices.
        Where sqs:GetQueueAttributes is denied, empty answers suffice. Where messages stay visible but nobody gets them
        (another consumer holds their FIFO group), the queue counts as empty after half a minute.
        """
        now = time.monotonic()
        idle = now - self.last_message
        with self._changed:
            empty = [self._empty_answers[id(one)] - (0 if one.follows else 1) for one in self._receivers]
            if self.lists_all and all(self._empty_answers.values()) and idle >= seconds:
                return True
        if min(empty) < 1 or idle < seconds or now < self._stat_at:
            return False
        self._stat_at = now + _STAT_SECONDS
        return idle > max(_GIVE_UP_SECONDS, 2 * seconds) or all(map(_is_empty, self._receivers))

    def _poll(self, receiver: Receiver, is_lead: bool) -> None:
        attempt = 0
        while not self._stopping.is_set():
            if not is_lead and not self._busy[id(receiver)].wait(1.0):
                continue
            limit, size = self._reserve(getattr(receiver, "max_batch", _BATCH))
            if not limit:
                return
            messages: list[ReceivedMessage] = []
            try:
                messages = receiver.receive(limit, self._patience(receiver))
                self._count(receiver, messages)
                attempt = 0
                if messages:
                    self._on_messages(receiver, messages)
                    continue
                for remark in getattr(receiver, "remarks", list)():  # on what a store has and does not give
                    self._notice(remark)
                if self.pause:
                    self._stopping.wait(self.pause)
            except TransportError as error:
                attempt += 1
                self._handle_error(receiver, error, attempt)
            except Exception as error:  # `on_messages` failed, as on a full disk; it knows what it did not store
                self._fail(error)
            finally:
                self._free(limit - len(messages), size)

    def _patience(self, receiver: Receiver) -> float:
        """The seconds of one call: none where its first empty answer is the end."""
        if self.pause and receiver not in self._unlisted:
            return 0.0
        return _FOLLOW_SECONDS if receiver.follows else self._wait

    def _reserve(self, batch: int) -> tuple[int, float]:
        """Wait until the budget has room; how many messages to ask for, and the bytes reserved, 0 when stopping."""
        with self._changed:
            while not self._stopping.is_set():
                limit = max(1, min(batch, int(_CALL_BYTES / max(1.0, self._average))))
                limit = limit if self._left is None else min(limit, self._left)
                size = limit * self._average * _COPIES
                if limit and (not self._reserved or self._reserved + size <= self._budget):
                    self._reserved += size
                    self._calls += 1
                    if self._left is not None:
                        self._left -= limit
                    self._changed.notify()  # there may be room for another call
                    return limit, size
                self._changed.wait(0.5)
        return 0, 0.0

    def _free(self, unused: int, size: float) -> None:
        """Return a reservation, and that part of `max_messages` which the call did not use."""
        with self._changed:
            self._reserved -= size
            self._calls -= 1
            if self._left is not None:
                self._left += unused
            if not self._calls:
                self._reserved = 0.0  # drop rounding errors
            self._changed.notify()

    def _count(self, receiver: Receiver, messages: list[ReceivedMessage]) -> None:
        key = id(receiver)
        self._troubles[key].succeeded()
        with self._changed:
            self._answered.add(key)
            if not messages:
                self._empty_answers[key] += 1
                self._listed.add(key)
                self._busy[key].clear()
                return
            size = sum(len(message.data) for message in messages)
            self._average += (size / len(messages) - self._average) / 4
            self._empty_answers[key] = 0
            self.received += len(messages)
            self.bytes += size
            self.last_message = time.monotonic()
        self._busy[key].set()

    def _handle_error(self, receiver: Receiver, error: TransportError, attempt: int) -> None:
        """Back off where the trouble may pass, else fail."""
        at_start = id(receiver) not in self._answered
        left = self._started + self._start_timeout - time.monotonic() if at_start else inf
        if left <= 0 or is_final(error, attempt, at_start):
            limit = f" (for {self._start_timeout:g} s, see --start-timeout)" if left <= 0 else ""
            error.args = (f"{receiver.name}: {error}{limit}",)
            self._fail(error)
            return
        self._troubles[id(receiver)].failed(error, left)
        with self._changed:
            self._empty_answers[id(receiver)] = 0  # nothing can be said about the queue while it does not answer
        is_full = "OverLimit" in error.code
        self._stopping.wait(min(left, _OVER_LIMIT_SECONDS) if is_full else pause_after(attempt, left))

    def _fail(self, error: Exception) -> None:
        with self._changed:
            self.failure = self.failure or error
            self._stopping.set()
            self._changed.notify_all()


def _is_empty(receiver: Receiver) -> bool:
    if receiver.follows:
        return True
    try:
        return receiver.stat().visible == 0
    except TransportError as error:
        return error.kind == OPEN


class Inbox:
    """Messages on their way from a pool's threads to the one that reads them: put() blocks at `max_bytes`."""

    def __init__(self, max_bytes: int = 8 * 1024 * 1024) -> None:
        self._max_bytes = max_bytes
        self._held = 0
        self._changed = threading.Condition()
        self._messages: deque[tuple[Receiver, ReceivedMessage]] = deque()
        self._limited = True

    def put(self, receiver: Receiver, messages: list[ReceivedMessage]) -> None:
        """Add messages; blocks until there is room."""
        with self._changed:
            self._changed.wait_for(lambda: self._held < self._max_bytes or not self._limited)
            self._messages += [(receiver, message) for message in messages]
            self._held += sum(len(message.data) for message in messages)
            self._changed.notify_all()

    def get(self, seconds: float) -> list[tuple[Receiver, ReceivedMessage]]:
        """All messages; waits at most `seconds` for the first."""
        with self._changed:
            if not self._messages:
                self._changed.wait(seconds)
            found = list(self._messages)
            self._messages.clear()
            self._held = 0
            self._changed.notify_all()
            return found

    def lift_limit(self) -> None:
        """From now on put() never blocks: the pool stops, and only the calls that are out bring more."""
        with self._changed:
            self._limited = False
            self._changed.notify_all()
