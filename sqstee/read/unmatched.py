"""Stores the lines that a filter hides, so that their messages can be deleted although not every line was shown."""

from __future__ import annotations

import hashlib
import os
import string
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from math import inf
from typing import Protocol, TypeVar

from sqstee.errors import SqsteeError
from sqstee.fds import sync_data
from sqstee.read.decode import ForeignLine, Item, json_of
from sqstee.read.line_joiner import JoinedLine
from sqstee.read.trouble import START_SECONDS, Trouble, persist
from sqstee.record import NO_RUN, Body
from sqstee.transports.base import Sender
from sqstee.transports.errors import SIZE, Failure, TransportError

T = TypeVar("T")

_BODY_BYTES = 200 * 1024  # leaves room for attributes in the smallest limit of a queue, 256 KiB
_BATCH = 10
_REQUEST_BYTES = 1024 * 1024 - 64 * 1024
_LONGEST_RUN = 64  # run and range make a FIFO queue's deduplication id, which SQS limits to 128 characters
_RUN_LETTERS = frozenset(string.ascii_letters + string.digits + "-_.")


class TooLargeError(Exception):
    """A line that is too large for the destination."""


class UnmatchedStore(Protocol):
    """Stores the lines that a filter hides."""

    def add(self, items: Sequence[Item | ForeignLine]) -> None:
        """Add items; raises TooLargeError where another program's line is too large."""

    def flush(self) -> None:
        """Write or send everything; raises where that fails."""


class UnmatchedFile:
    """Appends NDJSON to a file, and syncs it before anything is acknowledged."""

    def __init__(self, path: str) -> None:
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            hint = "choose another file: --keep-unmatched FILE"
            raise SqsteeError(f"cannot write {path} for --keep-unmatched: {error.strerror}", hint) from None
        self._lines = [b"\n"] if _is_torn(path) else []

    def add(self, items: Sequence[Item | ForeignLine]) -> None:
        """Add items."""
        self._lines += map(_line, items)

    def flush(self) -> None:
        """Write and sync. Raises OSError."""
        data, self._lines = memoryview(b"".join(self._lines)), []
        if data:
            while data:
                data = data[os.write(self._fd, data) :]
            sync_data(self._fd)


def _is_torn(path: str) -> bool:
    """Whether a file ends within a line, as after a kill or on a full disk: an appended line would be unreadable."""
    if not os.path.isfile(path):
        return False
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.path.getsize(path) - 1))
            return file.read(1) not in (b"", b"\n")
    except OSError:  # writable, but not readable
        return False


class UnmatchedSender:
    """Sends NDJSON to another destination, in bodies of one run each; flush() waits for the answer.

    Seqs are missing between the lines of a body, and a destination may store each range of a run only once: so no range
    is passed on. A FIFO queue gets the run and, instead of the range, a number made from the content. Every other
    destination gets no run, except that lines without a valid run get one name in common and such a number.
    """

    def __init__(
        self,
        sender: Sender,
        notice: Callable[[str], None],
        pause: Callable[[float], None] = time.sleep,
        start_timeout: float = START_SECONDS,
    ) -> None:
        self._sender = sender
        self._trouble, self._pause = Trouble("storing for --keep-unmatched", notice), pause
        self._bodies: list[Body] = []
        self._limit = min(_BODY_BYTES, self._persist(sender.open, start_timeout) - 4096)

    def add(self, items: Sequence[Item | ForeignLine]) -> None:
        """Add items.

        Another program's line that may be too large is sent at once, before any other is added. Raises TooLargeError
        where the destination refuses it for its size, TransportError where it refuses it for another reason.
        """
        lines = [(item, _line(item)) for item in _pieces(items)]
        for item, line in lines:
            if self._is_large(item, line):
                self._send_alone(line)
        for item, line in lines:
            if self._is_large(item, line):
                continue
            run = NO_RUN if isinstance(item, ForeignLine) or not _is_name(item.run) else item.run
            last = self._bodies[-1] if self._bodies else None
            if last and last.run == run and len(last.data) + len(line) <= self._limit:
                last.data += line
            else:
                self._bodies.append(Body(line, run, "", 0, 0))

    def flush(self) -> None:
        """Send everything. Raises TransportError where the destination refuses it."""
        while self._bodies:
            batch = self._batch()
            self._send([self._addressed(body) for body in batch])
            del self._bodies[: len(batch)]

    def _is_large(self, item: Item | ForeignLine, line: bytes) -> bool:
        return isinstance(item, ForeignLine) and len(line) > self._limit

    def _send_alone(self, line: bytes) -> None:
        try:
            self._send([self._addressed(Body(line, NO_RUN, "", 0, 0))])
        except TransportError as error:
            if error.kind == SIZE:
                raise TooLargeError from error
            raise

    def _send(self, bodies: Sequence[Body]) -> None:
        """Send bodies, again and again while the trouble may pass: the messages that they came from wait in flight."""
        self._persist(lambda: _check(self._sender.send(bodies)))

    def _persist(self, call: Callable[[], T], seconds: float = inf) -> T:
        try:
            return persist(call, self._trouble, self._pause, seconds)
        except TransportError as error:
            error.args = (f"--keep-unmatched: {error}",)
            raise

    def _addressed(self, body: Body) -> Body:
        """The body with the run and number that identify it at the destination."""
        if body.run != NO_RUN and not self._sender.ordered:
            return Body(body.data, "", "", 0, 0)
        number = int(hashlib.sha256(body.data).hexdigest(), 16) % 10**12
        return Body(body.data, body.run, "", number, number)

    def _batch(self) -> list[Body]:
        batch: list[Body] = []
        for body in self._bodies[: 1 if self._sender.ordered else _BATCH]:
            if batch and sum(one.size for one in batch) + body.size > _REQUEST_BYTES:
                break
            batch.append(body)
        return batch


def _pieces(items: Iterable[Item | ForeignLine]) -> Iterator[Item | ForeignLine]:
    """Items as they were received: a line that came in pieces may be too large for the destination in one."""
    for item in items:
        yield from item.pieces if isinstance(item, JoinedLine) else (item,)


def _check(failures: Sequence[Failure]) -> None:
    if failures:
        raise TransportError(failures[0].kind, failures[0].code, failures[0].message)


def _is_name(run: str) -> bool:
    """Whether a run's name can be a message group and part of an S3 key."""
    return 0 < len(run) <= _LONGEST_RUN and run != NO_RUN and not set(run) - _RUN_LETTERS


def _line(item: Item | ForeignLine) -> bytes:
    """One line of NDJSON; everything outside ASCII is escaped, so that every destination accepts it."""
    return json_of(item.fields).encode() + b"\n"
