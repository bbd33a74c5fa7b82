"""sqstee runs: the runs of a store, a bucket and a queue, as people and programs ask for them."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
from fakes.bucket import FakeS3
from fakes.sqs import FakeSqs
from fakes.web import FakeWeb
from support import Sqstee
from support.bodies import event_of, gap_of, in_flight, lines_of, piece_of, put, put_local, whole_run

from sqstee.cli.runs import RunListing, format_age, unique_beginnings
from sqstee.record import NO_RUN, Body
from sqstee.run_summary import RunSummary
from sqstee.transports import local_runs
from sqstee.transports.local import LocalSender
from sqstee.transports.local_receiver import LocalReceiver
from sqstee.transports.local_store import LocalStore, RunWatch
from sqstee.transports.s3 import key_of, shard

NIGHT = 1_700_000_000  # when the bodies of support.bodies were written: 2023-11-14T22:13:20Z


def listed(sqstee: Sqstee, *words: str, **more: Any) -> list[dict[str, Any]]:
    """The objects of `runs -o json`."""
    found = sqstee.run("runs", *words, "-o", "json", **more)
    assert found.returncode == 0, found.stderr
    return [json.loads(line) for line in found.stdout.splitlines()]


def test_the_one_failed_task_among_64(sqstee: Sqstee, tmp_path: Path) -> None:
    """Its row says what it said last; nothing else is listed."""
    bodies = []
    for task in range(64):
        more: dict[str, Any] = {"job": f"task-{task:02d}", "host": f"node{task % 8}"}
        bodies += whole_run(5, f"01RUN{task:02d}", status=3 if task == 41 else 0, **more)
        if task == 41:
            bodies.insert(-1, lines_of(7, 8, f"01RUN{task}", stream="stderr", **more))
            bodies[-1] = event_of("exit", 9, f"01RUN{task}", exit_code=3, duration_s=1.5, **more)
    where = put_local(tmp_path / "store.db", *bodies)
    rows = sqstee.run("runs", where, "--failed", environ={"COLUMNS": "140"}).stdout.decode().splitlines()
    assert len(rows) == 2
    assert re.match(r"failed +01RUN41 +node1 +task-41 .* 1\.5 s +3 +7 +1 +line 8$", rows[1]), rows[
        1
    ]  # seq 6 never came
    everything = sqstee.run("runs", where, "-n", "all").stdout.decode().splitlines()
    assert len(everything) == 65


def test_what_real_commands_leave(sqstee: Sqstee) -> None:
    """States, exit statuses and signals, lines of each stream, times: newest first, with nothing configured."""
    sqstee.run("--job", "good", "--label", "team=data", "--", "sh", "-c", "seq 5; echo warn >&2")
    sqstee.run("--job", "bad", "--", "sh", "-c", "echo so; echo 'it broke' >&2; exit 7")
    sqstee.run("--job", "killed", "--", "sh", "-c", "kill -9 $$")
    found = listed(sqstee)
    assert [(run["job"], run["state"]) for run in found] == [("killed", "failed"), ("bad", "failed"), ("good", "ok")]
    assert [(run["exit_code"], run["signal"]) for run in found] == [(None, 9), (7, None), (0, None)]
    good = found[2]
    assert (good["lines"], good["labels"], good["missing"]) == ({"stdout": 5, "stderr": 1}, {"team": "data"}, 0)
    assert (good["bytes"], good["last_stderr"], good["host"]) == (15, "warn", os.uname().nodename)
    assert good["started"] < good["ended"]
    assert good["duration_s"] > 0
    rows = sqstee.run("runs", "--failed", "--job", "b*").stdout.decode().splitlines()
    assert len(rows) == 2
    assert rows[1].endswith(" it broke")
    assert listed(sqstee, "--label", "team=d*", "--since", "1h")[0]["job"] == "good"
    assert listed(sqstee, "--until", "2020-01-01") == []
    assert sqstee.run("runs", "--host", "nobody").stdout == b"no runs\n"
    more = sqstee.run("runs", "-n", "1")
    assert len(more.stdout.splitlines()) == 2
    assert more.stderr == b"sqstee: 2 more runs not shown; -n all shows all\n"


@pytest.mark.parametrize(
    ("words", "runs"),
    [
        ((), ["E", "D", "C", "B", "A"]),
        (("--failed",), ["B", "A"]),
        (("--running",), ["E", "D"]),
        (("--missing",), ["C", "B"]),
        (("--silent",), ["E"]),
        (("--gone",), ["D"]),
        (("--gone", "--failed"), ["D", "B", "A"]),
    ],
)
def test_filters_by_state(sqstee: Sqstee, tmp_path: Path, words: tuple[str, ...], runs: list[str]) -> None:
    """A run that failed may lack lines as well; one whose heartbeat stopped is not silent but gone."""
    long_ago = [
        *whole_run(3, "A", status=1),
        *(event_of("start", 0, "B"), event_of("exit", 5, "B", exit_code=1)),
        *(event_of("start", 0, "C"), gap_of(1, 4, "C"), event_of("exit", 5, "C", exit_code=0)),
        *(event_of("start", 0, "D", heartbeat_s=60), lines_of(1, 1, "D")),
        event_of("start", 0, "E"),
    ]
    where = put_local(tmp_path / "store.db", *long_ago)
    connection = sqlite3.connect(tmp_path / "store.db")  # as if they had been stored when they were written
    connection.execute("UPDATE body SET time = ?", (NIGHT,))
    connection.execute("DELETE FROM indexed")
    connection.execute("DELETE FROM run")
    connection.commit()
    connection.close()
    assert [run["run"] for run in listed(sqstee, where, *words)] == runs


def test_failures_of_a_night_over_200_hosts(sqstee: Sqstee, tmp_path: Path) -> None:
    """Runs that ran between two times, on hosts by a glob."""
    bodies = []
    for host in range(200):
        bodies += whole_run(1, f"01N{host:03d}", status=int(host % 50 == 3), host=f"node{host:03d}", job="etl")
    where = put_local(tmp_path / "store.db", *bodies)
    night = ("--since", "2023-11-14T22:00:00Z", "--until", "2023-11-15T06:00:00Z")
    assert [run["host"] for run in listed(sqstee, where, "--failed", *night)] == [
        *("node153", "node103", "node053", "node003")
    ]
    assert len(listed(sqstee, where, "--failed", "--host", "node0*", *night)) == 2
    assert listed(sqstee, where, "--failed", "--since", "2023-11-15T06:00:00Z") == []


def test_the_last_ten_stderr_lines_of_each_failure(sqstee: Sqstee, tmp_path: Path) -> None:
    """Below each run that is listed, as people read them and as programs do; also from a bucket."""
    bodies = []
    for host in range(20):
        run, more = f"01N{host:03d}", {"host": f"node{host:03d}", "job": "etl"}
        bodies += [
            event_of("start", 0, run, **more),
            lines_of(1, 30, run, more["host"], "stderr" if host % 5 == 3 else "stdout"),
            lines_of(31, 60, run, more["host"]),
            event_of("exit", 61, run, exit_code=int(host % 5 == 3), **more),
        ]
    where = put_local(tmp_path / "store.db", *bodies)
    found = sqstee.run("runs", where, "--failed", "--tail", "10").stdout.decode().splitlines()
    assert len(found) == 1 + 4 * 11
    assert found[2:12] == [f"    line {seq}" for seq in range(21, 31)]
    assert [one["tail"] for one in listed(sqstee, where, "--failed", "--tail", "2")] == 4 * [["line 29", "line 30"]]
    with FakeWeb(FakeS3("bkt")) as web:
        environ = web.environ()
        sqstee.run("--to", "s3://bkt", "--", "sh", "-c", "seq 5 >&2; exit 1", environ=environ)
        (found_there,) = listed(sqstee, "s3://bkt", "--tail", "3", environ=environ)
        assert found_there["tail"] == ["3", "4", "5"]


def test_lines_that_would_be_gone_are_not_consumed(sqstee: Sqstee, fake_sqs: FakeSqs, tmp_path: Path) -> None:
    """Regression: --tail was refused for a queue after every message had been deleted, or received."""
    put(fake_sqs, whole_run(2))
    where = put_local(tmp_path / "store.db", *whole_run(2))
    for words in (("q", "--consume"), ("q", "--peek"), (where, "--consume")):
        refused = sqstee.run("runs", *words, "--tail", "3", environ=fake_sqs.environ())
        assert (refused.returncode, refused.stdout) == (125, b"")
        assert refused.stderr.startswith(f"sqstee: {words[0]}: --tail needs a source that can be read twice".encode())
    assert len(fake_sqs.messages("q")) == len(sqstee.local_bodies(tmp_path / "store.db")) == 3
    assert in_flight(fake_sqs) == 0


def test_a_store_of_a_version_without_rows_of_runs(tmp_path: Path) -> None:
    """Its bodies are added at the first look; so are those that such a version stores beside ours."""
    path = tmp_path / "store.db"
    put_local(path, *whole_run(3, "OLD", status=1))
    connection = sqlite3.connect(path)
    for table in ("run", "indexed"):
        connection.execute(f"DROP TABLE {table}")
    connection.commit()
    connection.close()
    assert [run.run for run in LocalStore(str(path)).runs()] == ["OLD"]
    connection = sqlite3.connect(path)
    for body in whole_run(2, "BESIDE"):
        row = (1.0, body.run, body.first, body.last, "", body.data)
        connection.execute("INSERT INTO body (time, run, first, last, encoding, data) VALUES (?, ?, ?, ?, ?, ?)", row)
    connection.commit()
    connection.close()
    put_local(path, *whole_run(4, "NEW"))
    found = {run.run: run for run in LocalStore(str(path)).runs()}
    assert {name: run.lines for name, run in found.items()} == {
        "OLD": {"stdout": 3},
        "BESIDE": {"stdout": 2},
        "NEW": {"stdout": 4},
    }
    assert found["OLD"].is_failed
    assert all(run.is_ended and not run.missing for run in found.values())


@pytest.mark.parametrize("is_beside", [False, True])
def test_a_store_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_beside: bool) -> None:
    """Its runs are listed, also those that a version without rows has stored: alone, or beside ours."""
    path = tmp_path / "store.db"
    put_local(path, *whole_run(3, "FIRST", status=1), *whole_run(2, "SECOND"))
    connection = sqlite3.connect(path)
    if is_beside:
        connection.execute("UPDATE indexed SET body = 3")
        connection.execute("DELETE FROM run WHERE run = 'SECOND'")
        connection.commit()
    else:
        connection.executescript("DROP TABLE run; DROP TABLE indexed")
    connection.close()
    opened = sqlite3.connect

    def connect(path: str, **more: Any) -> sqlite3.Connection:  # for root, no file is read-only
        found: sqlite3.Connection = opened(f"file:{path}?mode=ro", uri=True, **more)
        return found

    monkeypatch.setattr(sqlite3, "connect", connect)
    found = {run.run: run for run in LocalStore(str(path)).runs()}
    assert {name: (run.lines, run.is_failed) for name, run in found.items()} == {
        "FIRST": ({"stdout": 3}, True),
        "SECOND": ({"stdout": 2}, False),
    }
    receiver = LocalReceiver(str(path))
    assert len(receiver.receive(10, 0)) == 6
    receiver.close()
    watch = RunWatch(str(path))
    assert len(watch.changed()) == 2
    watch.close()


def test_what_was_consumed_is_not_missing(tmp_path: Path) -> None:
    """Rows say what came. A run without bodies is not listed; one that goes on has all its lines again."""
    path = tmp_path / "store.db"
    put_local(path, *whole_run(3, "DONE"), event_of("start", 0, "OPEN"), lines_of(1, 5, "OPEN"))
    receiver = LocalReceiver(str(path), consume=True)
    assert receiver.delete(receiver.receive(10, 0)) == []
    receiver.close()
    assert LocalStore(str(path)).runs() == []
    put_local(path, lines_of(6, 7, "OPEN"))
    (found,) = LocalStore(str(path)).runs()
    assert (found.run, found.lines, found.missing) == ("OPEN", {"stdout": 7}, 0)
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT run FROM run").fetchall() == [("OPEN",)]
    connection.close()


def test_rows_of_runs_that_never_end_do_not_fill_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Consumed again and again: a full store has room again, and the rows written last stay exact."""
    monkeypatch.setattr(local_runs, "_MOST_ROWS", 50)
    path = tmp_path / "store.db"
    put_local(path, event_of("start", 0, "KEPT"))
    receiver = LocalReceiver(str(path), consume=True)
    for turn in range(20):
        sender = LocalSender(str(path), 1 << 30)
        sender.send([event_of("start", 0, f"{turn}-{number}") for number in range(20)])
        sender.send([lines_of(turn + 1, turn + 1, "KEPT")])
        sender.close()
        assert receiver.delete(receiver.receive(100, 0)) == []
    receiver.close()
    connection = sqlite3.connect(path)
    (rows,) = connection.execute("SELECT count(*) FROM run").fetchone()
    connection.close()
    assert rows <= 50
    put_local(path, lines_of(21, 21, "KEPT"))
    assert [(run.lines, run.missing) for run in LocalStore(str(path)).runs()] == [({"stdout": 21}, 0)]


def test_a_refused_transaction_leaves_no_row(tmp_path: Path) -> None:
    """A row and its bodies are stored together, or neither is."""
    sender = LocalSender(str(tmp_path / "store.db"), 60_000, keeps=True)
    sender.send([lines_of(0, 100, "FIRST")])
    with pytest.raises(Exception, match="is full"):
        sender.send([lines_of(0, 2000, "SECOND")])
    sender.close()
    assert [run.run for run in LocalStore(str(tmp_path / "store.db")).runs()] == ["FIRST"]


def test_a_bucket_and_two_sources(sqstee: Sqstee, tmp_path: Path) -> None:
    """s3:// is read to its end. What a primary store lacks and its fallback has is not missing from the two."""
    bucket = FakeS3("bkt")
    with FakeWeb(bucket) as web:
        for number in range(2):
            sqstee.run(
                *("--to", "s3://bkt/logs", "--job", f"j{number}", "--", "sh", "-c", f"seq 3; exit {number}"),
                environ=web.environ(),
            )
        found = listed(sqstee, "s3://bkt/logs", environ=web.environ())
        assert [(run["job"], run["state"], run["lines"]) for run in found] == [
            ("j1", "failed", {"stdout": 3}),
            ("j0", "ok", {"stdout": 3}),
        ]
    there = gap_of(1, 4, "R", reason="fallback", at="local:second")
    one = put_local(tmp_path / "one.db", event_of("start", 0, "R"), there, event_of("exit", 5, "R", exit_code=0))
    (alone,) = listed(sqstee, one)
    assert (alone["state"], alone["elsewhere"], alone["fallback"]) == ("missing", 4, "local:second")
    two = put_local(tmp_path / "two.db", lines_of(1, 4, "R"))
    (both,) = listed(sqstee, one, two)
    assert (both["state"], both["elsewhere"], both["lines"], both["exit_code"]) == ("ok", 0, {"stdout": 4}, 0)
    assert listed(sqstee, one, two, two) == [both]


def test_lines_of_others_are_counted(sqstee: Sqstee, fake_sqs: FakeSqs, tmp_path: Path) -> None:
    """In a bucket, a store and a queue as in a folder: never silence, and no run of theirs."""
    plain = b'{"a":1}\n\nplain\n'
    bucket = FakeS3("bkt")
    key = f"{shard('01X')}/01X/{0:012d}-{1:012d}.ndjson"
    bucket.store(f"logs/{key}", plain)
    bucket.store(key_of("logs/", lines_of(0, 2, "01A")), lines_of(0, 2, "01A").data)
    with FakeWeb(bucket) as web:
        found = sqstee.run("runs", "s3://bkt/logs", environ=web.environ())
    assert b"01A" in found.stdout
    text = "lines not written by sqstee, left out"
    assert (found.returncode, found.stderr.decode()) == (0, f"sqstee: s3://bkt/logs: 2 {text}: in {key}\n")
    store = put_local(tmp_path / "one.db", Body(plain, NO_RUN, "", 7, 7), Body(b"x\n", "", "", 0, 0), lines_of(0, 2))
    found = sqstee.run("runs", store)
    assert len(found.stdout.splitlines()) == 2
    assert (found.returncode, found.stderr.decode()) == (0, f"sqstee: {store}: 3 {text}\n")
    fake_sqs.put("q", plain.decode())
    found = sqstee.run("runs", "q", "--peek", environ=fake_sqs.environ())
    assert found.stderr.decode().splitlines()[1:] == [f"sqstee: q: 2 {text}"]


def test_a_queue_is_peeked_at_or_consumed(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """As the other readers do it."""
    put(fake_sqs, whole_run(3, "01GOOD", job="good"))
    put(fake_sqs, [event_of("start", 0, "01OPEN", job="old")])
    environ = fake_sqs.environ()
    refused = sqstee.run("runs", "q", environ=environ)
    assert (refused.returncode, b"needs --consume or --peek" in refused.stderr) == (125, True)
    states = [("old", "silent"), ("good", "ok")]
    assert [(run["job"], run["state"]) for run in listed(sqstee, "q", "--peek", environ=environ)] == states
    assert in_flight(fake_sqs) == 0
    assert [(run["job"], run["state"]) for run in listed(sqstee, "q", "--consume", environ=environ)] == states
    assert fake_sqs.messages("q") == []


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("-n", "many"), "invalid value 'many' for -n (expected a number, or all)"),
        (("-n", "9" * 5000), "invalid value"),
        (("--label", "team"), "invalid value 'team' for --label (expected NAME=GLOB)"),
        (("--since", "soon"), "invalid value 'soon' for --since"),
        (("--until", "soon"), "invalid value 'soon' for --until"),
        (("-o", "yaml"), "invalid value 'yaml' for -o"),
    ],
)
def test_bad_input_gets_a_line_and_a_hint(sqstee: Sqstee, words: tuple[str, ...], problem: str) -> None:
    """And no traceback."""
    found = sqstee.run("runs", *words)
    assert (found.returncode, found.stdout) == (125, b"")
    assert found.stderr.decode().startswith(f"sqstee: {problem}")
    assert found.stderr.count(b"\nhint: ") == 1


def test_a_store_that_does_not_exist_is_named(sqstee: Sqstee, tmp_path: Path) -> None:
    """A mistyped path looks like a store without runs; tail and alert would wait for it without a word."""
    where = f"local:{tmp_path}/none.db"
    for words in (("runs", where), ("tail", where, "--no-follow"), ("alert", where, "--once", "--exec", "true")):
        found = sqstee.run(*words)
        assert found.returncode == 0
        assert f"sqstee: {where}: no such file, nothing has been stored there yet" in found.stderr.decode()
    assert sqstee.run("runs").stderr == b""


def test_hostile_texts_stay_in_their_cells(sqstee: Sqstee, tmp_path: Path) -> None:
    """Names and lines from the network are neutral, and on one line each."""
    bad = "x\x1b[2J\ny"
    where = put_local(
        tmp_path / "store.db",
        event_of("start", 0, bad, host=bad, job=bad),
        piece_of(1, "\x1b[31mred\u202e", bad),
        event_of("exit", 2, bad, exit_code=1),
    )
    rows = sqstee.run("runs", where, environ={"COLUMNS": "140"}).stdout.decode().splitlines()
    assert len(rows) == 2
    assert not re.search("[\x00-\x1f\x7f\u202e]", rows[1])
    assert listed(sqstee, where)[0]["run"] == bad


@pytest.mark.parametrize("width", [20, 50, 60, 80, 100, 140])
def test_a_table_of_any_width(width: int) -> None:
    """Every row fits."""
    run = RunSummary("01RUN0000000000000000000000")
    run.add_items([], 0.0)
    run.host, run.job, run.last_stderr, run.is_failed = "node" * 9, "job" * 20, "words " * 40, True
    rows = RunListing([run], [run.run], time.time(), 60.0).lines(width, False)
    assert all(len(row) <= max(width, 45) for row in rows)
    shown = rows[1].partition("words")[2]
    assert len(shown) > width // 5 if width >= 80 else not shown


def test_ids_are_shortened_as_far_as_they_stay_unique() -> None:
    """At least eight characters; ids of the same moment need more."""
    ids = ["01ABCDEFGH1X", "01ABCDEFGH1Y", "01ZZZZZZZZZZ", "short"]
    assert unique_beginnings(ids) == {
        "01ABCDEFGH1X": "01ABCDEFGH1X",
        "01ABCDEFGH1Y": "01ABCDEFGH1Y",
        "01ZZZZZZZZZZ": "01ZZZZZZ",
        "short": "short",
    }


@pytest.mark.parametrize(("seconds", "text"), [(-5, "0s"), (3, "3s"), (119, "119s"), (120, "2m"), (86400 * 3, "3d")])
def test_ages(seconds: float, text: str) -> None:
    """In the largest unit of which there are two."""
    assert format_age(seconds) == text
