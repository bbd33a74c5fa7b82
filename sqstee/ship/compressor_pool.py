"""Compresses bodies in threads beside the one that packs: zlib and ISA-L release the interpreter lock meanwhile."""

from __future__ import annotations

import _thread
from collections import deque
from collections.abc import Iterator
from queue import Empty, SimpleQueue

from sqstee.ship.request import BILLED_UNIT_BYTES, PendingBody

_THREADS = 2
_MAX_IN_PROGRESS = 4  # bodies in compression while the next one is packed
_IDLE_SECONDS = 1.0  # a thread ends after this long without a job

Job = tuple[PendingBody, _thread.LockType]


class CompressorPool:
    """Compresses bodies in place, according to --compress (`mode`), and yields them in their order."""

    def __init__(self, mode: str) -> None:
        self._min_bytes = {"gzip": 0, "auto": BILLED_UNIT_BYTES}.get(mode)
        self._jobs: SimpleQueue[Job] = SimpleQueue()
        self._in_progress: deque[Job] = deque()
        self._threads: set[int] = set()

    def add(self, pending: PendingBody) -> Iterator[PendingBody]:
        """Start to compress a body; yields finished ones, waiting for the oldest if many are in progress.

        The caller must exhaust the iterator.
        """
        if not self._should_compress(pending):
            yield from self.drain()
            yield pending
            return
        job = (pending, _thread.allocate_lock())
        job[1].acquire()
        self._in_progress.append(job)
        self._jobs.put(job)
        if len(self._threads) < min(_THREADS, len(self._in_progress)):
            self._start_thread()
        if len(self._in_progress) > _MAX_IN_PROGRESS:
            yield self._wait_for_oldest()

    def drain(self) -> Iterator[PendingBody]:
        """Wait for all bodies in progress; yields them."""
        while self._in_progress:
            yield self._wait_for_oldest()

    def compress_now(self, pending: PendingBody) -> PendingBody:
        """Compress a body in the calling thread."""
        if self._should_compress(pending):
            _compress(pending)
        return pending

    def _should_compress(self, pending: PendingBody) -> bool:
        return self._min_bytes is not None and pending.body.size > self._min_bytes

    def _start_thread(self) -> None:
        try:
            self._threads.add(_thread.start_new_thread(self._work, ()))
        except RuntimeError:  # no thread available: the caller compresses
            pass

    def _wait_for_oldest(self) -> PendingBody:
        """Wait for the oldest body; meanwhile run queued jobs here, so that it ends even if no thread could start."""
        pending, done = self._in_progress.popleft()
        while not done.acquire(blocking=False):
            try:
                _run_job(self._jobs.get_nowait())
            except Empty:
                done.acquire()
                break
        return pending

    def _work(self) -> None:
        try:
            while True:
                _run_job(self._jobs.get(timeout=_IDLE_SECONDS))
        except Empty:
            self._threads.discard(_thread.get_ident())


def _run_job(job: Job) -> None:
    pending, done = job
    _compress(pending)
    done.release()


def _compress(pending: PendingBody) -> None:
    try:
        pending.body = pending.body.compressed()
    except Exception:  # no memory: the body is sent uncompressed
        pass
