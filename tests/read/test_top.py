"""sqstee top: each run's state, what needs attention first."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from fakes.sqs import FakeSqs
from support import SCRIPT, TIMEOUT, Sqstee, running, wait_for
from support.bodies import TIME_NS, at_present, event_of, gap_of, in_flight, lines_of, piece_of, put, whole_run
from support.terminal import Terminal

from sqstee.cli.top import _TableView
from sqstee.read.decode import Item, blocks
from sqstee.read.line_joiner import LineJoiner
from sqstee.read.run_filter import is_in
from sqstee.read.run_table import RunState, RunTable
from sqstee.record import Body, Encoder
from sqstee.run_summary import STATES
from sqstee.text import columns_of
from sqstee.transports.base import ReceivedMessage
from sqstee.transports.local import LocalSender


class Clock:
    """A clock that the test sets."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def items(*bodies: Body) -> list[Item]:
    """The records and events of bodies."""
    return [item for body in bodies for block in blocks(ReceivedMessage(body.data, {}, "")) for item in block]


def table_of(clock: Clock, *bodies: Body) -> RunTable:
    """A table of runs that has seen these bodies."""
    found = RunTable(lambda table: None, clock)
    found.items(items(*bodies))
    return found


def only(found: RunTable) -> RunState:
    """The only run of a table."""
    (run,) = found.runs(60.0)
    return run


def shown(found: RunTable, is_shared: bool = False) -> str:
    """The table on a wide terminal."""
    return "\n".join(_TableView(60.0, is_shared).lines(found, 180, 0))


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        ({"exit_code": 0}, "ok"),
        ({"exit_code": 3}, "failed"),
        ({"signal": 9}, "failed"),
        ({"cause": "wrapper-died"}, "failed"),
        ({"cause": "process-ended"}, "ok"),
        ({}, "ok"),
        ({"exit_code": 0, "open": ["stdout"]}, "running"),
    ],
)
def test_how_a_run_ended(fields: dict[str, Any], state: str) -> None:
    """By its exit event; one whose streams are still open runs on, until its end event."""
    clock = Clock()
    found = table_of(clock, event_of("start", 0), event_of("exit", 1, **fields))
    assert only(found).state(clock(), 60.0) == state
    if state == "running":
        found.items(items(event_of("end", 2)))
        assert only(found).state(clock(), 60.0) == "ok"


@pytest.mark.parametrize("took", [10**400, float("inf"), float("nan"), -1, "1", None])
def test_what_is_no_duration(took: Any) -> None:
    """Whatever an exit event contains, the table is shown."""
    found = table_of(Clock(), event_of("exit", 0, exit_code=0, duration_s=took))
    assert only(found).duration_s is None
    assert _TableView(60.0).lines(found, 120, 0)[0] == "1 run: 1 ok"


def test_silence_and_rates() -> None:
    """A run without messages for long is silent; rates are those of the last ten seconds."""
    clock = Clock()
    found = table_of(clock, lines_of(0, 49))
    assert only(found).rate("stdout", clock()) == 5.0
    clock.now += 61
    assert only(found).state(clock(), 60.0) == "silent"
    assert only(found).rate("stdout", clock()) == 0.0
    found.items(items(lines_of(50, 50)))
    assert only(found).state(clock(), 60.0) == "running"
    assert only(found).lines == {"stdout": 51}


def test_what_is_missing_until_it_comes() -> None:
    """Holes count, late lines fill them; dropped lines stay missing."""
    clock = Clock()
    found = table_of(clock, event_of("start", 0), lines_of(1, 1), event_of("exit", 6, exit_code=0))
    assert only(found).missing == 4
    assert only(found).state(clock(), 60.0) == "missing"
    found.items(items(gap_of(2, 3)))
    assert (only(found).missing, only(found).dropped) == (2, 2)
    found.items(items(lines_of(3, 5)), late=True)
    assert (only(found).missing, only(found).dropped, only(found).state(clock(), 60.0)) == (0, 1, "missing")
    found.items(items(lines_of(2, 2)), late=True)
    assert only(found).state(clock(), 60.0) == "ok"


def test_lines_at_the_fallback_are_not_counted_as_missing() -> None:
    """Regression: they were, and the table did not say where they are."""
    gap = gap_of(1, 4, reason="fallback", at="local:/second.db")
    text = shown(table_of(Clock(), event_of("start", 0), gap, event_of("exit", 5, exit_code=0)))
    assert "4 lines went to local:/second.db: read that destination as well" in text
    assert re.search(r" - +4 lines went to", text)


def test_another_reader_may_have_received_what_is_missing_from_a_queue() -> None:
    """Regression: the table called lines missing that a second reader of the queue had."""
    hint = "another reader may have received the missing lines"
    assert hint not in shown(table_of(Clock(), *whole_run(5)), True)
    found = table_of(Clock(), event_of("start", 0), event_of("exit", 5, exit_code=0))
    assert hint in shown(found, True)
    assert hint not in shown(found)


def test_a_line_in_pieces_is_one_line_and_misses_nothing() -> None:
    """Its pieces come joined, with the seqs of lines between them."""
    joined = LineJoiner().join(items(piece_of(1, "so", eol=False), lines_of(2, 2), piece_of(3, "me")))
    found = table_of(Clock(), event_of("start", 0))
    found.items(joined)
    found.items(items(event_of("exit", 4, exit_code=0)))
    assert (only(found).missing, only(found).lines) == (0, {"stdout": 1, "stderr": 1})


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table that holds a hundredth of the runs."""
    for name, size in (("_MAX_RUNS", 500), ("_DROPPED_AT_ONCE", 50), ("_MAX_DROPPED", 2000)):
        monkeypatch.setattr(f"sqstee.read.run_table.{name}", size)


@pytest.mark.usefixtures("small")
def test_memory_is_bounded_and_failures_are_kept() -> None:
    """Of very many runs the successful ones are dropped first."""
    clock = Clock()
    found = table_of(clock, *whole_run(1, "bad", status=1))
    for number in range(600):
        clock.now += 1
        found.items(items(event_of("start", 0, f"r{number}"), event_of("exit", 1, f"r{number}", exit_code=0)))
    runs = found.runs(60.0)
    assert 450 <= len(runs) <= 500
    assert runs[0].run == "bad"
    assert runs[1].run == "r599"
    assert len(runs) + found.hidden == 601


@pytest.mark.usefixtures("small")
def test_a_run_that_was_dropped_comes_back_with_all_its_lines() -> None:
    """It is not counted anew; how many runs are not shown is said above the table."""
    clock = Clock()
    found = table_of(clock, lines_of(0, 9, "old"))
    for number in range(600):
        clock.now += 1
        found.items(items(lines_of(0, 0, f"r{number}")))
    assert "old" not in [run.run for run in found.runs(60.0)]
    head = _TableView(60.0).lines(found, 120, 0)[0]
    assert re.fullmatch(rf"{len(found.runs(60.0))} runs: .*; {found.hidden} more not shown", head)
    found.items(items(lines_of(10, 14, "old")))
    (old,) = [run for run in found.runs(60.0) if run.run == "old"]
    assert old.lines == {"stdout": 15}
    for number in range(3000):
        found.items(items(lines_of(0, 0, f"s{number}")))
    assert len(found.runs(60.0)) + found.hidden == 3601


def test_a_screen_says_how_many_runs_it_does_not_show() -> None:
    """The rows that fit are those that need attention first."""
    found = table_of(Clock(), *(lines_of(0, 0, f"r{number}") for number in range(30)))
    lines = _TableView(60.0).lines(found, 120, 13)
    assert lines[0] == "30 runs: 30 silent; 20 not shown"
    assert len(lines) == 12


def test_a_table_that_is_printed_once(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """It needs no rich, which takes twenty times as long for a row; wide characters are as wide as two."""
    monkeypatch.setitem(sys.modules, "rich", None)
    monkeypatch.setenv("COLUMNS", "100")
    found = table_of(Clock(), *whole_run(1, "01A", job="\u5b57" * 20), *whole_run(1, "01B", job="letters"))
    _TableView(60.0).print(found)
    rows = capsys.readouterr().out.splitlines()[2:]
    places = {columns_of(row[: row.index("line 1")]) for row in rows}
    assert len(rows) == 2
    assert places == {100 - 27}
    assert " \u5b57\u5b57\u5b57\u5b57" in "".join(rows)


def test_a_table_and_json_without_following(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """--peek releases every message; the runs that need attention come first."""
    put(fake_sqs, whole_run(30, "01GOOD", job="good"))
    put(fake_sqs, whole_run(5, "01BAD", status=2, job="bad", host="node2"))
    put(fake_sqs, [event_of("start", 0, "01RUN", job="busy"), lines_of(1, 2, "01RUN", stream="stderr", job="busy")])
    for _ in range(2):
        found = sqstee.run("top", "q", "--peek", environ=fake_sqs.environ() | {"COLUMNS": "130"})
        assert found.returncode == 0, found.stderr
        rows = found.stdout.decode().splitlines()
        assert rows[0].startswith("3 runs: 1 failed, 1 silent, 1 ok")
        assert re.match(r"failed 1\.5 s +node2 +bad +2 +\d+d +5 +0 +\S+ +- +exit of it", rows[2])
        assert re.match(r"silent \d+d\d\dh +node1 +busy +- +\d+d +0 +2 +\S+ +- +line 2", rows[3])
        assert re.match(r"ok 1\.5 s +node1 +good +0 +\d+d +30 +0 +\S+ +- +line 30", rows[4])
    assert in_flight(fake_sqs) == 0
    found = sqstee.run("top", "q", "--consume", "--no-follow", "-o", "json", environ=fake_sqs.environ())
    lines = [json.loads(line) for line in found.stdout.splitlines()]
    assert [(line["job"], line["state"]) for line in lines] == [("bad", "failed"), ("busy", "silent"), ("good", "ok")]
    assert lines[0]["lines"] == {"stdout": 5}
    assert (lines[0]["exit_code"], lines[0]["duration_s"], set(lines[0]["rates"])) == (2, 1.5, {"stdout"})
    assert fake_sqs.messages("q") == []


@pytest.mark.parametrize("peek", [False, True])
def test_foreign_messages_stay_in_the_queue(sqstee: Sqstee, fake_sqs: FakeSqs, peek: bool) -> None:
    """--consume deletes messages that were counted, and leaves other programs' messages."""
    put(fake_sqs, whole_run(3))
    mixed = lines_of(0, 0, "01MIXED").data.decode() + "and a line of another program"
    fake_sqs.put("q", "plain text", mixed)
    way = "--peek" if peek else "--consume"
    found = sqstee.run("top", "q", way, "--no-follow", environ=fake_sqs.environ())
    assert (b"a message is left in the queue: it was not sent by sqstee" in found.stdout) is not peek
    assert len(fake_sqs.messages("q")) == (5 if peek else 2)
    assert in_flight(fake_sqs) == 0


def test_a_peek_that_was_interrupted(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """--peek ends by itself, so ^C is no success; nothing stays in flight."""
    put(fake_sqs, [lines_of(seq, seq) for seq in range(30)])
    fake_sqs.faults(in_flight_limit=1)  # after one answer it gets no other, and the queue is not empty: it goes on
    environ = sqstee.environ | fake_sqs.environ()
    with running(sqstee.words("top", "q", "--peek"), env=environ, stdout=subprocess.DEVNULL) as process:
        wait_for(lambda: in_flight(fake_sqs) > 0, "look")
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT) == 130
    assert in_flight(fake_sqs) == 0


@pytest.mark.parametrize("columns", [40, 49, 50, 60, 79, 80, 92, 100, 129, 130, 160])
def test_a_table_of_any_width(sqstee: Sqstee, columns: int) -> None:
    """State, host and job are always there; the other columns appear where they fit whole."""
    sqstee.run("--host", "compute-node-17", "--job", "nightly-etl-of-all", "--", "sh", "-c", "seq 123456; exit 4")
    sqstee.run("--host", "n2", "--job", "j", "--", "echo", "last words " * 20)
    rows = sqstee.run("top", "--no-follow", environ={"COLUMNS": str(columns)}).stdout.decode().splitlines()
    assert len(rows) == 4
    assert max(map(len, rows)) <= columns
    names = rows[1].split()
    shown = {"exit": 100, "age": 60, "stdout": 130, "stderr": 130, "lines/s": 92, "missing": 50, "line": 80}
    assert [name for name in names if name in shown] == [name for name, least in shown.items() if columns >= least]
    assert re.match(r"failed [\d.]+ s +comp\S+ +nightly\S+", rows[2])
    assert ("123,456" in rows[2]) == (columns >= 130)
    assert ("exited" in rows[2]) == (columns >= 80)
    assert re.match(r"ok [\d.]+ s +n2 +j\b", rows[3])
    if columns >= 80:  # names are cut before it
        assert columns - rows[1].index("last line") >= 27


def test_the_last_stderr_line_of_a_run_that_failed() -> None:
    """Why it failed, where it said so; else how."""
    said = [event_of("start", 0, "01A"), piece_of(1, "no space left", "01A"), lines_of(2, 2, "01A")]
    found = table_of(Clock(), *said, event_of("exit", 3, "01A", exit_code=1), *whole_run(1, "01B", status=1))
    text = shown(found)
    assert "no space left" in text
    assert "exit of it" in text
    assert "line 2" not in text


def test_a_silent_run_and_one_whose_host_is_gone_differ() -> None:
    """By the heartbeat; each says since when."""
    clock = Clock()
    clock.now = time.time()
    beating = event_of("start", 0, "01SILENT", heartbeat_s=60), event_of("start", 0, "01GONE", heartbeat_s=60)
    found = table_of(clock, *map(at_present, beating))
    for run in found.runs(60.0):
        run.heard = run.last_line_at = clock.now - 200
    clock.now += 1
    found.items(items(at_present(event_of("alive", 1, "01SILENT"))))
    assert [(run.run, run.state(clock.now, 60.0)) for run in found.runs(60.0)] == [
        ("01GONE", "gone"),
        ("01SILENT", "silent"),
    ]
    text = shown(found)
    assert re.search(r"^gone 3m2\ds ", text, re.MULTILINE)
    assert re.search(r"^silent 3m2\ds ", text, re.MULTILINE)


def test_a_run_that_lacks_lines_may_be_running_or_gone_as_well() -> None:
    """Its state is one, and a filter finds it by each."""
    clock = Clock()
    (run,) = table_of(clock, event_of("start", 0, heartbeat_s=60), gap_of(1, 4)).runs(60.0)
    assert run.state(run.heard, 60.0) == "missing"
    found = [state for state in STATES if is_in(run, state, run.heard + 200, 60.0)]
    assert found == ["missing", "gone", "running"]


@pytest.mark.parametrize(
    ("words", "jobs"),
    [
        ((), ["bad", "busy", "good"]),
        (("--failed",), ["bad"]),
        (("--running",), ["busy"]),
        (("--silent",), ["busy"]),
        (("--missing", "--gone"), []),
        (("--job", "b*", "--host", "node1"), ["busy"]),
        (("--label", "team=d*"), ["busy"]),
    ],
)
def test_filters(sqstee: Sqstee, tmp_path: Path, words: Sequence[str], jobs: list[str]) -> None:
    """As those of `sqstee runs`."""
    store = f"local:{tmp_path}/store.db"
    busy = Encoder("01BUSY", "node1", "busy", {"team": "data"}).event(b'{"event":"start","message":"go"}', TIME_NS, 0)
    sender = LocalSender(f"{tmp_path}/store.db", 1 << 30)
    sender.send([*whole_run(3, "01GOOD", job="good"), *whole_run(3, "01BAD", status=2, job="bad", host="node2")])
    sender.send([Body(busy, "01BUSY", "node1", 0, 0)])
    found = sqstee.run("top", store, "--no-follow", "-o", "json", *words)
    assert [json.loads(line)["job"] for line in found.stdout.splitlines()] == jobs
    rows = sqstee.run("top", store, "--no-follow", *words).stdout.decode().splitlines()
    assert [row for row in rows if "node" in row and not any(job in row for job in jobs)] == []
    assert rows[0].startswith(f"{len(jobs)} run" if jobs else "no runs yet")


@pytest.mark.parametrize("size", [(10, 40), (10, 80), (24, 120)])
def test_a_live_table(sqstee: Sqstee, size: tuple[int, int]) -> None:
    """On a terminal it is redrawn as lines come, fits, and leaves the terminal as it was after ^C."""
    sqstee.run("--job", "one", "--", "sh", "-c", "seq 5; printf 'evil \\\\033[2J\\\\n'; exit 4")
    environ = sqstee.environ | {"TERM": "xterm-256color"}
    for name in ("COLUMNS", "LINES"):  # they would win over the terminal's size
        environ.pop(name, None)
    with Terminal([SCRIPT, "top", "local"], environ, size) as terminal:
        terminal.expect(b"failed")
        sqstee.run("--job", "two", "--", "echo", "hello there")
        terminal.expect(b"two")
        terminal.expect(b"hello" if size[1] >= 80 else b"2 runs")
        terminal.type(b"\x03")
        assert terminal.wait() == 0
    assert b"\x1b[2J" not in terminal.output.partition(b"evil")[2]
    assert b"\x1b[?1049l" in terminal.output
    for frame in terminal.output.partition(b"\x1b[?1049l")[0].split(b"\x1b[H")[2:]:
        lines = re.sub(rb"\x1b\[[0-9;?]*[a-zA-Z]", b"", frame).decode().replace("^C", "").split("\r\n")
        assert len(lines) <= size[0]
        assert max(map(len, lines)) <= size[1]


def test_a_queue_needs_consume_or_peek(sqstee: Sqstee) -> None:
    """A queue needs --consume or --peek, as with tail."""
    found = sqstee.run("top", "q")
    assert found.returncode == 125
    assert b"reading a queue needs --consume or --peek" in found.stderr
