"""sqstee drain: files whose bytes are what the commands wrote, whatever happens on the way, and a verdict per run."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fake_sqs import FakeSqs
from hypothesis import given, settings
from hypothesis import strategies as st
from receiving import RUN, event_of, expected, in_flight, lines_of, put, whole_run
from support import Sqstee, running, wait_for

from sqstee.read.files import safe_name
from sqstee.read.journal import Journal, frames, meta_of, segments
from sqstee.read.plain import plain_lines
from sqstee.read.spans import spans
from sqstee.read.store import Store, Verdict
from sqstee.record import Body, Encoder

ODD = "printf 'a\\nb \\303\\251 \\\"q\\\" \\\\\\\\ \\t\\n\\377\\376 raw\\n'; echo err >&2; printf 'no newline'"
FAST = ("--idle-timeout", "0.5s")


def drained(sqstee: Sqstee, server: FakeSqs, *words: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Drain the queue `q` into the folder `out`."""
    out = str(sqstee.folder / "out")
    return sqstee.run("drain", "q", "-O", out, *FAST, *words, environ=server.environ(), **options)


def files(folder: Path) -> dict[str, bytes]:
    """Every file that a user sees, by its path in the folder."""
    found = (path for path in folder.rglob("*") if path.is_file() and ".sqstee" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def at_most(server: FakeSqs, queue: str, left: int) -> bool:
    """Whether a queue holds so few messages."""
    return len(server.messages(queue)) <= left


def journal(folder: Path, *bodies: bytes, id: str = "") -> None:
    """Journal bodies, as a collection would."""
    (folder / ".sqstee").mkdir(parents=True, exist_ok=True)
    writer = Journal(str(folder / ".sqstee"))
    writer.append([(meta_of(id or f"id{hash(body)}", 1.5, {}), body) for body in bodies])
    writer.close()


def assembled(folder: Path, layout: str = "streams", packed: bool = False) -> dict[str, Verdict]:
    """Assemble what is journaled; the verdicts by run."""
    found: dict[str, Verdict] = {}
    store = Store(str(folder), layout, packed)
    try:
        store.assemble(lambda verdict: found.update({verdict.run: verdict}))
    finally:
        store.close()
    return found


class TestFiles:
    def test_the_bytes_are_those_that_the_command_wrote(self, sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
        """Not UTF-8, without a newline at the end, on both streams: bit for bit; a complete run is status 0."""
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
        """The records and events in their order, as they were sent."""
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
        """What is not in the wire format goes into a file of its own, with its attributes."""
        attribute = {"kind": {"DataType": "String", "StringValue": "x"}}
        fake_sqs.put("q", "plain text\ntwo lines", MessageAttributes=attribute)
        fake_sqs.faults(duplicates=1.0)
        assert drained(sqstee, fake_sqs).returncode == 0
        fake_sqs.clear_faults()
        fake_sqs.put("q", '{"other": 1}')
        assert drained(sqstee, fake_sqs).returncode == 0
        lines = [json.loads(line) for line in files(sqstee.folder / "out")["_foreign/messages.ndjson"].splitlines()]
        assert [line["line"] for line in lines] == ["plain text", "two lines", '{"other": 1}']
        assert lines[0]["attributes"] == {"kind": "x"}

    @pytest.mark.parametrize("name", ["../../e", "/abs", ".hidden", "_foreign", "a/b", "", "x" * 300, "\ud800", "é\n"])
    def test_a_remote_name_is_one_name(self, name: str) -> None:
        """Never a path, never hidden, never two for one."""
        found = safe_name(name)
        assert found.isascii()
        assert found.isprintable()
        assert 0 < len(found) < 200
        assert not set(found) & set("/\0")
        assert found[0] not in "._"

    def test_a_host_cannot_leave_the_folder(self, tmp_path: Path) -> None:
        """A record that names ../../evil as its host, run and stream stays inside."""
        line = {"timestamp": "t", "host": "../../evil", "stream": "../s", "run": "../../r", "seq": 0, "message": "m"}
        journal(tmp_path / "a" / "out", json.dumps(line).encode() + b"\n")
        assembled(tmp_path / "a" / "out")
        assert list(files(tmp_path)) == ["a/out/%2E.%2F..%2Fevil/%2E.%2F..%2Fr.%2E.%2Fs"]

    def test_another_layout_in_the_same_folder_is_refused(self, sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
        """One line, one hint; nothing was received."""
        put(fake_sqs, whole_run(3))
        drained(sqstee, fake_sqs, "--max-messages", "1")
        found = drained(sqstee, fake_sqs, "--gzip")
        assert found.returncode == 125
        assert b"was begun with --layout streams" in found.stderr
        assert len(fake_sqs.messages("q")) == 2


class TestVerdicts:
    def test_missing_then_open_then_complete(self, sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
        """Each has its status; a later drain into the same folder fills the hole and finds the end."""
        start, _, end = whole_run(9)
        put(fake_sqs, [start, lines_of(1, 2), lines_of(6, 7)])
        found = drained(sqstee, fake_sqs)
        assert found.returncode == 3
        assert b"3 missing so far (seq 3-5)" in found.stdout
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
        assert json.loads(found.stdout)["state"] == "complete"
        assert files(out)[f"node1/{RUN}.stdout"] == expected(1, 9)
        assert segments(str(out / ".sqstee")) == []

    def test_destinations_are_merged_and_a_record_beats_a_gap(self, sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
        """What the primary says it gave to the fallback is found there."""
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
        """A gap event accounts for lines; they are gone all the same, until they turn up."""
        start, _, end = whole_run(9)
        gap: dict[str, Any] = {"from": 4, "to": 6, "reason": "full"}
        bodies = [start, lines_of(1, 3), event_of("gap", 4, **gap), lines_of(7, 9), end]
        journal(tmp_path, *(body.data for body in bodies))
        verdict = assembled(tmp_path)[RUN]
        assert (verdict.state, verdict.missing, verdict.gapped) == ("missing", 0, 3)
        journal(tmp_path, lines_of(4, 6).data)
        assert assembled(tmp_path)[RUN].state == "complete"
        assert files(tmp_path)[f"node1/{RUN}.stdout"] == expected(1, 9)

    def test_a_grandchild_keeps_a_run_open(self, tmp_path: Path) -> None:
        """An exit event with open streams is not the end; the end event is."""
        journal(tmp_path, event_of("start", 0).data, event_of("exit", 1, open=["stdout"], exit_code=0).data)
        assert assembled(tmp_path)[RUN].state == "open"
        journal(tmp_path, lines_of(2, 3).data, event_of("end", 4).data)
        assert assembled(tmp_path)[RUN].state == "complete"


class TestFaults:
    def test_killed_at_any_moment_it_goes_on(self, sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
        """kill -9 after a growing number of deletes; the last drain finds everything, and nothing twice."""
        fake_sqs.create_queue("k", VisibilityTimeout=60)
        fake_sqs.faults(latency_ms=10)
        runs = [f"01JDRUN{number:019d}" for number in range(3)]
        for run in runs:
            put(fake_sqs, [event_of("start", 0, run)], "k")
            put(fake_sqs, [lines_of(n * 20 + 1, n * 20 + 20, run) for n in range(100)], "k")
            put(fake_sqs, [event_of("exit", 2001, run, exit_code=0)], "k")
        out = sqstee.folder / "out"
        command = sqstee.words("drain", "k", "-O", str(out), *FAST, "--concurrency", "2")
        for left in (280, 150, 0):
            with running(command, stdout=subprocess.DEVNULL, env=sqstee.environ | fake_sqs.environ()) as process:
                wait_for(partial(at_most, fake_sqs, "k", left), f"only {left} messages")
                process.kill()
            fake_sqs.advance(61)
        found = sqstee.run("drain", "k", "-O", str(out), *FAST, environ=fake_sqs.environ())
        assert found.returncode == 0, found.stdout
        assert files(out) == {f"node1/{run}.stdout": expected(1, 2000) for run in runs}
        assert fake_sqs.messages("k") == []

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    @pytest.mark.parametrize("processes", ["1", "2"])
    def test_asked_to_stop_it_leaves_nothing_in_flight(
        self, sqstee: Sqstee, fake_sqs: FakeSqs, number: int, processes: str
    ) -> None:
        """What was received is in the files and deleted; everything else can be received at once."""
        put(fake_sqs, [event_of("start", 0)] + [lines_of(n + 1, n + 1) for n in range(600)])
        fake_sqs.faults(latency_ms=20)
        out = sqstee.folder / "out"
        words = ("drain", "q", "-O", str(out), "--processes", processes, "--concurrency", "2")
        environ = sqstee.environ | fake_sqs.environ()
        with running(sqstee.words(*words), stdout=subprocess.PIPE, env=environ, start_new_session=True) as process:
            wait_for(lambda: len(fake_sqs.messages("q")) < 550, "some deletes")
            os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
            process.communicate(timeout=30)
        assert process.returncode == 128 + number
        left = fake_sqs.messages("q")
        assert not any(message.in_flight for message in left)
        lines = files(out)[f"node1/{RUN}.stdout"].splitlines(keepends=True)
        there = {f"line {json.loads(message.body)['seq']}\n".encode() for message in left}
        assert {*lines} | there >= {f"line {n + 1}\n".encode() for n in range(600)}
        assert len(lines) == len({*lines})

    def test_a_full_disk_deletes_nothing_that_is_not_stored(self, sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
        """What could not be journaled is given back; one line says why."""
        put(fake_sqs, [event_of("start", 0)] + [lines_of(n * 500 + 1, n * 500 + 500) for n in range(20)])
        words = sqstee.words("drain", "q", "-O", str(sqstee.folder / "out"), *FAST)
        found = subprocess.run(
            ["sh", "-c", 'ulimit -f 300; exec "$@"', "sh", *words],
            capture_output=True,
            env=sqstee.environ | fake_sqs.environ(),
            timeout=60,
            check=False,
        )
        assert found.returncode == 1
        assert b"File too large" in found.stderr
        assert b"Traceback" not in found.stderr
        left = fake_sqs.messages("q")
        assert left
        assert in_flight(fake_sqs) == 0
        found = drained(sqstee, fake_sqs)
        assert files(sqstee.folder / "out")[f"node1/{RUN}.stdout"] == expected(1, 10000)

    def test_deletes_that_fail_are_repeated_or_said(self, sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
        """Failed entries once: deleted in the end. Refused for good: stored, and said to come again."""
        put(fake_sqs, whole_run(3))
        failing: dict[str, Any] = {"operation": "DeleteMessageBatch", "times": 2}
        fake_sqs.faults(failed_entries=[failing])
        found = drained(sqstee, fake_sqs)
        assert (found.returncode, found.stderr, fake_sqs.messages("q")) == (0, b"", [])
        put(fake_sqs, whole_run(3))
        fake_sqs.faults(errors=[{"operation": "DeleteMessageBatch", "code": "AccessDenied", "status": 403}])
        found = drained(sqstee, fake_sqs)
        assert b"3 messages are stored and will come again all the same" in found.stderr

    @settings(max_examples=40, deadline=None)
    @given(st.integers(0, 2000), st.binary(max_size=40), st.booleans())
    def test_damage_costs_the_frame_that_it_hits(self, at: int, junk: bytes, cut: bool) -> None:
        """A torn tail or bytes that are not ours: every other frame is found."""
        with tempfile.TemporaryDirectory() as folder:
            writer = Journal(folder)
            bodies = [b"%d" % n * 100 for n in range(8)]
            writer.append([(meta_of(str(n), 0.0, {}), body) for n, body in enumerate(bodies)])
            writer.close()
            (path,) = segments(folder)
            whole = list(frames(path))
            assert [frame.body for frame in whole] == bodies
            data = Path(path).read_bytes()
            at = min(at, len(data))
            Path(path).write_bytes(data[:at] + (junk if cut else junk + data[at + len(junk) :]))
            found = [frame.body for frame in frames(path)]
            for frame in whole:
                hit = frame.at + frame.size > at and (cut or frame.at < at + len(junk))
                assert hit or frame.body in found
            assert set(found) <= set(bodies)

    def test_a_stranger_to_the_folder_waits(self, sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
        """Two drains into one folder at once are refused."""
        out = sqstee.folder / "out"
        store = Store(str(out), "streams", False)
        try:
            found = drained(sqstee, fake_sqs)
        finally:
            store.close()
        assert found.returncode == 1
        assert b"another drain is working in" in found.stderr


class TestOptions:
    def test_several_processes_share_the_work(self, sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
        """--processes 3: everything once."""
        put(fake_sqs, [event_of("start", 0), *(lines_of(n + 1, n + 1) for n in range(300)), event_of("exit", 301)])
        found = drained(sqstee, fake_sqs, "--processes", "3", "--concurrency", "2")
        assert found.returncode == 0, found.stderr
        assert files(sqstee.folder / "out")[f"node1/{RUN}.stdout"] == expected(1, 300)

    @pytest.mark.parametrize("processes", ["1", "3"])
    def test_at_most_so_many(self, sqstee: Sqstee, fake_sqs: FakeSqs, processes: str) -> None:
        """--max-messages: no more than that are taken."""
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

    def test_a_fifo_queue(self, sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
        """A group gives nothing more until what it gave is deleted: that is done at once."""
        fake_sqs.create_queue("o.fifo")
        bodies = [event_of("start", 0), *(lines_of(n + 1, n + 1) for n in range(60)), event_of("exit", 61)]
        put(fake_sqs, bodies, "o.fifo")
        out = sqstee.folder / "out"
        found = sqstee.run("drain", "o.fifo", "-O", str(out), *FAST, environ=fake_sqs.environ())
        assert found.returncode == 0, found.stdout
        assert files(out)[f"node1/{RUN}.stdout"] == expected(1, 60)

    def test_a_local_queue_is_copied(self, sqstee: Sqstee) -> None:
        """What is followed without consuming stays, and a second drain adds nothing."""
        made = sqstee.run("--host", "h", "--", "seq", "100")
        out = sqstee.folder / "out"
        for _ in range(2):
            assert sqstee.run("drain", "local", "-O", str(out)).returncode == 0
            assert list(files(out).values()) == [made.stdout]

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (("drain", "q"), "Missing option '-O'"),
            (("drain", "-O", "x"), "Missing argument"),
            (("drain", "q", "-O", "x", "--layout", "z"), "'z' is not a layout"),
            (("drain", "q", "-O", "x", "--wait-time", "z"), "--wait-time: 'z' is not right"),
            (("drain", "q", "-O", "x", "--visibility-timeout", "13h"), "--visibility-timeout is from"),
            (("drain", "q", "-O", "/dev/null"), "/dev/null cannot be used"),
        ],
    )
    def test_bad_input(self, sqstee: Sqstee, words: tuple[str, ...], message: str) -> None:
        """Exit 125, one line and one hint."""
        found = sqstee.run(*words)
        assert found.returncode == 125
        assert found.stderr.decode().startswith(f"sqstee: {message}")
        assert found.stderr.count(b"\n") == 2

    def test_a_missing_queue_is_one_line(self, sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
        """Status 1, also of several processes."""
        for processes in ("1", "2"):
            words = ("drain", "missing", "-O", str(sqstee.folder / "out"), "--processes", processes)
            found = sqstee.run(*words, environ=fake_sqs.environ())
            assert found.returncode == 1
            assert found.stderr.decode().startswith("sqstee: missing: QueueDoesNotExist")


RUNS = ("A", "B")


@st.composite
def histories(draw: st.DrawFn) -> tuple[dict[str, list[bytes]], list[list[bytes]]]:
    """Two runs' lines, and rounds of bodies: any cut, any order, any duplication, any loss, runs mixed in a body."""
    wrote = {run: draw(st.lists(st.binary(max_size=6), min_size=1, max_size=12)) for run in RUNS}
    records = {run: [_record(run, seq, line) for seq, line in enumerate(lines)] for run, lines in wrote.items()}
    pieces = st.tuples(st.sampled_from(RUNS), st.integers(0, 11), st.integers(1, 5)).map(
        lambda piece: b"".join(records[piece[0]][piece[1] : piece[1] + piece[2]])
    )
    bodies = st.lists(pieces, min_size=1, max_size=3).map(b"".join)
    return wrote, draw(st.lists(st.lists(bodies, max_size=6), min_size=1, max_size=3))


def _record(run: str, seq: int, line: bytes) -> bytes:
    line = line.replace(b"\n", b"")
    stream = ("stdout", "stderr")[seq % 3 == 0]
    return Encoder(run, "h").lines(line + b"\n" * (seq % 5 != 4), stream, 0, seq, eol=seq % 5 != 4)


def _streams(wrote: dict[str, list[bytes]], seen: Iterable[tuple[str, int]]) -> dict[str, bytes]:
    """The files that these seqs make."""
    found: dict[str, bytes] = {}
    for run, seq in sorted(seen):
        name = f"h/{run}.{('stdout', 'stderr')[seq % 3 == 0]}"
        found[name] = found.get(name, b"") + wrote[run][seq].replace(b"\n", b"") + b"\n" * (seq % 5 != 4)
    return found


@settings(max_examples=40, deadline=None)
@given(histories(), st.booleans())
def test_any_history_makes_the_files_of_what_was_seen(
    history: tuple[dict[str, list[bytes]], list[list[bytes]]], packed: bool
) -> None:
    """After each round: exactly what came so far, in order, once, and the verdict names what did not."""
    wrote, rounds = history
    folder = Path(tempfile.mkdtemp())
    try:
        seen: set[tuple[str, int]] = set()
        for bodies in rounds:
            seen |= {(line["run"], line["seq"]) for body in bodies for line in map(json.loads, body.splitlines())}
            if any(bodies):
                journal(folder, *filter(None, bodies))
            verdicts = assembled(folder, packed=packed)
            suffix = ".gz" if packed else ""
            got = {name.removesuffix(".gz"): data for name, data in files(folder).items() if name.endswith(suffix)}
            if packed:
                got = {name: gzip.decompress(data) for name, data in got.items()}
            assert {name: data for name, data in got.items() if data} == {
                name: data for name, data in _streams(wrote, seen).items() if data
            }
            for run in RUNS:
                seqs = {seq for one, seq in seen if one == run}
                if seqs:
                    assert verdicts[run].missing == max(seqs) + 1 - len(seqs)
                    assert verdicts[run].lines == len(seqs)
    finally:
        shutil.rmtree(folder)


LINES = st.lists(st.binary(max_size=12).map(lambda line: line.replace(b"\n", b"")), min_size=1, max_size=8)


@settings(max_examples=200, deadline=None)
@given(LINES, st.sampled_from(["", 'j"b\\', 'x","message":"']), st.integers(0, 10**12))
def test_plain_records_are_what_the_encoder_took(lines: list[bytes], job: str, first: int) -> None:
    """The fast way gives the same bytes, or none at all; and so does the index."""
    block = b"".join(line + b"\n" for line in lines)
    data = Encoder("R", "h", job, {"message": "m"} if job else None).lines(block, "stdout", 0, first)
    found = plain_lines(data, "R", first, len(lines))
    assert found in (None, {"stdout": block})
    if not job and all(line.isascii() for line in lines):
        assert found == {"stdout": block}
    assert plain_lines(data, "R", first + 1, len(lines)) is None
    assert plain_lines(data, "S", first, len(lines)) is None
    assert plain_lines(data, "R", first, len(lines) + 1) is None
    for trust in (True, False):
        ((span,), foreign) = spans(data, trust)
        assert (span.run, span.first, span.last, span.size) == ("R", first, first + len(lines) - 1, len(data))
        assert foreign == []


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: lines[0] + lines[2] + lines[1] + lines[3],
        lambda lines: lines[0] + lines[1] + lines[1] + lines[3],
        lambda lines: lines[0] + lines[1].replace(b'"run":"A"', b'"run":"B"') + lines[2] + lines[3],
        lambda lines: lines[0] + lines[1].replace(b'"message"', b'"massage"') + lines[2] + lines[3],
        lambda lines: lines[0] + lines[1].replace(b'"stdout"', b"7") + lines[2] + lines[3],
        lambda lines: lines[0] + lines[1].replace(b'"message":"', b'"message":["') + lines[2] + lines[3],
        lambda lines: lines[0] + b"\n" + lines[1] + b"junk\n" + lines[2] + lines[3][:-1],
    ],
)
def test_a_body_that_only_looks_whole_is_read_line_by_line(tmp_path: Path, change: Any) -> None:
    """What its first and last line promise is checked: the good lines are found, the others are foreign or missing."""
    lines = [Encoder("A", "h").lines(b"%d\n" % seq, "stdout", 0, seq) for seq in range(4)]
    journal(tmp_path, change(lines))
    verdict = assembled(tmp_path)["A"]
    got = files(tmp_path)["h/A.stdout"].split()
    assert got == sorted(set(got))
    assert verdict.lines == len(got)
    assert len(got) + verdict.missing == 4


def test_a_body_of_whatever_json_cannot_stop_a_drain(tmp_path: Path) -> None:
    """Numbers, lists, deep nesting, bytes: kept as foreign, and the run beside them is whole."""
    good: Body = lines_of(0, 3)
    junk = [b"7\n", b"[1,2]\n", b"null", b"[" * 50000, b"\xff\xfe\x00", b'{"seq":0}\n']
    junk.append(b'{"run":{},"seq":0}\n{"run":{}}\n')
    journal(tmp_path, *junk, good.data)
    assert assembled(tmp_path)[RUN].lines == 4
    assert files(tmp_path)[f"node1/{RUN}.stdout"] == expected(0, 3)
    assert len(files(tmp_path)["_foreign/messages.ndjson"].splitlines()) == 8
