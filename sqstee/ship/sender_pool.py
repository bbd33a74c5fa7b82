"""The threads that call the transport."""

from __future__ import annotations

import _thread
import os
from collections import deque
from queue import SimpleQueue

from sqstee.ship.request import PendingBody
from sqstee.transports.base import Sender
from sqstee.transports.errors import RETRY, Failure, TransportError

IN_FLIGHT = 4
THREADS: set[int] = set()  # the idents of all threads that call a transport, in whatever run
_END: list[PendingBody] = []  # by identity: a thread that gets it ends


class SenderPool:
    """Background threads that call the transport; results come back through a descriptor that can be polled.

    They are plain daemon threads: a ThreadPoolExecutor would join them at exit and defeat the flush budget.
    """

    def __init__(self, sender: Sender, threads: int = IN_FLIGHT) -> None:
        self._sender = sender
        self._jobs: SimpleQueue[list[PendingBody] | None] = SimpleQueue()
        self._results: deque[tuple[list[PendingBody], list[Failure] | int | TransportError]] = deque()
        self.ready = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._threads = threads
        self._running = 0
        self._ending = _thread.allocate_lock()
        self.ordered = sender.ordered
        self.busy = 0
        self.requests = 0

    def submit(self, bodies: list[PendingBody] | None) -> None:
        """Send bodies, or, with None, reach the destination."""
        self.busy += 1
        self.requests += bodies is not None
        if self._running < min(self.busy, self._threads):
            try:
                _thread.start_new_thread(self._work, ())
                self._running += 1
            except RuntimeError:  # no thread can be had: the interpreter is ending, or the limit on them is reached
                if not self._running:
                    self._do(bodies)
                    return
        self._jobs.put(bodies)

    def collect(self) -> list[tuple[list[PendingBody], list[Failure] | int | TransportError]]:
        """What has ended since the last call: the bodies with their failures, or the limit that `open` answered."""
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
        """Have the threads end when they are done; nothing may be submitted or collected any more."""
        if not self._running:
            os.close(self.ready)
        for _ in range(self._running):
            self._jobs.put(_END)

    def _work(self) -> None:
        THREADS.add(_thread.get_ident())
        while (bodies := self._jobs.get()) is not _END:
            self._do(bodies)
        THREADS.discard(_thread.get_ident())
        with self._ending:
            self._running -= 1
            if not self._running:  # only now does nobody tell it anything
                os.close(self.ready)

    def _do(self, bodies: list[PendingBody] | None) -> None:
        self._results.append((bodies or [], self._call(bodies)))
        os.eventfd_write(self.ready, 1)

    def _call(self, bodies: list[PendingBody] | None) -> list[Failure] | int | TransportError:
        try:
            if bodies is None:
                return self._sender.open()
            return self._sender.send([pending.body for pending in bodies])
        except TransportError as error:
            return error
        except Exception as error:  # a bug of ours or of a library: as passing trouble, so that nothing is lost
            return TransportError(RETRY, type(error).__name__, str(error))
