"""The sender of an experiment: threads that send numbered messages and record the times of each call."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from sqstee.backoff import full_jitter
from sqstee.measure.queues import Queues, is_missing
from sqstee.measure.receivers import body_of
from sqstee.measure.records import Calls, RecordSink, Sent
from sqstee.transports.errors import RETRY, TransportError

_BACKOFF_SECONDS, _MOST_BACKOFF_SECONDS = 0.1, 5.0
_READY_SECONDS = 60.0  # CreateQueue: a queue is usable after one second; a deleted name lingers for 60


@dataclass(frozen=True, slots=True)
class Sending:
    """How to send: `rate` in messages per second (0: no limit), `size` in bytes, `batch` messages per call."""

    threads: int = 4
    batch: int = 10
    size: int = 128
    rate: float = 0.0


class LoadSender:
    """Sends seqs 0 to `messages` - 1 of one block."""

    def __init__(
        self, queues: Queues, sink: RecordSink, sending: Sending, experiment: str, block: int, url: str, messages: int
    ) -> None:
        self._queues, self._sink, self._sending = queues, sink, sending
        self._experiment, self._block, self._url = experiment, block, url
        self._messages = messages
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._next = 0
        self._started = time.monotonic()
        self.accepted = 0
        self.sends = 0
        self.errors = 0
        self.failure: TransportError | None = None
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(sending.threads)]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    @property
    def done(self) -> bool:
        """Whether the queue has accepted every message."""
        return self.accepted == self._messages

    def stop(self, complete: bool, patience: float) -> None:
        """Stop the threads and record the number of calls; a call under way has `patience` seconds to finish."""
        self._stop.set()
        deadline = time.monotonic() + patience
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        whole = complete and self.done
        self._sink.write([Calls(self._block, sends=self.sends, errors=self.errors, complete=whole)])

    def _work(self) -> None:
        while not self._stop.is_set() and self.failure is None:
            with self._lock:
                first, self._next = self._next, min(self._next + self._sending.batch, self._messages)
                seqs = range(first, self._next)
            if not seqs:
                return
            if self._sending.rate:
                self._stop.wait(max(0.0, self._started + first / self._sending.rate - time.monotonic()))
            self._send(seqs)

    def _send(self, seqs: Sequence[int]) -> None:
        """Send until all are accepted; a message whose call got no answer is sent again: the producer's duplicates."""
        attempt = 0
        while seqs and not self._stop.is_set():
            try:
                seqs = self._send_batch(seqs)
            except TransportError as error:
                if not self._is_passing(error):
                    self.failure = error
                    return
            if seqs:
                self._stop.wait(full_jitter(attempt, _BACKOFF_SECONDS, _MOST_BACKOFF_SECONDS))
                attempt += 1

    def _is_passing(self, error: TransportError) -> bool:
        if is_missing(error):
            return time.monotonic() - self._started < _READY_SECONDS
        with self._lock:
            self.errors += 1
        return error.kind == RETRY

    def _send_batch(self, seqs: Sequence[int]) -> list[int]:
        """One call; the seqs that were not accepted."""
        bodies = [body_of(self._experiment, self._block, seq, self._sending.size) for seq in seqs]
        t0 = time.time()
        ids = self._queues.send(self._url, bodies)
        t1 = time.time()
        found = [(seq, message_id) for seq, message_id in zip(seqs, ids, strict=True) if message_id]
        self._sink.write(Sent(self._block, seq, message_id, t0, t1) for seq, message_id in found)
        with self._lock:
            self.sends += 1
            self.accepted += len(found)
        return [seq for seq, message_id in zip(seqs, ids, strict=True) if not message_id]
