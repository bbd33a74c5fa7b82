"""A FIFO queue: message groups, deduplication, sequence numbers, and receipt handles that expire."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import ClassVar

from .limits import DEDUPLICATION_WINDOW, MAX_ENTRIES
from .message_rules import Draft
from .queues import DELETED, IN_FLIGHT, READY, Message, Queue


class FifoQueue(Queue):
    """A FIFO queue; its messages are in their groups, in order, visible or not."""

    fifo: ClassVar[bool] = True

    def __init__(self, name: str, region: str, attributes: dict[str, str], now: float, discard: bool) -> None:
        super().__init__(name, region, attributes, now, discard)
        self.attributes.setdefault("ContentBasedDeduplication", "false")
        self._groups: dict[str, deque[Message]] = {}
        self._accepted: dict[str, tuple[float, str, str]] = {}  # by deduplication id: time, message id, sequence

    def store(self, draft: Draft, now: float, sender: str) -> tuple[str, str]:
        """Accept a message; for a duplicate, the answer that the first one got."""
        known = self._accepted.get(draft.dedup) if draft.dedup is not None else None
        if known and now - known[0] < DEDUPLICATION_WINDOW:
            return known[1], known[2]
        message_id, sequence = super().store(draft, now, sender)
        if draft.dedup is not None:
            self._accepted[draft.dedup] = (now, message_id, sequence)
        return message_id, sequence

    def _sequence(self, order: int) -> str:
        return f"{18_870_000_000_000_000_000 + order * 256}"

    def add(self, message: Message, visible_at: float = 0.0) -> None:
        """Append a message to its group."""
        self._groups.setdefault(message.draft.group or "", deque()).append(message)
        super().add(message, visible_at)

    def _enqueue(self, message: Message) -> None:
        """Nothing to do: the message is in its group."""

    def delete(self, message: Message) -> None:
        """Delete a message, and its group with the last one."""
        if message.state == DELETED:
            return
        super().delete(message)
        group = message.draft.group or ""
        self._groups[group].remove(message)
        if not self._groups[group]:
            del self._groups[group]

    def receivable(self) -> Iterator[Message]:
        """The visible messages at the head of each group that has none in flight.

        One call receives at most MAX_ENTRIES messages of a group, so only that many can be in flight.
        """
        for members in list(self._groups.values()):
            if any(m.state == IN_FLIGHT for m in islice(members, MAX_ENTRIES)):
                continue
            for message in list(islice(members, MAX_ENTRIES)):
                if message.state != READY:
                    break
                yield message

    def handle_is_valid(self, message: Message, delivery: int, until: float, now: float) -> bool:
        """Only the latest delivery's handle, until its visibility timeout ends."""
        over = until <= now and message.state != IN_FLIGHT
        return not over and delivery == message.receives
