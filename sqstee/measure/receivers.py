"""The receivers of one process: threads that poll one block's queue, delete at once, and record every delivery."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqstee.backoff import full_jitter
from sqstee.measure.queues import QueueMessage, Queues, is_missing
from sqstee.measure.records import Calls, DeliveryRecord, RecordSink
from sqstee.transports.errors import RETRY, TransportError

_BACKOFF_SECONDS, _MOST_BACKOFF_SECONDS = 0.1, 5.0
_NOT_DELETED: tuple[float | None, float | None] = (None, None)
_MISSING_PAUSE_SECONDS = 0.5  # SQS's hosts do not all know a new queue at the same time


@dataclass(frozen=True, slots=True)
class Polling:
    """How to poll: the `wait` of a long poll and the `pause` between two polls of a receiver, in seconds."""

    receivers: int
    wait: float = 20.0
    pause: float = 0.0


@dataclass(slots=True)
class _Tally:
    receives: int = 0
    empty: int = 0
    deletes: int = 0
    errors: int = 0


class ReceiverThreads:
    """Receivers as threads of this process.

    `received` is called, from the receivers' threads, with the block and the seqs of each answer. `failure` is the
    error that ended them.
    """

    def __init__(
        self, queues: Queues, sink: RecordSink, polling: Polling, name: str, received: Callable[[int, list[int]], None]
    ) -> None:
        self._queues, self._sink, self._polling, self._name = queues, sink, polling, name
        self._received = received
        self._stop = threading.Event()
        self._last_poll = False
        self._threads: list[threading.Thread] = []
        self._tallies: list[_Tally] = []
        self._block = 0
        self.failure: TransportError | None = None

    def start(self, block: int, url: str, mode: str) -> None:
        """Start to poll a block's queue."""
        self._stop = threading.Event()
        self._block = block
        self._tallies = [_Tally() for _ in range(self._polling.receivers)]
        wait = self._polling.wait if mode == "long" else 0.0
        self._threads = [
            threading.Thread(target=self._poll, args=(f"{self._name}:{at}", block, url, wait, tally, self._stop))
            for at, tally in enumerate(self._tallies)
        ]
        for thread in self._threads:
            thread.daemon = True
            thread.start()

    def stop(self, complete: bool, patience: float) -> None:
        """Stop the receivers; the polls under way have `patience` seconds to finish.

        At the end of a complete block, each receiver of short polls goes on until a poll that began after the block's
        end finds nothing: a receiver that could not poll meanwhile would leave duplicates uncounted. A long poll under
        way covers that time.
        """
        self._last_poll = complete
        self._stop.set()
        deadline = time.monotonic() + patience
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        whole = complete and not any(thread.is_alive() for thread in self._threads)
        self._threads = []
        names = ("receives", "empty", "deletes", "errors")
        sums = {name: sum(getattr(tally, name) for tally in self._tallies) for name in names}
        self._sink.write([Calls(self._block, complete=whole, **sums)])

    def _poll(self, name: str, block: int, url: str, wait: float, tally: _Tally, stop: threading.Event) -> None:
        """Poll until the end: one receiver's thread."""
        attempt, goes_on = 0, True
        while goes_on and self.failure is None:
            ending = stop.is_set()
            if ending and (wait or not self._last_poll):
                return
            try:
                found = self._poll_once(f"{name}:{block}:{tally.receives}", block, url, wait, tally)
                attempt, goes_on = 0, found or not ending
            except TransportError as error:
                if not self._is_passing(error, tally):
                    self.failure = error
                    return
                backoff = full_jitter(attempt, _BACKOFF_SECONDS, _MOST_BACKOFF_SECONDS)
                attempt, goes_on = attempt + 1, not ending
                stop.wait(_MISSING_PAUSE_SECONDS if is_missing(error) else backoff)
            if self._polling.pause:
                stop.wait(self._polling.pause)

    @staticmethod
    def _is_passing(error: TransportError, tally: _Tally) -> bool:
        """Whether to go on after an error; a queue that does not exist yet, or no longer, counts as no error."""
        if is_missing(error):
            return True
        tally.errors += 1
        return error.kind == RETRY

    def _poll_once(self, call: str, block: int, url: str, wait: float, tally: _Tally) -> bool:
        """Poll, and delete the messages received; whether there were any."""
        t0 = time.time()
        found = self._queues.receive(url, wait)
        t1 = time.time()
        tally.receives += 1
        if not found:
            tally.empty += 1
            return False
        seqs = [_seq(one.body, block) for one in found]
        tally.deletes += 1
        deleted_t0 = time.time()
        done = self._delete(url, found, tally)
        deleted_t1 = time.time()
        times = [(deleted_t0, deleted_t1) if gone else _NOT_DELETED for gone in done]
        self._sink.write(
            DeliveryRecord(
                block, seq, one.message_id, call, t0, t1, gone0, gone1, one.receive_count, one.first_received
            )
            for seq, one, (gone0, gone1) in zip(seqs, found, times, strict=True)
            if seq is not None
        )
        self._received(block, [seq for seq in seqs if seq is not None])
        return True

    def _delete(self, url: str, found: Sequence[QueueMessage], tally: _Tally) -> list[bool]:
        """Whether each message was deleted; the others are delivered again, as their records show."""
        try:
            return self._queues.delete(url, [one.handle for one in found])
        except TransportError:
            tally.errors += 1
            return [False] * len(found)


def body_of(experiment: str, block: int, seq: int, size: int) -> str:
    """The body of a message, padded to `size` bytes."""
    body = json.dumps({"experiment": experiment, "block": block, "seq": seq})
    return body[:-1] + f', "pad": "{"x" * (size - len(body) - 11)}"}}' if size > len(body) + 11 else body


def _seq(body: str, block: int) -> int | None:
    """The seq of a message of this block; None for a foreign message."""
    try:
        fields = json.loads(body)
        seq = int(fields["seq"])
        return seq if fields["block"] == block and seq >= 0 else None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
