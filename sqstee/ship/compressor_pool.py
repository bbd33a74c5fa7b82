"""Bodies compressed in threads beside the one that packs: zlib and ISA-L let go of the interpreter meanwhile."""

from __future__ import annotations

import _thread
from collections import deque
from collections.abc import Iterator
from queue import Empty, SimpleQueue

from sqstee.ship.request import BILLED_UNIT_BYTES, PendingBody

_THREADS = 2
_AHEAD = 4  # bodies that are being compressed while the next one is packed
_IDLE_SECONDS = 1.0  # after which a thread ends

Job = tuple[PendingBody, _thread.LockType]


class CompressorPool:
    """Compresses bodies as `mode` wants it, in place, and hands them on in their order."""

    def __init__(self, mode: str) -> None:
        self._least = {"gzip": 0, "auto": BILLED_UNIT_BYTES}.get(mode)
        self._jobs: SimpleQueue[Job] = SimpleQueue()
        self._under_way: deque[Job] = deque()
        self._threads: set[int] = set()

    def add(self, pending: PendingBody) -> Iterator[PendingBody]:
        """Take a body; yields what is done, waiting for the oldest where many are under way. To be used up."""
        if not self._wanted(pending):
            yield from self.rest()
            yield pending
            return
        job = (pending, _thread.allocate_lock())
        job[1].acquire()
        self._under_way.append(job)
        self._jobs.put(job)
        if len(self._threads) < min(_THREADS, len(self._under_way)):
            self._start()
        if len(self._under_way) > _AHEAD:
            yield self._oldest()

    def rest(self) -> Iterator[PendingBody]:
        """Wait for all that is under way."""
        while self._under_way:
            yield self._oldest()

    def now(self, pending: PendingBody) -> PendingBody:
        """Compress a body at once."""
        if self._wanted(pending):
            _compress(pending)
        return pending

    def _wanted(self, pending: PendingBody) -> bool:
        return self._least is not None and pending.body.size > self._least

    def _start(self) -> None:
        try:
            self._threads.add(_thread.start_new_thread(self._work, ()))
        except RuntimeError:  # no thread can be had: who waits does it
            pass

    def _oldest(self) -> PendingBody:
        """The oldest body, once it is done; meanwhile no job is left lying, whatever became of the threads."""
        pending, done = self._under_way.popleft()
        while not done.acquire(blocking=False):
            try:
                _do(self._jobs.get_nowait())
            except Empty:
                done.acquire()
                break
        return pending

    def _work(self) -> None:
        try:
            while True:
                _do(self._jobs.get(timeout=_IDLE_SECONDS))
        except Empty:
            self._threads.discard(_thread.get_ident())


def _do(job: Job) -> None:
    pending, done = job
    _compress(pending)
    done.release()


def _compress(pending: PendingBody) -> None:
    try:
        pending.body = pending.body.compressed()
    except Exception:  # without the memory for it the body goes as it is
        pass
