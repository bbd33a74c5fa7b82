"""Messages of several stores in the order in which they were stored. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqstee.read.ack_pool import Received
    from sqstee.transports.base import Receiver

_MOST_BYTES = 32 * 1024 * 1024  # held; above it the oldest messages pass, whatever a slower store may still bring


class MessageMerge:
    """Holds messages until every receiver has one or has given all, and passes the one on that was sent first."""

    def __init__(self, receivers: Sequence[Receiver]) -> None:
        self._held: dict[int, deque[Received]] = {id(one): deque() for one in receivers}
        self._bytes = 0

    def add(self, received: Sequence[Received], listed: set[int], at_end: bool) -> list[Received]:
        """Add messages, and return those that pass now. `listed`: receivers that have given all. `at_end`: all pass."""
        for one in received:
            self._held[id(one[0])].append(one)
            self._bytes += len(one[1].data)
        passed = []
        while heads := [queue for queue in self._held.values() if queue]:
            may_be_first = any(not queue and key not in listed for key, queue in self._held.items())
            if may_be_first and not at_end and self._bytes <= _MOST_BYTES:
                break
            found = min(heads, key=_sent).popleft()
            self._bytes -= len(found[1].data)
            passed.append(found)
        return passed


def _sent(queue: deque[Received]) -> float:
    return queue[0][1].sent
