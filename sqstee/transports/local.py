"""The local queue: SQLite (WAL) on the node's own disk, one row per body. The file and its sender."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from sqstee.record import Body
from sqstee.transports.base import BatchLimits
from sqstee.transports.errors import OPEN, RETRY, Failure, TransportError
from sqstee.transports.local_runs import catch_up, create_tables, forget_runs, note_bodies, rebuild_damaged, transaction
from sqstee.wire import DecodeError, by_run

if TYPE_CHECKING:
    from sqstee.transports.retention import Retention

_BUSY_SECONDS = 20.0
_HELD_SECONDS = 0.1  # a sender waits in steps of this for another's lock: a fork waits for the step
POLL_SECONDS = 0.02
_ROW = "(time, run, first, last, encoding, data)"
# Bodies of one range that a new one is compared with. Nobody but an attacker sends more of them, each with another gap
# event; comparing all with all would keep everybody else from the store for hours.
_MOST_COMPARED = 16
# A stored body that contains a gap event, alone or among records, makes no new body a duplicate: the lost records may
# have turned up. Body.is_gap is narrower: it is true of a gap event alone.
_INSERT = f"""
INSERT INTO body {_ROW} SELECT time, run, first, last, encoding, data FROM
(SELECT ? AS time, ? AS run, ? AS first, ? AS last, ? AS encoding, ? AS data, ? AS is_gap) AS new
WHERE new.run = '' OR NOT EXISTS (
    SELECT 1 FROM (
        SELECT data FROM body WHERE body.run = new.run AND body.first = new.first AND body.last = new.last
        ORDER BY id LIMIT {_MOST_COMPARED}
    ) AS old
    WHERE old.data = new.data OR NOT (new.is_gap OR instr(old.data, CAST('"event":"gap"' AS BLOB)))
)
"""
_INDEX = "CREATE INDEX IF NOT EXISTS body_range ON body (run, first, last)"
FULL = "Full"  # the error code of a full store that keeps its rows
_TIDY_STEPS = 16  # of removing runs, before others get their turn
_FULL_SECONDS = 10.0  # the pause that a full store asks senders for
_FORK_SECONDS = 5.0  # the longest that a fork waits for a transaction
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


def connect(path: str, busy: float = _BUSY_SECONDS) -> sqlite3.Connection:
    """Open the file, and create it for its owner alone.

    It is never opened by a descriptor of ours: closing that would drop the locks of all connections in this process.
    The next process to open the file would then delete the log that they still write to ("How To Corrupt An SQLite
    Database File", 2.2).
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
        create_tables(connection)
    except sqlite3.Error:
        connection.close()
        raise
    return connection


# Held during each use of SQLite, and during a fork: a child that inherits an open connection has wrong information on
# its locks, and can corrupt the file ("How To Corrupt An SQLite Database File", 2.6).
_gate = threading.Lock()
_gate_held = False
_unsafe = False  # in a child that was forked without the gate, while its parent's disk hung
_senders: weakref.WeakSet[LocalSender] = weakref.WeakSet()


class LocalSender(BatchLimits):
    """Appends bodies, except ranges of a run that are stored already; a gap event does not count as its records.

    Above `limit` bytes the oldest rows are deleted, never those of the latest request. A store that `keeps` refuses
    requests instead until rows are consumed (but accepts one request of any size when empty). With `durable`, accepted
    bodies survive a crash of the machine as well. `stored` counts rows, and `stored_records` the records of those that
    are not compressed. `size` is the space that all rows occupy, in bytes, as of this object's latest transaction.
    `rebuilt` counts the rows of runs that were damaged when the file of a store that `keeps` was opened. With a
    `retention`, each transaction removes some bodies of the runs that it selects.
    """

    ordered = False

    def __init__(
        self,
        path: str,
        limit: int,
        durable: bool = False,
        keeps: bool = False,
        retention: Retention | None = None,
    ) -> None:
        self.retention = retention
        self._path = path
        self.limit = limit
        self._durable = durable
        self._keeps = keeps
        self.stored = self.stored_records = self.size = self.rebuilt = 0
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        with _gate:
            _senders.add(self)

    @property
    def path(self) -> str:
        """The file."""
        return self._path

    def open(self) -> int:
        """Open or create the file; bodies have no size limit here, so the limit is SQS's."""
        self._run(self._measure)
        if self._keeps:
            self._run(self._rebuild_damaged)
        if self.retention:
            self._run(catch_up)  # runs without a row would stay for ever
            self._run(self.retention.prepare)
        return 1024 * 1024

    def _rebuild_damaged(self, connection: sqlite3.Connection) -> None:
        self.rebuilt += rebuild_damaged(connection)

    def _measure(self, connection: sqlite3.Connection) -> None:
        self.size = _size(connection)

    def _run(self, work: Callable[[sqlite3.Connection], None]) -> None:
        """Run `work` with the connection, again and again while the file is locked; the gate is free in between."""
        deadline = time.monotonic() + _BUSY_SECONDS
        while True:
            try:
                with _gate:
                    work(self._connect())
                return
            except (OSError, sqlite3.Error) as error:
                if "locked" not in str(error) or time.monotonic() >= deadline:
                    raise refusal(error, self._path) from error
            time.sleep(POLL_SECONDS)

    def _connect(self) -> sqlite3.Connection:
        if _unsafe:
            raise OSError("this process was forked while its parent used the file")
        if self._connection is not None and self._file != identity(self._path):
            self.close_holding_gate()
        if self._connection is None:
            self._connection = connect(self._path, _HELD_SECONDS)
            self._file = identity(self._path)
            if self._durable:
                self._connection.execute("PRAGMA synchronous = FULL")
        return self._connection

    def present_size(self) -> int:
        """`size` at present, other processes' transactions included; while the disk hangs, the latest one known."""
        if _gate.acquire(timeout=_HELD_SECONDS):
            try:
                self._measure(self._connect())
            except (OSError, sqlite3.Error):
                pass
            finally:
                _gate.release()
        return self.size

    def send(self, bodies: Sequence[Body]) -> list[Failure]:
        """Store the bodies in one transaction."""
        now = time.time()
        self.send_dated([(part, now) for body in bodies for part in _by_run(body)])
        return []

    def send_dated(self, bodies: Sequence[tuple[Body, float]]) -> None:
        """Store bodies of one run each that came at these times, in seconds since the epoch, in one transaction."""
        try:
            self._run(lambda connection: self._store(connection, bodies))
        except TransportError as error:
            if error.code != FULL or not self.tidy(sum(len(body.data) for body, _ in bodies)):
                raise
            self._run(lambda connection: self._store(connection, bodies))

    def tidy(self, room: int = 0) -> int:
        """Remove as much as the retention or a request of `room` bytes requires, as far as that is quick.

        The bytes that were removed. Raises TransportError.
        """
        removed = 0
        for _ in range(_TIDY_STEPS):
            before = removed
            if self.retention:
                removed += self._tidy_step(self.retention, room)
            if removed == before:
                break
        return removed

    def _tidy_step(self, retention: Retention, room: int) -> int:
        freed = 0

        def step(connection: sqlite3.Connection) -> None:
            nonlocal freed
            with transaction(connection):
                size = _size(connection)
                needed = size + room - self.limit if room else 0
                freed = retention.step(connection, max(retention.excess(size), needed), patient=False)

        self._run(step)
        return freed

    def close(self) -> None:
        """Close the file; the next call opens it again."""
        with _gate:
            self.close_holding_gate()

    def close_holding_gate(self) -> None:
        """Close the file for a caller that holds the gate."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _store(self, connection: sqlite3.Connection, bodies: Sequence[tuple[Body, float]]) -> None:
        with transaction(connection):
            newest = connection.execute("SELECT max(id) FROM body").fetchone()[0] or 0
            stored = [
                (body, at)
                for body, at in bodies
                if connection.execute(
                    _INSERT, (at, body.run, body.first, body.last, body.encoding, body.data, body.is_gap)
                ).rowcount
            ]
            if self._keeps:
                self._refuse_excess(connection, newest, len(stored))
            else:
                self._drop_oldest(connection, newest)
            note_bodies(connection, newest, stored)
            if self.retention:
                self.retention.step(connection, self.retention.excess(_size(connection)))
            self.size = _size(connection)
        self.stored += len(stored)
        self.stored_records += sum(body.data.count(b"\n") for body, _ in stored if not body.encoding)

    def _refuse_excess(self, connection: sqlite3.Connection, newest: int, stored: int) -> None:
        """Raise TransportError if the rows just `stored` do not fit beside the rows up to `newest`."""
        if stored and newest and _size(connection) > self.limit:
            problem = f"{self._path} is full ({self.limit:,} bytes)"
            raise TransportError(RETRY, FULL, problem, _FULL_SECONDS)

    def _drop_oldest(self, connection: sqlite3.Connection, newest: int) -> None:
        excess = _size(connection) - self.limit
        if excess <= 0:
            return
        query = "SELECT id, length(data), run FROM body WHERE id <= ? ORDER BY id"
        runs = set()
        for row, size, run in connection.execute(query, (newest,)):
            connection.execute("DELETE FROM body WHERE id = ?", (row,))
            runs.add(run)
            excess -= size
            if excess <= 0:
                break
        forget_runs(connection, runs)


def _by_run(body: Body) -> Sequence[Body]:
    """A body of several runs as one of each stretch of a run, which readers find by the index of the store."""
    if body.run:
        return (body,)
    try:
        return by_run(body.plain().data)
    except (DecodeError, ValueError):
        return (body,)


def _size(connection: sqlite3.Connection) -> int:
    """The bytes that rows and index occupy, without the free space in the file."""

    def pragma(name: str) -> int:
        return int(connection.execute(f"PRAGMA {name}").fetchone()[0])

    return (pragma("page_count") - pragma("freelist_count")) * pragma("page_size")


def _before_fork() -> None:
    global _gate_held
    _gate_held = _gate.acquire(timeout=_FORK_SECONDS)
    if _gate_held:
        for sender in list(_senders):
            sender.close_holding_gate()


def _after_fork() -> None:
    if _gate_held:
        _gate.release()


def _after_fork_in_child() -> None:
    global _gate, _unsafe
    _after_fork()
    if not _gate_held:  # a thread held the gate that does not exist in this child: nobody would ever release it
        _gate, _unsafe = threading.Lock(), True
        _senders.clear()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)


def identity(path: str) -> tuple[int, int] | None:
    """Which file is at a path: one that was removed or replaced stays open, and takes rows that nobody would see."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def refusal(error: OSError | sqlite3.Error, path: str) -> TransportError:
    passing = isinstance(error, sqlite3.OperationalError) and ("locked" in str(error) or "full" in str(error))
    return TransportError(RETRY if passing else OPEN, "SQLite", f"{path}: {error}")
