"""Threads that delete or release received messages, apart from those that receive: deletes saturate first."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence

from sqstee.read.trouble import Trouble, pause_after
from sqstee.transports.base import ReceivedMessage, Receiver
from sqstee.transports.errors import OPEN, POISON, RETRY, Failure, TransportError

Received = tuple[Receiver, ReceivedMessage]

_PATIENCE_SECONDS = 30.0  # for deletes that fail, before their reader may end
_BATCH = 10  # SQS: entries of one batch request; of others see max_delete


class AckPool:
    """Deletes messages, or releases them, in batches: of ten, or of as many as the receiver has in `max_delete`.

    Failed entries are tried again, and so are calls that failed as a whole, for as long as the pool is open: one that
    has failed `attempts` - 1 times by then is tried once more. A message that could not be deleted in the end is
    received again from the queue: `failed` counts these, and `problem` is the last reason. `notice` is called
    when trouble begins, when it is over, and for a final refusal.
    """

    def __init__(
        self,
        threads: int = 4,
        attempts: int = 6,
        linger: float = 0.02,
        notice: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._changed = threading.Condition()
        self._jobs: OrderedDict[tuple[int, str], _Job] = OrderedDict()  # each message once, by its latest handle
        self._attempts, self._linger = attempts, linger
        self._notice = notice
        self._troubles: dict[int, Trouble] = {}  # by receiver
        self._open = True
        self._closing = threading.Event()
        self._busy = 0
        self._failing_since: float | None = None
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

    @property
    def is_failing(self) -> bool:
        """Whether the last delete or release of a receiver has failed."""
        with self._changed:
            return any(trouble.is_failing for trouble in self._troubles.values())

    @property
    def is_patient(self) -> bool:
        """Whether deletes or releases that failed are tried again, and have failed for less than half a minute."""
        with self._changed:
            since = self._failing_since
            if since is not None and not self._busy and not self._jobs:
                self._failing_since = since = None
        return since is not None and time.monotonic() - since < _PATIENCE_SECONDS

    def close(self) -> None:
        """Wait until every job is finished."""
        with self._changed:
            self._open = False
            self._changed.notify_all()
        self._closing.set()
        for thread in self._threads:
            thread.join()

    def _enqueue(self, jobs: Iterable[_Job]) -> None:
        with self._changed:
            self._jobs.update((job.key, job) for job in jobs)
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
        """The jobs for one call; empty when the pool is closed."""
        batch: list[_Job] = []
        with self._changed:
            while not batch:
                while not self._jobs:
                    if not self._open and not self._busy:
                        return []
                    self._changed.wait(0.5)
                    for trouble in self._troubles.values():
                        trouble.check()
                most = getattr(next(iter(self._jobs.values())).receiver, "max_delete", _BATCH)
                if len(self._jobs) < most and self._open:
                    self._changed.wait(self._linger)
                while self._jobs and len(batch) < most:
                    key, job = next(iter(self._jobs.items()))
                    if batch and not job.can_share_call(batch[0]):
                        break
                    del self._jobs[key]
                    batch.append(job)
            self._busy += len(batch)
            if self._jobs:  # each thread wakes the next: woken all at once, most would find nothing
                self._changed.notify()
        return batch

    def _run(self, batch: list[_Job]) -> None:
        receiver, messages = batch[0].receiver, [job.message for job in batch]
        with self._changed:
            trouble = self._troubles.setdefault(id(receiver), Trouble(f"{receiver.name}: deleting", self._notice))
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
        if len(failures) < len(batch):
            trouble.succeeded()
        if refusal := next((failure for failure in failures if failure.kind == OPEN), None):
            trouble.refused(refusal)
        if not any(retries):
            return
        trouble.failed(failures[0])
        with self._changed:
            self._failing_since = self._failing_since or time.monotonic()
        pause = pause_after(max(job.attempts for job in batch))
        if self._closing.is_set():
            time.sleep(pause)
        else:
            self._closing.wait(pause)
        with self._changed:
            for job in filter(None, retries):
                self._jobs.setdefault(job.key, job)  # a later delivery may wait already
            self._changed.notify()

    def _retry(self, job: _Job, failure: Failure) -> _Job | None:
        """The job, if it is to be tried again; otherwise count it as failed."""
        is_last = not self._open and job.attempts + 1 >= self._attempts
        if failure.kind not in (OPEN, POISON) and not is_last:
            job.attempts = min(job.attempts + 1, self._attempts - 1)
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

    @property
    def key(self) -> tuple[int, str]:
        """The message and the action due on it: delete or release."""
        receiver, message = message_key(self.receiver, self.message)
        return receiver, f"{self.deletes} {message}"

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
    """The identity of a message over all its deliveries."""
    return id(receiver), message.id or message.handle
