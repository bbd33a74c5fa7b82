"""One task of `receive`, on an executor: it receives, writes a file, and only then deletes its messages.

Nothing is shared with other tasks. A task that is killed leaves messages in flight, which come back after their
visibility timeout, and at most a hidden file. A retried task or a speculative copy receives other messages and writes
files of its own, so each message is in some file before it is deleted; one that was received twice is in two of them,
and `read` drops the copy.
"""

from __future__ import annotations

import time
import uuid
from typing import NamedTuple

from sqstee.destination import parse
from sqstee.errors import SqsteeError, reason_of
from sqstee.fds import write_stderr
from sqstee.read.ack_pool import AckPool, Received, by_receiver
from sqstee.read.decode import problem_of
from sqstee.read.receiver_pool import PAUSE, Inbox, ReceiverPool
from sqstee.spark.output import PartOutput, open_output
from sqstee.spark.parts import FOREIGN_FOLDER, add_message, new_part
from sqstee.transports.base import ReceivedMessage, Receiver
from sqstee.transports.errors import TransportError
from sqstee.transports.factory import open_receiver

_PART_BYTES = 32 * 1024 * 1024  # of bodies in one file: it is in memory until it is written, twice over while it is
_PART_SECONDS = 10.0  # after which a file is written though it is small: its messages are in flight
_ORDERED_PART_SECONDS = 0.1  # on a FIFO queue a message blocks those of its run until it is deleted
_GET_SECONDS = 0.1
_RECEIVE_BYTES = 16 * 1024 * 1024


class ReceivePlan(NamedTuple):
    """The settings of each task; see `receive`."""

    queue: str
    to: str
    layout: str
    threads: int
    wait: float
    idle: float
    seconds: float | None
    visibility: int
    via_s3: tuple[str, ...]


class Receipt(NamedTuple):
    """The counts of one task, or of all of them. `problem`: why one ended early; empty where none did."""

    messages: int = 0
    records: int = 0
    foreign: int = 0
    files: int = 0
    deleted: int = 0
    undeleted: int = 0
    problem: str = ""

    def __add__(self, other: object) -> Receipt:
        assert isinstance(other, Receipt)
        sums = {name: getattr(self, name) + getattr(other, name) for name in self._fields[:-1]}
        return Receipt(**sums, problem=self.problem or other.problem)


def receiver_of(plan: ReceivePlan, connections: int = 1) -> Receiver:
    """The queue's receiver. Raises SqsteeError."""
    stores = [parse(text) for text in plan.via_s3]
    return open_receiver(parse(plan.queue), "", connections, plan.visibility, consume=True, stores=stores)


class ReceiveTask:
    """Receives until the queue is empty, or its time is over."""

    def __init__(self, plan: ReceivePlan, number: int) -> None:
        self._plan, self._number = plan, number
        deleters = plan.threads + max(1, plan.threads // 5)  # deletes saturate first
        receiver = receiver_of(plan, plan.threads + deleters)
        self._output: PartOutput = open_output(plan.to)
        self._inbox = Inbox()
        self._pool = ReceiverPool(
            [receiver], self._inbox.put, self._notice, plan.threads, plan.wait, budget=_RECEIVE_BYTES
        )
        self._pool.pause = PAUSE
        self._acks = AckPool(deleters, notice=self._notice)
        self._part = new_part(plan.layout)
        self._part_seconds = _ORDERED_PART_SECONDS if receiver.ordered else _PART_SECONDS
        self._foreign: list[bytes] = []
        self._held: list[Received] = []  # whose lines are in the part
        self._kept: list[Received] = []  # that cannot be read, and stay in the queue
        self._bytes = 0
        self._since = 0.0
        self._receipt = Receipt()

    def run(self) -> Receipt:
        """Receive, write, delete. Errors that a repetition would meet again are in the receipt."""
        ends = None if self._plan.seconds is None else time.monotonic() + self._plan.seconds
        problem = ""
        self._pool.start()
        try:
            while not self._is_over(ends):
                self._take(_GET_SECONDS)
            self._inbox.lift_limit()
            self._pool.stop()
            self._take(0.0)
            self._write()
        except (OSError, TransportError) as error:
            problem = f"{self._plan.to}: {reason_of(error) if isinstance(error, OSError) else error}"
        finally:
            self._inbox.lift_limit()
            self._pool.stop()
            self._release()
            self._acks.close()
        failure = self._pool.failure
        receipt = self._receipt._replace(deleted=self._acks.deleted, undeleted=self._acks.failed + len(self._kept))
        return receipt._replace(problem=problem or (str(failure) if failure else ""))

    def _is_over(self, ends: float | None) -> bool:
        if self._pool.is_over or (ends is not None and time.monotonic() >= ends):
            return True
        return not self._acks.is_patient and self._pool.is_empty(self._plan.idle)

    def _take(self, seconds: float) -> None:
        """Add the messages that have come to the part, and write it once it is large or old."""
        for received in self._inbox.get(seconds):
            self._add(received)
            if self._bytes >= _PART_BYTES:
                self._write()
        if self._held and time.monotonic() - self._since >= self._part_seconds:
            self._write()

    def _add(self, received: Received) -> None:
        receiver, message = received
        self._receipt += Receipt(messages=1)
        handle = receiver, ReceivedMessage(b"", {}, message.handle, message.id)
        if problem_of(message):
            self._kept.append(handle)
            return
        self._since = self._since if self._held else time.monotonic()
        self._held.append(handle)
        self._bytes += len(message.data)
        records, foreign = add_message(self._part, message)
        self._foreign += foreign
        self._receipt += Receipt(records=records, foreign=len(foreign))

    def _write(self) -> None:
        """Write the part, then delete its messages."""
        name = f"part-{self._number:05d}-{uuid.uuid4().hex}"
        files = [(f"date={date}/{name}{self._part.suffix}", data) for date, data in self._part.files()]
        if self._foreign:
            files.append((f"{FOREIGN_FOLDER}/{name}.ndjson", b"".join(self._foreign)))
        for path, data in files:
            self._output.put(path, data)
        held, self._held, self._foreign, self._bytes = self._held, [], [], 0
        for receiver, messages in by_receiver(held):
            self._acks.delete(receiver, messages)
        self._receipt += Receipt(files=len(files))

    def _release(self) -> None:
        """Let others receive the unwritten messages at once."""
        left = self._inbox.get(0.0) + self._held + self._kept
        for receiver, messages in by_receiver(left):
            self._acks.release(receiver, messages)

    def _notice(self, text: str) -> None:
        write_stderr(f"sqstee: task {self._number}: {text}\n")


def run_task(plan: ReceivePlan, number: int) -> Receipt:
    """Run one task; an error that a user can fix is in the receipt."""
    try:
        return ReceiveTask(plan, number).run()
    except SqsteeError as error:
        return Receipt(problem=error.message)
