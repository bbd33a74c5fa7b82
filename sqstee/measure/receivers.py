"""The receivers of one process: threads that poll one block's queue, delete at once, and write every delivery down."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqstee.measure.queues import QueueMessage, Queues, is_missing
from sqstee.measure.records import Calls, DeliveryRecord, RecordSink
from sqstee.transports.errors import RETRY, TransportError

_MOST_BACKOFF_SECONDS = 5.0
_NOT_DELETED: tuple[float | None, float | None] = (None, None)
_MISSING_PAUSE_SECONDS = 0.5  # a new queue is not everywhere at once


@dataclass(frozen=True, slots=True)
class Polling:
    """How receivers poll: `wait` of a long poll and `pause` between a receiver's polls, in seconds."""

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

    `received` is called, from the receivers' threads, with the block and the seqs of each answer. `failure` is what
    ended them.
    """

    def __init__(
        self, queues: Queues, sink: RecordSink, polling: Polling, name: str, received: Callable[[int, list[int]], None]
    ) -> None:
        self._queues, self._sink, self._polling, self._name = queues, sink, polling, name
        self._received = received
        self._stop = threading.Event()
        self._last_look = False
        self._threads: list[threading.Thread] = []
        self._tallies: list[_Tally] = []
        self._block = 0
        self.failure: TransportError | None = None

    def start(self, block: int, url: str, mode: str) -> None:
        """Poll a block's queue from now on."""
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
        """End the receivers within `patience` seconds: the polls that are out come back.

        At the end of a complete block each receiver of short polls goes on until it has found nothing in a poll that it
        began after the block's end: one that was kept from polling meanwhile would have left duplicates uncounted. A
        long poll that is out looks all the time.
        """
        self._last_look = complete
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
        """One receiver."""
        trouble, goes_on = 0, True
        while goes_on and self.failure is None:
            ending = stop.is_set()
            if ending and (wait or not self._last_look):
                return
            try:
                found = self._once(f"{name}:{block}:{tally.receives}", block, url, wait, tally)
                trouble, goes_on = 0, found or not ending
            except TransportError as error:
                if not self._bears(error, tally):
                    self.failure = error
                    return
                trouble, goes_on = trouble + 1, not ending
                backoff = min(_MOST_BACKOFF_SECONDS, 0.05 * 2.0**trouble)
                stop.wait(_MISSING_PAUSE_SECONDS if is_missing(error) else backoff)
            if self._polling.pause:
                stop.wait(self._polling.pause)

    @staticmethod
    def _bears(error: TransportError, tally: _Tally) -> bool:
        """Whether an error passes; a queue that is not there yet, or not any more, is none."""
        if is_missing(error):
            return True
        tally.errors += 1
        return error.kind == RETRY

    def _once(self, call: str, block: int, url: str, wait: float, tally: _Tally) -> bool:
        """One poll, and the deletion of what it brought: whether it brought anything."""
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
        """Delete; what cannot be deleted comes again, and is then told apart by its record."""
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
    """The seq of a message of this block; None for what somebody else has put into the queue."""
    try:
        fields = json.loads(body)
        seq = int(fields["seq"])
        return seq if fields["block"] == block and seq >= 0 else None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
