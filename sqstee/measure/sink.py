"""Where a process's records go: a file of its own, and a DynamoDB table where one is wanted."""

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
_TABLE_BACKLOG = 1000  # writes that may wait for DynamoDB before the receivers do


class RecordWriter:
    """This process's record file, and the table beside it where one is wanted."""

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
        """Keep records; what comes after the end (a poll that nobody waited for) is left out.

        Raises TransportError, once, where the disk does not take them.
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
        """Have everything kept; raises TransportError where the table did not take it all (the file has)."""
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
    """This host's name, as a part of a file's name."""
    return socket.gethostname().replace("/", "_")


def record_path(folder: str, pid: int) -> str:
    """The record file of one of this host's processes."""
    return os.path.join(folder, f"{host_name()}-{pid}.ndjson")


def open_sink(folder: str, table: str, header: Experiment, region: str = "") -> RecordWriter:
    """This process's records of an experiment, in a new file that starts with its header."""
    name = f"{header.host}-{os.getpid()}"
    path = record_path(folder, os.getpid())
    try:
        os.makedirs(folder, exist_ok=True)
        file = RecordFile(path)
    except OSError as error:
        raise SqsteeError(f"{path}: {error.strerror}", "choose a folder with --records DIR", EXIT_FAILURE) from None
    found = RecordWriter(file, RecordTable(table, region, header.id, name) if table else None, name)
    found.write([header])
    return found
