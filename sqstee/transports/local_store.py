"""Reads the runs of a local store, without reading their lines."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from itertools import islice
from typing import TypeVar

from sqstee.run_summary import RunSummary
from sqstee.transports import local_runs
from sqstee.transports.local import connect, identity, refusal

_Result = TypeVar("_Result")


class LocalStore:
    """The local store in the file `path`, which need not exist; each call opens and closes it."""

    def __init__(self, path: str) -> None:
        self._path = path

    def runs(self) -> list[RunSummary]:
        """All runs that have lines here, newest first. Raises TransportError."""
        return self._read(lambda connection: list(local_runs.summaries(connection)), [])

    def beginning_with(self, text: str) -> list[RunSummary]:
        """The runs whose ids begin with `text`, newest first. Raises TransportError."""
        return self._read(lambda connection: list(local_runs.summaries(connection, text)), [])

    def latest(self, wanted: Callable[[RunSummary], bool]) -> list[RunSummary]:
        """The newest run that is wanted, if there is one. Raises TransportError."""
        return self._read(lambda connection: list(islice(filter(wanted, local_runs.summaries(connection)), 1)), [])

    def first_seq(self, run: str) -> int:
        """The first seq of a run that is still here; 0 where there is none. Raises TransportError."""
        return self._read(lambda connection: local_runs.first_seq(connection, run), 0)

    def _read(self, work: Callable[[sqlite3.Connection], _Result], nothing: _Result) -> _Result:
        if identity(self._path) is None:
            return nothing
        try:
            connection = connect(self._path)
            try:
                local_runs.catch_up(connection)
                return work(connection)
            finally:
                connection.close()
        except (OSError, sqlite3.Error) as error:
            raise refusal(error, self._path) from error


class RunWatch:
    """Tells which runs of a local store have changed; the file may come, go or be replaced meanwhile.

    It stays open: a look at a store that nobody has written to takes microseconds.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._version = self._body = 0

    def changed(self) -> list[RunSummary]:
        """The runs that have changed since the last call; at first all. Raises TransportError."""
        try:
            connection = self._open()
            if connection is None:
                return []
            (version,) = connection.execute("PRAGMA data_version").fetchone()
            if version == self._version:
                return []
            local_runs.catch_up(connection)
            connection.execute("BEGIN")  # one moment of the store for both queries
            try:
                (newest,) = connection.execute("SELECT max(id) FROM body").fetchone()
                found = local_runs.changed(connection, self._body) if self._body else local_runs.summaries(connection)
                runs = list(found)
            finally:
                connection.execute("ROLLBACK")
        except (OSError, sqlite3.Error) as error:
            raise refusal(error, self._path) from error
        self._version, self._body = version, max(self._body, newest or 0)
        return runs

    def close(self) -> None:
        """Close the file."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _open(self) -> sqlite3.Connection | None:
        found = identity(self._path)
        if found != self._file:
            self.close()
            self._version = self._body = 0
        if self._connection is None and found is not None:
            self._connection = connect(self._path)
            self._file = identity(self._path)
        return self._connection
