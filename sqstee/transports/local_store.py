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
