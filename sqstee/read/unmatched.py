"""Where what a filter refuses is kept, so that a message can be deleted although not all of it was shown."""

from __future__ import annotations

import hashlib
import os
import string
from collections.abc import Sequence

from sqstee.errors import SqsteeError
from sqstee.read.decode import Foreign, Item, json_of
from sqstee.record import Body
from sqstee.transports.base import Sender
from sqstee.transports.errors import SIZE, Failure, TransportError

_BODY_BYTES = 200 * 1024  # leaves room for attributes in the smallest limit of a queue, 256 KiB
_BATCH = 10
_REQUEST_BYTES = 1024 * 1024 - 64 * 1024
_NO_RUN = "-"
_LONGEST_RUN = 64  # with the range it makes a FIFO queue's deduplication id, of at most 128
_RUN_LETTERS = frozenset(string.ascii_letters + string.digits + "-_.")


class TooLargeError(Exception):
    """A line that nothing at the destination can hold."""


class FileRest:
    """Appends NDJSON to a file, on disk before anything is acknowledged."""

    def __init__(self, path: str) -> None:
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            hint = "the form is --rest FILE|DEST"
            raise SqsteeError(f"--rest: {path} cannot be written: {error.strerror}", hint) from None
        self._lines = [b"\n"] if _is_torn(path) else []

    def keep(self, items: Sequence[Item | Foreign]) -> None:
        """Take items."""
        self._lines += map(_line, items)

    def flush(self) -> None:
        """Write and sync. Raises OSError."""
        data, self._lines = memoryview(b"".join(self._lines)), []
        if data:
            while data:
                data = data[os.write(self._fd, data) :]
            os.fdatasync(self._fd)


def _is_torn(path: str) -> bool:
    """Whether a file ends within a line, as a kill or a full disk leaves it: nothing must be appended to that."""
    if not os.path.isfile(path):
        return False
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.path.getsize(path) - 1))
            return file.read(1) not in (b"", b"\n")
    except OSError:  # it may be written, but not read
        return False


class SenderRest:
    """Sends NDJSON to another destination, in bodies of one run each; each flush waits for its answer.

    Their seqs have holes, where a destination may take a range once: none is told it. A FIFO queue knows a body by its
    run and a number that its content has, and so does every destination what has no run, or one that is no name.
    """

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self._bodies: list[Body] = []
        self._limit = min(_BODY_BYTES, sender.open() - 4096)

    def keep(self, items: Sequence[Item | Foreign]) -> None:
        """Take items.

        Another program's line that may be too large is sent at once, before any other is taken: raises TooLargeError
        where the destination says that it is, TransportError where it refuses it otherwise.
        """
        lines = [(item, _line(item)) for item in items]
        for item, line in lines:
            if self._is_large(item, line):
                self._send_alone(line)
        for item, line in lines:
            if self._is_large(item, line):
                continue
            run = _NO_RUN if isinstance(item, Foreign) or not _is_name(item.run) else item.run
            last = self._bodies[-1] if self._bodies else None
            if last and last.run == run and len(last.data) + len(line) <= self._limit:
                last.data += line
            else:
                self._bodies.append(Body(line, run, "", 0, 0))

    def flush(self) -> None:
        """Send all. Raises TransportError where the destination does not take it."""
        while self._bodies:
            batch = self._batch()
            _check(self._sender.send([self._addressed(body) for body in batch]))
            del self._bodies[: len(batch)]

    def _is_large(self, item: Item | Foreign, line: bytes) -> bool:
        return isinstance(item, Foreign) and len(line) > self._limit

    def _send_alone(self, line: bytes) -> None:
        try:
            failures = self._sender.send([self._addressed(Body(line, _NO_RUN, "", 0, 0))])
        except TransportError as error:
            if error.kind == SIZE:
                raise TooLargeError from error
            raise
        if failures and failures[0].kind == SIZE:
            raise TooLargeError
        _check(failures)

    def _addressed(self, body: Body) -> Body:
        """The body with the run and number that the destination is told."""
        if body.run != _NO_RUN and not self._sender.ordered:
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


def _check(failures: Sequence[Failure]) -> None:
    if failures:
        raise TransportError(failures[0].kind, failures[0].code, f"--rest: {failures[0].message}")


def _is_name(run: str) -> bool:
    """Whether a run's name can be a message group, and part of a key."""
    return 0 < len(run) <= _LONGEST_RUN and run != _NO_RUN and not set(run) - _RUN_LETTERS


def _line(item: Item | Foreign) -> bytes:
    """One line of NDJSON; all that is not ASCII is escaped, so that every destination takes it."""
    return json_of(item.fields).encode() + b"\n"
