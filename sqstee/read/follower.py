"""The loop of the read side: receive, decode, order, filter, show, then acknowledge."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from sqstee.read import notices
from sqstee.read.ack_pool import AckPool, Received, by_receiver, message_key
from sqstee.read.context import Context
from sqstee.read.decode import ForeignLine, Item, problem_of, read
from sqstee.read.filter import Filter
from sqstee.read.line_joiner import LineJoiner, join_pieces
from sqstee.read.message_merge import MessageMerge
from sqstee.read.message_tracker import MessageTracker
from sqstee.read.multiline import Multiline, separate
from sqstee.read.notices import ItemSink, NoticeSink
from sqstee.read.order import Emission, Emit, Gap, Late, Order
from sqstee.read.receiver_pool import PAUSE, Inbox, ReceiverPool
from sqstee.read.run_states import RunStates
from sqstee.read.stop_signal import StoppedError, StopSignal
from sqstee.read.trouble import START_SECONDS
from sqstee.read.unmatched import TooLargeError, UnmatchedStore
from sqstee.text import count
from sqstee.transports.base import ReceivedMessage, Receiver
from sqstee.transports.errors import TransportError
from sqstee.wire import Event, is_gap

_POLL_SECONDS = 0.1  # how often a signal and the end are checked for while nothing comes
_END_POLL_SECONDS = 0.01  # the same where the end may come at once
_BACKLOG_SECONDS = 30.0  # without a message: then what is there is shown, whatever a store in trouble still has
_LOST_SECONDS = 60.0  # SQS's counts may lag by a minute
_STAT_SECONDS = 10.0  # between two questions whether the queue is empty


class Follower:
    """Reads destinations and passes their lines to a sink, ordered and without duplicates.

    `consume`: delete a message once all its lines are out; otherwise every message is released at the end.
    `wanted` selects the lines to show; `unmatched` stores the others. `records_only`: the sink has no use for other
    programs' lines, so a message with such a line is never deleted. `window`: seconds to wait for a missing line.
    `wait`: seconds of one long poll. `max_messages`: stop after this many. `start_timeout`: see ReceiverPool.
    `on_backlog` is called once everything was passed on that stores had at the start, by the times at which several
    stores got it. `context` adds lines to the wanted ones, `multiline` makes one of several.
    """

    def __init__(
        self,
        receivers: Sequence[Receiver],
        sink: ItemSink,
        stop: StopSignal,
        consume: bool,
        *,
        wanted: Filter | None = None,
        unmatched: UnmatchedStore | None = None,
        window: float = 2.0,
        from_start: bool = False,
        threads: int = 4,
        wait: float = 2.0,
        max_messages: int | None = None,
        records_only: bool = False,
        start_timeout: float = START_SECONDS,
        on_backlog: Callable[[], None] | None = None,
        context: Context | None = None,
        multiline: Multiline | None = None,
    ) -> None:
        self._receivers = receivers
        self._sink, self._stop, self._consume = sink, stop, consume
        self._wanted = wanted if wanted and wanted.is_active else None
        self._unmatched = unmatched
        self._records_only = records_only
        self._on_backlog = on_backlog
        self._context, self._multiline = context, multiline
        self._merge = MessageMerge(receivers) if on_backlog and len(receivers) > 1 else None
        self.order: Order[Item] = Order(from_start=from_start, window=window)
        self._runs = RunStates(self.order)
        self._joiner = LineJoiner()
        self._ordered = all(one.ordered for one in receivers)  # each sends no next piece before its message is deleted
        self.messages = MessageTracker()
        self.unread: set[tuple[int, str]] = set()  # messages left in the queue because their bodies cannot be read
        self._inbox = Inbox()
        self.receiver_pool = ReceiverPool(
            receivers,
            self._inbox.put,
            self._queue_notice,
            threads,
            wait,
            max_messages=max_messages,
            start_timeout=start_timeout,
        )
        self.ack_pool = AckPool(threads, notice=self._queue_notice)
        self._queued_notices: list[str] = []
        self._stat_at = 0.0
        self._poll_seconds = _POLL_SECONDS

    def follow(self) -> None:
        """Read until asked to stop. Raises TransportError and OSError."""
        self._read(lambda: False)

    def drain(self, idle: float = 0.0) -> None:
        """Read until the destinations have given nothing for `idle` seconds, or until asked to stop."""
        self.receiver_pool.pause = PAUSE
        self._poll_seconds = _END_POLL_SECONDS if self.receiver_pool.lists_all else _POLL_SECONDS
        self._read(lambda: self._is_peek_over() or (not self.ack_pool.is_patient and self.receiver_pool.is_empty(idle)))

    def states(self) -> set[str]:
        """The states that the runs are in: complete, missing, open."""
        return self._runs.states()

    def notice(self, text: str, **fields: object) -> None:
        """Pass a notice to the sink. That may block; a signal interrupts it."""
        with self._stop.interruptible():
            self._sink.notice(text, **fields)

    def _read(self, is_over: Callable[[], bool]) -> None:
        self.receiver_pool.start()
        try:
            while not self._stop.signal and not self.receiver_pool.is_over and not is_over():
                is_listed = self._on_backlog is not None and self._is_backlog_over()
                self._step(self._merged(self._inbox.get(0.0 if is_listed else self._patience()), is_listed))
                if is_listed:
                    self._end_backlog()
                self._report_lost_lines()
            if not self._stop.signal:
                self._step(self._merged(self._last_received(), at_end=True), at_end=True)
                self._end_backlog()
        except StoppedError:
            pass
        finally:
            self._release_all()
        if self.receiver_pool.failure:
            raise self.receiver_pool.failure

    def _is_backlog_over(self) -> bool:
        """Whether stores have given all that they had at the start; one in trouble is not waited for any longer."""
        pool = self.receiver_pool
        is_stalled = len(self._receivers) > 1 and time.monotonic() - pool.last_message > _BACKLOG_SECONDS
        return pool.has_listed_all or is_stalled

    def _merged(self, received: list[Received], at_end: bool) -> list[Received]:
        """Received messages in the order in which they were stored, while those of several stores are merged."""
        if self._merge is None:
            return received
        found = self._merge.add(received, self.receiver_pool.listed, at_end)
        if at_end:
            self._merge = None
        return found

    def _end_backlog(self) -> None:
        """Everything that was there at the start has been read: no run waits for lines below its first one."""
        if self._on_backlog is not None:
            self._emit(self.order.start_all(time.monotonic()))
            with self._stop.interruptible():
                self._on_backlog()
            self._on_backlog = None

    def _is_peek_over(self) -> bool:
        if self.messages.is_peek_over:
            self._queue_notice("the pass of --peek ends before the queue is empty: SQS limits the messages in flight")
        return self.messages.is_peek_over

    def _last_received(self) -> list[Received]:
        """The messages of the last calls: a slow call may bring some that it took before the queue was found empty."""
        self._inbox.lift_limit()
        self.receiver_pool.stop()
        return self._inbox.get(0.0)

    def _patience(self) -> float:
        deadline = self.order.deadline()
        most = self._poll_seconds
        return most if deadline is None else min(most, max(0.0, deadline - time.monotonic()))

    def _step(self, received: list[Received], at_end: bool = False) -> None:
        """Process received messages, pass on the lines that are in order, and delete the finished messages."""
        unprocessed = deque(received)
        try:
            while unprocessed:
                self._process(*unprocessed[0])
                unprocessed.popleft()
            now = time.monotonic()
            self._emit(self.order.finish(now) if at_end else self.order.tick(now))
            self._give_up(self._joiner.overdue(at_end or self._ordered))
            self._show_groups(at_end or self._ordered)
            self._send_queued_notices(self)
            with self._stop.interruptible():
                if self._unmatched:
                    self._unmatched.flush()
                self._sink.flush()
        except BaseException:
            for receiver, message in unprocessed:
                self.messages.keep(receiver, message)
            self.messages.keep_finished()
            raise
        for receiver, messages in by_receiver(self.messages.pop_finished()):
            self.ack_pool.delete(receiver, messages)

    def _process(self, receiver: Receiver, message: ReceivedMessage) -> None:
        if problem := problem_of(message):
            self.unread.add(message_key(receiver, message))
            self._leave(receiver, message, problem)
            return
        self.unread.discard(message_key(receiver, message))
        if not self._consume and not receiver.follows and self.messages.was_peeked(receiver, message):
            return
        blocks, foreign = read(message)
        if foreign and self._records_only and self._consume and not receiver.follows:
            self._leave(receiver, message, "it was not sent by sqstee")
            return
        now = time.monotonic()
        if self.messages.is_too_large(receiver, message):
            self.messages.keep(receiver, message)
            return
        if foreign and self.messages.is_first_delivery(message):
            try:
                self._pass_on(foreign)
            except TooLargeError:
                self.messages.mark_too_large(receiver, message)
                self._queue_notice("a message is left in the queue: it is too large for --keep-unmatched")
                self.messages.keep(receiver, message)
                return
        last_seqs: dict[str, int] = {}
        for block in blocks:
            last = block[-1]
            end = last.last if isinstance(last, Event) else last.seq
            last_seqs[last.run] = max(last_seqs.get(last.run, 0), end)
            self._emit(self._order_block(block, now))
        self._track(receiver, message, last_seqs)

    def _track(self, receiver: Receiver, message: ReceivedMessage, last_seqs: dict[str, int]) -> None:
        if not receiver.follows:
            if self._consume:
                self.messages.wait(receiver, message, last_seqs)
            else:
                self.messages.keep(receiver, message)
            for run in last_seqs:
                self.messages.emitted(run, self._border(run))
        while (run_to_forget := self._runs.surplus()) is not None:
            self._emit(self.order.flush(run_to_forget, time.monotonic()))
            self._give_up([(run_to_forget, self._joiner.flush(run_to_forget))])
            if notice := self._runs.forget(run_to_forget):
                self._queue_notice(notice)

    def _leave(self, receiver: Receiver, message: ReceivedMessage, why: str) -> None:
        """Do not delete a message, and keep it in flight until the end, so that it is not redelivered at once."""
        if self.messages.is_first_delivery(message):
            is_stored = bool(message.problem) and getattr(receiver, "lists_all", False)
            self._queue_notice(why if is_stored else f"a message is left in the queue: {why}")
        self.messages.keep(receiver, message)

    def _order_block(self, block: Sequence[Item], now: float) -> list[Emission[Item]]:
        first = block[0]
        if is_gap(first):
            assert isinstance(first, Event)
            return self.order.gap(first.run, first.seq, first.last, first, now)
        return self.order.block(first.run, first.seq, block, now)

    def _emit(self, emissions: Iterable[Emission[Item]]) -> None:
        for emission in emissions:
            if isinstance(emission, Emit):
                self._pass_on(self._joiner.join(emission.items))
            elif isinstance(emission, Late):
                self._pass_on(join_pieces(emission.items), late=True)
                notices.report_late(self, emission)
            elif isinstance(emission, Gap):
                if not emission.is_late:  # the next record may belong to another line
                    self._pass_on(self._joiner.flush(emission.run))
                self._pass_on((emission.item,), late=emission.is_late)
                notices.report_gap(self, emission)
            else:
                self._pass_on(self._joiner.flush(emission.run))
                notices.report_missing(self, emission, shared=any(not one.follows for one in self._receivers))
            self.messages.emitted(emission.run, self._border(emission.run))

    def _give_up(self, unfinished: Iterable[tuple[str, Sequence[Item]]]) -> None:
        """Pass on lines whose end does not come."""
        for run, lines in unfinished:
            self._pass_on(lines)
            self.messages.emitted(run, self._border(run))

    def _border(self, run: str) -> int:
        """The seq below which every record that arrived has been passed on."""
        border = self._joiner.border(run, self.order.border(run))
        return border if self._multiline is None else self._multiline.border(run, border)

    def _pass_on(self, items: Sequence[Item | ForeignLine], late: bool = False) -> None:
        if not items:
            return
        self._runs.observe(items)
        if self._multiline and not late:
            items = self._multiline.add(items)
        self._show(items, late)

    def _show_groups(self, at_end: bool) -> None:
        """Show the groups of lines to which nothing was added in time."""
        if self._multiline:
            for run, groups in self._multiline.overdue(at_end):
                self._show(groups)
                self.messages.emitted(run, self._border(run))

    def _show(self, items: Sequence[Item | ForeignLine], late: bool = False) -> None:
        wanted = self._wanted
        if wanted is None:
            self._sink.items(items, late)
            return
        if self._unmatched:
            with self._stop.interruptible():
                self._unmatched.add(separate(item for item in items if not wanted(item)))
        shown = wanted.select(items) if self._context is None or late else self._context.select(items, wanted)
        if shown:
            self._sink.items(separate(shown) if self._multiline else shown, late)

    def _report_lost_lines(self) -> None:
        """Missing lines of an ended run are lost once the queue was empty for longer than a message can be hidden."""
        runs = self._runs.ended_with_holes
        now = time.monotonic()
        if not runs or now - self.receiver_pool.last_message < _LOST_SECONDS or now < self._stat_at:
            return
        self._stat_at = now + _STAT_SECONDS
        try:
            states = [receiver.stat() for receiver in self._receivers if not receiver.follows]
        except TransportError:
            return
        hidden = max((state.visibility_timeout or 0.0 for state in states), default=0.0)
        if any(state.visible + state.in_flight + state.delayed for state in states):
            return
        if now - self.receiver_pool.last_message < hidden:  # asked last: something may have come meanwhile
            return
        for run in sorted(runs):
            for first, last in self.order.holes(run):
                notices.report_lost(self, run, first, last)
        runs.clear()

    def _queue_notice(self, text: str) -> None:
        """Keep a notice, from whatever thread, for the reading thread to send."""
        self._queued_notices.append(text)

    def _send_queued_notices(self, sink: NoticeSink) -> None:
        while self._queued_notices:
            sink.notice(self._queued_notices.pop(0))

    def _release_all(self) -> None:
        """Wait for the calls that are out, then release every message that was not deleted: nothing stays in flight."""
        self._inbox.lift_limit()
        self.receiver_pool.stop()
        for receiver, messages in by_receiver([*self.messages.undeleted(), *self._inbox.get(0.0)]):
            if not receiver.follows:
                latest = {message.id or message.handle: message for message in messages}
                self.ack_pool.release(receiver, list(latest.values()))
        self.ack_pool.close()
        for receiver in self._receivers:
            receiver.close()
        self._send_queued_notices(self._sink)
        if self.ack_pool.failed:
            failed = count(self.ack_pool.failed, "message")
            self._sink.notice(f"{failed} could not be acknowledged and will be received again: {self.ack_pool.problem}")
