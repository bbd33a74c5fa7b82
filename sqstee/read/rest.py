"""Where what a filter refuses is kept, so that a message can be deleted although not all of it was shown."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

from sqstee.errors import SqsteeError
from sqstee.read.receive import Foreign, Item
from sqstee.record import Body
from sqstee.transports.base import Sender, TransportError

_BODY_BYTES = 200 * 1024  # leaves room for attributes in the smallest limit of a queue, 256 KiB
_BATCH = 10
_REQUEST_BYTES = 1024 * 1024 - 64 * 1024


class FileRest:
    """Appends NDJSON to a file, on disk before anything is acknowledged."""

    def __init__(self, path: str) -> None:
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            hint = "the form is --rest FILE|DEST"
            raise SqsteeError(f"--rest: {path} cannot be written: {error.strerror}", hint) from None
        self._lines: list[bytes] = []

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


class SenderRest:
    """Sends NDJSON to another destination, in bodies of one run each; each flush waits for its answer."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self._bodies: list[Body] = []
        self._limit = min(_BODY_BYTES, sender.open() - 4096)

    def keep(self, items: Sequence[Item | Foreign]) -> None:
        """Take items."""
        for item in items:
            line = _line(item)
            seq = -1 if isinstance(item, Foreign) else item.seq
            last = self._bodies[-1] if self._bodies else None
            if last and last.run == item.run and len(last.data) + len(line) <= self._limit:
                last.data += line
                last.first, last.last = min(last.first, seq), max(last.last, seq)
            else:
                self._bodies.append(Body(line, item.run or "-", item.host or "-", seq, seq))

    def flush(self) -> None:
        """Send all. Raises TransportError where the destination does not take it."""
        while self._bodies:
            batch = self._batch()
            failures = self._sender.send(batch)
            if failures:
                raise TransportError(failures[0].kind, failures[0].code, f"--rest: {failures[0].message}")
            del self._bodies[: len(batch)]

    def _batch(self) -> list[Body]:
        batch: list[Body] = []
        for body in self._bodies[: 1 if self._sender.ordered else _BATCH]:
            if batch and sum(one.size for one in batch) + body.size > _REQUEST_BYTES:
                break
            batch.append(body)
        return batch


def _line(item: Item | Foreign) -> bytes:
    """One line of NDJSON; all that is not ASCII is escaped, so that every destination takes it."""
    return json.dumps(item.fields).encode() + b"\n"
