"""The destination of a process's records: a file of its own, and optionally a DynamoDB table."""

from __future__ import annotations

import os
import queue
import socket
import threading
from collections.abc import Iterable
from typing import Any

from sqstee.errors import EXIT_FAILURE, SqsteeError
from sqstee.measure.queues import RecordTable
from sqstee.measure.records import Experiment, Record, RecordFile, fields_of
from sqstee.transports.errors import OPEN, TransportError

_TABLE_WRITERS = 4
_TABLE_BACKLOG = 1000  # writes that may wait for DynamoDB; beyond it the receivers wait


class RecordWriter:
    """This process's record file, and the optional table."""

    def __init__(self, file: RecordFile, table: RecordTable | None, name: str) -> None:
        self._file, self._table, self.name = file, table, name
        self.path = file.path
        self._closed = False
        self._lock = threading.Lock()
        self._waiting: queue.Queue[list[dict[str, Any]] | None] = queue.Queue(_TABLE_BACKLOG)
        self._failure: TransportError | None = None
        writers = _TABLE_WRITERS if table else 0
        self._writers = [threading.Thread(target=self._work, daemon=True) for _ in range(writers)]
        for writer in self._writers:
            writer.start()

    def write(self, records: Iterable[Record]) -> None:
        """Store records; after `close` they are dropped (a late poll's).

        Raises TransportError, once, if the disk refuses them.
        """
        found = list(records)
        with self._lock:
            if self._closed or not found:
                return
            try:
                self._file.write(found)
            except OSError as error:
                self._closed = True
                raise TransportError(OPEN, "Records", f"{self.path}: {error.strerror}") from None
        if self._table and self._failure is None:
            self._waiting.put([fields_of(record) for record in found])

    def close(self) -> None:
        """Wait for all writes; raises TransportError if the table did not accept everything (the file has it)."""
        with self._lock:
            self._closed = True
            self._file.close()
        for _ in self._writers:
            self._waiting.put(None)
        for writer in self._writers:
            writer.join()
        if self._failure:
            raise self._failure

    def _work(self) -> None:
        assert self._table
        while (items := self._waiting.get()) is not None:
            try:
                if self._failure is None:
                    self._table.put(items)
            except TransportError as error:
                self._failure = error


def host_name() -> str:
    """This host's name, usable in the name of a file."""
    return socket.gethostname().replace("/", "_")


def record_path(folder: str, pid: int) -> str:
    """The path of the record file of one of this host's processes."""
    return os.path.join(folder, f"{host_name()}-{pid}.ndjson")


def open_sink(folder: str, table: str, header: Experiment, region: str = "") -> RecordWriter:
    """Open this process's records of an experiment, in a new file that starts with the header."""
    name = f"{header.host}-{os.getpid()}"
    path = record_path(folder, os.getpid())
    try:
        os.makedirs(folder, exist_ok=True)
        file = RecordFile(path)
    except OSError as error:
        hint = "choose another folder: --records DIR"
        raise SqsteeError(f"cannot write {path}: {error.strerror}", hint, EXIT_FAILURE) from None
    found = RecordWriter(file, RecordTable(table, region, header.id, name) if table else None, name)
    found.write([header])
    return found
