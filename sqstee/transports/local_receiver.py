"""The local queue's receiver: it follows the rows without consuming them, or takes them one by one."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeAlias

from sqstee.record import Body
from sqstee.transports.base import QueueState, ReceivedMessage
from sqstee.transports.errors import Failure
from sqstee.transports.local import POLL_SECONDS, connect, identity, refusal
from sqstee.transports.local_runs import forget_runs, transaction

_Row: TypeAlias = tuple[int, str, int, int, str, bytes, float]
_SELECT = "SELECT id, run, first, last, encoding, data, time FROM body WHERE"
_CALL_BYTES = 4 * 1024 * 1024
_CLOCK_SECONDS = 300.0  # by which the clock of a host whose lines a collector stores may be ahead of the collector's


class LocalReceiver:
    """Reads the rows in the order in which they were stored; with `consume`, `delete` deletes them."""

    ordered = False
    lists_all = True  # an empty answer means that every row was returned
    max_batch = 500  # rows of one call

    def __init__(self, path: str, name: str = "local", consume: bool = False) -> None:
        self.name = name
        self.follows = not consume
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._lock = threading.Lock()
        self._seen = 0
        self._runs: Sequence[str] = ()
        self._stored_since = 0.0
        self._last: int | None = None
        self._lines_in: Callable[[ReceivedMessage], int] | None = None
        self._chosen: deque[int] | None = None  # of the rows that are there at first, those to give

    def narrow(
        self,
        runs: Sequence[str] = (),
        since: float = 0.0,
        last: int | None = None,
        lines_in: Callable[[ReceivedMessage], int] | None = None,
    ) -> None:
        """Give only the rows that may have lines of these runs, named by their first characters, from `since` on.

        A row is stored when its lines have been written, by the clock of this host. The clock of another host may be
        ahead by up to five minutes. `last`: of the rows that are there, give only those from the end that have this
        many lines, by `lines_in`, and rows stored earlier with later lines of the same runs.
        """
        self._runs = runs
        self._last, self._lines_in = last, lines_in
        self._stored_since = since - _CLOCK_SECONDS if since else 0.0

    def receive(self, limit: int, wait: float) -> list[ReceivedMessage]:
        """The next rows; waits for the first one if there is none yet."""
        deadline = time.monotonic() + wait
        while True:
            found = self._next(limit)
            if found or time.monotonic() >= deadline:
                return found
            time.sleep(min(POLL_SECONDS, max(0.0, deadline - time.monotonic())))

    def delete(self, messages: Sequence[ReceivedMessage]) -> list[Failure]:
        """Delete the rows, in one transaction; without `consume` they stay for other readers."""
        if self.follows or not messages:
            return []
        try:
            with self._lock:
                if connection := self._open():
                    _delete(connection, [one.handle for one in messages])
        except sqlite3.Error as error:
            raise refusal(error, self._path) from error
        return []

    def release(self, messages: Sequence[ReceivedMessage]) -> None:
        """Give the rows again in this receiver; others see every row anyway."""
        with self._lock:
            self._seen = min([self._seen, *(int(one.handle) - 1 for one in messages)])

    def stat(self) -> QueueState:
        """The state; all rows are visible to each follower."""
        rows, size, oldest = 0, 0, None
        try:
            with self._lock:
                if connection := self._open():
                    query = "SELECT count(*), total(length(data)), min(time) FROM body"
                    rows, size, oldest = connection.execute(query).fetchone()
        except sqlite3.Error as error:
            raise refusal(error, self._path) from error
        found = QueueState(rows)
        found.bytes = int(size)
        found.oldest = None if oldest is None else max(0.0, time.time() - oldest)
        return found

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _open(self) -> sqlite3.Connection | None:
        """The connection; None while the file does not exist. The rows of a new file are all unseen."""
        found = identity(self._path)
        if self._connection is not None and found != self._file:
            self._close()
            self._seen = 0
            self._chosen = deque()
        if self._connection is None and found is not None:
            self._connection = connect(self._path)
            self._file = identity(self._path)
        return self._connection

    def _next(self, limit: int) -> list[ReceivedMessage]:
        try:
            with self._lock:
                connection = self._open()
                if connection is None:
                    self._chosen = deque()  # whatever is stored from here on is given
                    return []
                if self._chosen is None:
                    self._choose(connection)
                rows = self._take(connection, limit)
        except sqlite3.Error as error:
            raise refusal(error, self._path) from error
        return list(map(_message, rows))

    def _choose(self, connection: sqlite3.Connection) -> None:
        """Look up which rows to give, where giving all would take long."""
        self._chosen = deque()
        if not self._runs and not self._stored_since and self._last is None:
            return
        newest = connection.execute("SELECT max(id) FROM body").fetchone()[0] or 0
        ids = self._ids_of_runs(connection, newest) if self._runs else None
        if self._stored_since or self._last is not None:
            ids = self._latest_ids(connection, newest, ids)
        self._chosen.extend(sorted(ids or ()))
        self._seen = max(self._seen, newest)

    def _ids_of_runs(self, connection: sqlite3.Connection, newest: int) -> set[int]:
        """The rows of the wanted runs, and those of several runs, which name none; by the index alone."""
        query = "SELECT id FROM body WHERE run BETWEEN ? AND ? AND +id > ? AND +id <= ?"
        bounds = [("", ""), *((run, f"{run}{chr(0x10FFFF)}") for run in self._runs)]
        return {row for pair in bounds for (row,) in connection.execute(query, (*pair, self._seen, newest))}

    def _latest_ids(self, connection: sqlite3.Connection, newest: int, ids: set[int] | None) -> set[int]:
        """The wanted rows from the end, and those stored before them that have later lines of the same runs.

        Without the latter, which came out of order, lines would seem to be missing.
        """
        left, found, firsts = self._last, set[int](), dict[str, int]()
        for row in self._backwards(connection, newest, ids) if left != 0 else ():
            number, run, first, *_ = row
            found.add(number)
            if run:
                firsts[run] = min(first, firsts.get(run, first))
            if left is not None:
                left -= self._lines_in(_message(row)) if self._lines_in else 1
                if left <= 0:
                    break
        query = "SELECT id FROM body WHERE run = ? AND first >= ? AND +id > ? AND +id <= ?"
        for run, first in firsts.items():
            found.update(number for (number,) in connection.execute(query, (run, first, self._seen, newest)))
        return found

    def _backwards(self, connection: sqlite3.Connection, newest: int, ids: set[int] | None) -> Iterator[_Row]:
        """Rows from the last one on; without data where their number does not matter."""
        select = _SELECT if self._last is not None else _SELECT.replace("data", "x''")
        if ids is None:
            query = f"{select} id > ? AND id <= ? AND time >= ? ORDER BY id DESC"
            yield from connection.execute(query, (self._seen, newest, self._stored_since))
            return
        for number in sorted(ids, reverse=True):
            yield from connection.execute(f"{select} id = ? AND time >= ?", (number, self._stored_since))

    def _take(self, connection: sqlite3.Connection, limit: int) -> list[_Row]:
        """The next rows: of those that were chosen first, then of those stored since; about 4 MiB at most."""
        while self._chosen:
            ids = [self._chosen.popleft() for _ in range(min(limit, len(self._chosen)))]
            query = f"{_SELECT} id IN ({','.join('?' * len(ids))}) ORDER BY id"
            if rows := _few(connection.execute(query, ids)):
                self._chosen.extendleft(reversed([one for one in ids if one > rows[-1][0]]))
                return rows
        rows = _few(connection.execute(f"{_SELECT} id > ? ORDER BY id LIMIT ?", (self._seen, limit)))
        if rows:
            self._seen = rows[-1][0]
        return rows


def _few(rows: Iterable[_Row]) -> list[_Row]:
    """The first rows, at least one, until they hold enough for one call."""
    found: list[_Row] = []
    size = 0
    for row in rows:
        found.append(row)
        size += len(row[5])
        if size > _CALL_BYTES:
            break
    return found


def _message(row: _Row) -> ReceivedMessage:
    number, run, first, last, encoding, data, sent = row
    attributes = Body(b"", run, "", first, last, encoding).attributes
    found = ReceivedMessage(data, attributes, str(number), f"local-{number}-{sent}", sent)
    if run and not encoding:
        found.span = run, first, last
    return found


def _delete(connection: sqlite3.Connection, ids: Sequence[str]) -> None:
    with transaction(connection):
        runs = {
            run for one in ids for (run,) in connection.execute("SELECT run FROM body WHERE id = ?", (one,)).fetchall()
        }
        connection.executemany("DELETE FROM body WHERE id = ?", [(one,) for one in ids])
        forget_runs(connection, runs)
