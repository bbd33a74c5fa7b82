"""Which runs a local store removes to stay within a size and an age: whole ones, those first that ended long ago.

Each transaction of a writer removes a little, so that no sender waits: a run that is being removed is marked in its row
first (nobody sees it from then on), then its bodies go, then the row, over as many transactions as that takes.
"""

from __future__ import annotations

import math
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

from sqstee import option_values
from sqstee.errors import SqsteeError
from sqstee.run_summary import MISSED_HEARTBEATS
from sqstee.transports.errors import TransportError
from sqstee.transports.local_runs import HEARD_INDEX, REMOVED

_STEP_BYTES = 8 * 1024 * 1024  # removed in one transaction
_STEP_ROWS = 200
_FREE_SHARE = 0.1  # of the size that is kept free, so that a sender finds room
_LOOKED_AT = 50  # runs without an end that are looked at for one that is lost
_DAY_SECONDS = 86400.0
_LOST_SECONDS = _DAY_SECONDS  # of silence, for a run with heartbeats: senders keep lines for long in an outage
_SILENT_LOST_SECONDS = 7 * _DAY_SECONDS  # for a run without
_REST_SECONDS = 1.0  # before the next look, where there was nothing to remove
_TIDY_SECONDS = 30.0  # between two looks while nothing is sent
_TIDY_NEXT_SECONDS = 0.1
_HEARD = "json_extract(summary, '$.heard')"
_FAILED = "json_extract(summary, '$.is_failed')"
_INDEX = f"CREATE INDEX IF NOT EXISTS {HEARD_INDEX} ON run (ended, {_FAILED}, {_HEARD})"
_OLDEST = f"""
SELECT run, {_HEARD}, json_extract(summary, '$.heartbeat_s') FROM run WHERE ended = ? AND {_FAILED} = ?
ORDER BY {_HEARD} LIMIT ?
"""


class Retention:
    """Removes runs from a store above `most_bytes` (0: no limit), and those whose last message is `days` old (0: none).

    Runs that go on are spared. With `keeps_failed`, failed and lost runs are the last to be removed above `most_bytes`.
    `removed` counts runs.
    """

    def __init__(self, most_bytes: int = 0, days: float = 0.0, keeps_failed: bool = False) -> None:
        self.most_bytes = most_bytes
        self.removed = 0
        self._seconds = days * _DAY_SECONDS
        self._keeps_failed = keeps_failed
        self._look_again_at = 0.0

    def prepare(self, connection: sqlite3.Connection) -> None:
        """Make the index by which the oldest runs are found."""
        connection.execute(_INDEX)

    def excess(self, size: int) -> int:
        """The bytes to remove from a store of this size."""
        return size - int(self.most_bytes * (1 - _FREE_SHARE)) if self.most_bytes else 0

    def step(self, connection: sqlite3.Connection, excess: int, patient: bool = True) -> int:
        """Remove some bodies within the caller's transaction; how many bytes.

        Where there was nothing to remove, a `patient` caller gets an answer at once for a second.
        """
        if patient and time.monotonic() < self._look_again_at:
            return 0
        freed = rows = 0
        while freed < _STEP_BYTES and rows < _STEP_ROWS:
            run = _marked(connection) or self._mark(connection, excess > freed)
            if run is None:
                self._look_again_at = time.monotonic() + _REST_SECONDS
                break
            size, number, is_whole = _remove(connection, run, _STEP_BYTES - freed, _STEP_ROWS - rows)
            self.removed += is_whole
            freed += size
            rows += max(1, number)
        return freed

    def _mark(self, connection: sqlite3.Connection, is_over: bool) -> str | None:
        """The next run to remove, which nobody sees from now on."""
        now = time.time()
        found = [
            one
            for one in self._candidates(connection, now)
            if is_over or (self._seconds and now - one[1] > self._seconds)
        ]
        if not found:
            return None
        run = min(found)[2]
        connection.execute("UPDATE run SET ended = ? WHERE run = ?", (REMOVED, run))
        return run

    def _candidates(self, connection: sqlite3.Connection, now: float) -> Iterator[tuple[bool, float, str]]:
        """The oldest runs that do not go on: whether each is kept for longer, the time of its last message, its id."""
        for failed in (False, True):
            for run, heard, _ in connection.execute(_OLDEST, (1, failed, 1)):
                yield failed and self._keeps_failed, _number(heard), run
            for run, heard, heartbeat in connection.execute(_OLDEST, (0, failed, _LOOKED_AT)):
                beat = MISSED_HEARTBEATS * _number(heartbeat)
                silence = max(_LOST_SECONDS, beat) if beat else _SILENT_LOST_SECONDS
                if now - _number(heard) > silence:
                    yield self._keeps_failed, _number(heard), run


def _number(value: object) -> float:
    """A field of a summary; 0 where another program has written something else."""
    return float(value) if isinstance(value, int | float) else 0.0


def _marked(connection: sqlite3.Connection) -> str | None:
    """A run that is being removed, by this process or another."""
    row = connection.execute("SELECT run FROM run WHERE ended = ? LIMIT 1", (REMOVED,)).fetchone()
    return row[0] if row else None


def _remove(connection: sqlite3.Connection, run: str, most_bytes: int, most_rows: int) -> tuple[int, int, bool]:
    """Remove bodies of a run, at least one, and its row after its last body: bytes, bodies, and whether it is gone."""
    query = "SELECT id, length(data) FROM body WHERE run = ? ORDER BY first, last LIMIT ?"
    found = connection.execute(query, (run, most_rows)).fetchall()
    freed = number = 0
    for body, size in found:
        if number and freed + size > most_bytes:
            return freed, number, False
        connection.execute("DELETE FROM body WHERE id = ?", (body,))
        freed += size
        number += 1
    if number == most_rows:
        return freed, number, False
    connection.execute("DELETE FROM run WHERE run = ?", (run,))
    return freed, number, True


def configured(size: str = "", days: str = "", keeps_failed: bool = False) -> Retention | None:
    """The retention that options describe, or else SQSTEE_STORE_MAX, _DAYS and SQSTEE_KEEP_FAILED; None without any.

    Raises SqsteeError.
    """
    size = size or os.environ.get("SQSTEE_STORE_MAX", "")
    days = days or os.environ.get("SQSTEE_STORE_DAYS", "")
    keeps_failed = keeps_failed or os.environ.get("SQSTEE_KEEP_FAILED", "") not in ("", "0")
    try:
        most_bytes = option_values.size(size) if size else 0
    except ValueError as error:
        hint = "for example: --store-max 50G"
        raise SqsteeError(f"invalid value {size!r} for --store-max (expected {error})", hint) from None
    try:
        number = float(days or 0)
        if days and not (math.isfinite(number) and number > 0):
            raise ValueError
    except ValueError:
        hint = "for example: --store-days 30"
        raise SqsteeError(f"invalid value {days!r} for --store-days (expected a number of days)", hint) from None
    if not (most_bytes or number):
        if keeps_failed:
            raise SqsteeError("--keep-failed needs --store-max", "for example: --store-max 50G --keep-failed")
        return None
    return Retention(most_bytes, number, keeps_failed)


def tidy_regularly(tidy: Callable[[], int]) -> None:
    """Call `tidy` in a thread while nothing is sent to the store: runs grow old by themselves."""

    def work() -> None:
        while True:
            removed = 0
            with suppress(TransportError):  # a sender that has the same trouble reports it
                removed = tidy()
            time.sleep(_TIDY_NEXT_SECONDS if removed else _TIDY_SECONDS)

    threading.Thread(target=work, daemon=True).start()


__all__ = ["Retention", "configured", "tidy_regularly"]
