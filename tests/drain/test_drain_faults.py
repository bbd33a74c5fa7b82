"""sqstee drain when things go wrong: kills, signals, full disks, damage, and any order, duplication and loss."""

from __future__ import annotations

import base64
import errno
import gzip
import json
import os
import resource
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fakes.sqs import FakeSqs
from hypothesis import given, settings
from hypothesis import strategies as st
from support import Sqstee, python, running, wait_for
from support.bodies import RUN, event_of, expected, in_flight, lines_of, put, whole_run
from support.drain import FAST, assembled, at_most, drained, files, journal

from sqstee.drain.fast_decode import plain_lines
from sqstee.drain.journal import Journal, journal_segments, meta_of, read_frames
from sqstee.drain.journaling import DrainLimits, Journaler
from sqstee.drain.spans import body_spans
from sqstee.drain.store import Store
from sqstee.read.decode import MAX_FOREIGN_LINES
from sqstee.read.stop_signal import StopSignal
from sqstee.record import Body, Encoder
from sqstee.transports.base import QueueState, ReceivedMessage
from sqstee.transports.errors import Failure


class TestFaults:
    def test_killed_at_any_moment_it_goes_on(self, sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
        """kill -9 after more and more deletes: the last drain finds every line, once."""
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
            wait_for(lambda: fake_sqs.counters().active == 0, "end of the requests that the dead has left")
            fake_sqs.advance(61)  # for what these have received, too
        found = sqstee.run("drain", "k", "-O", str(out), *FAST, environ=fake_sqs.environ())
        assert found.returncode == 0, found.stdout
        assert files(out) == {f"node1/{run}.stdout": expected(1, 2000) for run in runs}
        assert fake_sqs.messages("k") == []

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    @pytest.mark.parametrize("processes", ["1", "2"])
    def test_asked_to_stop_it_leaves_nothing_in_flight(
        self, sqstee: Sqstee, fake_sqs: FakeSqs, number: int, processes: str
    ) -> None:
        """Received messages are in the files and deleted; all others can be received at once."""
        put(fake_sqs, [event_of("start", 0)] + [lines_of(n + 1, n + 1) for n in range(600)])
        fake_sqs.faults(latency_ms=20)
        out = sqstee.folder / "out"
        words = ("drain", "q", "-O", str(out), "--processes", processes, "--concurrency", "2")
        environ = sqstee.environ | fake_sqs.environ()
        with running(sqstee.words(*words), stdout=subprocess.PIPE, env=environ, start_new_session=True) as process:
            wait_for(lambda: len(fake_sqs.messages("q")) < 550, "some deletes")
            os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
            process.communicate(timeout=40)
        assert process.returncode == 128 + number
        left = fake_sqs.messages("q")
        assert not any(message.in_flight for message in left)
        lines = files(out)[f"node1/{RUN}.stdout"].splitlines(keepends=True)
        there = {f"line {json.loads(message.body)['seq']}\n".encode() for message in left}
        assert {*lines} | there >= {f"line {n + 1}\n".encode() for n in range(600)}
        assert len(lines) == len({*lines})

    def test_a_full_disk_deletes_nothing_that_is_not_stored(self, sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
        """Messages that could not be journaled are released; one line gives the reason."""
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

    def test_trouble_that_cannot_be_reported_ends_nothing(self, sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
        """stderr goes to a full disk: a thread that has trouble to report continues to receive."""
        put(fake_sqs, whole_run(3))
        refusal = {"operation": "ReceiveMessage", "code": "ServiceUnavailable", "status": 503, "times": 2}
        fake_sqs.faults(errors=[refusal])
        words = sqstee.words("drain", "q", "-O", str(sqstee.folder / "out"), *FAST, "--concurrency", "1")
        with open("/dev/full", "wb") as log:
            environ = sqstee.environ | fake_sqs.environ()
            found = subprocess.run(words, stdout=subprocess.PIPE, stderr=log, env=environ, timeout=60, check=False)
        assert found.returncode == 0, found.stdout
        assert fake_sqs.messages("q") == []

    def test_deletes_that_fail_are_repeated_or_reported(self, sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
        """Entries that failed once are deleted in the end; denied deletes are reported."""
        put(fake_sqs, whole_run(3))
        failing: dict[str, Any] = {"operation": "DeleteMessageBatch", "times": 2}
        fake_sqs.faults(failed_entries=[failing])
        found = drained(sqstee, fake_sqs)
        assert (found.returncode, found.stderr, fake_sqs.messages("q")) == (0, b"", [])
        put(fake_sqs, whole_run(3))
        fake_sqs.faults(errors=[{"operation": "DeleteMessageBatch", "code": "AccessDenied", "status": 403}])
        found = drained(sqstee, fake_sqs, "--processes", "2")
        assert found.returncode == 1
        assert found.stderr.count(b" stored, but could not be acknowledged and will be received again: ") in (1, 2)
        assert b": 1 complete; 3 lines" in found.stdout

    def test_odd_names_have_a_file_each(self, tmp_path: Path) -> None:
        """Two runs with dots between run and stream in different places, and names too long for any file system."""
        names = [("a", "b.c"), ("a.b", "c"), ("r" * 300, "s" * 300), ("r" * 300, "." * 300)]
        for number, (run, stream) in enumerate(names):
            journal(tmp_path, lines_of(number, number, run, "h" * 300, stream).data)
        found = assembled(tmp_path, packed=True)
        assert set(found) == {run for run, _ in names}
        lines = [gzip.decompress(data) for data in files(tmp_path).values()]
        assert sorted(lines) == [b"line %d\n" % number for number in range(len(names))]

    def test_a_gap_event_is_one_however_it_is_spaced(self, tmp_path: Path) -> None:
        """It covers its whole range, even where the record of its first seq has arrived."""
        reach: dict[str, Any] = {"from": 3, "to": 7}
        gap = event_of("gap", 3, **reach).data
        for number, data in enumerate((gap, gap.replace(b'": ', b'":'), gap.replace(b'": ', b'" : '))):
            journal(tmp_path / str(number), lines_of(0, 6).data, data)
            verdict = assembled(tmp_path / str(number))[RUN]
            assert (verdict.lines, verdict.gapped, verdict.missing) == (7, 1, 0)

    def test_a_sync_that_failed_never_succeeds(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Linux reports a lost write once: messages journaled before are not deleted, however often sync is called."""

        def fail(fd: int) -> None:
            raise OSError(errno.EIO, "Input/output error")

        writer = Journal(str(tmp_path))
        writer.append([(meta_of("a", 0.0, {}), b"body")])
        monkeypatch.setattr(os, "fdatasync", fail)
        with pytest.raises(OSError, match="Input/output"):
            writer.sync()
        monkeypatch.undo()
        with pytest.raises(OSError, match="Input/output"):
            writer.sync()
        writer.close()

    @settings(max_examples=40)
    @given(st.integers(0, 2000), st.binary(max_size=40), st.booleans())
    def test_damage_costs_the_frame_that_it_hits(self, at: int, junk: bytes, cut: bool) -> None:
        """A torn tail or foreign bytes: every other frame is found."""
        with tempfile.TemporaryDirectory() as folder:
            writer = Journal(folder)
            bodies = [b"%d" % n * 100 for n in range(8)]
            writer.append([(meta_of(str(n), 0.0, {}), body) for n, body in enumerate(bodies)])
            writer.close()
            (path,) = journal_segments(folder)
            whole = list(read_frames(path))
            assert [frame.body for frame in whole] == bodies
            data = Path(path).read_bytes()
            at = min(at, len(data))
            Path(path).write_bytes(data[:at] + (junk if cut else junk + data[at + len(junk) :]))
            found = [frame.body for frame in read_frames(path)]
            for frame in whole:
                hit = frame.at + frame.size > at and (cut or frame.at < at + len(junk))
                assert hit or frame.body in found
            assert set(found) <= set(bodies)

    def test_a_state_that_cannot_be_read_is_reported(self, sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
        """One line and one hint, before any message is received."""
        put(fake_sqs, whole_run(3))
        hidden = sqstee.folder / "out" / ".sqstee"
        hidden.mkdir(parents=True)
        (hidden / "state.db").write_bytes(b"no database" * 100)
        found = drained(sqstee, fake_sqs)
        assert found.returncode == 1
        problem, hint = found.stderr.decode().splitlines()
        assert problem == f"sqstee: {hidden}/state.db: file is not a database"
        assert hint.startswith("hint: ")
        assert [one.receives for one in fake_sqs.messages("q")] == [0, 0, 0]

    def test_a_second_drain_into_a_folder_is_refused(self, sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
        """A second drain into the same folder is refused."""
        out = sqstee.folder / "out"
        store = Store(str(out), "streams", False)
        try:
            found = drained(sqstee, fake_sqs)
        finally:
            store.close()
        assert found.returncode == 1
        assert b"another drain is writing to" in found.stderr


RUNS = ("A", "B")


@st.composite
def histories(draw: st.DrawFn) -> tuple[dict[str, list[bytes]], list[list[bytes]]]:
    """Two runs' lines, and rounds of bodies: any cut, order, duplication and loss, with runs mixed in a body."""
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


def _line_count(seqs: Iterable[int]) -> int:
    """The lines that these records of a run are, of which those without a newline go on in their stream's next one."""
    found, unfinished = 0, {0: False, 1: False}
    for seq in sorted(seqs):
        found += not unfinished[seq % 3 == 0]
        unfinished[seq % 3 == 0] = seq % 5 == 4
    return found


def _streams(wrote: dict[str, list[bytes]], seen: Iterable[tuple[str, int]]) -> dict[str, bytes]:
    """The files that these seqs make."""
    found: dict[str, bytes] = {}
    for run, seq in sorted(seen):
        name = f"h/{run}.{('stdout', 'stderr')[seq % 3 == 0]}"
        found[name] = found.get(name, b"") + wrote[run][seq].replace(b"\n", b"") + b"\n" * (seq % 5 != 4)
    return found


@settings(max_examples=40)
@given(histories(), st.booleans())
def test_any_history_makes_the_files_of_what_was_seen(
    history: tuple[dict[str, list[bytes]], list[list[bytes]]], packed: bool
) -> None:
    """After each round the files hold every line that arrived, in order, once; the verdict counts the missing ones."""
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
                    assert verdicts[run].lines == _line_count(seqs)
    finally:
        shutil.rmtree(folder)


LINES = st.lists(st.binary(max_size=12).map(lambda line: line.replace(b"\n", b"")), min_size=1, max_size=8)


@settings(max_examples=200)
@given(LINES, st.sampled_from(["", 'j"b\\', 'x","message":"']), st.integers(0, 10**12))
def test_plain_records_are_what_the_encoder_took(lines: list[bytes], job: str, first: int) -> None:
    """The fast decoder gives the same bytes or none, and the index finds the same range."""
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
        ((span,), foreign) = body_spans(data, trust)
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
    """The lines between the first and the last are checked: good lines are found, others are foreign or missing."""
    lines = [Encoder("A", "h").lines(b"%d\n" % seq, "stdout", 0, seq) for seq in range(4)]
    journal(tmp_path, change(lines))
    verdict = assembled(tmp_path)["A"]
    got = files(tmp_path)["h/A.stdout"].split()
    assert got == sorted(set(got))
    assert verdict.lines == len(got)
    assert len(got) + verdict.missing == 4


def test_a_body_of_whatever_json_cannot_stop_a_drain(tmp_path: Path) -> None:
    """Numbers, lists, deep nesting and raw bytes are kept as foreign, and the run beside them is complete."""
    good: Body = lines_of(0, 3)
    junk = [b"7\n", b"[1,2]\n", b"null", b"[" * 50000, b"\xff\xfe\x00", b'{"seq":0}\n']
    junk.append(b'{"run":{},"seq":0}\n{"run":{}}\n')
    journal(tmp_path, *junk, good.data)
    assert assembled(tmp_path)[RUN].lines == 4
    assert files(tmp_path)[f"node1/{RUN}.stdout"] == expected(0, 3)
    assert len(files(tmp_path)["_foreign/messages.ndjson"].splitlines()) == 8


@pytest.mark.parametrize(
    "change",
    [
        {"seq": 2**63},
        {"seq": 2**200},
        {"run": "\ud800"},
        {"host": "\udc80"},
        {"job": "\ud800"},
        {"stream": "\ud800"},
        {"event": "exit", "message": "\ud800"},
        {"event": "gap", "from": 0, "to": 0, "host": "\ud800"},
    ],
)
@pytest.mark.parametrize("layout", ["streams", "ndjson", "parquet"])
def test_no_value_of_a_record_can_stop_a_drain(tmp_path: Path, change: dict[str, Any], layout: str) -> None:
    """Numbers and half surrogate pairs that SQLite rejects: the drain ends, and the run beside them is complete."""
    fields = {"timestamp": "t", "host": "h", "stream": "stdout", "run": "R", "seq": 0, "message": "m"} | change
    journal(tmp_path, json.dumps(fields, separators=(",", ":")).encode() + b"\n", lines_of(0, 3).data)
    assert assembled(tmp_path, layout)[RUN].lines == 4
    assert assembled(tmp_path, layout)[RUN].lines == 4  # it can be read again


def test_a_run_of_very_many_streams(tmp_path: Path) -> None:
    """The first streams have files of their own, the others share one, however few files may be open."""
    lines = [Encoder("R", "h").lines(b"%d\n" % seq, f"s{seq}", 0, seq) for seq in range(300)]
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, before[1]))
    try:
        for part in (lines[:150], lines[200:], lines[150:200]):
            journal(tmp_path, b"".join(part))
            verdict = assembled(tmp_path)["R"]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert (verdict.lines, verdict.missing) == (300, 0)
    found = files(tmp_path)
    assert len(found) == 65
    assert found["h/R.s7"] == b"7\n"
    assert found["h/R.others"] == b"".join(b"%d\n" % seq for seq in range(64, 300))


def test_long_attributes_of_a_foreign_message_are_kept(tmp_path: Path) -> None:
    """As JSON they are up to three times as long as a message, and are read back."""
    attributes = {"note": "\u00e9" * 400_000}
    (tmp_path / ".sqstee").mkdir()
    writer = Journal(str(tmp_path / ".sqstee"))
    writer.append([(meta_of("id", 1.5, attributes), b"text")])
    writer.close()
    assembled(tmp_path)
    (line,) = files(tmp_path)["_foreign/messages.ndjson"].splitlines()
    assert json.loads(line)["attributes"] == attributes


def test_a_segment_that_cannot_be_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal has no file then, and never uses the old descriptor's number, which another file may get."""
    monkeypatch.setattr("sqstee.drain.journal._SEGMENT_BYTES", 10)
    writer = Journal(str(tmp_path))
    writer.append([(meta_of("a", 0.0, {}), b"one")])
    folder = tmp_path.rename(tmp_path.with_name("away"))
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            writer.append([(meta_of("b", 0.0, {}), b"two")])
        other = os.open(folder / "other", os.O_RDWR | os.O_CREAT)
    writer.sync()
    folder.rename(tmp_path)
    writer.append([(meta_of("c", 0.0, {}), b"three")])
    writer.close()
    assert os.fstat(other).st_size == 0
    os.close(other)
    assert [frame.body for path in journal_segments(str(tmp_path)) for frame in read_frames(path)] == [b"one", b"three"]


def test_a_message_of_very_many_lines(tmp_path: Path) -> None:
    """Its attributes are stored once, and above a number of lines the rest is one line: memory stays small."""
    attributes = {"note": "n" * 100_000}
    lines = [b"%d\n" % number for number in range(60_000)]
    (tmp_path / ".sqstee").mkdir()
    writer = Journal(str(tmp_path / ".sqstee"))
    writer.append([(meta_of("id", 1.5, attributes), b"".join(lines))])
    writer.close()
    assembled(tmp_path)
    found = [json.loads(line) for line in files(tmp_path)["_foreign/messages.ndjson"].splitlines()]
    assert "".join(line["line"] + "\n" for line in found).encode() == b"".join(lines)
    assert len(found) == MAX_FOREIGN_LINES + 1
    assert [line.get("attributes") for line in found[:2]] == [attributes, None]


def test_bytes_that_are_no_text_are_kept(tmp_path: Path) -> None:
    """A foreign line that is not UTF-8 is restored from its base64."""
    journal(tmp_path, b"\xff\xfe\n")
    assembled(tmp_path)
    (line,) = files(tmp_path)["_foreign/messages.ndjson"].splitlines()
    assert base64.b64decode(json.loads(line)["raw"]) == b"\xff\xfe"


FAILING_FORK = """
import os, sys, time
from sqstee.drain.journaling import DrainLimits
from sqstee.drain.processes import collect
from sqstee.read.stop_signal import StopSignal
from sqstee.transports.base import QueueState

class Empty:
    follows = ordered = False
    name = "memory"
    def receive(self, limit, wait):
        time.sleep(0.01)
        return []
    def stat(self): return QueueState(1)
    def close(self): pass

def fork(real=os.fork, done=[]):
    if done:
        raise BlockingIOError(11, "Resource temporarily unavailable")
    done.append(True)
    return real()

os.fork = fork
try:
    collect(sys.argv[1], lambda: [Empty()], DrainLimits(idle=3600.0), 2, StopSignal(), lambda progress: None, print)
except BlockingIOError:
    try:
        print("left:", os.waitpid(-1, os.WNOHANG))
    except ChildProcessError:
        print("nobody is left")
"""


def test_processes_that_cannot_be_forked_leave_nobody_behind(tmp_path: Path) -> None:
    """A process left behind would go on writing and deleting while the files are assembled."""
    words = [*python(FAILING_FORK), str(tmp_path)]
    found = subprocess.run(words, capture_output=True, timeout=60, check=False)
    assert (found.stdout, found.stderr) == (b"nobody is left\n", b"")


class Pointers:
    """A queue whose only message is a pointer, which is redelivered again and again."""

    follows = ordered = False
    name = "memory"

    def __init__(self) -> None:
        self.given = 0
        self.released: list[ReceivedMessage] = []

    def receive(self, limit: int, wait: float) -> list[ReceivedMessage]:
        self.given += 1
        data = b'["software.amazon.payloadoffloading.PayloadS3Pointer",{}]'
        return [ReceivedMessage(data, {}, f"handle-{self.given}", "id")] if self.given <= 5 else []

    def delete(self, messages: Iterable[ReceivedMessage]) -> list[Failure]:
        raise AssertionError

    def release(self, messages: Iterable[ReceivedMessage]) -> None:
        self.released += messages

    def stat(self) -> QueueState:
        return QueueState(0)

    def close(self) -> None:
        pass


def test_a_pointer_that_comes_again_is_left_once(tmp_path: Path) -> None:
    """It is counted once, and released by its latest handle."""
    queue, notices = Pointers(), list[str]()
    journal = Journal(str(tmp_path))
    Journaler([queue], journal, DrainLimits(threads=1, idle=0.0), notices.append).run(
        StopSignal(), lambda progress: None
    )
    journal.close()
    assert notices == ["1 message left in the queue: it points to a body in S3 and lacks the attribute for its size"]
    assert [one.handle for one in queue.released] == ["handle-5"]
