"""Checks a local store: whether the file is sound, and whether the rows of its runs agree with its bodies."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from sqstee.run_summary import RunSummary
from sqstee.transports import local_runs
from sqstee.transports.local import connect, identity, refusal
from sqstee.transports.local_runs import rebuilt, transaction

_COMPARED = ("records", "last", "lines", "is_ended", "is_failed", "exit_code", "signal", "started", "ended", "gaps")
_MOST_PROBLEMS = 5  # of the file, that are reported


class StoreCheck:
    """The result of a check: the `problems` of the file, and counts of bodies and of the rows of runs.

    `rebuilt` rows did not agree with the bodies, `removed` ones had none; `unreadable` bodies cannot be unpacked.
    """

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.bodies = self.bytes = self.runs = self.rebuilt = self.removed = self.unreadable = 0

    @property
    def is_damaged(self) -> bool:
        """Whether something is wrong that a rebuilt row does not correct."""
        return bool(self.problems or self.unreadable)


def check_store(path: str) -> StoreCheck:
    """Check the store in a file that exists, and rebuild rows that differ; others may use it meanwhile.

    Raises TransportError where the file cannot be opened or read.
    """
    found = StoreCheck()
    if identity(path) is None:
        raise refusal(FileNotFoundError(2, "no such file"), path)
    try:
        connection = connect(path)
        try:
            _check(connection, found)
        finally:
            connection.close()
    except sqlite3.OperationalError as error:
        raise refusal(error, path) from error
    except sqlite3.DatabaseError as error:  # it is damaged, or no database
        found.problems.append(str(error))
    except OSError as error:
        raise refusal(error, path) from error
    return found


def _check(connection: sqlite3.Connection, found: StoreCheck) -> None:
    texts = [str(text) for (text,) in connection.execute(f"PRAGMA quick_check({_MOST_PROBLEMS})")]
    if texts != ["ok"]:
        found.problems += texts
        return
    found.rebuilt = local_runs.rebuild_damaged(connection)
    local_runs.catch_up(connection)
    found.bodies, found.bytes = connection.execute("SELECT count(*), total(length(data)) FROM body").fetchone()
    for run in _runs(connection):
        found.runs += 1
        with transaction(connection, "BEGIN"):
            is_right, unreadable = _compare(connection, run)
        found.unreadable += unreadable
        if not is_right:
            with transaction(connection):  # it may have changed meanwhile
                is_right, _ = _compare(connection, run)
                if not is_right:
                    local_runs.save(connection, rebuilt(connection, run, is_whole=False)[0])
                    found.rebuilt += 1
    with transaction(connection):
        found.removed = local_runs.forget_empty(connection)


def _runs(connection: sqlite3.Connection) -> Iterator[str]:
    """The runs that have bodies, one query for each: no read transaction stays open."""
    run = ""
    while row := connection.execute("SELECT run FROM body WHERE run > ? ORDER BY run LIMIT 1", (run,)).fetchone():
        run = row[0]
        yield run


def _compare(connection: sqlite3.Connection, run: str) -> tuple[bool, int]:
    """Whether the row of a run agrees with its bodies, and how many of these cannot be read.

    Bodies that were deleted are in the row only.
    """
    row = connection.execute("SELECT ended, summary FROM run WHERE run = ?", (run,)).fetchone()
    if row and row[0] == local_runs.REMOVED:
        return True, 0
    noted = RunSummary.load(run, row[1]) if row else None
    found, unreadable = rebuilt(connection, run, is_whole=noted is not None and noted.first == 0)
    if noted is None or bool(row[0]) != noted.is_ended:
        return False, unreadable
    if noted.records.size > found.records.size:
        covers = all(not noted.records.holes(*interval) for interval in found.records.intervals)
        return covers and noted.is_ended >= found.is_ended, unreadable
    return all(_value(noted, name) == _value(found, name) for name in _COMPARED), unreadable


def _value(run: RunSummary, name: str) -> object:
    if name == "gaps":
        return {at: lines.intervals for at, lines in run.gaps.items() if lines.size}
    value = getattr(run, name)
    return value.intervals if name == "records" else value


__all__ = ["StoreCheck", "check_store"]
