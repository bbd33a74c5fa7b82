"""The runs of a local store: one row per run, kept in the same transaction as its bodies.

A row stays exact while bodies are deleted: it describes all bodies that came, not those still there. Only bodies that a
version without rows has stored are missing in the rows; catch_up() adds those.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress

from sqstee.record import NO_RUN, Body
from sqstee.run_summary import RunSummary, seconds_of

REMOVED = 2  # `ended` of a run that is being removed: it is not there for readers
HEARD_INDEX = "run_heard"  # of the retention, over fields of the summaries
NO_RUNS = ("", NO_RUN)  # of bodies that are not in the wire format
_ASKED_AT_ONCE = 500  # runs in one query
_CAUGHT_UP_AT_ONCE = 200  # bodies of one transaction: writers wait for it
_SCHEMA = """
CREATE TABLE IF NOT EXISTS {place}.run (
    run TEXT PRIMARY KEY, started REAL NOT NULL, ended INTEGER NOT NULL, summary TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS {place}.run_started ON run (started);
CREATE TABLE IF NOT EXISTS {place}.indexed (id INTEGER PRIMARY KEY CHECK (id = 0), body INTEGER NOT NULL);
"""
_SAVE = "INSERT OR REPLACE INTO run VALUES (?, ?, ?, ?)"
_FORGET = "DELETE FROM run WHERE run = ? AND ended AND NOT EXISTS (SELECT 1 FROM body WHERE body.run = run.run)"
_MOST_ROWS = 10_000  # above it, rows without bodies go even if the run has not ended: some never do
_MOST_LOOKED_AT = 100  # rows, to find such; the first ones have been written longest ago
_FORGET_OLDEST = """
DELETE FROM run WHERE rowid IN (SELECT rowid FROM run ORDER BY rowid LIMIT ?)
AND NOT EXISTS (SELECT 1 FROM body WHERE body.run = run.run)
"""
_LIST = f"""
SELECT run, summary FROM run WHERE run BETWEEN ? AND ? AND ended < {REMOVED}
AND EXISTS (SELECT 1 FROM body WHERE body.run = run.run) ORDER BY started DESC, run DESC
"""
_LATEST_IDS = f"""
SELECT run FROM run WHERE ended < {REMOVED} AND EXISTS (SELECT 1 FROM body WHERE body.run = run.run)
ORDER BY started DESC, run DESC LIMIT ?
"""
_LAST_CHARACTER = chr(0x10FFFF)
# Rows that nobody can read, because of a damaged disk or another program. SQLite itself reads some of their fields for
# the index of the retention, and refuses each change of a row that is no JSON.
_DAMAGED = """
SELECT run FROM run WHERE CASE WHEN json_valid(summary)
    THEN ifnull(json_type(summary, '$.heard') NOT IN ('integer', 'real'), 1)
    OR ifnull(json_type(summary, '$.is_failed') NOT IN ('true', 'false'), 1)
    OR ifnull(json_type(summary, '$.heartbeat_s') NOT IN ('integer', 'real'), 0)
    ELSE 1 END
"""


def create_tables(connection: sqlite3.Connection) -> None:
    """Create the tables where they do not exist. Raises sqlite3.Error."""
    try:
        connection.executescript(_SCHEMA.format(place="main"))
    except sqlite3.OperationalError as error:
        if not _is_readonly(error):
            raise
        _keep_rows_in_memory(connection)


def note_bodies(connection: sqlite3.Connection, newest: int, bodies: Sequence[tuple[Body, float]]) -> None:
    """Add bodies, with the times when they came, that a transaction has just stored after the row `newest`.

    Where rows before them are not in the table, nothing is added: catch_up() does that, for a reader that needs it.
    """
    if bodies and indexed(connection) >= newest:
        _add(connection, bodies, is_whole=True)
        (last,) = connection.execute("SELECT max(id) FROM body").fetchone()
        _set_indexed(connection, last)


def forget_runs(connection: sqlite3.Connection, runs: Collection[str]) -> None:
    """Remove the rows of ended runs that have no body any more, and of others those that were written longest ago."""
    connection.executemany(_FORGET, [(run,) for run in runs])
    excess = connection.execute("SELECT count(*) FROM run").fetchone()[0] - _MOST_ROWS
    if excess > 0:
        connection.execute(_FORGET_OLDEST, (min(excess, max(_MOST_LOOKED_AT, 2 * len(runs))),))


def forget_empty(connection: sqlite3.Connection) -> int:
    """Remove all rows of ended runs that have no body; how many."""
    return connection.execute(_FORGET.replace("run = ? AND ", "", 1)).rowcount


def catch_up(connection: sqlite3.Connection) -> None:
    """Add the bodies that a version without rows has stored. Raises sqlite3.Error."""
    while (connection.execute("SELECT max(id) FROM body").fetchone()[0] or 0) > indexed(connection):
        try:
            _add_next(connection)
        except sqlite3.OperationalError as error:
            if not _is_readonly(error):
                raise
            _keep_rows_in_memory(connection)


def _add_next(connection: sqlite3.Connection) -> None:
    query = "SELECT id, time, run, first, last, encoding, data FROM body WHERE id > ? ORDER BY id LIMIT ?"
    with transaction(connection):  # of a file that cannot be written: a transaction that reads
        rows = connection.execute(query, (indexed(connection), _CAUGHT_UP_AT_ONCE)).fetchall()
        bodies = ((Body(data, run, "", first, last, code), time) for _, time, run, first, last, code, data in rows)
        _add(connection, bodies, is_whole=False)
        if rows:
            _set_indexed(connection, rows[-1][0])


def rebuild_damaged(connection: sqlite3.Connection) -> int:
    """Rebuild the rows that are not of our making from the bodies of their runs; how many. Raises sqlite3.Error."""
    damaged = [run for (run,) in connection.execute(_DAMAGED)]
    if damaged:
        connection.execute(f"DROP INDEX IF EXISTS {HEARD_INDEX}")
    for run in damaged:
        with transaction(connection):
            connection.execute("DELETE FROM run WHERE run = ?", (run,))
            if connection.execute("SELECT 1 FROM body WHERE run = ? LIMIT 1", (run,)).fetchone():
                found, _ = rebuilt(connection, run, is_whole=False)
                found.settle()
                save(connection, found)
    return len(damaged)


def rebuilt(connection: sqlite3.Connection, run: str, is_whole: bool) -> tuple[RunSummary, int]:
    """The summary of a run from its bodies, in the order in which they came, and how many of them cannot be read."""
    found, unreadable = RunSummary(run, is_whole), 0
    query = "SELECT data, first, last, encoding, time FROM body WHERE run = ? ORDER BY id"
    for data, first, last, encoding, at in connection.execute(query, (run,)):
        try:
            found.add_body(Body(data, run, "", first, last, encoding).plain().data, first, last, at)
        except Exception:  # whatever a body holds, as where it was stored
            unreadable += 1
    return found, unreadable


@contextmanager
def transaction(connection: sqlite3.Connection, begin: str = "BEGIN IMMEDIATE") -> Iterator[None]:
    """A transaction, rolled back on any exception: left open, it would block all writers."""
    connection.execute(begin)
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # on a full disk SQLite has rolled back already
            connection.execute("ROLLBACK")
        raise


def summaries(connection: sqlite3.Connection, beginning: str = "") -> Iterator[RunSummary]:
    """The runs that have lines in the store and whose ids have this beginning, newest first."""
    for run, text in connection.execute(_LIST, (beginning, beginning + _LAST_CHARACTER)):
        if found := RunSummary.load(run, text):
            yield found


def latest_ids(connection: sqlite3.Connection, most: int) -> list[str]:
    """The ids of the latest runs that have lines in the store, newest first."""
    return [run for (run,) in connection.execute(_LATEST_IDS, (most,))]


def other_bodies(connection: sqlite3.Connection) -> Iterator[Body]:
    """The bodies that are of no run: in most of them no line is a record."""
    query = "SELECT data, encoding FROM body WHERE run IN (?, ?)"
    for data, encoding in connection.execute(query, NO_RUNS):
        yield Body(data, "", "", 0, 0, encoding)


def summary(connection: sqlite3.Connection, run: str) -> RunSummary | None:
    """One run; None where the store does not know it."""
    row = connection.execute(f"SELECT summary FROM run WHERE run = ? AND ended < {REMOVED}", (run,)).fetchone()
    return RunSummary.load(run, row[0]) if row else None


def known(connection: sqlite3.Connection, runs: Sequence[str]) -> Iterator[RunSummary]:
    """The runs among these that the store knows, in any order."""
    for start in range(0, len(runs), _ASKED_AT_ONCE):
        part = runs[start : start + _ASKED_AT_ONCE]
        marks = ",".join("?" * len(part))
        query = f"SELECT run, summary FROM run WHERE run IN ({marks}) AND ended < {REMOVED}"
        for run, text in connection.execute(query, part).fetchall():
            if found := RunSummary.load(run, text):
                yield found


def first_seq(connection: sqlite3.Connection, run: str) -> int:
    """The first seq of a run's bodies; 0 where it has none."""
    return connection.execute("SELECT min(first) FROM body WHERE run = ?", (run,)).fetchone()[0] or 0


def changed(connection: sqlite3.Connection, body: int) -> Iterator[RunSummary]:
    """The runs of the bodies after the row `body`."""
    runs = connection.execute("SELECT DISTINCT run FROM body WHERE id > ?", (body,)).fetchall()
    for (run,) in runs:
        if found := summary(connection, run):
            yield found


def _keep_rows_in_memory(connection: sqlite3.Connection) -> None:
    """Give the connection temporary tables, which stand before those of a file that cannot be written."""
    names = "SELECT count(*) FROM {}.sqlite_master WHERE name IN ('run', 'indexed')"
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.executescript(_SCHEMA.format(place="temp"))
    if connection.execute(names.format("main")).fetchone()[0] == 2:
        for table in ("run", "indexed"):
            connection.execute(f"INSERT INTO temp.{table} SELECT * FROM main.{table}")


def _is_readonly(error: sqlite3.Error) -> bool:
    return "readonly" in str(error)


def _add(connection: sqlite3.Connection, bodies: Iterable[tuple[Body, float]], is_whole: bool) -> None:
    changed: dict[str, RunSummary] = {}
    for body, at in bodies:
        if body.run in NO_RUNS:
            continue  # it is not in the wire format
        if body.run not in changed:
            changed[body.run] = summary(connection, body.run) or RunSummary(body.run, is_whole)
        with suppress(Exception):  # whatever a body holds, it is stored: its row is for people
            changed[body.run].add_body(body.plain().data, body.first, body.last, at)
    for one in changed.values():
        one.settle()
    save(connection, *changed.values())


def save(connection: sqlite3.Connection, *runs: RunSummary) -> None:
    """Write the rows of these runs."""
    connection.executemany(_SAVE, [(one.run, seconds_of(one.started), one.is_ended, one.dump()) for one in runs])


def indexed(connection: sqlite3.Connection) -> int:
    """The id of the newest body that is in the rows."""
    row = connection.execute("SELECT body FROM indexed").fetchone()
    return row[0] if row else 0


def _set_indexed(connection: sqlite3.Connection, body: int) -> None:
    connection.execute("INSERT OR REPLACE INTO indexed VALUES (0, ?)", (body,))
