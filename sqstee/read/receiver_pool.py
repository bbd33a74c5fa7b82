"""Parallel receivers.

Whoever stops does so in this order: `Pump.stop` (awaits every call that is under way: a message that such a call
still brings is in flight, and must be known to be given back), then release, then `Returns.close`.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeAlias

from sqstee.read.ack_pool import backoff
from sqstee.transports.base import ReceivedMessage, Receiver
from sqstee.transports.errors import OPEN, POISON, REFRESH, TransportError

_BATCH = 10  # messages of one call
_CALL_BYTES = 1024 * 1024  # of bodies that one call asks for
_FIRST_GUESS = 256 * 1024  # bytes of a body before any was seen
_COPIES = 3.5  # answer, its text and its bodies are in memory at the same time
_FIRST_ATTEMPTS = 3
PAUSE = 0.15  # seconds: longer than those who decide take to look
_FOLLOW_SECONDS = 0.1  # one look at a destination that is followed without consuming
_ASK_SECONDS = 1.0  # between two questions whether a queue is empty
_GIVE_UP_SECONDS = 30.0
_OVER_LIMIT_SECONDS = 5.0  # SQS: 120,000 messages are in flight

Take: TypeAlias = Callable[[Receiver, list[ReceivedMessage]], None]


class Pump:
    """Threads that receive and hand each answer's messages to `take`, which runs in them.

    `wait`: seconds of one long poll. `budget`: bytes of answers that may be in memory at once. `most`: stop after so
    many messages. All threads but one of each receiver sleep while nothing comes. What stops it by itself is in
    `failure`; trouble that passes is told to `remark`. `pause`: seconds after an empty answer, for whoever decides then
    whether to go on, as stopping awaits the next long poll; 0 where lines are to be shown at once.
    """

    def __init__(
        self,
        receivers: Sequence[Receiver],
        take: Take,
        remark: Callable[[str], None],
        threads: int = 4,
        wait: float = 2.0,
        budget: int = 16 * 1024 * 1024,
        most: int | None = None,
    ) -> None:
        self._take, self._remark = take, remark
        self._receivers = receivers
        self._ask_at = 0.0
        self._wait, self._budget = wait, budget
        self._changed = threading.Condition()
        self._left = most
        self._average = float(_FIRST_GUESS)
        self._reserved = 0.0
        self._calls = 0
        self._succeeded = self._told = False
        self._stopping = threading.Event()
        self._busy = {id(receiver): threading.Event() for receiver in receivers}
        self.pause = 0.0
        self.failure: Exception | None = None
        self.received = self.bytes = 0
        self._empties = {id(receiver): 0 for receiver in receivers}
        self.last_message = time.monotonic()
        self._threads = [
            threading.Thread(target=self._poll, args=(receiver, number == 0), daemon=True)
            for receiver in receivers
            for number in range(1 if receiver.follows else threads)
        ]

    def start(self) -> None:
        """Begin to receive."""
        self.last_message = time.monotonic()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ask no more, and wait for the calls that are under way; `take` gets what they bring."""
        self._stopping.set()
        with self._changed:
            self._changed.notify_all()
        for event in self._busy.values():
            event.set()
        for thread in self._threads:
            thread.join()

    @property
    def is_over(self) -> bool:
        """Whether it has stopped by itself: a failure, or as many messages as were wanted."""
        with self._changed:
            return self._stopping.is_set() or (self._left == 0 and not self._calls)

    def is_empty(self, seconds: float) -> bool:
        """Whether all has been read: nothing came for `seconds`, more than one empty answer, and nothing is visible.

        A queue that may be read but not asked counts as empty by its answers; one whose visible messages nobody gets
        (a FIFO group that another consumer holds) after half a minute.
        """
        now = time.monotonic()
        idle = now - self.last_message
        with self._changed:
            answers = [self._empties[id(one)] - (0 if one.follows else 1) for one in self._receivers]
        if min(answers) < 1 or idle < seconds or now < self._ask_at:
            return False
        self._ask_at = now + _ASK_SECONDS
        return idle > max(_GIVE_UP_SECONDS, 2 * seconds) or all(map(_is_empty, self._receivers))

    def _poll(self, receiver: Receiver, lead: bool) -> None:
        attempt = 0
        while not self._stopping.is_set():
            if not lead and not self._busy[id(receiver)].wait(1.0):
                continue
            limit, room = self._reserve()
            if not limit:
                return
            messages: list[ReceivedMessage] = []
            try:
                messages = receiver.receive(limit, _FOLLOW_SECONDS if receiver.follows else self._wait)
                self._note(receiver, messages)
                attempt = 0
                if messages:
                    self._take(receiver, messages)
                elif self.pause:
                    self._stopping.wait(self.pause)
            except TransportError as error:
                attempt += 1
                self._trouble(receiver, error, attempt)
            except Exception as error:  # of `take`: a full disk; the messages are known to whoever gave it
                self._fail(error)
            finally:
                self._settle(limit - len(messages), room)

    def _reserve(self) -> tuple[int, float]:
        """How many messages to ask for, once there is room for them, and the room; 0 when stopping."""
        with self._changed:
            while not self._stopping.is_set():
                limit = max(1, min(_BATCH, int(_CALL_BYTES / max(1.0, self._average))))
                limit = limit if self._left is None else min(limit, self._left)
                room = limit * self._average * _COPIES
                if limit and (not self._reserved or self._reserved + room <= self._budget):
                    self._reserved += room
                    self._calls += 1
                    if self._left is not None:
                        self._left -= limit
                    self._changed.notify()  # there may be room for another
                    return limit, room
                self._changed.wait(0.5)
        return 0, 0.0

    def _settle(self, unused: int, room: float) -> None:
        with self._changed:
            self._reserved -= room
            self._calls -= 1
            if self._left is not None:
                self._left += unused
            if not self._calls:
                self._reserved = 0.0  # no rest of roundings
            self._changed.notify()

    def _note(self, receiver: Receiver, messages: list[ReceivedMessage]) -> None:
        key = id(receiver)
        with self._changed:
            self._succeeded, self._told = True, False
            if not messages:
                self._empties[key] += 1
                self._busy[key].clear()
                return
            size = sum(len(message.data) for message in messages)
            self._average += (size / len(messages) - self._average) / 4
            self._empties[key] = 0
            self.received += len(messages)
            self.bytes += size
            self.last_message = time.monotonic()
        self._busy[key].set()

    def _trouble(self, receiver: Receiver, error: TransportError, attempt: int) -> None:
        """Wait and go on where the trouble may pass; a first success tells a wrong name from a bad minute."""
        final = error.kind in (OPEN, POISON) or (error.kind == REFRESH and attempt >= _FIRST_ATTEMPTS)
        if final or (not self._succeeded and attempt >= _FIRST_ATTEMPTS):
            error.args = (f"{receiver.name}: {error}",)
            self._fail(error)
            return
        if not self._told and attempt > 1:
            self._told = True
            self._remark(f"{receiver.name}: receiving is in trouble and goes on trying: {error}")
        is_full = "OverLimit" in error.code
        self._stopping.wait(_OVER_LIMIT_SECONDS if is_full else backoff(attempt))

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
    """Messages on their way from a pump's threads to one that takes them out: put() waits at `most` bytes."""

    def __init__(self, most: int = 8 * 1024 * 1024) -> None:
        self._most = most
        self._held = 0
        self._changed = threading.Condition()
        self._messages: deque[tuple[Receiver, ReceivedMessage]] = deque()
        self._open = True

    def put(self, receiver: Receiver, messages: list[ReceivedMessage]) -> None:
        """Add messages; waits for room."""
        with self._changed:
            self._changed.wait_for(lambda: self._held < self._most or not self._open)
            self._messages += [(receiver, message) for message in messages]
            self._held += sum(len(message.data) for message in messages)
            self._changed.notify_all()

    def get(self, seconds: float) -> list[tuple[Receiver, ReceivedMessage]]:
        """All that is there, after at most `seconds` of waiting for the first."""
        with self._changed:
            if not self._messages:
                self._changed.wait(seconds)
            found = list(self._messages)
            self._messages.clear()
            self._held = 0
            self._changed.notify_all()
            return found

    def open_wide(self) -> None:
        """From now on put() never waits: what still comes is what the calls that are out bring."""
        with self._changed:
            self._open = False
            self._changed.notify_all()
