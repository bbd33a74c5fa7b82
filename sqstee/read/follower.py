"""Wires the read side: receive, order, filter, show, then acknowledge."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from sqstee.read import notices
from sqstee.read.ack_pool import Received, Returns, by_receiver
from sqstee.read.decode import Foreign, Item, is_gap, is_pointer, read
from sqstee.read.filter import Filter
from sqstee.read.notices import Sink, Speaker
from sqstee.read.order import Emission, Emit, Gap, Late, Order
from sqstee.read.receiver_pool import PAUSE, Inbox, Pump
from sqstee.read.stop_signal import Stop, StoppedError
from sqstee.read.unacked import Holding
from sqstee.read.unmatched import TooLargeError
from sqstee.transports.base import ReceivedMessage, Receiver
from sqstee.transports.errors import TransportError
from sqstee.wire import Event

_LOOK_SECONDS = 0.1  # how often a signal and the end are looked for while nothing comes
_LOST_SECONDS = 60.0  # a queue's figures may lag a minute
_ASK_SECONDS = 10.0  # between two questions whether it is empty
_MOST_RUNS = 10_000  # known at a time; the one that has been silent longest is forgotten
_MOST_FOREIGN = 20_000  # message ids of foreign messages that are known as duplicates
_MOST_PEEKED = 100_000  # messages held: at 120,000 in flight a queue answers nobody any more
_MOST_REPEATS = 200  # messages met again in a row: the pass takes longer than they stay hidden


class Rest(Protocol):
    """Where what a filter refuses is kept."""

    def keep(self, items: Sequence[Item | Foreign]) -> None:
        """Take items; raises TooLargeError where another program's line is larger than can be kept."""

    def flush(self) -> None:
        """Have everything written or sent; raises where that fails."""


class Follower:
    """Reads destinations and hands their lines on, ordered and without duplicates.

    `consume`: a message is deleted once all its lines are out, as far as they ever will be; otherwise everything is
    given back at the end. `wanted` decides what is shown; `rest` keeps what is not. `records_only`: the sink has no use
    for other programs' lines, and no message with one is deleted.
    """

    def __init__(
        self,
        receivers: Sequence[Receiver],
        sink: Sink,
        stop: Stop,
        consume: bool,
        *,
        wanted: Filter | None = None,
        rest: Rest | None = None,
        window: float = 2.0,
        from_start: bool = False,
        threads: int = 4,
        wait: float = 2.0,
        most: int | None = None,
        records_only: bool = False,
    ) -> None:
        self._sink, self._stop, self._consume = sink, stop, consume
        self._wanted = wanted if wanted and wanted.is_active else None
        self._rest = rest
        self._records_only = records_only
        self.order: Order[Item] = Order(from_start=from_start, window=window)
        self._inbox = Inbox()
        self.pump = Pump(receivers, self._inbox.put, self._remark, threads, wait, most=most)
        self.returns = Returns(threads)
        self._holding: Holding[Received] = Holding()
        self._done: list[Received] = []
        # until the end, by message: what cannot be read (it comes again and again), all of it where nothing is consumed
        self._kept: dict[tuple[int, str], Received] = {}
        self._active: OrderedDict[str, None] = OrderedDict()
        self._foreign: OrderedDict[str, None] = OrderedDict()
        self._too_large: set[tuple[int, str]] = set()  # of those in _kept, what the rest cannot hold
        self._peeked: set[str] = set()
        self._repeats = 0
        self._remarks: list[str] = []
        self._receivers = receivers
        self._ended: set[str] = set()  # runs whose end was seen, while something of them is missing
        self._over: set[str] = set()  # runs that are known, and of which nothing comes after what was seen
        self._states: set[str] = set()  # of those that were forgotten
        self._ask_at = 0.0

    def follow(self) -> None:
        """Read until asked to stop. Raises TransportError and OSError."""
        self._read(lambda: False)

    def drain(self, idle: float = 0.0) -> None:
        """Read until the destinations have given nothing for `idle` seconds, or until asked to stop."""
        self.pump.pause = PAUSE
        self._read(lambda: self.pump.is_empty(idle) or self._is_peek_over())

    def states(self) -> set[str]:
        """What became of the runs that were met: complete, missing (lines never came, or the sender of an ended run
        dropped them) or open (it has not ended)."""
        return self._states | {self._state(run) for run in self._active}

    def remark(self, text: str, **fields: object) -> None:
        """Hand on a remark, which may wait for its reader: a signal ends that, and all that is held is given back."""
        with self._stop.interruptible():
            self._sink.remark(text, **fields)

    def _read(self, is_over: Callable[[], bool]) -> None:
        self.pump.start()
        try:
            while not self._stop.signal and not self.pump.is_over and not is_over():
                self._step(self._inbox.get(self._patience()))
                self._look_for_loss()
            if not self._stop.signal:
                self._step(self._last_received(), at_end=True)
        except StoppedError:
            pass
        finally:
            self._give_back()
        if self.pump.failure:
            raise self.pump.failure

    def _last_received(self) -> list[Received]:
        """What is left once no call is out: a slow one may bring what its queue gave before it was found empty."""
        self._inbox.open_wide()
        self.pump.stop()
        return self._inbox.get(0.0)

    def _patience(self) -> float:
        deadline = self.order.deadline()
        return _LOOK_SECONDS if deadline is None else min(_LOOK_SECONDS, max(0.0, deadline - time.monotonic()))

    def _step(self, received: list[Received], at_end: bool = False) -> None:
        """Take what came, hand on what is in order, and acknowledge what is done."""
        unseen = deque(received)
        try:
            while unseen:
                self._take(*unseen[0])
                unseen.popleft()
            now = time.monotonic()
            self._emit(self.order.finish(now) if at_end else self.order.tick(now))
            self._say(self)
            with self._stop.interruptible():
                if self._rest:
                    self._rest.flush()
                self._sink.flush()
        except BaseException:
            for receiver, message in (*unseen, *self._done):
                self._keep(receiver, message)
            self._done = []
            raise
        self._acknowledge()

    def _take(self, receiver: Receiver, message: ReceivedMessage) -> None:
        if is_pointer(message):
            self._leave(receiver, message, "its body in S3 could not be read")
            return
        if not self._consume and not receiver.follows and self._is_peeked(receiver, message):
            return
        found, foreign = read(message)
        if foreign and self._records_only and self._consume and not receiver.follows:
            self._leave(receiver, message, "it is not sqstee's")
            return
        now = time.monotonic()
        if _name(receiver, message) in self._too_large:
            self._keep(receiver, message)
            return
        if foreign and self._is_new(message):
            try:
                self._hand_on(foreign)
            except TooLargeError:
                self._too_large.add(_name(receiver, message))
                self._remark("a message is left in the queue: it is larger than what --rest can keep")
                self._keep(receiver, message)
                return
        waits_for: dict[str, int] = {}
        for block in found:
            last = block[-1]
            end = last.last if isinstance(last, Event) else last.seq
            waits_for[last.run] = max(waits_for.get(last.run, 0), end)
            self._emit(self._placed(block, now))
        self._hold(receiver, message, waits_for)

    def _hold(self, receiver: Receiver, message: ReceivedMessage, waits_for: dict[str, int]) -> None:
        for run in waits_for:
            self._active[run] = None
            self._active.move_to_end(run)
        if not receiver.follows:
            without_body = ReceivedMessage(b"", {}, message.handle, message.id)
            if not self._consume:
                self._keep(receiver, message)
            elif waits_for:
                self._holding.hold((receiver, without_body), waits_for)
            else:
                self._done.append((receiver, without_body))
            for run in waits_for:
                self._done += self._holding.passed(run, self.order.border(run))
        while len(self._active) > _MOST_RUNS:
            self._forget(next(iter(self._active)))

    def _state(self, run: str) -> str:
        if self.order.holes(run) or (run in self._over and self.order.counters(run).gapped):
            return "missing"
        return "complete" if run in self._over else "open"

    def _forget(self, run: str) -> None:
        self._emit(self.order.flush(run, time.monotonic()))
        self._states.add(self._state(run))
        self._over.discard(run)
        self.order.forget(run)
        del self._active[run]

    def _leave(self, receiver: Receiver, message: ReceivedMessage, why: str) -> None:
        """A message that cannot be read is not deleted; it is held so that it does not come at once again."""
        if self._is_new(message):
            self._remark(f"a message is left in the queue: {why}")
        self._keep(receiver, message)

    def _keep(self, receiver: Receiver, message: ReceivedMessage) -> None:
        """Note what is to be given back, by its latest handle."""
        self._kept[_name(receiver, message)] = receiver, ReceivedMessage(b"", {}, message.handle, message.id)

    def _is_new(self, message: ReceivedMessage) -> bool:
        if not message.id:
            return True
        known = message.id in self._foreign
        self._foreign[message.id] = None
        while len(self._foreign) > _MOST_FOREIGN:
            self._foreign.popitem(last=False)
        return not known

    def _is_peeked(self, receiver: Receiver, message: ReceivedMessage) -> bool:
        """Whether a pass has met this message before; its latest handle is the one that gives it back."""
        if message.id not in self._peeked:
            self._peeked.add(message.id)
            self._repeats = 0
            return False
        self._repeats += 1
        self._keep(receiver, message)
        return True

    def _is_peek_over(self) -> bool:
        return len(self._peeked) >= _MOST_PEEKED or self._repeats >= _MOST_REPEATS

    def _placed(self, block: Sequence[Item], now: float) -> list[Emission[Item]]:
        first = block[0]
        if is_gap(first):
            assert isinstance(first, Event)
            return self.order.gap(first.run, first.seq, first.last, first, now)
        return self.order.block(first.run, first.seq, block, now)

    def _emit(self, emissions: Iterable[Emission[Item]]) -> None:
        for emission in emissions:
            if isinstance(emission, Emit):
                self._hand_on(emission.items)
            elif isinstance(emission, Late):
                self._hand_on(emission.items, late=True)
                notices.late(self, emission)
            elif isinstance(emission, Gap):
                self._hand_on((emission.item,), late=emission.is_late)
                notices.gap(self, emission)
            else:
                notices.missing(self, emission)
            self._done += self._holding.passed(emission.run, self.order.border(emission.run))

    def _hand_on(self, items: Sequence[Item | Foreign], late: bool = False) -> None:
        self._note_end(items)
        wanted = self._wanted
        if wanted is None:
            self._sink.items(items, late)
            return
        if self._rest:
            with self._stop.interruptible():
                self._rest.keep([item for item in items if not wanted(item)])
        self._sink.items([item for item in items if wanted(item)], late)

    def _look_for_loss(self) -> None:
        """What is missing of an ended run is lost once the queue has been empty for longer than it hides a message."""
        now = time.monotonic()
        if not self._ended or now - self.pump.last_message < _LOST_SECONDS or now < self._ask_at:
            return
        self._ask_at = now + _ASK_SECONDS
        try:
            states = [receiver.stat() for receiver in self._receivers if not receiver.follows]
        except TransportError:
            return
        hidden = max((state.visibility_timeout or 0.0 for state in states), default=0.0)
        if now - self.pump.last_message < hidden or any(one.visible + one.in_flight + one.delayed for one in states):
            return
        for run in sorted(self._ended):
            for first, last in self.order.holes(run):
                notices.lost(self, run, first, last)
        self._ended.clear()

    def _note_end(self, items: Sequence[Item | Foreign]) -> None:
        last = items[-1]
        if isinstance(last, Event) and last.event in ("exit", "end"):
            if last.event == "end" or not last.fields.get("open"):
                self._over.add(last.run)
            if self.order.holes(last.run):
                self._ended.add(last.run)

    def _remark(self, text: str) -> None:
        """A remark from whatever thread: said by the one that reads."""
        self._remarks.append(text)

    def _say(self, speaker: Speaker) -> None:
        while self._remarks:
            speaker.remark(self._remarks.pop(0))

    def _acknowledge(self) -> None:
        done, self._done = self._done, []
        for receiver, messages in by_receiver(done):
            self.returns.delete(receiver, messages)

    def _give_back(self) -> None:
        """Await what is under way, then give back all that is not acknowledged: nothing stays in flight."""
        self._inbox.open_wide()
        self.pump.stop()
        left = [*self._kept.values(), *self._done, *self._holding.clear(), *self._inbox.get(0.0)]
        for receiver, messages in by_receiver(left):
            if not receiver.follows:
                latest = {message.id or message.handle: message for message in messages}
                self.returns.release(receiver, list(latest.values()))
        self.returns.close()
        for receiver in self._receivers:
            receiver.close()
        self._say(self._sink)
        if self.returns.failed:
            many = f"{self.returns.failed} message{'s' if self.returns.failed > 1 else ''}"
            self._sink.remark(f"{many} could not be acknowledged and will come again: {self.returns.problem}")


def _name(receiver: Receiver, message: ReceivedMessage) -> tuple[int, str]:
    """What a message is known by over all its deliveries."""
    return id(receiver), message.id or message.handle
