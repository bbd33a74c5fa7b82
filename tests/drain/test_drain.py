"""sqstee drain: files with exactly the bytes that the commands wrote, whatever happens on the way, and verdicts."""

from __future__ import annotations

import gzip
import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest
from fakes.sqs import FakeSqs
from hypothesis import given
from hypothesis import strategies as st
from support import SCRIPT, Sqstee
from support.bodies import RUN, event_of, expected, in_flight, lines_of, put, put_local, whole_run
from support.drain import FAST, assembled, drained, files, journal
from support.odd_bodies import bodies as odd_bodies
from support.terminal import Terminal

from sqstee.cli.progress import fitted
from sqstee.drain.files import safe_name
from sqstee.drain.journal import journal_segments
from sqstee.record import Body

ODD = "printf 'a\\nb \\303\\251 \\\"q\\\" \\\\\\\\ \\t\\n\\377\\376 raw\\n'; echo err >&2; printf 'no newline'"

GAP: dict[str, Any] = {"from": 1, "to": 3}


class TestFiles:
    def test_the_bytes_are_those_that_the_command_wrote(self, sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
        """Bit for bit on both streams, without UTF-8 or a final newline; a complete run has status 0."""
        words = ("--to", "q", "--host", "node1", "--job", "j", "--", "sh", "-c", ODD)
        made = sqstee.run(*words, environ=fake_sqs.environ())
        found = drained(sqstee, fake_sqs)
        assert (found.returncode, found.stderr) == (0, b"")
        got = {Path(name).suffix: data for name, data in files(sqstee.folder / "out").items()}
        assert got == {".stdout": made.stdout, ".stderr": made.stderr}
        assert b"complete node1 j: 5 lines, exited with status 0" in found.stdout
        assert fake_sqs.messages("q") == []

    def test_a_long_run_in_many_bodies(self, sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
        """Small bodies, received in parallel, with duplicates: in order, once each."""
        environ = fake_sqs.environ()
        words = ("--message-bytes", "4K", "--host", "n", "--to", "q")
        made = sqstee.run(*words, "--", "sh", "-c", "seq 20000; seq 3000 >&2", environ=environ)
        fake_sqs.faults(duplicates=0.3, latency_ms=5)
        found = drained(sqstee, fake_sqs)
        assert found.returncode == 0
        got = {Path(name).suffix: data for name, data in files(sqstee.folder / "out").items()}
        assert got == {".stdout": made.stdout, ".stderr": made.stderr}

    def test_ndjson_plain_and_packed(self, sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
        """The records and events in order, as they were sent."""
        environ = fake_sqs.environ()
        for name, words in (("ndjson", ("--layout", "ndjson")), ("ndjson.gz", ("--layout", "ndjson", "--gzip"))):
            put(fake_sqs, whole_run(100))
            out = sqstee.folder / name
            found = sqstee.run("drain", "q", "-O", str(out), *FAST, *words, environ=environ)
            assert found.returncode == 0
            ((path, data),) = files(out).items()
            assert path == f"node1/{RUN}.{name}"
            text = gzip.decompress(data) if name.endswith("gz") else data
            assert [json.loads(line)["seq"] for line in text.splitlines()] == [*range(102)]

    def test_foreign_messages_are_kept_once(self, sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
        """Lines that are not in the wire format go into a file of their own, with their attributes."""
        attribute = {"kind": {"DataType": "String", "StringValue": "x"}}
        fake_sqs.put("q", "plain text\ntwo lines", MessageAttributes=attribute)
        fake_sqs.faults(duplicates=1.0)
        found = drained(sqstee, fake_sqs)
        assert (found.returncode, found.stderr) == (
            0,
            b"sqstee: 2 lines not written by sqstee: see _foreign/ in the folder\n",
        )
        fake_sqs.clear_faults()
        fake_sqs.put("q", '{"other": 1}')
        found = drained(sqstee, fake_sqs)
        assert (found.returncode, found.stderr) == (
            0,
            b"sqstee: 1 line not written by sqstee: see _foreign/ in the folder\n",
        )
        lines = [json.loads(line) for line in files(sqstee.folder / "out")["_foreign/messages.ndjson"].splitlines()]
        assert [line["line"] for line in lines] == ["plain text", "two lines", '{"other": 1}']
        assert lines[0]["attributes"] == {"kind": "x"}

    @pytest.mark.parametrize(
        "name", ["../../e", "/abs", ".hidden", "_foreign", "a/b", "", "x" * 300, "\ud800", "é\n", "-rf"]
    )
    def test_a_remote_name_is_one_name(self, name: str) -> None:
        """Never a path, never hidden, never an option, never the same for two names."""
        found = safe_name(name)
        assert found.isascii()
        assert found.isprintable()
        assert 0 < len(found) < 200
        assert not set(found) & set("/\0")
        assert found[0] not in "._-"

    def test_a_host_cannot_leave_the_folder(self, tmp_path: Path) -> None:
        """A record that names ../../evil as its host, run and stream stays inside."""
        line = {"timestamp": "t", "host": "../../evil", "stream": "../s", "run": "../../r", "seq": 0, "message": "m"}
        journal(tmp_path / "a" / "out", json.dumps(line).encode() + b"\n")
        assembled(tmp_path / "a" / "out")
        assert list(files(tmp_path)) == ["a/out/%2E.%2F..%2Fevil/%2E.%2F..%2Fr.%2E%2E%2Fs"]

    def test_another_layout_in_the_same_folder_is_refused(self, sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
        """One line, one hint; nothing was received."""
        put(fake_sqs, whole_run(3))
        drained(sqstee, fake_sqs, "--max-messages", "1")
        found = drained(sqstee, fake_sqs, "--gzip")
        assert found.returncode == 125
        assert b"was drained into with --layout streams" in found.stderr
        assert len(fake_sqs.messages("q")) == 2


class TestVerdicts:
    def test_missing_then_open_then_complete(self, sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
        """Each has its status; a later drain into the same folder fills the hole and finds the end."""
        start, _, end = whole_run(9)
        put(fake_sqs, [start, lines_of(1, 2), lines_of(6, 7)])
        found = drained(sqstee, fake_sqs)
        assert found.returncode == 3
        assert b"3 missing so far (seq 3-5)" in found.stdout
        assert b"\nanother reader may have received the missing lines\n" in found.stdout
        out = sqstee.folder / "out"
        assert files(out)[f"node1/{RUN}.stdout"] == expected(1, 2) + expected(6, 7)
        put(fake_sqs, [lines_of(5, 8), lines_of(2, 4)])
        found = drained(sqstee, fake_sqs)
        assert (found.returncode, b"not ended" in found.stdout) == (4, True)
        assert files(out)[f"node1/{RUN}.stdout"] == expected(1, 8)
        assert drained(sqstee, fake_sqs).returncode == 4  # nothing came: it is still open
        put(fake_sqs, [lines_of(9, 9), end])
        found = drained(sqstee, fake_sqs, "-o", "json")
        assert found.returncode == 0
        assert json.loads(found.stdout)["verdict"] == "complete"
        assert files(out)[f"node1/{RUN}.stdout"] == expected(1, 9)
        assert journal_segments(str(out / ".sqstee")) == []

    def test_destinations_are_merged_and_a_record_beats_a_gap(self, sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
        """Lines that the primary reports as sent to the fallback are found there."""
        fake_sqs.create_queue("fallback")
        start, _, end = whole_run(9)
        gap: dict[str, Any] = {"from": 4, "to": 6, "reason": "fallback"}
        put(fake_sqs, [start, lines_of(1, 3), event_of("gap", 4, **gap), lines_of(7, 9), end])
        put(fake_sqs, [lines_of(4, 6)], "fallback")
        out = sqstee.folder / "out"
        found = sqstee.run("drain", "q", "fallback", "-O", str(out), *FAST, environ=fake_sqs.environ())
        assert found.returncode == 0, found.stdout
        assert files(out)[f"node1/{RUN}.stdout"] == expected(1, 9)

    def test_what_the_sender_dropped_is_missing(self, tmp_path: Path) -> None:
        """A gap event accounts for lines, but they are missing until they arrive."""
        start, _, end = whole_run(9)
        gap: dict[str, Any] = {"from": 4, "to": 6, "reason": "full"}
        bodies = [start, lines_of(1, 3), event_of("gap", 4, **gap), lines_of(7, 9), end]
        journal(tmp_path, *(body.data for body in bodies))
        verdict = assembled(tmp_path)[RUN]
        assert (verdict.outcome, verdict.missing, verdict.gapped) == ("missing", 0, 3)
        journal(tmp_path, lines_of(4, 6).data)
        assert assembled(tmp_path)[RUN].outcome == "complete"
        assert files(tmp_path)[f"node1/{RUN}.stdout"] == expected(1, 9)

    def test_a_grandchild_keeps_a_run_open(self, tmp_path: Path) -> None:
        """An exit event with open streams is not the end; the end event is."""
        journal(tmp_path, event_of("start", 0).data, event_of("exit", 1, open=["stdout"], exit_code=0).data)
        assert assembled(tmp_path)[RUN].outcome == "open"
        journal(tmp_path, lines_of(2, 3).data, event_of("end", 4).data)
        assert assembled(tmp_path)[RUN].outcome == "complete"

    def test_how_it_ended_is_known_when_a_later_hole_is_filled(self, tmp_path: Path) -> None:
        """The exit event is in final files then, and is not read again."""
        journal(tmp_path, event_of("start", 0).data, event_of("exit", 1, open=["stdout"]).data, lines_of(3, 3).data)
        (found,) = assembled(tmp_path).values()
        assert (found.outcome, found.result) == ("missing", "exit of it")
        journal(tmp_path, lines_of(2, 2).data, event_of("end", 4).data)
        (found,) = assembled(tmp_path).values()
        assert (found.outcome, found.result) == ("complete", "exit of it")

    @pytest.mark.parametrize("lines", [3, 3000])
    def test_what_the_journal_keeps_has_not_come_twice(self, tmp_path: Path, lines: int) -> None:
        """Frames that are in final files may stay in the journal: they are not counted as duplicates."""
        journal(tmp_path, event_of("start", 0).data, lines_of(1, lines).data, lines_of(lines + 2, lines + 9).data)
        for _ in range(3):
            (found,) = assembled(tmp_path).values()
            assert (found.outcome, found.lines, found.duplicates) == ("missing", lines + 8, 0)
        journal(tmp_path, lines_of(1, lines).data, lines_of(lines + 9, lines + 9).data)
        (found,) = assembled(tmp_path).values()
        assert (found.lines, found.duplicates) == (lines + 8, lines + 1)
        journal(tmp_path, lines_of(lines + 1, lines + 1).data, event_of("exit", lines + 10).data)
        (found,) = assembled(tmp_path).values()
        assert (found.outcome, found.lines) == ("complete", lines + 9)
        assert files(tmp_path)[f"node1/{RUN}.stdout"] == expected(1, lines + 9)


class TestOptions:
    def test_several_processes_share_the_work(self, sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
        """--processes 3: every line once."""
        put(fake_sqs, [event_of("start", 0), *(lines_of(n + 1, n + 1) for n in range(300)), event_of("exit", 301)])
        found = drained(sqstee, fake_sqs, "--processes", "3", "--concurrency", "2")
        assert found.returncode == 0, found.stderr
        assert files(sqstee.folder / "out")[f"node1/{RUN}.stdout"] == expected(1, 300)

    @pytest.mark.parametrize("destinations", [("q", "local"), ("local",)])
    def test_several_processes_read_once_what_is_not_shared_out(
        self, sqstee: Sqstee, fake_sqs: FakeSqs, destinations: tuple[str, ...]
    ) -> None:
        """A local queue would give all its messages to each reader: one process reads it, so nothing is a duplicate."""
        put(fake_sqs, whole_run(20))
        sqstee.run("--host", "h", "--job", "here", "--", "seq", "100")
        words = ("drain", *destinations, "-O", str(sqstee.folder / "out"), *FAST, "--processes", "3")
        found = sqstee.run(*words, environ=fake_sqs.environ())
        assert (found.returncode, found.stderr) == (0, b"")
        assert b"complete h here: 100 lines, exited with status 0\n" in found.stdout
        assert fake_sqs.messages("q") == [] or "q" not in destinations
        assert sqstee.local_bodies() == []

    @pytest.mark.parametrize("processes", ["1", "3"])
    def test_at_most_so_many(self, sqstee: Sqstee, fake_sqs: FakeSqs, processes: str) -> None:
        """--max-messages: no more than that are received."""
        put(fake_sqs, [lines_of(n, n) for n in range(60)])
        found = drained(sqstee, fake_sqs, "--max-messages", "25", "--processes", processes)
        assert found.returncode in (3, 4)
        assert len(fake_sqs.messages("q")) == 35
        assert in_flight(fake_sqs) == 0

    def test_to_stdout(self, sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
        """-O -: the records as NDJSON, and the queue is empty."""
        put(fake_sqs, whole_run(20))
        found = sqstee.run("drain", "q", "-O", "-", *FAST, environ=fake_sqs.environ())
        assert found.returncode == 0
        assert [json.loads(line)["seq"] for line in found.stdout.splitlines()] == [*range(22)]
        assert fake_sqs.messages("q") == []

    @pytest.mark.parametrize(
        ("bodies", "status"),
        [
            ([event_of("start", 0), lines_of(1, 3)], 4),
            ([event_of("start", 0), lines_of(1, 3), event_of("exit", 4, open=["stdout"])], 4),
            ([event_of("exit", 1, open=["stdout"]), lines_of(2, 3), event_of("start", 0), event_of("end", 4)], 0),
            ([event_of("start", 0), event_of("gap", 1, **GAP), event_of("exit", 4)], 3),
            ([event_of("start", 0), lines_of(2, 3), event_of("exit", 4)], 3),
            ([lines_of(0, 3), *whole_run(3, "01OTHER")], 4),
            ([lines_of(1, 3), *whole_run(3, "01OTHER")], 3),
        ],
    )
    def test_the_worst_of_all_runs(
        self, sqstee: Sqstee, fake_sqs: FakeSqs, tmp_path: Path, bodies: list[Body], status: int
    ) -> None:
        """The exit status does not depend on where the lines go."""
        for folder in ("-", str(tmp_path / "out")):
            put(fake_sqs, bodies)
            assert sqstee.run("drain", "q", "-O", folder, *FAST, environ=fake_sqs.environ()).returncode == status

    @pytest.mark.parametrize(
        ("reasons", "bodies", "status"),
        [
            ("failed", whole_run(3, status=3), 5),
            ("failed", whole_run(3), 0),
            ("open", whole_run(3, status=3), 0),
            ("failed,open", [event_of("exit", 0, signal=9, open=["stdout"]), lines_of(1, 2)], 5),
            ("open", [lines_of(0, 3)], 4),
            ("missing", [lines_of(0, 3)], 0),
            ("missing, failed", [*whole_run(3, status=3), lines_of(6, 7, "01OTHER")], 3),
            ("open,failed", [*whole_run(3, status=3), lines_of(6, 7, "01OTHER")], 5),
        ],
    )
    def test_what_to_fail_on(
        self, sqstee: Sqstee, fake_sqs: FakeSqs, tmp_path: Path, reasons: str, bodies: list[Body], status: int
    ) -> None:
        """Only what is named gives a status, the worst first."""
        for folder, words in (
            ("-", ("--fail-on", reasons)),
            (str(tmp_path / "out"), [word for one in reasons.split(",") for word in ("--fail-on", one)]),
        ):
            put(fake_sqs, bodies)
            words = ("drain", "q", "-O", folder, *FAST, *words)
            assert sqstee.run(*words, environ=fake_sqs.environ()).returncode == status

    def test_a_failed_run_is_listed_behind_very_many_others(self, sqstee: Sqstee, tmp_path: Path) -> None:
        """Regression: the totals called it complete, and nothing named it."""
        bodies = [body for number in range(50) for body in whole_run(1, f"01N{number}", status=number == 49)]
        found = sqstee.run("drain", put_local(tmp_path / "store.db", *bodies), "-O", str(tmp_path / "out"), *FAST)
        lines = found.stdout.decode().splitlines()
        assert lines[-3:-1] == ["complete node1 01N49: 1 line, exit of it", "… and 9 more complete"]
        assert lines[-1] == "50 runs: 50 complete; 1 failed; 50 lines"

    def test_a_fifo_queue(self, sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
        """A group gives no more messages until those it gave are deleted, so they are deleted at once."""
        fake_sqs.create_queue("o.fifo")
        bodies = [event_of("start", 0), *(lines_of(n + 1, n + 1) for n in range(60)), event_of("exit", 61)]
        put(fake_sqs, bodies, "o.fifo")
        out = sqstee.folder / "out"
        found = sqstee.run("drain", "o.fifo", "-O", str(out), *FAST, environ=fake_sqs.environ())
        assert found.returncode == 0, found.stdout
        assert files(out)[f"node1/{RUN}.stdout"] == expected(1, 60)

    def test_a_local_queue_is_emptied(self, sqstee: Sqstee) -> None:
        """Like any other destination; a second drain adds nothing."""
        made = sqstee.run("--host", "h", "--", "seq", "100")
        out = sqstee.folder / "out"
        for _ in range(2):
            assert sqstee.run("drain", "local", "-O", str(out), *FAST).returncode == 0
            assert sqstee.local_bodies() == []
            assert list(files(out).values()) == [made.stdout]

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (("drain", "q"), "-O is missing"),
            (("drain", "-O", "x"), "DEST is missing"),
            (("drain", "q", "-O", "x", "--layout", "z"), "invalid value 'z' for --layout"),
            (("drain", "q", "-O", "x", "--fail-on", "missing,fail"), "invalid value 'fail' for --fail-on"),
            (("drain", "q", "-O", "x", "--wait-time", "z"), "invalid value 'z' for --wait-time"),
            (("drain", "q", "-O", "x", "--visibility-timeout", "13h"), "invalid value '13h' for --visibility-timeout"),
            (("drain", "q", "-O", "/dev/null"), "cannot use /dev/null"),
            (("drain", "q", "-O", "-", "--gzip"), "--gzip needs a folder"),
            (("drain", "q", "-O", "-", "--layout", "streams"), "--layout needs a folder"),
            (("drain", "q", "-O", "-", "--processes", "2"), "--processes needs a folder"),
        ],
    )
    def test_bad_input(self, sqstee: Sqstee, words: tuple[str, ...], message: str) -> None:
        """Exit 125, one line and one hint."""
        found = sqstee.run(*words)
        assert found.returncode == 125
        assert found.stderr.decode().startswith(f"sqstee: {message}")
        assert found.stderr.count(b"\n") == 2

    def test_a_missing_queue_is_one_line(self, sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
        """Status 1, with one process and with several."""
        for processes in ("1", "2"):
            words = ("drain", "missing", "-O", str(sqstee.folder / "out"), "--processes", processes)
            found = sqstee.run(*words, environ=fake_sqs.environ())
            assert found.returncode == 1
            assert found.stderr.decode().startswith("sqstee: missing: QueueDoesNotExist")


@pytest.mark.parametrize("columns", [40, 80])
def test_progress_on_a_terminal(sqstee: Sqstee, fake_sqs: FakeSqs, columns: int) -> None:
    """The line fits, shows the messages left in any case, and is removed before a verdict is printed."""
    lines = [lines_of(first, first + 4999) for first in range(1, 150_001, 5000)]
    put(fake_sqs, [event_of("start", 0), *lines, event_of("exit", 150_001, exit_code=0)])
    fake_sqs.put("q", *["plain text"] * 200)
    fake_sqs.faults(latency_ms=80.0)
    words = [SCRIPT, "drain", "q", "-O", str(sqstee.folder / "out"), *FAST, "--concurrency", "1"]
    environ = sqstee.environ | fake_sqs.environ() | {"TERM": "xterm", "NO_COLOR": "1"}
    with Terminal(words, environ, (24, columns)) as terminal:
        assert terminal.wait() == 0
    drawn = terminal.output.decode().split("\r\x1b[K")
    shown = [text for text in drawn if re.search(r"\d messages|assembling", text)]
    assert any("left" in text for text in shown)
    assert max(map(len, shown)) < columns
    assert any(text.startswith("complete node1 ") for text in drawn)  # behind what wipes the line out


@given(st.lists(st.text("ab", max_size=30), min_size=4, max_size=5), st.integers(0, 120))
def test_a_line_is_fitted(parts: list[str], width: int) -> None:
    """Never wider, whole where there is room, and parts are left out in the given order."""
    line = fitted(parts, width, ((2,), (0, 2)))
    assert len(line) <= width
    whole = "   ".join(part for part in parts if part)
    assert line == whole or len(whole) > width


@given(odd_bodies)
def test_an_odd_body_is_drained(body: bytes) -> None:
    """Whatever is in it: the run beside it is complete, and nothing is written outside the folder."""
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "out"
        journal(folder, body, *(one.data for one in whole_run(3)), body[::-1])
        assert assembled(folder)[RUN].outcome == "complete"
        assert os.listdir(parent) == ["out"]
