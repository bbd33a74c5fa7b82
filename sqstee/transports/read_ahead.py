"""Reads items ahead of whoever takes them: several at a time, in order, and no more than fit into a bound."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar, cast

T = TypeVar("T")
R = TypeVar("R")


class _Slot(Generic[T, R]):
    """An item of `size` bytes, and its data, or the error that reading it raised."""

    __slots__ = ("data", "error", "is_read", "item", "size")

    def __init__(self, item: T, size: int) -> None:
        self.item = item
        self.size = size
        self.data: R | None = None
        self.error: Exception | None = None
        self.is_read = False


class ReadAhead(Generic[T, R]):
    """Reads items with `read`, in up to `threads` threads, for any number of takers.

    `most_bytes`: of items that are being read or wait to be taken. Beyond it only the very next item is read.
    """

    def __init__(self, read: Callable[[T], R], threads: int, most_bytes: int) -> None:
        self._read, self._most_threads, self._most_bytes = read, threads, most_bytes
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)  # there is something to read, or room for it
        self._ready = threading.Condition(self._lock)  # the awaited item is there
        self._turn = threading.Lock()  # of one taker at a time
        self._awaited: _Slot[T, R] | None = None
        self._slots: deque[_Slot[T, R]] = deque()  # not taken, in order
        self._unread: deque[_Slot[T, R]] = deque()  # those of them whose reading has not begun
        self._bytes = 0
        self._threads = 0
        self._has_failed = False  # nothing more is read until somebody who was told takes again
        self._is_told = False
        self._is_closed = False

    def __len__(self) -> int:
        """The number of items not taken."""
        return len(self._slots)

    def add(self, items: Iterable[tuple[T, int]]) -> None:
        """Add items, each with its size."""
        with self._lock:
            added: list[_Slot[T, R]] = [_Slot(*item) for item in items]
            self._slots.extend(added)
            self._unread.extend(added)
            self._start_threads()
            self._work.notify(len(added))

    def take(self, limit: int) -> list[tuple[T, R]]:
        """The next items and their data, as far as the bound allows: waits until they are read. Empty if none are left.

        Raises the error that reading the first one raised; the next call reads it again.
        """
        found: list[tuple[T, R]] = []
        size = 0
        with self._turn, self._lock:
            if self._is_told:
                self._read_again()
            while self._slots and len(found) < limit:
                slot = self._slots[0]
                if found and (slot.error or size + slot.size > self._most_bytes):
                    break
                if slot.error:
                    self._is_told = True
                    raise slot.error
                if slot.is_read:
                    found.append((slot.item, cast(R, slot.data)))
                    size += slot.size
                    self._slots.popleft()
                    self._work.notify()  # the next one is read even if there is no room for it
                else:
                    self._awaited = slot
                    self._ready.wait()
            self._bytes -= size
            self._work.notify(len(found))
        return found

    def close(self) -> None:
        """Read nothing more; items that are being read are dropped."""
        with self._lock:
            self._is_closed = True
            self._unread.clear()
            self._slots.clear()
            self._work.notify_all()
            self._ready.notify()

    def _start_threads(self) -> None:
        while self._threads < min(self._most_threads, len(self._unread)):
            try:
                threading.Thread(target=self._run, daemon=True).start()
            except RuntimeError:  # no more can be had
                if not self._threads:
                    raise
                return
            self._threads += 1

    def _read_again(self) -> None:
        failed = [slot for slot in self._slots if slot.error]
        for slot in failed:
            slot.error = None
        self._unread.extendleft(reversed(failed))
        self._has_failed = self._is_told = False
        self._work.notify_all()

    def _run(self) -> None:
        """The life of a thread."""
        while slot := self._next():
            data, error = None, None
            try:
                data = self._read(slot.item)
            except Exception as problem:
                error = problem
            with self._lock:
                slot.data, slot.error, slot.is_read = data, error, error is None
                if error:
                    self._has_failed = True
                    self._bytes -= slot.size
                if slot is self._awaited:
                    self._ready.notify()

    def _next(self) -> _Slot[T, R] | None:
        """The next item to be read, once there is room for it; None after close()."""
        with self._lock:
            while not self._is_closed:
                if self._unread and not self._has_failed and self._has_room(self._unread[0]):
                    slot = self._unread.popleft()
                    self._bytes += slot.size
                    self._work.notify()  # there may be room for another one
                    return slot
                self._work.wait()
        return None

    def _has_room(self, slot: _Slot[T, R]) -> bool:
        return self._bytes + slot.size <= self._most_bytes or slot is self._slots[0]


def in_order(call: Callable[[T], R], items: Iterable[T], threads: int) -> Iterator[R]:
    """The results of calls with each of `items`, in order; up to `threads` calls are out at a time."""
    if threads <= 1:
        yield from map(call, items)
        return
    ahead = ReadAhead(call, threads, 2 * threads)
    try:
        for item in items:
            ahead.add([(item, 1)])
            if len(ahead) > 2 * threads:
                yield from (result for _, result in ahead.take(1))
        while taken := ahead.take(1):
            yield from (result for _, result in taken)
    finally:
        ahead.close()
