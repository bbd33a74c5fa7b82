"""Work on files in threads, ahead of the one that needs the results in order: a round trip each is what takes time."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import BinaryIO, TypeVar

from sqstee.backoff import full_jitter
from sqstee.transports.errors import REFRESH, RETRY, TransportError
from sqstee.transports.file_tree import TreeFile

Item = TypeVar("Item")
Result = TypeVar("Result")
_ATTEMPTS = 5  # of a call whose trouble may pass
_FIRST_SECONDS, _MOST_SECONDS = 0.2, 5.0


def patiently(call: Callable[[], Result]) -> Result:
    """The result of a call, which is repeated a few times while its trouble may pass. Raises what it raises."""
    for attempt in range(1, _ATTEMPTS):
        try:
            return call()
        except TransportError as error:
            if error.kind not in (RETRY, REFRESH):
                raise
            time.sleep(full_jitter(attempt, _FIRST_SECONDS, _MOST_SECONDS))
    return call()


def in_order(call: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """The results of calls with each of `items`, in order; up to `threads` calls are out at a time."""
    if threads <= 1:
        yield from map(call, items)
        return
    executor = ThreadPoolExecutor(threads, "sqstee-ahead")
    calls: deque[Future[Result]] = deque()
    try:
        for item in items:
            calls.append(executor.submit(call, item))
            if len(calls) > 2 * threads:
                yield calls.popleft().result()
        while calls:
            yield calls.popleft().result()
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


class OpenAhead:
    """Opens files in the order in which they were added; `opening` gives None for one that is not to be read."""

    def __init__(self, opening: Callable[[TreeFile], BinaryIO | None], threads: int) -> None:
        self._opening = opening
        self._threads = threads
        self._executor: ThreadPoolExecutor | None = None
        self._calls: deque[tuple[TreeFile, Future[BinaryIO | None]]] = deque()

    @property
    def has_room(self) -> bool:
        """Whether another file may be opened ahead."""
        return len(self._calls) < self._threads

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, file: TreeFile) -> None:
        """Add a file behind the others."""
        self._calls.append((file, self._call(file)))

    def add_first(self, file: TreeFile) -> None:
        """Add a file before the others."""
        self._calls.appendleft((file, self._call(file)))

    def take(self) -> tuple[TreeFile, BinaryIO | Exception | None]:
        """The first file and what it was opened as, or why it cannot be opened.

        Raises TransportError for trouble that may pass: then the file stays the first.
        """
        file, call = self._calls.popleft()
        try:
            return file, call.result()
        except TransportError as error:
            if error.kind not in (RETRY, REFRESH):
                return file, error
            self.add_first(file)
            raise
        except OSError as error:
            return file, error

    def close(self) -> None:
        """Close the files that were opened and not taken."""
        for _, call in self._calls:
            if not call.cancel():
                call.add_done_callback(_close_result)
        self._calls.clear()
        if self._executor:
            self._executor.shutdown(wait=True)
            self._executor = None

    def _call(self, file: TreeFile) -> Future[BinaryIO | None]:
        if self._threads > 1:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(self._threads, "sqstee-ahead")
            return self._executor.submit(self._opening, file)
        found: Future[BinaryIO | None] = Future()
        try:
            found.set_result(self._opening(file))
        except Exception as error:
            found.set_exception(error)
        return found


def _close_result(call: Future[BinaryIO | None]) -> None:
    if not call.cancelled() and call.exception() is None and (file := call.result()):
        file.close()
