"""A pool of threads of its own that deletes what was received, or gives it back; deletes saturate first."""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from sqstee.transports.base import ReceivedMessage, Receiver
from sqstee.transports.errors import OPEN, POISON, RETRY, Failure, TransportError

Received = tuple[Receiver, ReceivedMessage]

_BATCH = 10  # messages of one call
_MOST_SECONDS = 30.0


def backoff(attempt: int) -> float:
    """Seconds before the next attempt: full jitter, up to 30."""
    return random.uniform(0, min(_MOST_SECONDS, 0.2 * 2 ** min(attempt, 10)))


class Returns:
    """A pool of threads that delete messages, or give them back, ten a call.

    Entries that the queue answers as Failed are tried again; so are calls that failed as a whole. What could not be
    deleted in the end comes again from the queue: `failed` counts it, `problem` is the last reason.
    """

    def __init__(self, threads: int = 4, attempts: int = 6, linger: float = 0.02) -> None:
        self._changed = threading.Condition()
        self._jobs: deque[_Job] = deque()
        self._attempts, self._linger = attempts, linger
        self._open = True
        self._busy = 0
        self.deleted = self.released = self.failed = 0
        self.problem = ""
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    @property
    def pending(self) -> int:
        """Messages that are not done with."""
        with self._changed:
            return len(self._jobs) + self._busy

    def delete(self, receiver: Receiver, messages: Sequence[ReceivedMessage]) -> None:
        """Have messages deleted, soon."""
        self._put(_Job(receiver, message, True) for message in messages)

    def release(self, receiver: Receiver, messages: Sequence[ReceivedMessage]) -> None:
        """Have messages given back, soon."""
        self._put(_Job(receiver, message, False) for message in messages)

    def close(self) -> None:
        """Wait until all is done."""
        with self._changed:
            self._open = False
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _put(self, jobs: Iterable[_Job]) -> None:
        with self._changed:
            self._jobs += jobs
            self._changed.notify()

    def _work(self) -> None:
        while batch := self._next():
            try:
                self._carry_out(batch)
            finally:
                with self._changed:
                    self._busy -= len(batch)
                    if not self._open:  # the others wait for this
                        self._changed.notify_all()

    def _next(self) -> list[_Job]:
        """Up to ten jobs of one kind for one receiver, each message once, by its latest handle; empty at the end."""
        batch: dict[str, _Job] = {}
        with self._changed:
            while not batch:
                while not self._jobs:
                    if not self._open and not self._busy:
                        return []
                    self._changed.wait(0.5)
                if len(self._jobs) < _BATCH and self._open:
                    self._changed.wait(self._linger)
                kind = self._jobs[0] if self._jobs else None
                while kind and self._jobs and len(batch) < _BATCH and self._jobs[0].fits(kind):
                    job = self._jobs.popleft()
                    batch[job.message.id or job.message.handle] = job
            self._busy += len(batch)
            if self._jobs:  # one wakes the next: all at once would only find that there is nothing
                self._changed.notify()
        return list(batch.values())

    def _carry_out(self, batch: list[_Job]) -> None:
        receiver, messages = batch[0].receiver, [job.message for job in batch]
        failures: list[Failure] = []
        try:
            if batch[0].deletes:
                failures = receiver.delete(messages)
            else:
                receiver.release(messages)
        except TransportError as error:
            failures = [Failure(at, error.kind, error.code, error.message) for at in range(len(batch))]
        except Exception as error:  # of a library: as passing trouble, so that the thread and its messages live on
            failures = [Failure(at, RETRY, type(error).__name__, str(error)) for at in range(len(batch))]
        again = [self._failed(batch[failure.index], failure) for failure in failures]
        with self._changed:
            if batch[0].deletes:
                self.deleted += len(batch) - len(failures)
            else:
                self.released += len(batch) - len(failures)
        if any(again):
            time.sleep(backoff(max(job.attempts for job in batch)))
            self._put(job for job in again if job)

    def _failed(self, job: _Job, failure: Failure) -> _Job | None:
        job.attempts += 1
        if failure.kind not in (OPEN, POISON) and job.attempts < self._attempts:
            return job
        with self._changed:
            self.failed += 1
            self.problem = str(failure)
        return None


class _Job:
    """A message to delete or to give back."""

    __slots__ = ("attempts", "deletes", "message", "receiver")

    def __init__(self, receiver: Receiver, message: ReceivedMessage, deletes: bool) -> None:
        self.receiver = receiver
        self.message = message
        self.deletes = deletes
        self.attempts = 0

    def fits(self, other: _Job) -> bool:
        """Whether both can go in one call."""
        return self.receiver is other.receiver and self.deletes == other.deletes


def by_receiver(received: Iterable[Received]) -> Iterator[tuple[Receiver, list[ReceivedMessage]]]:
    """Messages grouped by where they came from."""
    found: dict[int, tuple[Receiver, list[ReceivedMessage]]] = {}
    for receiver, message in received:
        found.setdefault(id(receiver), (receiver, []))[1].append(message)
    yield from found.values()
