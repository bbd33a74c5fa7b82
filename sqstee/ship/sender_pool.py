"""The threads that call a transport."""

from __future__ import annotations

import _thread
import os
from collections import deque
from contextlib import suppress
from queue import SimpleQueue

from sqstee.ship.request import PendingBody
from sqstee.transports.base import Sender
from sqstee.transports.errors import RETRY, Failure, TransportError

IN_FLIGHT = 4
THREADS: set[int] = set()  # idents of all threads of this process that call a transport
_END: list[PendingBody] = []  # compared by identity: a thread that receives it ends


class SenderPool:
    """Background threads that call the transport; the descriptor `ready` is readable when there are results.

    They are plain daemon threads: a ThreadPoolExecutor would join them at exit and defeat the flush budget.
    """

    def __init__(self, sender: Sender, threads: int = IN_FLIGHT) -> None:
        self._sender = sender
        self._jobs: SimpleQueue[list[PendingBody] | None] = SimpleQueue()
        self._results: deque[tuple[list[PendingBody], list[Failure] | int | TransportError]] = deque()
        self.ready = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._threads = threads
        self._running = 0
        self._end_lock = _thread.allocate_lock()
        self.ordered = sender.ordered
        self.busy = 0
        self.requests = 0

    def submit(self, bodies: list[PendingBody] | None) -> None:
        """Send bodies or, with None, connect to the destination."""
        self.busy += 1
        self.requests += bodies is not None
        if self._running < min(self.busy, self._threads):
            try:
                _thread.start_new_thread(self._work, ())
                self._running += 1
            except RuntimeError:  # no thread available: the interpreter is ending, or a limit is reached
                if not self._running:
                    self._run_job(bodies)
                    return
        self._jobs.put(bodies)

    def collect(self) -> list[tuple[list[PendingBody], list[Failure] | int | TransportError]]:
        """The calls that ended since the last time: their bodies, with failures, an error, or the limit from `open`."""
        try:
            os.eventfd_read(self.ready)
        except BlockingIOError:
            return []
        found = []
        while self._results:
            found.append(self._results.popleft())
            self.busy -= 1
        return found

    def close(self) -> None:
        """Tell the threads to end after their last call; `submit` and `collect` must not be called any more."""
        if not self._running:
            os.close(self.ready)
        for _ in range(self._running):
            self._jobs.put(_END)

    def _work(self) -> None:
        THREADS.add(_thread.get_ident())
        while (bodies := self._jobs.get()) is not _END:
            self._run_job(bodies)
        with suppress(Exception):  # everything that was sent has its answer
            self._sender.close()
        THREADS.discard(_thread.get_ident())
        with self._end_lock:
            self._running -= 1
            if not self._running:  # the last thread: nobody writes to it any more
                os.close(self.ready)

    def _run_job(self, bodies: list[PendingBody] | None) -> None:
        self._results.append((bodies or [], self._call(bodies)))
        os.eventfd_write(self.ready, 1)

    def _call(self, bodies: list[PendingBody] | None) -> list[Failure] | int | TransportError:
        try:
            if bodies is None:
                return self._sender.open()
            return self._sender.send([pending.body for pending in bodies])
        except TransportError as error:
            return error
        except Exception as error:  # a bug here or in a library: try again, so that nothing is lost
            return TransportError(RETRY, type(error).__name__, str(error))
