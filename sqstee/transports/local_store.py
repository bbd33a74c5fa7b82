"""Reads a local store: its runs, without reading their lines, and the lines of one run."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar
from urllib.parse import quote

from sqstee.record import Body
from sqstee.run_summary import RunSummary
from sqstee.transports import local_runs
from sqstee.transports.batch_index import bodies_in, other_lines
from sqstee.transports.local import connect, identity, refusal

_Result = TypeVar("_Result")
_BUSY_SECONDS = 5.0
_KEYS_AT_ONCE = 500  # rows whose ids are fetched together; their data is fetched one by one


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

    def other_lines(self) -> int:
        """How many lines here are not sqstee's. Raises TransportError."""
        return self._read(lambda connection: sum(map(_other_lines_in, local_runs.other_bodies(connection))), 0)

    def catch_up(self) -> None:
        """Add to the rows of runs the bodies that a version without such rows has stored. Raises TransportError."""
        self._read(lambda connection: None, None)

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


def _other_lines_in(body: Body) -> int:
    try:
        data = body.plain().data
    except ValueError:  # it cannot be unpacked: readers show what is there
        data = body.data
    return other_lines(data, bodies_in(data))


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


class StoreReader:
    """A connection to the local store in the file `path` that stays open and writes nothing. Not for several threads.

    The file need not exist, and may be replaced: `version` tells. No read transaction is left open while a caller
    handles the results: that would keep the store's log from being emptied. All methods raise TransportError.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None

    def version(self) -> tuple[tuple[int, int] | None, int]:
        """A value that differs after each change of the store; compare it only with values of this very object."""
        number = self._read(lambda connection: _number(connection, "PRAGMA data_version"), 0)
        return self._file if number else None, number

    def newest(self) -> int:
        """The id of the newest body; 0 without one."""
        return self._read(lambda connection: _number(connection, "SELECT max(id) FROM body"), 0)

    def is_behind(self) -> bool:
        """Whether bodies are missing in the rows of runs: LocalStore.catch_up() adds them."""
        tables = "SELECT count(*) FROM sqlite_master WHERE name IN ('run', 'indexed')"
        return self._read(
            lambda one: _number(one, tables) < 2 or local_runs.indexed(one) < _number(one, "SELECT max(id) FROM body"),
            False,
        )

    def changed_runs(self, after: int) -> list[str]:
        """The runs of the bodies whose ids are above `after`."""
        query = "SELECT DISTINCT run FROM body WHERE id > ?"
        return self._read(lambda connection: [run for (run,) in connection.execute(query, (after,))], [])

    def latest_runs(self, most: int) -> list[str]:
        """The ids of the latest runs that have lines, newest first."""
        return self._read(lambda connection: local_runs.latest_ids(connection, most), [])

    def summaries(self, runs: Iterable[str]) -> list[RunSummary]:
        """The runs among these that the store knows, in any order."""
        return self._read(lambda connection: list(local_runs.known(connection, list(runs))), [])

    def bodies(self, run: str, after: int = -1) -> Iterator[Body]:
        """The bodies of a run that have records behind the seq `after`, in the order of their first seqs, plain.

        Those that cannot be unpacked are left out.
        """
        query = (
            "SELECT first, id, last FROM body WHERE run = ? AND last > ? AND (first, id) > (?, ?) "
            "ORDER BY first, id LIMIT ?"
        )
        place = (-1, -1)
        while keys := self._all(query, (run, after, *place, _KEYS_AT_ONCE)):
            for first, row, last in keys:
                for data, encoding in self._all("SELECT data, encoding FROM body WHERE id = ?", (row,)):
                    try:
                        yield Body(data, run, "", first, last, encoding).plain()
                    except ValueError:
                        continue
                place = (first, row)

    def latest_bodies(self, since: float) -> Iterator[tuple[Body, float]]:
        """All bodies that were stored since then (seconds since the epoch), the latest first, and where each stands.

        That is a number from 0, the latest, to 1, the oldest one. Those that cannot be unpacked are left out.
        """
        newest = self.newest()
        span = max(1, newest - self._read(lambda one: _number(one, "SELECT min(id) FROM body"), 0))
        place = newest + 1
        query = "SELECT id FROM body WHERE id < ? AND time >= ? ORDER BY id DESC LIMIT ?"
        while keys := self._all(query, (place, since, _KEYS_AT_ONCE)):
            for (row,) in keys:
                place = row
                for data, encoding, run in self._all("SELECT data, encoding, run FROM body WHERE id = ?", (row,)):
                    try:
                        yield Body(data, run, "", 0, 0, encoding).plain(), (newest - row) / span
                    except ValueError:
                        continue

    def close(self) -> None:
        """Close the file; the next call opens it again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _all(self, query: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
        return self._read(lambda connection: connection.execute(query, values).fetchall(), [])

    def _read(self, work: Callable[[sqlite3.Connection], _Result], nothing: _Result) -> _Result:
        try:
            if (connection := self._open()) is None:
                return nothing
            return work(connection)
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):  # the file has just been created
                return nothing
            raise refusal(error, self.path) from error
        except (OSError, sqlite3.Error, ValueError, KeyError, TypeError) as error:
            problem = error if isinstance(error, OSError | sqlite3.Error) else sqlite3.DataError(str(error))
            raise refusal(problem, self.path) from error

    def _open(self) -> sqlite3.Connection | None:
        found = identity(self.path)
        if self._connection is not None and found != self._file:
            self.close()
        if self._connection is None and found is not None:
            address = f"file:{quote(os.path.abspath(self.path))}?mode=ro"
            self._connection = sqlite3.connect(
                address, uri=True, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            self._file = found
        return self._connection


def _number(connection: sqlite3.Connection, query: str) -> int:
    return int(connection.execute(query).fetchone()[0] or 0)
