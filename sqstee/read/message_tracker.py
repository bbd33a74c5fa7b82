"""Tracks received messages: each is deleted once its lines are out, or released at the end."""

from __future__ import annotations

from collections import OrderedDict

from sqstee.read.ack_pool import Received, message_key
from sqstee.read.unacked import UnackedMessages
from sqstee.transports.base import ReceivedMessage, Receiver

_MAX_KNOWN = 20_000  # message ids that are remembered to recognise a redelivery
_MAX_PEEKED = 100_000  # messages in flight at a time: at 120,000 SQS refuses every receiver
_MAX_REPEATS = 200  # redeliveries in a row: the pass takes longer than the visibility timeout


class MessageTracker:
    """Every received message is in one of three places: waiting for its lines, finished, or kept for release.

    None of them holds bodies: a message is tracked by its id and latest handle.
    """

    def __init__(self) -> None:
        self._waiting: UnackedMessages[Received] = UnackedMessages()
        self._finished: list[Received] = []
        # By message, because one that cannot be read is delivered again and again.
        self.kept: dict[tuple[int, str], Received] = {}
        self._known: OrderedDict[str, None] = OrderedDict()
        self._too_large: set[tuple[int, str]] = set()
        self._peeked: set[str] = set()
        self._repeats = 0

    def wait(self, receiver: Receiver, message: ReceivedMessage, last_seqs: dict[str, int]) -> None:
        """Finish a message once every run is emitted past its last seq; at once where it carries no run."""
        received = receiver, _without_body(message)
        if last_seqs:
            self._waiting.add(received, last_seqs)
        else:
            self._finished.append(received)

    def emitted(self, run: str, border: int) -> None:
        """Everything of a run below `border` is out: finish the messages that waited for that."""
        self._finished += self._waiting.pop_finished(run, border)

    def pop_finished(self) -> list[Received]:
        """Remove and return the messages that are to be deleted."""
        finished, self._finished = self._finished, []
        return finished

    def keep(self, receiver: Receiver, message: ReceivedMessage) -> None:
        """Release a message at the end, by its latest handle."""
        self.kept[message_key(receiver, message)] = receiver, _without_body(message)

    def keep_finished(self) -> None:
        """Release the finished messages after all: their lines could not be written."""
        for receiver, message in self.pop_finished():
            self.keep(receiver, message)

    def undeleted(self) -> list[Received]:
        """At the end, every message that was not deleted: kept, finished or waiting."""
        return [*self.kept.values(), *self.pop_finished(), *self._waiting.pop_all()]

    def is_first_delivery(self, message: ReceivedMessage) -> bool:
        """Whether this is the first call for a message. A message without an id always counts as new."""
        if not message.id:
            return True
        known = message.id in self._known
        self._known[message.id] = None
        while len(self._known) > _MAX_KNOWN:
            self._known.popitem(last=False)
        return not known

    def mark_too_large(self, receiver: Receiver, message: ReceivedMessage) -> None:
        """Remember that no other destination can hold a message."""
        self._too_large.add(message_key(receiver, message))

    def is_too_large(self, receiver: Receiver, message: ReceivedMessage) -> bool:
        """Whether an earlier delivery of a message was marked as too large."""
        return message_key(receiver, message) in self._too_large

    def was_peeked(self, receiver: Receiver, message: ReceivedMessage) -> bool:
        """Whether this pass of --peek has met a message before; if so, its latest handle is kept."""
        if message.id not in self._peeked:
            self._peeked.add(message.id)
            self._repeats = 0
            return False
        self._repeats += 1
        self.keep(receiver, message)
        return True

    @property
    def is_peek_over(self) -> bool:
        """Whether a pass of --peek must end: too many messages are in flight, or only redeliveries come."""
        return len(self._peeked) >= _MAX_PEEKED or self._repeats >= _MAX_REPEATS


def _without_body(message: ReceivedMessage) -> ReceivedMessage:
    return ReceivedMessage(b"", {}, message.handle, message.id)
