"""Received messages that are not finished: some of their lines are not emitted yet. Pure."""

from __future__ import annotations

from heapq import heappop, heappush
from itertools import count
from typing import Generic, TypeVar

T = TypeVar("T")


class UnackedMessages(Generic[T]):
    """Messages, each with the last seq of every run that it carries.

    A message is finished once each of its runs has been emitted past that seq.
    """

    def __init__(self) -> None:
        self._heaps: dict[str, list[tuple[int, int]]] = {}  # run: (last seq, key)
        self._messages: dict[int, tuple[T, int]] = {}  # key: message, number of runs that are not past it
        self._keys = count()

    def __len__(self) -> int:
        return len(self._messages)

    def add(self, message: T, last_seqs: dict[str, int]) -> None:
        """Add a message; `last_seqs` maps each of its runs to the last of the run's seqs in it."""
        key = next(self._keys)
        self._messages[key] = message, len(last_seqs)
        for run, last in last_seqs.items():
            heappush(self._heaps.setdefault(run, []), (last, key))

    def pop_finished(self, run: str, border: int) -> list[T]:
        """Remove and return the messages that are finished now that the run is emitted below `border`."""
        heap = self._heaps.get(run, [])
        finished = []
        while heap and heap[0][0] < border:
            key = heappop(heap)[1]
            message, runs = self._messages[key]
            if runs == 1:
                del self._messages[key]
                finished.append(message)
            else:
                self._messages[key] = message, runs - 1
        if not heap:
            self._heaps.pop(run, None)
        return finished

    def pop_all(self) -> list[T]:
        """Remove and return every message."""
        found = [message for message, _ in self._messages.values()]
        self._messages.clear()
        self._heaps.clear()
        return found
