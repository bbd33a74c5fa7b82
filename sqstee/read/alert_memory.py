"""The memory of an alerting process over restarts: delivered alerts, pending alerts, and since when it watches.

A SQLite file of one process at a time.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Iterable, Sequence

from sqstee.errors import EXIT_FAILURE, SqsteeError
from sqstee.read.alerts import Alert
from sqstee.run_summary import RunSummary

KEPT_SECONDS = 90 * 86400.0  # what happened before is neither told nor remembered
_LOCKED_SECONDS = 2.0  # a process that ends may hold the file for a moment
_SCHEMA = """
CREATE TABLE IF NOT EXISTS alert (key TEXT PRIMARY KEY, facts TEXT NOT NULL, told REAL);
CREATE TABLE IF NOT EXISTS moment (name TEXT PRIMARY KEY, at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS run (run TEXT PRIMARY KEY, heard REAL NOT NULL, summary TEXT NOT NULL);
"""


class AlertMemory:
    """The memory in the file `path`, which is created; safe for threads. Raises SqsteeError where it cannot be used.

    `moments` are those that were saved, by name.
    """

    def __init__(self, path: str, now: float) -> None:
        self._path = path
        self._lock = threading.Lock()
        try:
            os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # before SQLite opens it: a close drops its locks
            self._connection = sqlite3.connect(
                path, timeout=_LOCKED_SECONDS, isolation_level=None, check_same_thread=False
            )
            self._connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._connection.execute("BEGIN EXCLUSIVE")  # the lock stays
            for statement in _SCHEMA.strip().splitlines():
                self._connection.execute(statement)
            self._connection.execute("DELETE FROM alert WHERE told < ?", (now - KEPT_SECONDS,))
            self._connection.execute("DELETE FROM run WHERE heard < ?", (now - KEPT_SECONDS,))
            self._connection.execute("COMMIT")
            self._known = {key for (key,) in self._connection.execute("SELECT key FROM alert")}
            self.moments: dict[str, float] = dict(self._connection.execute("SELECT name, at FROM moment"))
        except (OSError, UnicodeError, sqlite3.Error) as error:
            raise _refusal(error, path) from None

    def __contains__(self, key: str) -> bool:
        """Whether an alert was delivered, or waits for delivery."""
        return key in self._known

    def moment(self, name: str, otherwise: float) -> float:
        """A moment of this name; where there is none, it is `otherwise` from now on."""
        if name not in self.moments:
            self.save((), {name: otherwise})
        return self.moments[name]

    def save(
        self, alerts: Sequence[Alert], moments: dict[str, float] | None = None, runs: Iterable[RunSummary] = ()
    ) -> None:
        """Save alerts until they are delivered, moments, and summaries of runs that cannot be read again."""
        rows = [(one.key, json.dumps(one.facts)) for one in alerts]
        with self._lock:
            try:
                self._connection.execute("BEGIN")
                self._connection.executemany("INSERT OR IGNORE INTO alert VALUES (?, ?, NULL)", rows)
                self._connection.executemany("INSERT OR REPLACE INTO moment VALUES (?, ?)", (moments or {}).items())
                for run in runs:
                    name = json.dumps(run.run)  # in ASCII: another host may call a run anything
                    self._connection.execute("DELETE FROM run WHERE run = ?", (name,))
                    if not run.is_ended:
                        self._connection.execute("INSERT INTO run VALUES (?, ?, ?)", (name, run.heard, run.dump()))
                self._connection.execute("COMMIT")
            except (OSError, UnicodeError, sqlite3.Error) as error:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise _refusal(error, self._path) from None
            self._known |= {one.key for one in alerts}
            self.moments |= moments or {}

    def untold(self) -> list[Alert]:
        """The alerts that are not delivered yet, the oldest first."""
        with self._lock:
            rows = self._connection.execute("SELECT key, facts FROM alert WHERE told IS NULL ORDER BY rowid").fetchall()
        return [Alert(key, json.loads(facts)) for key, facts in rows]

    def runs(self, most: int) -> list[tuple[str, str]]:
        """The ids and the dumps of the saved runs: at most `most`, the most recently active ones."""
        query = "SELECT run, summary FROM run ORDER BY heard DESC LIMIT ?"
        with self._lock:
            return [(json.loads(name), text) for name, text in self._connection.execute(query, (most,))]

    def told(self, alert: Alert, now: float) -> None:
        """Record that an alert was delivered at `now`."""
        with self._lock:
            try:
                self._connection.execute("UPDATE alert SET told = ?, facts = '' WHERE key = ?", (now, alert.key))
            except (OSError, UnicodeError, sqlite3.Error) as error:
                raise _refusal(error, self._path) from None

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()


def _refusal(error: OSError | UnicodeError | sqlite3.Error, path: str) -> SqsteeError:
    if "locked" in str(error):
        hint = "sqstee alert --memory FILE gives each a memory of its own"
        return SqsteeError(f"another sqstee alert that runs has its memory in {path}", hint, EXIT_FAILURE)
    reason = getattr(error, "strerror", None) or error
    return SqsteeError(f"the memory {path} cannot be used: {reason}", "choose another one: --memory FILE", EXIT_FAILURE)
