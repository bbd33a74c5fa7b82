"""sqstee tail of stores: where it begins, which lines it selects, and what it shows of them."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import pytest
from fakes.sqs import FakeSqs
from support import Sqstee, running
from support.bodies import put, whole_run
from support.terminal import Terminal

from sqstee.read.filter import parse_since
from sqstee.read.multiline import Multiline
from sqstee.read.printer import last_state
from sqstee.record import Body, Encoder
from sqstee.transports.local import LocalSender
from sqstee.transports.local_receiver import LocalReceiver
from sqstee.wire import decode

RUNS = [f"01JDRUN{letter * 19}" for letter in "ABC"]
NOW = time.time()


class Store:
    """A local store that bodies of several runs are put into."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.dest = f"local:{path}"
        self._sender = LocalSender(str(path), 2**30)

    def lines(
        self, run: str, first: int, *texts: str, at: float = NOW, stream: str = "stdout", level: str = ""
    ) -> None:
        """One body with these lines."""
        block = "".join(f"{text}\n" for text in texts).encode()
        data = self._encoder(run).lines(block, stream, int(at * 1e9), first, level=level)
        self._sender.send([Body(data, run, "h", first, first + len(texts) - 1)])

    def event(self, run: str, seq: int, at: float = NOW, **fields: object) -> None:
        """One body with an event."""
        data = self._encoder(run).event(json.dumps(fields).encode(), int(at * 1e9), seq)
        self._sender.send([Body(data, run, "h", seq, seq)])

    def _encoder(self, run: str) -> Encoder:
        return Encoder(run, "h", labels={"env": "prod" if run == RUNS[0] else "test"})

    def close(self) -> None:
        """Close the file."""
        self._sender.close()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store(tmp_path / "store.db")


def tail(sqstee: Sqstee, store: Store, *words: str, raw: bool = True, environ: dict[str, str] | None = None) -> str:
    """What tail writes, as a rule the bytes of the lines alone, without waiting for more."""
    form = ("-o", "raw") if raw else ()
    found = sqstee.run("tail", store.dest, "--no-follow", *form, *words, environ=environ or {})
    assert found.returncode == 0, found.stderr
    assert b"missing" not in found.stderr
    return found.stdout.decode()


def numbers(first: int, last: int) -> str:
    """The lines with these numbers."""
    return "".join(f"line {number}\n" for number in range(first, last + 1))


def fill(store: Store, run: str = RUNS[0], bodies: int = 5) -> None:
    """Bodies of 20 lines of a run."""
    for first in range(0, bodies * 20, 20):
        store.lines(run, first, *numbers(first, first + 19).splitlines())


class TestWhereItBegins:
    """-n and --since."""

    @pytest.mark.parametrize("number", [1, 19, 20, 21, 100, 1000])
    def test_the_last_lines(self, sqstee: Sqstee, store: Store, number: int) -> None:
        """Read from the end of the store."""
        fill(store)
        assert tail(sqstee, store, "-n", str(number)) == numbers(max(0, 100 - number), 99)

    def test_all_or_none(self, sqstee: Sqstee, store: Store) -> None:
        """Without -n, what is there, where nothing is followed."""
        fill(store)
        assert tail(sqstee, store) == tail(sqstee, store, "-n", "all") == numbers(0, 99)
        assert tail(sqstee, store, "-n", "0") == ""

    def test_the_last_lines_that_match(self, sqstee: Sqstee, store: Store) -> None:
        """However far from the end they are."""
        fill(store)
        store.lines(RUNS[1], 0, *["other"] * 50)
        assert tail(sqstee, store, "-n", "2", "-i", "line [0-9]0$") == "line 80\nline 90\n"
        assert tail(sqstee, store, "-n", "3", "--run", RUNS[0]) == numbers(97, 99)

    def test_following_begins_with_ten_lines_and_goes_on(self, sqstee: Sqstee, store: Store) -> None:
        """At once, though the run began long before; a line that comes later follows."""
        fill(store)
        command = sqstee.words("tail", store.dest, "-o", "raw", "--reorder-window", "60s")
        with running(command, stdout=subprocess.PIPE, env=sqstee.environ) as process:
            assert process.stdout
            assert b"".join(process.stdout.readline() for _ in range(10)).decode() == numbers(90, 99)
            store.lines(RUNS[0], 100, "line 100")
            assert process.stdout.readline() == b"line 100\n"
            process.terminate()
            assert process.wait(30) == 143

    def test_of_a_store_that_comes_later_every_line_is_shown(self, tmp_path: Path) -> None:
        """However many bodies are stored before the next look."""
        path = tmp_path / "store.db"
        receiver = LocalReceiver(str(path))
        receiver.narrow(last=10, lines_in=lambda message: 20)
        assert receiver.receive(10, 0.0) == []
        fill(Store(path))
        assert len(receiver.receive(10, 0.0)) == 5

    def test_rows_that_came_out_of_order_are_not_missing(self, sqstee: Sqstee, store: Store) -> None:
        """A row before the last ones may have later lines of their run: no hole is reported."""
        store.lines(RUNS[0], 20, *numbers(20, 39).splitlines())
        store.lines(RUNS[0], 0, *numbers(0, 19).splitlines())
        store.lines(RUNS[0], 40, *numbers(40, 44).splitlines())
        assert tail(sqstee, store, "-n", "10") == numbers(35, 44)

    def test_a_queue_has_no_last_lines(self, sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
        """-n N is refused; -n all is what comes."""
        put(fake_sqs, whole_run(3))
        words = ("tail", "q", "--consume", "--no-follow", "-o", "raw")
        found = sqstee.run(*words, "-n", "5", environ=fake_sqs.environ())
        assert found.returncode == 125
        assert b"hint: leave out -n" in found.stderr
        assert sqstee.run(*words, "-n", "all", environ=fake_sqs.environ()).stdout.count(b"\n") == 3

    @pytest.mark.parametrize("text", ["-1", "x", "1.5", "99999999999999999999"])
    def test_what_is_no_number_of_lines(self, sqstee: Sqstee, store: Store, text: str) -> None:
        """One line and a hint."""
        found = sqstee.run("tail", store.dest, f"--lines={text}")
        assert found.returncode == 125
        assert b"for example: -n 100" in found.stderr

    def test_rows_from_before_are_passed_over(self, store: Store) -> None:
        """By the time of storing, but for what another host's clock may be ahead."""
        fill(store, bodies=3)
        connection = LocalReceiver(str(store.path))._open()
        assert connection is not None
        connection.execute("UPDATE body SET time = time - 10000 WHERE id = 1")
        connection.execute("UPDATE body SET time = time - 200 WHERE id = 2")
        receiver = LocalReceiver(str(store.path))
        receiver.narrow(since=time.time() - 60)
        assert [message.handle for message in receiver.receive(10, 0.0)] == ["2", "3"]
        store.lines(RUNS[1], 0, "new")
        assert [message.handle for message in receiver.receive(10, 0.0)] == ["4"]
        connection.close()

    def test_the_rows_of_a_run_are_found_by_its_id(self, store: Store) -> None:
        """And rows of several runs, which name none, are looked through."""
        for run in RUNS:
            fill(store, run, 1)
        store._sender.send([Body(b"x", "", "", 0, 0)])
        receiver = LocalReceiver(str(store.path))
        receiver.narrow([RUNS[1][:10]])
        assert [message.handle for message in receiver.receive(10, 0.0)] == ["2", "4"]

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("today", "2026-11-20T23:00:00.000000Z"),
            ("yesterday", "2026-11-19T23:00:00.000000Z"),
            ("09:00", "2026-11-21T08:00:00.000000Z"),
            ("9:00:30", "2026-11-21T08:00:30.000000Z"),
            ("23:30", "2026-11-20T22:30:00.000000Z"),
            ("2h", "2026-11-21T10:00:00.000000Z"),
            ("2026-11-21T09:00", "2026-11-21T08:00:00.000000Z"),
        ],
    )
    def test_times_are_local(self, monkeypatch: pytest.MonkeyPatch, text: str, expected: str) -> None:
        """A time of the day is the last one."""
        monkeypatch.setenv("TZ", "XXX-1")
        time.tzset()
        try:
            assert parse_since(text, 1795262400.0) == expected  # 2026-11-21T12:00:00Z
        finally:
            monkeypatch.undo()
            time.tzset()


class TestWhatItSelects:
    """--label, --level, --until, --failed, context, several lines as one."""

    def test_labels_levels_and_an_end(self, sqstee: Sqstee, store: Store) -> None:
        """Lines without a level are hidden where one is asked for."""
        store.lines(RUNS[0], 0, "info", level="INFO")
        store.lines(RUNS[0], 1, "bad", level="ERROR", at=NOW + 10)
        store.lines(RUNS[0], 2, "plain")
        store.lines(RUNS[1], 0, "warned", level="WARNING")
        assert tail(sqstee, store, "-p", "warning") == "bad\nwarned\n"
        assert tail(sqstee, store, "--label", "env=p*") == "info\nbad\nplain\n"
        assert tail(sqstee, store, "--level", "err", "--label", "env=test") == ""
        assert "bad" not in tail(sqstee, store, "--until", parse_since("now", NOW + 5))
        for words in (("--level", "loud"), ("--label", "env"), ("--until", "tomorrow")):
            found = sqstee.run("tail", store.dest, *words)
            assert (found.returncode, found.stderr.count(b"\n")) == (125, 2)

    def test_a_time_that_has_passed_is_not_waited_for(self, sqstee: Sqstee, store: Store) -> None:
        """Regression: nothing more could match, and tail followed all the same."""
        store.lines(RUNS[0], 0, "old", at=NOW - 7200)
        store.lines(RUNS[0], 1, "new")
        found = sqstee.run("tail", store.dest, "--until", "1h", "-o", "raw")
        assert (found.returncode, found.stdout) == (0, b"old\n")

    def test_failed_runs(self, sqstee: Sqstee, store: Store) -> None:
        """The lines of runs whose exit events tell of a failure, whatever the others wrote."""
        for number, run in enumerate(RUNS):
            store.lines(run, 0, *[f"{number} {at}" for at in range(20)])
            store.event(run, 20, event="exit", message="x", exit_code=number % 2)
        assert tail(sqstee, store, "--failed") == "".join(f"1 {at}\n" for at in range(20))
        assert tail(sqstee, store, "--failed", "-n", "2") == "1 18\n1 19\n"
        assert tail(sqstee, store, "--failed", "--run", RUNS[0]) == ""
        found = sqstee.run("tail", "q", "--consume", "--failed", environ={"AWS_REGION": "x"})
        assert b"--failed needs a store" in found.stderr

    def test_context_is_of_the_same_run(self, sqstee: Sqstee, store: Store) -> None:
        """Between groups that are apart there is a line with two hyphens, as grep has it; raw bytes stay exact."""
        fill(store, RUNS[0], 2)
        store.lines(RUNS[1], 0, "other", "line 15", "another")
        words = ("-i", "line (3|5|15|30)$", "-C", "1")
        shown = tail(sqstee, store, *words, raw=False).replace("h stdout ", "")
        first = f"{numbers(2, 6)}--\n{numbers(14, 16)}--\n{numbers(29, 31)}"
        assert shown == f"{first}--\nother\nline 15\nanother\n"
        assert tail(sqstee, store, *words) == shown.replace("--\n", "")
        assert tail(sqstee, store, "-i", "line 19$", "-A", "2", "--run", RUNS[0]) == numbers(19, 21)
        assert tail(sqstee, store, "-i", "line 20$", "-B", "2", "--run", RUNS[0]) == numbers(18, 20)
        found = sqstee.run("tail", store.dest, "-C", "1")
        assert b"there is no filter" in found.stderr

    def test_several_lines_are_one(self, sqstee: Sqstee, store: Store) -> None:
        """Selected by any of its lines, shown with all of them."""
        trace = ["Traceback:", "  File x", "    boom()", "ValueError: a"]
        store.lines(RUNS[0], 0, "before", *trace, "after", *["fine"] * 20)
        assert tail(sqstee, store, "-i", "boom", "--multiline", "indented") == "\n".join(trace[:3]) + "\n"
        assert tail(sqstee, store, "-i", "^Value", "--multiline", "^(T|[a-z])") == "\n".join(trace) + "\n"
        assert "boom" not in tail(sqstee, store, "-e", "File", "--multiline", "indented")
        assert tail(sqstee, store, "-i", "fine", "--multiline", "indented").count("fine") == 20
        assert b"invalid value" in sqstee.run("tail", store.dest, "-i", "x", "--multiline", "(").stderr

    def test_a_group_is_over_once_nothing_was_added_for_a_while(self) -> None:
        """Until then it keeps its message from being deleted."""
        now = 0.0
        groups = Multiline("indented", lambda: now)
        items = decode(Encoder("R", "h").lines(b"a\n b\nc\n d\n", "stdout", 0, 0))
        (found,) = groups.add(items)
        assert found.message == "a\n b"
        assert groups.border("R", 4) == 2
        assert list(groups.overdue()) == []
        now = 1.0
        ((run, (late,)),) = groups.overdue()
        assert (run, late.message) == ("R", "c\n d")
        assert groups.border("R", 4) == 4

    def test_several_stores_are_merged_by_time(self, sqstee: Sqstee, tmp_path: Path) -> None:
        """All of them, or the last lines of all."""
        one, two = Store(tmp_path / "one.db"), Store(tmp_path / "two.db")
        for at in range(6):
            (one, two)[at % 2].lines(RUNS[at % 2], at // 2, f"line {at}", at=NOW + at)
        words = ("tail", one.dest, two.dest, "--no-follow", "-o", "raw")
        assert sqstee.run(*words).stdout.decode() == numbers(0, 5)
        assert sqstee.run(*words, "-n", "3").stdout.decode() == numbers(3, 5)


class TestWhatItShows:
    """Times, colours, levels, states of a line, signs of life."""

    def test_times(self, sqstee: Sqstee, store: Store) -> None:
        """Local, or UTC."""
        store.lines(RUNS[0], 0, "x", at=1_700_000_000.5)
        zone = {"TZ": "XXX-1"}
        assert tail(sqstee, store, "-t", raw=False, environ=zone) == "2023-11-14 23:13:20.500 h stdout x\n"
        assert tail(sqstee, store, "--utc", raw=False, environ=zone) == "2023-11-14 22:13:20.500Z h stdout x\n"
        assert sqstee.run("tail", store.dest, "-t", "-o", "json").returncode == 125

    def test_a_commands_own_colours(self, sqstee: Sqstee, store: Store) -> None:
        """Shown on a terminal with a reset at the end of the line; nothing else of its escapes is obeyed."""
        store.lines(RUNS[0], 0, "\x1b[1;31mred\x1b[2J", "10%\r99%\r100%\r")
        assert tail(sqstee, store, raw=False) == "h stdout red\x1b[2J\nh stdout 100%\n"
        for words in ((), ("--color", "always")):
            assert tail(sqstee, store, *words) == "\x1b[1;31mred\x1b[2J\n10%\r99%\r100%\r\n"
        shown = tail(sqstee, store, "--color", "always", raw=False)
        assert "\x1b[1;31mred\u241b[2J\x1b[0m\n" in shown
        command = sqstee.words("tail", store.dest, "--no-follow")
        with Terminal(command, sqstee.environ | {"NO_COLOR": "1"}) as terminal:
            assert b"stdout red\xe2\x90\x9b[2J\r\n" in terminal.expect(b"100%\r\n")

    def test_a_line_with_a_level_has_the_colour_of_that(self, sqstee: Sqstee, store: Store) -> None:
        """A line of stderr is red, unless its level says that it is no error."""
        for seq, level in enumerate(("", "INFO", "WARNING", "ERROR", "DEBUG")):
            store.lines(RUNS[0], seq, f"x{level}", stream="stderr", level=level)
        shown = tail(sqstee, store, "--color", "always", raw=False)
        before = [line.partition("x")[0].rpartition("\x1b[0m")[2] for line in shown.splitlines()]
        assert before == ["\x1b[31m", "", "\x1b[33m", "\x1b[31m", "\x1b[2m"]

    def test_signs_of_life_are_no_lines(self, sqstee: Sqstee, store: Store) -> None:
        """Programs get them, and people who ask for events."""
        store.event(RUNS[0], 0, event="start", message="started", name="make")
        store.event(RUNS[0], 1, event="alive", message="still running")
        assert tail(sqstee, store, raw=False) == "h event  make: started\n"
        assert "alive" not in tail(sqstee, store, "--template", "{message}", raw=False)
        assert "still running" in tail(sqstee, store, "--stream", "event", raw=False)
        assert tail(sqstee, store, "-o", "json", raw=False).count("\n") == 2

    @pytest.mark.parametrize(
        ("text", "state"), [("a\rb", "b"), ("a\r", "a"), ("a\r\r", "a"), ("\r", ""), ("a", "a"), ("1%\r\r2%\r", "2%")]
    )
    def test_the_last_state_of_a_line(self, text: str, state: str) -> None:
        """What stands behind its last carriage return but those at its end."""
        assert last_state(text) == state

    def test_json_is_what_was_stored(self, sqstee: Sqstee, store: Store) -> None:
        """Byte for byte, however many lines there are."""
        fill(store)
        data = b"".join(message.data for message in LocalReceiver(str(store.path)).receive(10, 0.0))
        assert tail(sqstee, store, "-o", "json", raw=False).encode() == data
        assert os.path.exists(store.path)
