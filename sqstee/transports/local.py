"""The local queue: SQLite (WAL) on the node's own disk, one row per body, followed without consuming."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeAlias

from sqstee.record import Body
from sqstee.transports.base import BatchLimits, QueueState, ReceivedMessage
from sqstee.transports.errors import OPEN, RETRY, Failure, TransportError
from sqstee.transports.local_runs import catch_up, create_tables, forget_runs, note_bodies, rebuild_damaged, transaction
from sqstee.wire import DecodeError, by_run

if TYPE_CHECKING:
    from sqstee.transports.retention import Retention

_BUSY_SECONDS = 20.0
_HELD_SECONDS = 0.1  # a sender waits in steps of this for another's lock: a fork waits for the step
_POLL_SECONDS = 0.02
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
            time.sleep(_POLL_SECONDS)

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
            time.sleep(min(_POLL_SECONDS, max(0.0, deadline - time.monotonic())))

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


def identity(path: str) -> tuple[int, int] | None:
    """Which file is at a path: one that was removed or replaced stays open, and takes rows that nobody would see."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _delete(connection: sqlite3.Connection, ids: Sequence[str]) -> None:
    with transaction(connection):
        runs = {
            run for one in ids for (run,) in connection.execute("SELECT run FROM body WHERE id = ?", (one,)).fetchall()
        }
        connection.executemany("DELETE FROM body WHERE id = ?", [(one,) for one in ids])
        forget_runs(connection, runs)


def refusal(error: OSError | sqlite3.Error, path: str) -> TransportError:
    passing = isinstance(error, sqlite3.OperationalError) and ("locked" in str(error) or "full" in str(error))
    return TransportError(RETRY if passing else OPEN, "SQLite", f"{path}: {error}")
