"""The threads that call a transport."""

from __future__ import annotations

import _thread
import os
import time
from collections import deque
from contextlib import suppress
from queue import SimpleQueue

from sqstee.ship.congestion_window import CongestionWindow
from sqstee.ship.request import MAX_IN_FLIGHT_BYTES, PendingBody
from sqstee.transports.base import Sender
from sqstee.transports.errors import RETRY, Failure, TransportError

IN_FLIGHT = 4  # requests at first, and at least
MAX_IN_FLIGHT = 16  # the most, where the round trip is long
THREADS: set[int] = set()  # idents of all threads of this process that call a transport
Job = tuple[list[PendingBody] | None, bool]  # bodies to send, or None to connect; whether nothing else was in flight
Answer = list[Failure] | int | TransportError
_END: Job = (None, False)  # compared by identity: a thread that receives it ends


class SenderPool:
    """Background threads that call the transport; the descriptor `ready` is readable when there are results.

    They are plain daemon threads: a ThreadPoolExecutor would join them at exit and defeat the flush budget. A thread is
    started when a call finds none free; there are at most `in_flight`, and at most as many as hold MAX_IN_FLIGHT_BYTES.
    `window` says how many calls may be in flight.
    """

    def __init__(self, sender: Sender, in_flight: int = MAX_IN_FLIGHT) -> None:
        self._sender = sender
        self._jobs: SimpleQueue[Job] = SimpleQueue()
        self._results: deque[tuple[Job, Answer, float]] = deque()
        self.ready = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._threads = 1 if sender.ordered else min(in_flight, MAX_IN_FLIGHT_BYTES // sender.max_request_bytes)
        self.window = CongestionWindow(min(IN_FLIGHT, self._threads), self._threads)
        self._running = 0
        self._end_lock = _thread.allocate_lock()
        self.ordered = sender.ordered
        self.busy = 0
        self.requests = 0

    def submit(self, bodies: list[PendingBody] | None) -> None:
        """Send bodies or, with None, connect to the destination."""
        self.busy += 1
        self.requests += bodies is not None
        job = (bodies, self.busy == 1)
        if self._running < min(self.busy, self._threads):
            try:
                _thread.start_new_thread(self._work, ())
                self._running += 1
            except RuntimeError:  # no thread available: the interpreter is ending, or a limit is reached
                if not self._running:
                    self._run_job(job)
                    return
        self._jobs.put(job)

    def collect(self) -> list[tuple[list[PendingBody], Answer]]:
        """The calls that ended since the last time: their bodies, with failures, an error, or the limit from `open`."""
        try:
            os.eventfd_read(self.ready)
        except BlockingIOError:
            return []
        found = []
        while self._results:
            (bodies, alone), answer, seconds = self._results.popleft()
            if not isinstance(answer, TransportError):
                self.window.answered(seconds, self.busy, alone)
            elif answer.kind == RETRY:
                self.window.congested()
            self.busy -= 1
            found.append((bodies or [], answer))
        return found

    def close(self) -> None:
        """Tell the threads to end after their last call; `submit` and `collect` must not be called any more."""
        if not self._running:
            os.close(self.ready)
        for _ in range(self._running):
            self._jobs.put(_END)

    def _work(self) -> None:
        THREADS.add(_thread.get_ident())
        while (job := self._jobs.get()) is not _END:
            self._run_job(job)
        with suppress(Exception):  # everything that was sent has its answer
            self._sender.close()
        THREADS.discard(_thread.get_ident())
        with self._end_lock:
            self._running -= 1
            if not self._running:  # the last thread: nobody writes to it any more
                os.close(self.ready)

    def _run_job(self, job: Job) -> None:
        started = time.monotonic()
        answer = self._call(job[0])
        self._results.append((job, answer, time.monotonic() - started))
        os.eventfd_write(self.ready, 1)

    def _call(self, bodies: list[PendingBody] | None) -> Answer:
        try:
            if bodies is None:
                return self._sender.open()
            return self._sender.send([pending.body for pending in bodies])
        except TransportError as error:
            return error
        except Exception as error:  # a bug here or in a library: try again, so that nothing is lost
            return TransportError(RETRY, type(error).__name__, str(error))
