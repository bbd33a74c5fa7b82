"""The embedded queue: SQLite (WAL) on the node's own disk, one row a body, followed without consuming."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Sequence

from sqstee.record import Body
from sqstee.transports.base import BatchLimits, QueueState, ReceivedMessage
from sqstee.transports.errors import OPEN, RETRY, Failure, TransportError

_BUSY_SECONDS = 20.0
_HELD_SECONDS = 0.1  # of these at once by a sender: a fork waits for that
_POLL_SECONDS = 0.02
_ROW = "(time, run, first, last, encoding, data)"
_INSERT = f"""
INSERT INTO body {_ROW} SELECT time, run, first, last, encoding, data FROM
(SELECT ? AS time, ? AS run, ? AS first, ? AS last, ? AS encoding, ? AS data, ? AS is_gap) AS new
WHERE new.run = '' OR NOT EXISTS (
    SELECT 1 FROM body WHERE body.run = new.run AND body.first = new.first AND body.last = new.last
    AND (body.data = new.data OR NOT (new.is_gap OR instr(body.data, CAST('"event":"gap"' AS BLOB))))
)
"""
_INDEX = "CREATE INDEX IF NOT EXISTS body_range ON body (run, first, last)"
FULL = "Full"  # the code of the refusal of a store that keeps what it has
_FULL_SECONDS = 10.0  # how long the senders leave it alone
_FORK_SECONDS = 5.0  # how long a fork may wait for a transaction
_SCHEMA = """
CREATE TABLE IF NOT EXISTS body (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    time REAL NOT NULL,
    run TEXT NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    encoding TEXT NOT NULL,
    data BLOB NOT NULL,
    claimed_until REAL NOT NULL DEFAULT 0
)
"""


def _connect(path: str, busy: float = _BUSY_SECONDS) -> sqlite3.Connection:
    """Open the file, made for its owner alone. Not by a descriptor of ours: to close that would take the locks from
    every connection that this process has, and whoever comes next would remove the log that they go on writing to
    (How To Corrupt An SQLite Database File, 2.2).
    """
    try:
        os.mknod(path, 0o600)
    except FileExistsError:
        pass
    connection = sqlite3.connect(path, timeout=busy, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(_SCHEMA)
        connection.execute(_INDEX)
    except sqlite3.Error:
        connection.close()
        raise
    return connection


# Held by whoever is in SQLite, and by a fork: with a connection open, the locks that SQLite knows of would be wrong in
# the child, and the file at risk (How To Corrupt An SQLite Database File, 2.6).
_gate = threading.Lock()
_gate_held = False
_unsafe = False  # in a child that was forked all the same, while its parent's disk hung
_senders: weakref.WeakSet[LocalSender] = weakref.WeakSet()


class LocalSender(BatchLimits):
    """Appends bodies, but no range of a run that is there already; a gap event does not stand for its records.

    Above `limit` bytes the oldest rows go, never what was just stored; a store that `keeps` takes nothing more instead,
    until somebody has consumed rows (but always one request into an empty one). With `durable` what `send` has taken
    outlives the machine's death as well. `stored` counts rows, `size` is what all of them occupy, in bytes.
    """

    ordered = False

    def __init__(self, path: str, limit: int, durable: bool = False, keeps: bool = False) -> None:
        self._path = path
        self.limit = limit
        self._durable = durable
        self._keeps = keeps
        self.stored = self.size = 0
        self._connection: sqlite3.Connection | None = None
        with _gate:
            _senders.add(self)

    def open(self) -> int:
        """Open or make the file; a message has no limit of its own here, SQS's is kept."""
        self._patiently(self._measure)
        return 1024 * 1024

    def _measure(self, connection: sqlite3.Connection) -> None:
        self.size = _size(connection)

    def _patiently(self, work: Callable[[sqlite3.Connection], None]) -> None:
        """Do something with the connection; who waits for another's lock does so without holding the gate."""
        deadline = time.monotonic() + _BUSY_SECONDS
        while True:
            try:
                with _gate:
                    work(self._connect())
                return
            except (OSError, sqlite3.Error) as error:
                if "locked" not in str(error) or time.monotonic() >= deadline:
                    raise _refusal(error, self._path) from error
            time.sleep(_POLL_SECONDS)

    def _connect(self) -> sqlite3.Connection:
        if _unsafe:
            raise OSError("this process was forked while its parent was in there")
        if self._connection is None:
            os.makedirs(os.path.dirname(os.path.abspath(self._path)), 0o700, exist_ok=True)
            self._connection = _connect(self._path, _HELD_SECONDS)
            if self._durable:
                self._connection.execute("PRAGMA synchronous = FULL")
        return self._connection

    def send(self, bodies: Sequence[Body]) -> list[Failure]:
        """Store the bodies in one transaction."""
        now = time.time()
        rows = [(now, body.run, body.first, body.last, body.encoding, body.data, body.is_gap) for body in bodies]
        self._patiently(lambda connection: self._store(connection, rows))
        return []

    def close(self) -> None:
        """Close the file."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _store(self, connection: sqlite3.Connection, rows: list[tuple[float, str, int, int, str, bytes, bool]]) -> None:
        connection.execute("BEGIN IMMEDIATE")
        try:
            newest = connection.execute("SELECT max(id) FROM body").fetchone()[0] or 0
            stored = connection.executemany(_INSERT, rows).rowcount
            if self._keeps:
                self._refuse_excess(connection, newest, stored)
            else:
                self._drop_oldest(connection, newest)
            self.size = _size(connection)
            connection.execute("COMMIT")
            self.stored += stored
        except (sqlite3.Error, TransportError):
            if connection.in_transaction:  # SQLite has rolled back by itself where the disk is full
                connection.execute("ROLLBACK")
            raise

    def _refuse_excess(self, connection: sqlite3.Connection, newest: int, stored: int) -> None:
        """Raise TransportError where what was just `stored` does not fit beside the rows up to `newest`."""
        if stored and newest and _size(connection) > self.limit:
            problem = f"{self._path} is full ({self.limit:,} bytes)"
            raise TransportError(RETRY, FULL, problem, _FULL_SECONDS)

    def _drop_oldest(self, connection: sqlite3.Connection, newest: int) -> None:
        excess = _size(connection) - self.limit
        if excess <= 0:
            return
        query = "SELECT id, length(data) FROM body WHERE id <= ? ORDER BY id"
        for row, size in connection.execute(query, (newest,)):
            connection.execute("DELETE FROM body WHERE id = ?", (row,))
            excess -= size
            if excess <= 0:
                break


def _size(connection: sqlite3.Connection) -> int:
    """The bytes that rows and index occupy; room that is free in the file does not count."""

    def pragma(name: str) -> int:
        return int(connection.execute(f"PRAGMA {name}").fetchone()[0])

    return (pragma("page_count") - pragma("freelist_count")) * pragma("page_size")


def _before_fork() -> None:
    global _gate_held
    _gate_held = _gate.acquire(timeout=_FORK_SECONDS)
    if _gate_held:
        for sender in list(_senders):
            sender.close()  # the next `send` opens it again


def _after_fork() -> None:
    if _gate_held:
        _gate.release()


def _after_fork_in_child() -> None:
    global _gate, _unsafe
    _after_fork()
    if not _gate_held:  # but by a thread that is not here: nobody would ever release it, nor end what it does
        _gate, _unsafe = threading.Lock(), True
        _senders.clear()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)


class LocalReceiver:
    """Follows the rows in the order in which they were stored; with `consume` those that it gives are to be deleted."""

    ordered = False

    def __init__(self, path: str, name: str = "local", consume: bool = False) -> None:
        self.name = name
        self.follows = not consume
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._lock = threading.Lock()
        self._seen = 0

    def receive(self, limit: int, wait: float) -> list[ReceivedMessage]:
        """The next rows; waits for the first one where there is none yet."""
        deadline = time.monotonic() + wait
        while True:
            found = self._next(limit)
            if found or time.monotonic() >= deadline:
                return found
            time.sleep(min(_POLL_SECONDS, max(0.0, deadline - time.monotonic())))

    def delete(self, messages: Sequence[ReceivedMessage]) -> list[Failure]:
        """Delete the rows, in one transaction; a follower leaves them for others."""
        if self.follows or not messages:
            return []
        try:
            with self._lock:
                if connection := self._open():
                    _delete(connection, [one.handle for one in messages])
        except sqlite3.Error as error:
            raise _refusal(error, self._path) from error
        return []

    def release(self, messages: Sequence[ReceivedMessage]) -> None:
        """Nothing for others, who see every row; this receiver gives them again."""
        with self._lock:
            self._seen = min([self._seen, *(int(one.handle) - 1 for one in messages)])

    def stat(self) -> QueueState:
        """The rows, all of them visible to each follower."""
        rows, size, oldest = 0, 0, None
        try:
            with self._lock:
                if connection := self._open():
                    query = "SELECT count(*), total(length(data)), min(time) FROM body"
                    rows, size, oldest = connection.execute(query).fetchone()
        except sqlite3.Error as error:
            raise _refusal(error, self._path) from error
        found = QueueState(rows)
        found.bytes = int(size)
        found.oldest = None if oldest is None else max(0.0, time.time() - oldest)
        return found

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _open(self) -> sqlite3.Connection | None:
        """The connection; None as long as nobody has made the file."""
        if self._connection is None and os.path.exists(self._path):
            self._connection = _connect(self._path)
        return self._connection

    def _next(self, limit: int) -> list[ReceivedMessage]:
        try:
            with self._lock:
                connection = self._open()
                if connection is None:
                    return []
                query = "SELECT id, run, first, last, encoding, data, time FROM body WHERE id > ? ORDER BY id LIMIT ?"
                rows = connection.execute(query, (self._seen, limit)).fetchall()
        except sqlite3.Error as error:
            raise _refusal(error, self._path) from error
        if rows:
            self._seen = rows[-1][0]
        return [
            ReceivedMessage(
                data, Body(b"", run, "", first, last, encoding).attributes, str(row), f"local-{row}-{sent}", sent
            )
            for row, run, first, last, encoding, data, sent in rows
        ]


def _delete(connection: sqlite3.Connection, ids: Sequence[str]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.executemany("DELETE FROM body WHERE id = ?", [(one,) for one in ids])
        connection.execute("COMMIT")
    except sqlite3.Error:
        if connection.in_transaction:  # else it would keep all writers out
            connection.execute("ROLLBACK")
        raise


def _refusal(error: OSError | sqlite3.Error, path: str) -> TransportError:
    passing = isinstance(error, sqlite3.OperationalError) and ("locked" in str(error) or "full" in str(error))
    return TransportError(RETRY if passing else OPEN, "SQLite", f"{path}: {error}")
