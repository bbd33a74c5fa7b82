"""What a store removes: whole runs, those first that ended long ago, and never one that goes on."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from support import Sqstee, wait_for
from support.board import ServedBoard, change
from support.bodies import event_of, lines_of, put_local, whole_run
from support.collector import collecting

from sqstee.collector import open_store
from sqstee.record import Body
from sqstee.transports.errors import TransportError
from sqstee.transports.local import FULL, LocalSender
from sqstee.transports.local_store import LocalStore, StoreReader
from sqstee.transports.retention import Retention

DAY = 86400.0
SIZE = 2 * 1024 * 1024
LINES = 1000  # about 150 KB


def opened(folder: Path, retention: Retention) -> LocalSender:
    """A collector's store."""
    return open_store(f"local:{folder}/store.db", "", 1 << 30, retention)


def dated(bodies: Sequence[Body], age: float = 0.0) -> list[tuple[Body, float]]:
    """Bodies that came so many days ago."""
    return [(body, time.time() - age * DAY) for body in bodies]


def send_all(store: LocalSender, requests: Sequence[Sequence[tuple[Body, float]]]) -> None:
    """Send requests one after the other."""
    for one in requests:
        store.send_dated(one)


def runs(folder: Path) -> list[str]:
    """The runs of the store, by their ids; each is whole."""
    found = sorted(LocalStore(f"{folder}/store.db").runs(), key=lambda run: run.run)
    assert [run.missing for run in found] == [0] * len(found)
    reader = StoreReader(f"{folder}/store.db")
    for run in found:
        assert sum(body.last - body.first + 1 for body in reader.bodies(run.run)) == run.last + 1
    reader.close()
    return [run.run for run in found]


def rows(folder: Path) -> set[str]:
    """The runs that have a row, and those that have bodies."""
    connection = sqlite3.connect(folder / "store.db")
    found = connection.execute("SELECT run FROM run UNION SELECT run FROM body").fetchall()
    connection.close()
    return {run for (run,) in found}


def test_the_oldest_runs_make_room(tmp_path: Path) -> None:
    """Whole runs go, by their last message; the store stays below its size and refuses nothing."""
    store = opened(tmp_path, Retention(SIZE))
    for number in range(40):
        store.send_dated(dated(whole_run(LINES, f"RUN{number:02d}"), 40 - number))
        assert store.present_size() <= SIZE
    store.close()
    left = runs(tmp_path)
    assert left == [f"RUN{number:02d}" for number in range(40 - len(left), 40)]
    assert len(left) > 5
    assert rows(tmp_path) == set(left)


def test_runs_that_go_on_are_spared(tmp_path: Path) -> None:
    """They stay however old they are, if they are heard of; lost ones go; a store that is full of them refuses."""
    store = opened(tmp_path, Retention(SIZE))
    for number in range(5):
        store.send_dated(dated([event_of("start", 0, f"GOES{number}"), lines_of(1, LINES, f"GOES{number}")], 3))
    lost = [event_of("start", 0, "LOST", heartbeat_s=60), lines_of(1, LINES, "LOST")]
    store.send_dated(dated(lost, 3))
    for number in range(20):
        store.send_dated(dated(whole_run(LINES, f"RUN{number:02d}"), 1))
    assert [run for run in runs(tmp_path) if run < "RUN"] == [f"GOES{number}" for number in range(5)]
    more = [
        dated([event_of("start", 0, f"GOES{number}"), lines_of(1, LINES, f"GOES{number}")]) for number in range(5, 40)
    ]
    with pytest.raises(TransportError) as raised:
        send_all(store, more)
    assert raised.value.code == FULL
    assert [run for run in runs(tmp_path) if run >= "RUN"] == []
    store.close()


@pytest.mark.parametrize("keeps_failed", [False, True])
def test_failed_runs_are_removed_last_if_asked(tmp_path: Path, keeps_failed: bool) -> None:
    """Otherwise by their age like all others."""
    store = opened(tmp_path, Retention(SIZE, keeps_failed=keeps_failed))
    for number in range(30):
        store.send_dated(dated(whole_run(LINES, f"RUN{number:02d}", status=int(number < 3)), 30 - number))
    store.close()
    assert ({"RUN00", "RUN01", "RUN02"} <= set(runs(tmp_path))) == keeps_failed


def test_old_runs_go_by_themselves(tmp_path: Path) -> None:
    """Also while nothing is sent, and however little there is."""
    store = opened(tmp_path, Retention(days=7))
    store.send_dated(dated(whole_run(5, "OLD", status=1), 8))
    store.send_dated(dated(whole_run(5, "YOUNG"), 6))
    store.tidy()
    store.close()
    assert runs(tmp_path) == ["YOUNG"]
    assert rows(tmp_path) == {"YOUNG"}


def test_a_large_run_goes_in_steps(tmp_path: Path) -> None:
    """From the first step on nobody sees it; another process finishes what one has begun."""
    store = opened(tmp_path, Retention(days=7))
    large = [lines_of(seq, seq, "LARGE") for seq in range(2, 500)]
    store.send_dated(dated([event_of("start", 0, "LARGE"), lines_of(1, 1, "LARGE"), *large], 8))
    store.send_dated(dated([event_of("exit", 500, "LARGE", exit_code=0)], 8))
    assert rows(tmp_path) == {"LARGE"}
    assert runs(tmp_path) == []
    store.close()
    other = opened(tmp_path, Retention(1 << 40))
    other.tidy()
    other.close()
    assert rows(tmp_path) == set()


def test_no_retention_is_as_ever(tmp_path: Path) -> None:
    """A store that keeps refuses; one that does not drops its oldest rows."""
    keeping = LocalSender(str(tmp_path / "store.db"), SIZE, keeps=True)
    with pytest.raises(TransportError):
        send_all(keeping, [dated(whole_run(LINES, f"RUN{number:02d}")) for number in range(40)])
    assert runs(tmp_path)[0] == "RUN00"
    keeping.close()


def test_a_request_larger_than_the_free_share_fits(tmp_path: Path) -> None:
    """Room is made for it, rather than refused for as long as others wait."""
    store = opened(tmp_path, Retention(SIZE))
    for number in range(12):
        store.send_dated(dated(whole_run(LINES, f"RUN{number:02d}"), 12 - number))
    store.send_dated(dated([lines_of(seq, seq + 999, "LARGE") for seq in range(0, 6000, 1000)]))
    store.close()
    assert "LARGE" in runs(tmp_path)
    assert "RUN00" not in runs(tmp_path)


def test_the_collector_removes_runs(tmp_path: Path) -> None:
    """`sqstee serve --store-days`, while nothing is sent."""
    store = LocalSender(str(tmp_path / "store.db"), 1 << 30)
    store.send_dated(dated(whole_run(5, "OLD"), 8))
    store.send_dated(dated(whole_run(5, "YOUNG"), 6))
    store.close()
    with collecting(tmp_path / "store.db", "--store-days", "7") as (process, url):
        wait_for(lambda: rows(tmp_path) == {"YOUNG"}, "the old run is gone")
        assert ServedBoard(process, url + "/", "").metric("sqstee_runs_removed_total") == "1"


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("--store-max", "many"), "invalid value 'many' for --store-max (expected a size such as 256K, 4M, 1G)"),
        (("--store-days", "-1"), "invalid value '-1' for --store-days (expected a number of days)"),
        (("--store-days", "nan"), "invalid value 'nan' for --store-days (expected a number of days)"),
        (("--keep-failed",), "--keep-failed needs --store-max"),
    ],
)
@pytest.mark.parametrize("verb", ["serve", "web"])
def test_bad_values(sqstee: Sqstee, tmp_path: Path, verb: str, words: Sequence[str], problem: str) -> None:
    """One line and one hint."""
    found = sqstee.run(verb, *words)
    lines = found.stderr.decode().splitlines()
    assert lines[0] == f"sqstee: {problem}"
    assert len(lines) == 2


DAMAGE = [
    "UPDATE run SET summary = '{' WHERE run = 'A'",
    "UPDATE run SET summary = '[]' WHERE run = 'B'",
    "UPDATE run SET summary = json_set(summary, '$.heard', 'long ago') WHERE run = 'C'",
    "UPDATE run SET summary = json_set(summary, '$.heartbeat_s', 'often') WHERE run = 'D'",
    "UPDATE run SET summary = x'00ff' WHERE run = 'E'",
    "INSERT INTO run SELECT 'GHOST', started, 1, 'null' FROM run WHERE run = 'F'",
]


def test_damaged_rows_are_rebuilt_at_the_start(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """No row keeps a collector from its work: those that nobody can read are rebuilt, and that is said."""
    path = tmp_path / "store.db"
    put_local(path, *(body for run in "ABCDEF" for body in whole_run(5, run)))
    before = {run.run: run.fields(0, 60) for run in LocalStore(str(path)).runs()}
    change(path, *DAMAGE)
    store = opened(tmp_path, Retention(SIZE, days=7))
    assert capfd.readouterr().err == f"sqstee: {path}: 6 damaged rows of runs rebuilt from their messages\n"
    assert {run.run: run.fields(0, 60) for run in LocalStore(str(path)).runs()} == before
    store.send_dated(dated(whole_run(5, "OLD"), 8))
    store.tidy()
    store.close()
    assert rows(tmp_path) == set("ABCDEF")
    opened(tmp_path, Retention(SIZE)).close()
    assert capfd.readouterr().err == ""


def test_a_damaged_row_in_the_index_is_rebuilt(tmp_path: Path) -> None:
    """By the retention's index SQLite refuses each change of a row that is no JSON."""
    path = tmp_path / "store.db"
    store = opened(tmp_path, Retention(SIZE))
    store.send(whole_run(5, "A", job="a-job-of-its-own"))
    store.close()
    change(path, "PRAGMA wal_checkpoint(TRUNCATE)")
    data = path.read_bytes()
    assert data.count(b'{"host": "node1", "job": "a-job-of-its-own"') == 1
    path.write_bytes(data.replace(b'{"host": "node1", "job": "a-job', b'["host": "node1", "job": "a-job'))
    with pytest.raises(sqlite3.OperationalError, match="malformed JSON"):
        change(path, "DELETE FROM run WHERE run = 'A'")
    store = opened(tmp_path, Retention(SIZE))
    store.send(whole_run(5, "B"))
    store.close()
    assert runs(tmp_path) == ["A", "B"]


def test_rows_of_another_program_stop_nothing(tmp_path: Path) -> None:
    """What it writes meanwhile is passed over: the rest is stored, and removed in its time."""
    path = tmp_path / "store.db"
    store = opened(tmp_path, Retention(days=7))
    for run in "AB":
        store.send_dated(dated(whole_run(5, run), 8 if run == "A" else 0))
    change(path, *(one for one in DAMAGE if "json_set" in one), DAMAGE[2].replace("'C'", "'B'"))
    store.send_dated(dated([event_of("start", 0, "GOES", heartbeat_s=60)]))
    change(path, DAMAGE[3].replace("'D'", "'GOES'"))
    store.tidy()
    store.close()
    assert {"GOES"} <= rows(tmp_path) <= {"B", "GOES"}
