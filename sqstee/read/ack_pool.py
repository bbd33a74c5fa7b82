"""Threads that delete or release received messages, apart from those that receive: deletes saturate first."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from sqstee.backoff import full_jitter
from sqstee.transports.base import ReceivedMessage, Receiver
from sqstee.transports.errors import OPEN, POISON, RETRY, Failure, TransportError

Received = tuple[Receiver, ReceivedMessage]

BACKOFF_FIRST_SECONDS = 0.2
BACKOFF_MOST_SECONDS = 30.0
_BATCH = 10  # SQS: entries of one batch request


class AckPool:
    """Deletes messages, or releases them, in batches of ten.

    Failed entries are tried again, and so are calls that failed as a whole. A message that could not be deleted in the
    end is received again from the queue: `failed` counts these, and `problem` is the last reason.
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

    def delete(self, receiver: Receiver, messages: Sequence[ReceivedMessage]) -> None:
        """Delete messages soon, in a thread of the pool."""
        self._enqueue(_Job(receiver, message, True) for message in messages)

    def release(self, receiver: Receiver, messages: Sequence[ReceivedMessage]) -> None:
        """Make messages visible again soon, in a thread of the pool."""
        self._enqueue(_Job(receiver, message, False) for message in messages)

    def close(self) -> None:
        """Wait until every job is finished."""
        with self._changed:
            self._open = False
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _enqueue(self, jobs: Iterable[_Job]) -> None:
        with self._changed:
            self._jobs += jobs
            self._changed.notify()

    def _work(self) -> None:
        while batch := self._next_batch():
            try:
                self._run(batch)
            finally:
                with self._changed:
                    self._busy -= len(batch)
                    if not self._open:  # the other threads wait for the last batch before they end
                        self._changed.notify_all()

    def _next_batch(self) -> list[_Job]:
        """Up to ten jobs for one call, each message once, by its latest handle; empty when the pool is closed."""
        batch: dict[str, _Job] = {}
        with self._changed:
            while not batch:
                while not self._jobs:
                    if not self._open and not self._busy:
                        return []
                    self._changed.wait(0.5)
                if len(self._jobs) < _BATCH and self._open:
                    self._changed.wait(self._linger)
                first = self._jobs[0] if self._jobs else None
                while first and self._jobs and len(batch) < _BATCH and self._jobs[0].can_share_call(first):
                    job = self._jobs.popleft()
                    batch[job.message.id or job.message.handle] = job
            self._busy += len(batch)
            if self._jobs:  # each thread wakes the next: woken all at once, most would find nothing
                self._changed.notify()
        return list(batch.values())

    def _run(self, batch: list[_Job]) -> None:
        receiver, messages = batch[0].receiver, [job.message for job in batch]
        failures: list[Failure] = []
        try:
            if batch[0].deletes:
                failures = receiver.delete(messages)
            else:
                receiver.release(messages)
        except TransportError as error:
            failures = [Failure(at, error.kind, error.code, error.message) for at in range(len(batch))]
        except Exception as error:  # a library's bug counts as passing trouble: the thread must live on
            failures = [Failure(at, RETRY, type(error).__name__, str(error)) for at in range(len(batch))]
        retries = [self._retry(batch[failure.index], failure) for failure in failures]
        with self._changed:
            if batch[0].deletes:
                self.deleted += len(batch) - len(failures)
            else:
                self.released += len(batch) - len(failures)
        if any(retries):
            attempt = max(job.attempts for job in batch)
            time.sleep(full_jitter(attempt, BACKOFF_FIRST_SECONDS, BACKOFF_MOST_SECONDS))
            self._enqueue(job for job in retries if job)

    def _retry(self, job: _Job, failure: Failure) -> _Job | None:
        """The job, if it is to be tried again; otherwise count it as failed."""
        job.attempts += 1
        if failure.kind not in (OPEN, POISON) and job.attempts < self._attempts:
            return job
        with self._changed:
            self.failed += 1
            self.problem = str(failure)
        return None


class _Job:
    """A message to delete or to release."""

    __slots__ = ("attempts", "deletes", "message", "receiver")

    def __init__(self, receiver: Receiver, message: ReceivedMessage, deletes: bool) -> None:
        self.receiver = receiver
        self.message = message
        self.deletes = deletes
        self.attempts = 0

    def can_share_call(self, other: _Job) -> bool:
        """Whether one batch request can hold both."""
        return self.receiver is other.receiver and self.deletes == other.deletes


def by_receiver(received: Iterable[Received]) -> Iterator[tuple[Receiver, list[ReceivedMessage]]]:
    """Messages grouped by the receiver that they came from."""
    found: dict[int, tuple[Receiver, list[ReceivedMessage]]] = {}
    for receiver, message in received:
        found.setdefault(id(receiver), (receiver, []))[1].append(message)
    yield from found.values()


def message_key(receiver: Receiver, message: ReceivedMessage) -> tuple[int, str]:
    """What identifies a message over all its deliveries."""
    return id(receiver), message.id or message.handle
