"""Which received messages are done with: all their lines came out, as far as they ever will. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heappop, heappush
from itertools import count
from typing import Generic, TypeVar

T = TypeVar("T")


class Holding(Generic[T]):
    """Messages by what they wait for: of each run in them, the last seq.

    A message is done once every run has been emitted past that seq; one that waits for nothing is done at once.
    """

    def __init__(self) -> None:
        self._heaps: dict[str, list[tuple[int, int, int]]] = {}  # run: (last seq, tie, key)
        self._held: dict[int, tuple[T, int]] = {}  # key: message, runs that it waits for
        self._numbers = count()

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, message: T, waits_for: dict[str, int]) -> None:
        """Keep a message; `waits_for` maps a run to the last of its seqs in the message."""
        key = next(self._numbers)
        self._held[key] = message, len(waits_for)
        for run, last in waits_for.items():
            heappush(self._heaps.setdefault(run, []), (last, key, key))

    def passed(self, run: str, border: int) -> list[T]:
        """Everything below `border` of a run has come out: the messages that are done by that."""
        heap = self._heaps.get(run, [])
        done = []
        while heap and heap[0][0] < border:
            key = heappop(heap)[2]
            message, left = self._held[key]
            if left == 1:
                del self._held[key]
                done.append(message)
            else:
                self._held[key] = message, left - 1
        if not heap:
            self._heaps.pop(run, None)
        return done

    def clear(self) -> list[T]:
        """Take everything out."""
        found = [message for message, _ in self._held.values()]
        self._held.clear()
        self._heaps.clear()
        return found

    def runs(self) -> Iterable[str]:
        """The runs that messages wait for."""
        return list(self._heaps)
