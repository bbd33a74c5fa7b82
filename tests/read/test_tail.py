"""sqstee tail: the lines and notices that it shows, and the fate of the messages."""

from __future__ import annotations

import array
import base64
import fcntl
import gzip
import json
import os
import re
import signal
import sqlite3
import subprocess
import termios
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from fakes.s3 import S3Server
from fakes.sqs import FakeSqs
from support import SCRIPT, Sqstee, running, wait_for
from support.bodies import RUN, event_of, expected, in_flight, lines_of, put, whole_run
from support.reading import Queue, printed
from support.terminal import Terminal

from sqstee.errors import SqsteeError
from sqstee.read.ack_pool import AckPool
from sqstee.read.decode import MAX_FOREIGN_LINES, ForeignLine, Item, read
from sqstee.read.filter import Filter, parse_since
from sqstee.read.follower import Follower
from sqstee.read.order import Order
from sqstee.read.printer import BufferedOutput, Printer, Style, check_template, format_duration
from sqstee.read.run_table import RunTable
from sqstee.read.stop_signal import StopSignal
from sqstee.read.unacked import UnackedMessages
from sqstee.read.unmatched import UnmatchedFile
from sqstee.record import Body
from sqstee.transports.base import QueueState, ReceivedMessage
from sqstee.transports.errors import POISON, RETRY, Failure, TransportError
from sqstee.transports.local import LocalSender
from sqstee.transports.local_receiver import LocalReceiver
from sqstee.wire import Record, decode

GAP: dict[str, Any] = {"from": 3}
CONSUME = ("tail", "q", "--consume", "--no-follow", "--reorder-window", "60s")


def stored(sqstee: Sqstee, *bodies: Body) -> str:
    """Bodies in a local queue; its destination."""
    path = sqstee.folder / "stored.db"
    sender = LocalSender(str(path), 1024**3)
    sender.send(bodies)
    sender.close()
    return f"local:{path}"


class Troubled(Queue):
    """A queue whose second and third calls fail."""

    def __init__(self, code: str, *answers: list[ReceivedMessage]) -> None:
        super().__init__(*answers)
        self.code = code
        self.calls = 0

    def receive(self, limit: int, wait: float) -> list[ReceivedMessage]:
        self.calls += 1
        if self.calls in (2, 3):
            raise TransportError(RETRY, self.code, "later")
        return super().receive(limit, wait)


def message(first: int, last: int, handle: str) -> ReceivedMessage:
    """A message of the run, with its range as its id."""
    return ReceivedMessage(lines_of(first, last).data, {}, handle, f"{first}-{last}")


class TestMistakes:
    """Mistakes that other receivers made."""

    def test_1_an_empty_answer_is_not_the_end(self, tmp_path: Path) -> None:
        """An empty answer in the middle does not end a reading."""
        queue = Queue([message(0, 1, "a")], [], [message(2, 3, "b")])
        assert printed(tmp_path, queue)[0] == expected(0, 3)

    def test_1_nor_is_one_while_a_call_is_out(self, tmp_path: Path) -> None:
        """A slow call took the last messages before the queue was found empty: they are printed when it returns."""

        class Slow(Queue):
            asked = threading.Event()

            def receive(self, limit: int, wait: float) -> list[ReceivedMessage]:
                found = super().receive(limit, wait)
                if found and found[0].handle == "b":
                    self.asked.wait(5)
                    time.sleep(0.2)  # so that a reading which does not await the call would have ended
                return found

            def stat(self) -> QueueState:
                self.asked.set()
                return super().stat()

        queue = Slow([message(0, 1, "a")], [message(2, 3, "b")])
        assert printed(tmp_path, queue)[0] == expected(0, 3)
        assert queue.released == []

    def test_2_a_message_twice_in_one_batch_goes_by_its_latest_handle(self) -> None:
        """A message that was received twice is deleted once, by the later handle."""
        queue = Queue()
        acks = AckPool(1)
        acks.delete(queue, [message(0, 0, "old"), message(1, 1, "x"), message(0, 0, "new")])
        acks.close()
        (batch,) = queue.deleted
        assert sorted(one.handle for one in batch) == ["new", "x"]

    def test_3_failed_entries_are_deleted_again(self) -> None:
        """HTTP 200 with Failed entries is not success; an expired handle is counted as failed."""
        queue = Queue()
        queue.failures = [[Failure(0, RETRY, "InternalError", ""), Failure(1, POISON, "ReceiptHandleIsInvalid", "")]]
        acks = AckPool(1)
        acks.delete(queue, [message(0, 0, "a"), message(1, 1, "b"), message(2, 2, "c")])
        acks.close()
        assert [one.handle for one in queue.deleted[1]] == ["a"]
        assert (acks.deleted, acks.failed) == (2, 1)

    def test_4_nothing_is_deleted_that_could_not_be_printed(self, sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
        """The reader of our pipe left: every message is still there, and none in flight."""
        put(fake_sqs, whole_run(5))
        read, write = os.pipe()
        os.close(read)
        command = sqstee.words(*CONSUME)
        with running(command, stdout=write, stderr=subprocess.PIPE, env=sqstee.environ | fake_sqs.environ()) as process:
            os.close(write)
            process.communicate(timeout=40)
        assert process.returncode == 141
        assert len(fake_sqs.messages("q")) == 3
        assert in_flight(fake_sqs) == 0

    def test_5_and_6_lower_seqs_print_and_a_duplicate_is_deleted_unseen(self, tmp_path: Path) -> None:
        """5, 3, 4 all print; a duplicate is deleted and not printed."""
        answers = [message(0, 2, "a"), message(5, 5, "b"), message(3, 3, "c"), message(4, 4, "d"), message(3, 3, "e")]
        queue = Queue(*([one] for one in answers))
        assert printed(tmp_path, queue)[0] == expected(0, 5)
        handles = {one.handle for batch in queue.deleted for one in batch}
        assert handles | {"c", "e"} == {"a", "b", "c", "d", "e"}
        assert handles & {"c", "e"}  # one message, which may be deleted by whichever came later
        assert queue.released == []

    def test_7_peek_receives_each_message_once(self, sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
        """--peek hides each message that it has read until its end; then all are visible again at once."""
        put(fake_sqs, whole_run(30))
        found = sqstee.run("tail", "q", "--peek", "-o", "raw", environ=fake_sqs.environ())
        assert found.stdout == expected(1, 30)
        assert b"counts as one receive" in found.stderr
        assert b"3 messages released" in found.stderr
        assert [one.receives for one in fake_sqs.messages("q")] == [1, 1, 1]
        assert in_flight(fake_sqs) == 0

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_8_nothing_stays_in_flight(self, sqstee: Sqstee, fake_sqs: FakeSqs, number: int) -> None:
        """On a signal it waits for its receivers, and releases the messages above a hole."""
        put(fake_sqs, [event_of("start", 0), lines_of(1, 3), lines_of(10, 12)])
        command = sqstee.words("tail", "q", "--consume", "-o", "raw", "--reorder-window", "60s")
        with running(command, stdout=subprocess.PIPE, env=sqstee.environ | fake_sqs.environ()) as process:
            assert process.stdout
            assert b"".join(process.stdout.readline() for _ in range(3)) == expected(1, 3)
            wait_for(lambda: len(fake_sqs.messages("q")) == 1, "deletion of what was printed")
            process.send_signal(number)
            assert process.communicate(timeout=40)[0] == b""
            assert process.returncode == 128 + number
        (left,) = fake_sqs.messages("q")
        assert not left.in_flight

    def test_9_prefetch_is_bounded_in_bytes(self, tmp_path: Path) -> None:
        """Fewer messages are requested at once where they are large."""
        big = [ReceivedMessage(lines_of(n * 9000, n * 9000 + 8999).data, {}, str(n), str(n)) for n in range(12)]
        assert len(big[0].data) > 1_000_000
        queue = Queue(*([one] for one in big))
        printed(tmp_path, queue)
        assert queue.limits[0] == 4
        assert min(queue.limits) == 1

    def test_10_no_thread_waits_for_a_connection(self, sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
        """The connection pool is as large as the number of threads, so botocore does not complain."""
        put(fake_sqs, [lines_of(n * 10, n * 10 + 9) for n in range(60)])
        fake_sqs.faults(latency_ms=20)
        found = sqstee.run(*CONSUME, "-o", "raw", environ=fake_sqs.environ())
        assert found.stdout == expected(0, 599)
        assert b"pool" not in found.stderr

    def test_11_over_limit_passes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """With too many messages in flight it waits and continues."""
        monkeypatch.setattr("sqstee.read.receiver_pool._OVER_LIMIT_SECONDS", 0.01)
        assert printed(tmp_path, Troubled("OverLimit", [message(0, 1, "a")], [message(2, 3, "b")]))[0] == expected(0, 3)

    def test_12_what_a_filter_hides_is_never_just_deleted(self, sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
        """--consume with a filter needs a choice; --keep-unmatched keeps the hidden lines."""
        put(fake_sqs, whole_run(3))
        environ = fake_sqs.environ()
        found = sqstee.run(*CONSUME, "-i", "line 2", environ=environ)
        assert (found.returncode, found.stdout) == (125, b"")
        assert len(fake_sqs.messages("q")) == 3
        rest = sqstee.folder / "rest.ndjson"
        found = sqstee.run(*CONSUME, "-i", "line 2", "-o", "raw", "--keep-unmatched", str(rest), environ=environ)
        assert (found.returncode, found.stdout) == (0, b"line 2\n")
        assert [json.loads(line)["seq"] for line in rest.read_bytes().splitlines()] == [0, 1, 3, 4]
        assert fake_sqs.messages("q") == []


def test_unmatched_lines_may_go_to_another_queue(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """--keep-unmatched DEST: the hidden lines can be read there."""
    fake_sqs.create_queue("other")
    put(fake_sqs, whole_run(3))
    environ = fake_sqs.environ()
    sqstee.run(*CONSUME, "--stream", "stderr", "--keep-unmatched", "other", environ=environ)
    items = [item for one in fake_sqs.messages("other") for item in decode(one.body, one.attributes)]
    assert [item.seq for item in items] == [0, 1, 2, 3, 4]
    assert fake_sqs.messages("q") == []


def test_where_unmatched_lines_cannot_be_stored_nothing_is_deleted(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """A full disk behind --keep-unmatched: the messages stay."""
    put(fake_sqs, whole_run(3))
    found = sqstee.run(*CONSUME, "--stream", "stderr", "--keep-unmatched", "/dev/full", environ=fake_sqs.environ())
    assert found.returncode == 1
    assert b"No space left" in found.stderr
    assert b"Traceback" not in found.stderr
    assert (len(fake_sqs.messages("q")), in_flight(fake_sqs)) == (3, 0)


def test_a_torn_line_in_the_file_for_unmatched_lines_is_ended_first(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """A full disk left a torn line: a line appended to it would be unreadable, and its message is deleted."""
    put(fake_sqs, whole_run(40))
    rest = sqstee.folder / "rest.ndjson"
    words = sqstee.words(*CONSUME, "--stream", "stderr", "--keep-unmatched", str(rest))
    environ = sqstee.environ | fake_sqs.environ()
    limited = ["sh", "-c", 'ulimit -f 3; exec "$@"', "sh", *words]
    assert subprocess.run(limited, capture_output=True, env=environ, timeout=60, check=False).returncode == 1
    torn = rest.read_bytes()
    assert torn
    assert not torn.endswith(b"\n")
    assert subprocess.run(words, capture_output=True, env=environ, timeout=60, check=False).returncode == 0
    kept = rest.read_bytes()
    assert kept.startswith(torn + b"\n")
    assert [json.loads(line)["seq"] for line in kept[len(torn) + 1 :].splitlines()] == list(range(42))
    assert fake_sqs.messages("q") == []


@pytest.mark.parametrize("size", ["262144", "1048576"])
def test_a_message_too_large_for_unmatched_lines_stays_in_its_queue(
    sqstee: Sqstee, fake_sqs: FakeSqs, size: str
) -> None:
    """Escaped, a message may be too large for DEST: it is left and reported once, and holds up no other message."""
    fake_sqs.create_queue("other", MaximumMessageSize=int(size))
    fake_sqs.create_queue("short", VisibilityTimeout=1)
    large = "ä" * (int(size) // 4)
    fake_sqs.put("short", large, "small", "x" * 220_000)
    words = ("tail", "short", "--consume", "-o", "raw", "-i", "line 2", "--keep-unmatched", "other")
    environ = sqstee.environ | fake_sqs.environ()
    with running(sqstee.words(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environ) as process:
        wait_for(lambda: len(fake_sqs.messages("short")) == 1 and len(fake_sqs.messages("other")) == 2, "the others")
        put(fake_sqs, whole_run(3), "short")
        wait_for(lambda: len(fake_sqs.messages("short")) == 1, "the run")
        often = fake_sqs.messages("short")[0].receives + 2
        wait_for(lambda: fake_sqs.messages("short")[0].receives >= often, "its coming again")
        process.send_signal(signal.SIGINT)
        out, said = process.communicate(timeout=30)
    assert (out, process.returncode) == (b"line 2\n", 130)
    assert said.count(b"a message is left in the queue: it is too large for --keep-unmatched") == 1
    assert [one.body for one in fake_sqs.messages("short")] == [large]
    assert in_flight(fake_sqs, "short") == 0


@pytest.mark.parametrize(
    "words", [("--keep-unmatched", "kept"), ("--delete-unmatched",), ("--peek", "--keep-unmatched", "kept")]
)
def test_options_for_unmatched_lines_need_consume(sqstee: Sqstee, words: tuple[str, ...]) -> None:
    """Without --consume each reading would write the same copies."""
    sqstee.wrap("seq", "3")
    kept = sqstee.folder / "kept"
    found = sqstee.run("tail", "local", "--no-follow", "-i", "2", *(str(kept) if w == "kept" else w for w in words))
    assert (found.returncode, found.stdout) == (125, b"")
    assert found.stderr.count(b"\n") == 2
    assert b"needs --consume" in found.stderr
    assert not kept.exists()


@pytest.mark.parametrize(("name", "attributes", "why"), [
    ("q.fifo", {}, "would block the groups"),
    ("p", {"RedrivePolicy": {"deadLetterTargetArn": "arn:aws:sqs:us-east-1:123456789012:q", "maxReceiveCount": 3}},
     "maxReceiveCount is 3"),
])  # fmt: skip
def test_a_peek_that_could_do_harm_is_refused(
    sqstee: Sqstee, fake_sqs: FakeSqs, name: str, attributes: dict[str, Any], why: str
) -> None:
    """--peek would block a FIFO queue's groups, and after few receives a message goes to the dead-letter queue."""
    fake_sqs.create_queue(name, **attributes)
    found = sqstee.run("tail", name, "--peek", environ=fake_sqs.environ())
    assert found.returncode == 125
    assert why in found.stderr.decode()


def test_missing_and_late_lines_are_reported(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """A hole is reported once on stderr with its range; lines that fill it later are marked and reported as late."""
    put(fake_sqs, [event_of("start", 0), lines_of(1, 2), lines_of(5, 5)])
    command = sqstee.words("tail", "q", "--consume", "--reorder-window", "0.2s", "-o", "json")
    environ = sqstee.environ | fake_sqs.environ()
    pipe = subprocess.PIPE
    with running(command, stdout=pipe, stderr=pipe, env=environ) as process:
        assert process.stdout
        assert process.stderr
        notice = json.loads(process.stderr.readline())
        assert {name: notice[name] for name in ("kind", "run", "first", "last")} == {
            "kind": "missing",
            "run": RUN,
            "first": 3,
            "last": 4,
        }
        assert [json.loads(process.stdout.readline())["seq"] for _ in range(4)] == [0, 1, 2, 5]
        put(fake_sqs, [lines_of(3, 4)])
        items = [json.loads(process.stdout.readline()) for _ in range(2)]
        assert [(item["seq"], item["late"]) for item in items] == [(3, True), (4, True)]
        assert json.loads(process.stderr.readline())["kind"] == "late"
        wait_for(lambda: fake_sqs.messages("q") == [], "deletion of what was printed")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=40)


def test_notices_that_nobody_reads_keep_nothing_in_flight(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """A full stderr does not keep a signal from stopping it in good order."""
    runs = [f"{RUN}{number:040d}" for number in range(800)]
    fake_sqs.create_queue("patient", VisibilityTimeout=3600)
    put(fake_sqs, [lines_of(seq, seq, run=run) for run in runs for seq in (1, 3)], "patient")
    command = sqstee.words("tail", "patient", "--consume", "-o", "raw", "--reorder-window", "0.1s")
    environ = sqstee.environ | fake_sqs.environ()
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    with running(command, env=environ, **pipes) as process:
        assert process.stderr
        wait_for(lambda: _readable(process.stderr) > 60_000, "a full pipe")
        process.send_signal(signal.SIGTERM)
        wait_for(lambda: in_flight(fake_sqs, "patient") == 0, "all given back")
        process.stderr.read()
        assert process.wait(30) == 128 + signal.SIGTERM


def _readable(pipe: Any) -> int:
    """The number of bytes in a pipe."""
    found = array.array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, found)
    return found[0]


def test_two_readers_of_a_queue_are_told_of_each_other(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """The lines that one has received are missing for the other; what is followed without taking has no such reader."""
    bodies = whole_run(5)
    put(fake_sqs, (bodies[0], bodies[2]))  # another reader has the lines between
    text = f"sqstee: 5 lines missing so far in run {RUN} (seq 1-5), waited 0.0 s"
    window = ("--no-follow", "--reorder-window", "0s")
    queue = sqstee.run("tail", "q", "--consume", *window, environ=fake_sqs.environ())
    assert queue.stderr.decode() == f"{text}; another reader of the queue may have received them\n"
    assert sqstee.run("tail", stored(sqstee, bodies[0], bodies[2]), *window).stderr.decode() == f"{text}\n"


def test_what_is_lost_for_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Missing lines of an ended run are reported as lost, once, after the queue was empty for long enough."""
    monkeypatch.setattr("sqstee.read.follower._LOST_SECONDS", 0.2)
    monkeypatch.setattr("sqstee.read.follower._STAT_SECONDS", 0.05)
    start, _, end = whole_run(9)
    bodies = [start, lines_of(1, 2), lines_of(6, 9), end]
    queue = Queue([ReceivedMessage(body.data, {}, str(at), str(at)) for at, body in enumerate(bodies)])

    class Sink:
        def __init__(self) -> None:
            self.kinds: list[tuple[object, object, object]] = []

        def items(self, items: object, late: bool = False) -> None:
            pass

        def notice(self, text: str, **fields: object) -> None:
            self.kinds.append((fields["kind"], fields["first"], fields["last"]))
            if fields["kind"] == "lost":
                threading.Timer(0.3, setattr, (stop, "signal", 15)).start()

        def flush(self) -> None:
            pass

    sink = Sink()
    with StopSignal() as stop:
        Follower([queue], sink, stop, True, window=0.1).follow()
    assert sink.kinds == [("missing", 3, 5), ("lost", 3, 5)]


def test_gap_events_are_reported_also_where_only_bytes_are_shown(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """Lines dropped by the sender are reported even where events are not printed."""
    put(fake_sqs, [event_of("start", 0), lines_of(1, 2), event_of("gap", 3, to=9, reason="full", **GAP)])
    found = sqstee.run(*CONSUME, "-o", "raw", environ=fake_sqs.environ())
    assert found.stdout == expected(1, 2)
    assert b"7 lines dropped by the sender in run 01JDRUN" in found.stderr


def test_lines_that_went_to_the_fallback_are_not_called_dropped(sqstee: Sqstee) -> None:
    """Each reader says where they are; the destination's name is a remote text, and passwords are none of ours."""
    gap: dict[str, Any] = {"from": 3, "to": 14_004, "reason": "fallback", "at": "http://u:pw@host/\x1b[2Jp"}
    bodies = [event_of("start", 0), lines_of(1, 2), event_of("gap", 3, **gap), event_of("exit", 14_005, exit_code=0)]
    queue = stored(sqstee, *bodies)
    found = sqstee.run("tail", queue, "--no-follow", "-o", "raw")
    there = "http://host/\ufffd[2Jp"
    text = f"14,002 lines went to {there} in run {RUN} (seq 3-14004): read that destination as well"
    assert found.stderr.decode() == f"sqstee: {text}\n"
    notice = json.loads(sqstee.run("tail", queue, "--no-follow", "-o", "json").stderr)
    assert (notice["kind"], notice["reason"], notice["at"]) == ("gap", "fallback", there)
    board = json.loads(sqstee.run("top", queue, "--no-follow", "-o", "json").stdout)
    assert (board["state"], board["missing"], board["dropped"], board["elsewhere"]) == ("missing", 0, 0, 14_002)
    out = ("drain", queue, "-O", str(sqstee.folder / "out"), "--idle-timeout", "0.1s")
    drained = sqstee.run(*out)
    assert f"2 lines, 14,002 went to {there} (drain that as well), exit of it\n" in drained.stdout.decode()
    assert drained.returncode == 3


@pytest.mark.parametrize(
    ("words", "seqs"),
    [
        (("--host", "node[2-3]"), [11, 12]),
        (("--stream", "stderr"), [11, 12]),
        (("--job", "b*"), [11, 12]),
        (("--run", "01A"), [1, 2]),
        (("-i", "1$", "-i", "2$"), [1, 1, 2, 2, 11, 12]),
        (("-e", "1", "-e", "2"), []),
        (("-i", "line", "-e", "2"), [1, 1, 11]),
        (("--since", "2023-11-14T22:13:21Z"), []),
        (("--since", "2023-11-14T22:13:19+00:00"), [1, 1, 2, 2, 11, 12]),
        (("--since", "10m"), []),
    ],
)
def test_filters(sqstee: Sqstee, words: tuple[str, ...], seqs: list[int]) -> None:
    """By host, stream, run, job, expressions and age; hidden lines are not reported as missing."""
    bodies = [lines_of(0, 0, "01A"), lines_of(0, 0, "01B"), lines_of(1, 2, "01A", job="a")]
    to = stored(sqstee, *bodies, lines_of(1, 10, "01B", job="c"), lines_of(11, 12, "01B", "node2", "stderr", "b"))
    found = sqstee.run("tail", to, "--no-follow", "-e", "[03-9]$", "-o", "json", *words)
    assert found.stderr == b""
    got = [json.loads(line)["seq"] for line in found.stdout.splitlines()]
    assert sorted(seq for seq in got if seq) == seqs


def test_an_age_is_compared_in_whatever_form_a_program_writes_its_times() -> None:
    """With an offset, or a blank in place of the T; where the form is unknown the age of the message decides."""
    since = Filter(since=parse_since("2026-11-22T11:00:00Z", 0.0))
    texts = {
        "2026-11-22T01:00:00-11:00": True,
        "2026-11-22T13:00:00+11:00": False,
        "2026-11-22 11:00:00,123+00:00": True,
        "2026-11-22T11:00:00Z": True,
        "2026-11-22T10:59:59.9Z": False,
    }
    for text, wanted in texts.items():
        line = json.dumps({"timestamp": text, "message": "m"}).encode()
        assert since(ForeignLine(line, ReceivedMessage(line, {}, "h", "i", 0.0))) is wanted, text
        record = {"timestamp": text, "host": "h", "stream": "stdout", "run": "r", "seq": 0, "message": "m"}
        assert since(Record(record)) is wanted, text
    for text in ("1763800000", "Nov 22 12:00:00"):
        line = json.dumps({"timestamp": text}).encode()
        assert since(ForeignLine(line, ReceivedMessage(line, {}, "h", "i", 1_795_345_200.0)))
        assert not since(ForeignLine(line, ReceivedMessage(line, {}, "h", "i", 1_795_345_199.0)))


def test_foreign_messages_are_shown(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """Plain text, another program's JSON, compressed bodies, and records among them."""
    fake_sqs.put("q", "plain text\nof two lines", '{"message": "from elsewhere", "host": "web1"}', '{"level": 3}')
    packed = base64.b64encode(gzip.compress(b"squeezed")).decode()
    encoding = {"Content-Encoding": {"DataType": "String", "StringValue": "gzip,base64"}}
    fake_sqs.put("q", packed, MessageAttributes=encoding)
    fake_sqs.put("q", lines_of(0, 0).data.decode() + "and a foreign line", lines_of(1, 1).compressed().data.decode())
    found = sqstee.run(*CONSUME, environ=fake_sqs.environ())
    assert sorted(found.stdout.decode().splitlines())[:5] == [
        "- -      and a foreign line",
        "- -      of two lines",
        "- -      plain text",
        "- -      squeezed",
        '- -      {"level": 3}',
    ]
    assert "node1 stdout line 0" in found.stdout.decode()
    assert "web1 -      from elsewhere" in found.stdout.decode()
    assert fake_sqs.messages("q") == []


def test_what_cannot_be_read_is_left_in_the_queue(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """A pointer to a body in S3 is not deleted, and the messages around it are shown."""
    pointer = '["software.amazon.payloadoffloading.PayloadS3Pointer",{"s3BucketName":"b","s3Key":"k"}]'
    fake_sqs.put("q", pointer)
    put(fake_sqs, whole_run(3))
    found = sqstee.run(*CONSUME, "-o", "raw", environ=fake_sqs.environ())
    assert found.stdout == expected(1, 3)
    assert b"a message is left in the queue" in found.stderr
    assert [one.body for one in fake_sqs.messages("q")] == [pointer]
    assert in_flight(fake_sqs) == 0


@pytest.mark.parametrize(
    "body",
    [
        '{"timestamp":"x","host":"h","run":"r","seq":3,"event":"gap","message":""}',
        '{"timestamp":"x","host":"h","run":"r","seq":3,"event":"gap","from":3,"to":1}',
        '{"timestamp":"x","host":"h","run":"r","seq":-3,"stream":"stdout","message":"m"}',
        '{"timestamp":"x","host":"h","run":"r","seq":99999999999999999999,"stream":"stdout","message":"m"}',
        '{"timestamp":"x","host":"h","run":"r","seq":true,"stream":"stdout","message":"m"}',
        '{"timestamp":"x","host":"h","run":"r","seq":0,"stream":"stdout","message":"\\ud800"}',
        '{"timestamp":"x","host":"\\ud800","run":"\\ud800","seq":0,"event":"gap","from":0,"to":0}',
        '{"timestamp":"x","host":"h","run":"r","seq":0,"event":"exit","message":"m","duration_s":1e999}',
        '{"timestamp":"x","host":"h","run":"r","seq":0,"event":"exit","message":"m","duration_s":NaN}',
        "[" * 100_000,
        '{"a":[1\n2]}\n{},{}',
        "null",
    ],
)
@pytest.mark.parametrize("form", ["default", "raw", "json"])
def test_no_body_can_stop_a_reader(tmp_path: Path, body: str, form: str) -> None:
    """Any body is shown in some way, and so is the message after it."""
    queue = Queue([ReceivedMessage(body.encode(), {}, "a", "a"), message(0, 1, "b")])
    with StopSignal() as stop, (tmp_path / "out").open("wb") as out, (tmp_path / "err").open("wb") as err:
        sink = Printer(BufferedOutput(out.fileno()), BufferedOutput(err.fileno()), Style(form))
        Follower([queue], sink, stop, True, window=0.1).drain()
    assert b"line 1" in (tmp_path / "out").read_bytes()
    assert sorted(one.handle for batch in queue.deleted for one in batch) == ["a", "b"]


@pytest.mark.parametrize("head", ["", '"timestamp":"x","host":"h","run":"%d","seq":0,"event":"start","message":"m",'])
@pytest.mark.parametrize("form", ["json", "rest"])
def test_no_depth_of_json_can_stop_a_reader(tmp_path: Path, head: str, form: str) -> None:
    """JSON that was just shallow enough to be decoded may be too deep to be encoded further down the stack."""
    depths = range(800, 1000)
    heads = [head.replace("%d", str(depth)) for depth in depths]
    bodies = [f'{{{head}"a":{"[" * depth}{"]" * depth}}}' for head, depth in zip(heads, depths, strict=True)]
    queue = Queue([ReceivedMessage(body.encode(), {}, str(depth)) for body, depth in zip(bodies, depths, strict=True)])
    unmatched = UnmatchedFile(str(tmp_path / "rest"))
    with StopSignal() as stop, (tmp_path / "out").open("wb") as out, (tmp_path / "err").open("wb") as err:
        sink = Printer(BufferedOutput(out.fileno()), BufferedOutput(err.fileno()), Style("json"))
        wanted = Filter(runs=["8*"]) if form == "rest" else None
        Follower([queue], sink, stop, True, wanted=wanted, unmatched=unmatched, window=0.1).drain()
    assert sorted(int(one.handle) for batch in queue.deleted for one in batch) == list(depths)


def test_above_a_number_of_lines_a_foreign_message_is_one_more() -> None:
    """Otherwise one message would become a million objects; no byte of it is left out."""
    lines = [b"%d" % number for number in range(MAX_FOREIGN_LINES + 1000)]
    blocks, foreign = read(ReceivedMessage(b"\n".join(lines) + b"\n", {}, "a", "a"))
    assert blocks == []
    assert len(foreign) == MAX_FOREIGN_LINES + 1
    assert b"\n".join(line.data for line in foreign) == b"\n".join(lines)


def test_a_terminal_does_not_obey_remote_hosts(sqstee: Sqstee) -> None:
    """Control characters of a line are made visible on a terminal, with and without colours."""
    body = b'{"message": "evil \\u001b]0;title\\u0007 \\u009b2J \\u202e end"}\n\x1b]0;title\x07 \xc2\x9b2J'
    to = stored(sqstee, Body(body, "", "", 0, 0))
    for words in ((), ("--color", "never"), ("-o", "raw"), ("-o", "json"), ("--template", "{message}")):
        command = [SCRIPT, "tail", to, "--no-follow", *words]
        with Terminal(command, sqstee.environ | {"TERM": "xterm"}) as terminal:
            assert terminal.wait() == 0
        assert b"evil" in terminal.output
        assert b"\x1b]0" not in terminal.output
        assert b"\x07" not in terminal.output
        assert "\x9b".encode() not in terminal.output
        assert "\u202e".encode() not in terminal.output


@pytest.mark.parametrize("variable", [{}, {"NO_COLOR": "1"}])
def test_on_a_terminal_hosts_are_aligned_and_notices_stand_out(sqstee: Sqstee, variable: dict[str, str]) -> None:
    """Lines of short and long host names begin in one column; notices are yellow, unless NO_COLOR is set."""
    other = RUN.replace("A", "B")
    third, domain = RUN.replace("A", "C"), "ip-10-1-2-3.eu-central-1.compute.internal"
    to = stored(
        sqstee,
        lines_of(0, 0, host="node17"),
        lines_of(0, 0, other, host="n2"),
        lines_of(2, 2, other, host="n2"),
        lines_of(0, 0, third, host=domain),
    )
    command = [SCRIPT, "tail", to, "--no-follow"]
    with Terminal(command, sqstee.environ | {"TERM": "xterm"} | variable, (24, 60)) as terminal:
        assert terminal.wait() == 0
    assert (b"\x1b[33msqstee: 1 line missing so far" in terminal.output) == (not variable)
    text = re.sub(r"\x1b\[\d*m", "", terminal.output.decode())
    assert "node17 stdout line 0\r\n" in text
    assert "ip-10-1-2-3.eu-central-… stdout line 0\r\n" in text  # a whole domain leaves no room
    assert re.search(r"^n2 +stdout line 2\r$", text, re.MULTILINE)
    piped = sqstee.run("tail", to, "--no-follow")
    assert b"n2 stdout line 2\n" in piped.stdout
    assert f"{domain} stdout line 0\n".encode() in piped.stdout
    assert piped.stderr.startswith(b"sqstee: 1 line missing so far")


def test_names_from_afar_are_short_and_neutral(sqstee: Sqstee) -> None:
    """In lines, events, notices, verdicts and on the board; programs get them as they are."""
    evil = "\x1b]0;owned\x07\nfake\u202e" + "x" * 50_000
    names: dict[str, Any] = {"run": evil, "host": evil, "job": evil}
    gap: dict[str, Any] = {**names, "from": 2}
    bodies = [lines_of(1, 1, **names), event_of("gap", 2, to=2, **gap)]
    queue = stored(sqstee, *bodies, event_of("exit", 4, exit_code=0, **names))
    shown = "\ufffd]0;owned\ufffd\ufffdfake\ufffd" + "x" * 84 + "…"
    tail = sqstee.run("tail", queue, "--no-follow", "--reorder-window", "0s")
    lines = tail.stdout.decode().splitlines()
    assert lines == [
        f"{shown} stdout line 1",
        f"{shown} event  {shown}: gap of it",
        f"{shown} event  {shown}: exit of it",
    ]
    assert tail.stderr.count(shown.encode()) == 2
    records = sqstee.run("tail", queue, "--no-follow", "-o", "json").stdout.splitlines()
    assert {json.loads(line)["host"] for line in records} == {evil}
    board = sqstee.run("top", queue, "--no-follow")
    drain = sqstee.run("drain", queue, "-O", str(sqstee.folder / "out"), "--idle-timeout", "0.1s")
    assert drain.stdout.decode().startswith(f"missing  {shown} {shown}: 1 line, ")
    for found in (tail, board, drain):
        assert not {0x1B, 0x07} & {*found.stdout, *found.stderr}
        assert len(found.stdout) + len(found.stderr) < 3000


def test_events_show_status_and_duration(sqstee: Sqstee) -> None:
    """The exit event shows how a run ended and how long it took; in red where it failed."""
    sqstee.run("--job", "bad", "--", "sh", "-c", "echo x; exit 3")
    lines = sqstee.run("tail", "--no-follow", "--color", "always").stdout.decode().splitlines()
    assert "\x1b[2mbad started\x1b[0m" in lines[0]
    assert "\x1b[31mbad: exited with status 3 after " in lines[-1]
    assert lines[-1].endswith(" s, 1 line\x1b[0m")


def test_template_and_highlight(sqstee: Sqstee) -> None:
    """A template is filled in; matches are in reverse."""
    sqstee.run("--host", "n", "--label", "team=data", "--", "echo", "one two")
    form = "{host}|{labels[team]}|{seq}|{message}"
    found = sqstee.run("tail", "--no-follow", "--stream", "stdout", "--template", form)
    assert found.stdout == b"n|data|1|one two\n"
    found = sqstee.run("tail", "--no-follow", "--color", "always", "-H", "tw.")
    assert b"one \x1b[7mtwo\x1b[27m" in found.stdout


def test_no_highlight_matches_the_escapes_of_another(sqstee: Sqstee) -> None:
    """The escape sequences of one match contain digits and letters that another pattern could match."""
    sqstee.run("--host", "n", "--", "echo", "ERROR 27m in 7 tries")
    words = ("-H", "ERROR", "-H", "[0-9]+", "-H", "7m", "-H", "m| in|x*", "--stream", "stdout")
    found = sqstee.run("tail", "--no-follow", "--color", "always", *words).stdout
    reverse = rb"\x1b\[7m(.*?)\x1b\[27m"
    assert re.findall(reverse, found) == [b"ERROR", b"27", b"m", b" in", b"7"]
    assert b"ERROR 27m in 7 tries\x1b[0m\n" in re.sub(reverse, rb"\1", found)


def test_a_template_with_a_number_is_filled_in_for_lines_without_one(sqstee: Sqstee) -> None:
    """Another program's line has no seq, whatever format the template asks for."""
    foreign = Body(b"plain", "r", "n", 0, 0)
    to = stored(sqstee, foreign, lines_of(1, 1, "r"))
    found = sqstee.run("tail", to, "--no-follow", "--template", "{seq:05d}|{seq:,}|{seq:>3}|{message}")
    assert (found.stdout, found.stderr) == (b"||   |plain\n00001|1|  1|line 1\n", b"")


def test_peek_at_several_queues_reports_the_cost_of_each(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """Each queue is named with its own count."""
    fake_sqs.create_queue("r")
    put(fake_sqs, [lines_of(0, 0)])
    for verb in ("tail", "top"):
        said = sqstee.run(verb, "q", "r", "--peek", environ=fake_sqs.environ()).stderr
        assert b"sqstee: q: --peek receives each message once (1 now)" in said
        assert b"sqstee: r: --peek receives each message once (0 now)" in said


@pytest.mark.parametrize(
    "template",
    ["{nope}", "{", "{message.__class__}x{", "{0}", "{message:d}", "{seq.real}", "{host:{message}}", "{seq:c}"],
)
def test_a_template_is_checked_first(template: str) -> None:
    """An invalid template is an error that names the valid fields."""
    with pytest.raises(SqsteeError, match="for --template"):
        check_template(template)


@pytest.mark.parametrize("text", ["tomorrow", "10x", "-5m", "", "99999999999999d"])
def test_what_is_no_time(text: str) -> None:
    """--since rejects it."""
    if text == "99999999999999d":
        assert parse_since(text, 1e9).startswith("1970")
        return
    with pytest.raises(ValueError, match=r"."):
        parse_since(text, 1e9)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.25, "0.25 s"), (12.34, "12.3 s"), (245, "4m05s"), (7400, "2h03m"), (280000, "3d05h")]
)
def test_durations(seconds: float, text: str) -> None:
    """For people."""
    assert format_duration(seconds) == text


def test_a_message_is_done_when_all_its_runs_are_out() -> None:
    """A message that mixes runs waits for each of them."""
    unacked: UnackedMessages[str] = UnackedMessages()
    unacked.add("m", {"a": 5, "b": 2})
    unacked.add("n", {"a": 3})
    assert unacked.pop_finished("a", 4) == ["n"]
    assert unacked.pop_finished("a", 6) == []
    assert unacked.pop_finished("b", 3) == ["m"]
    assert len(unacked) == 0


def test_a_border_is_where_everything_is_out() -> None:
    """This holds also after a hole was given up."""
    order: Order[Item | str] = Order(from_start=True, window=1.0)
    order.block("r", 0, ["0", "1"], 0.0)
    order.block("r", 5, ["5"], 0.0)
    assert order.border("r") == 2
    order.tick(2.0)
    assert (order.border("r"), order.border("other")) == (6, 0)


def test_passing_trouble_is_waited_out(tmp_path: Path) -> None:
    """Once a queue has answered, its trouble is reported at most once, and receiving continues."""
    out, err = printed(tmp_path, Troubled("ServiceUnavailable", [message(0, 1, "a")], [message(2, 3, "b")]))
    assert out == expected(0, 3)
    assert err.count(b"is tried again") <= 1


def test_no_reader_says_that_it_goes_on_and_then_ends(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """Of trouble from the start it says for how long it tries again."""
    fake_sqs.faults(errors=[{"operation": "ReceiveMessage", "code": "ServiceUnavailable", "status": 503}])
    found = sqstee.run(*CONSUME, "--start-timeout", "1s", environ=fake_sqs.environ())
    assert found.returncode == 1
    *said, problem, hint = found.stderr.decode().splitlines()
    assert all("is tried again for up to 1 s: ServiceUnavailable" in line for line in said)
    assert problem.startswith("sqstee: q: ServiceUnavailable")
    assert problem.endswith(" (for 1 s, see --start-timeout)")
    assert hint.startswith("hint: ")


def test_a_proxys_page_is_no_empty_queue(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """HTTP 200 with HTML is an error, although boto3 parses it as an answer without messages."""
    fake_sqs.faults(garbage={"operation": "ReceiveMessage"})
    found = sqstee.run(*CONSUME, "--start-timeout", "0.5s", environ=fake_sqs.environ())
    assert found.returncode == 1
    assert b"answered by a proxy's HTML page" in found.stderr


def test_several_destinations_are_merged(tmp_path: Path) -> None:
    """The lines of a primary and its fallback make one run."""
    queues = [Queue([message(0, 3, "a")], [message(7, 9, "c")]), Queue([message(4, 6, "b")])]
    with StopSignal() as stop, (tmp_path / "out").open("wb") as out, (tmp_path / "err").open("wb") as err:
        sink = Printer(BufferedOutput(out.fileno()), BufferedOutput(err.fileno()), Style("raw"))
        Follower(queues, sink, stop, True, window=5.0).drain()
    assert ((tmp_path / "out").read_bytes(), (tmp_path / "err").read_bytes()) == (expected(0, 9), b"")
    deleted = [sorted(one.handle for batch in queue.deleted for one in batch) for queue in queues]
    assert deleted == [["a", "c"], ["b"]]


def test_a_local_queue_is_consumed_where_that_is_asked_for(sqstee: Sqstee) -> None:
    """It is followed by default; with --consume the printed messages are deleted, and no others."""
    out = sqstee.wrap("seq", "100").stdout
    for words, left in (((), True), (("--consume",), False)):
        found = sqstee.run("tail", "local", "--no-follow", "-o", "raw", *words)
        assert (found.stdout, found.returncode) == (out, 0), found.stderr
        assert bool(sqstee.local_bodies()) == left


def test_what_cannot_be_read_is_held_once_however_often_it_comes() -> None:
    """It is redelivered whenever its visibility timeout ends: memory grows with messages, not with deliveries."""
    pointer = b'["software.amazon.payloadoffloading.PayloadS3Pointer",{"s3BucketName":"b","s3Key":"k"}]'
    queue = Queue(*([ReceivedMessage(pointer, {}, f"handle-{number}", "id")] for number in range(5)))
    with StopSignal() as stop:
        follower = Follower([queue], RunTable(lambda board: None), stop, True, threads=1)  # in the order of deliveries
        follower.drain()
    assert len(follower.messages.kept) == 1
    assert [one.handle for one in queue.released] == ["handle-4"]


def test_a_mistyped_folder_for_unmatched_lines_is_told_before_anything_is_read(sqstee: Sqstee) -> None:
    """As for every other destination: with a command that makes the folder."""
    words = ("tail", "local", "--consume", "--no-follow", "-i", "x", "--keep-unmatched")
    found = sqstee.run(*words, f"local:{sqstee.folder}/my logs/x.db")
    folder = f"{sqstee.folder}/my logs"
    assert found.returncode == 125
    assert f"the folder {folder} does not exist" in found.stderr.decode()
    assert f"hint: mkdir -p '{folder}'\n" in found.stderr.decode()


@pytest.mark.parametrize("rest", ["local", "other", "other.fifo", "s3://bkt/rest"])
def test_no_unmatched_line_is_mistaken_for_another(sqstee: Sqstee, fake_sqs: FakeSqs, rest: str) -> None:
    """Foreign lines have no range, late ones lie within others' ranges, and a run may have any name: all are kept."""
    late = {"timestamp": "t", "host": "h\x01", "run": "a/\x01b", "stream": "stdout", "seq": 0, "message": "odd"}
    with S3Server() as s3:
        environ = fake_sqs.environ() | s3.environ()
        for name in ("other", "other.fifo"):
            fake_sqs.create_queue(name)
        for bodies in ([lines_of(0, 0), lines_of(2, 2)], [lines_of(1, 1)]):
            put(fake_sqs, bodies)
            odd = {"run": "x\x02", "host": "h" * 999, "n": len(bodies)}
            fake_sqs.put("q", f"foreign {len(bodies)}", json.dumps(odd))
            fake_sqs.put("q", json.dumps(late | {"seq": len(bodies)}))
            found = sqstee.run(*CONSUME, "-i", "nothing", "--keep-unmatched", rest, environ=environ)
            assert (found.returncode, found.stdout) == (0, b""), found.stderr
        assert fake_sqs.messages("q") == []
        found = sqstee.run("tail", rest, "--consume", "--no-follow", "-o", "json", environ=environ)
    lines = [json.loads(line) for line in found.stdout.splitlines()]
    assert sorted(line["seq"] for line in lines if line.get("run") == RUN) == [0, 1, 2]
    assert sorted(line["seq"] for line in lines if line.get("message") == "odd") == [1, 2]
    plain = sorted(line["message"] for line in lines if "foreign" in line.get("message", ""))
    assert plain == ["foreign 1", "foreign 2"]
    assert sorted(line["n"] for line in lines if "n" in line) == [1, 2]


def test_no_unmatched_line_is_deduplicated_by_its_range(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """A gap event and its late record, and a range that comes first with a hole and then whole: all are kept."""
    fake_sqs.create_queue("other.fifo")
    gap = event_of("gap", 3, **GAP, to=3)
    for bodies in ([gap], [lines_of(3, 3)], [lines_of(5, 5), lines_of(7, 7)], [lines_of(5, 7)]):
        put(fake_sqs, bodies)
        found = sqstee.run(*CONSUME, "-i", "nothing", "--keep-unmatched", "other.fifo", environ=fake_sqs.environ())
        assert found.returncode == 0
    kept = [json.loads(line) for one in fake_sqs.messages("other.fifo") for line in one.body.splitlines()]
    assert {line["seq"] for line in kept if "event" not in line} == {3, 5, 6, 7}
    assert [line["seq"] for line in kept if "event" in line] == [3]


def test_local_messages_of_different_queues_have_different_ids(tmp_path: Path) -> None:
    """Two local queues drained into one folder: a line without a seq is identified by its message's id."""
    names = set()
    for name in ("a.db", "b.db"):
        sender = LocalSender(str(tmp_path / name), 1_000_000)
        sender.open()
        sender.send([Body(b"text", "", "", 0, 0)])
        sender.close()
        receiver = LocalReceiver(str(tmp_path / name))
        names.add(receiver.receive(1, 0)[0].id)
        receiver.close()
    assert len(names) == 2


def test_a_local_queue_that_could_not_be_written_is_unlocked(tmp_path: Path) -> None:
    """A failed delete does not block senders, and succeeds when it is repeated."""
    path = str(tmp_path / "a.db")
    sender, receiver = LocalSender(path, 1_000_000), LocalReceiver(path, consume=True)
    sender.open()
    sender.send([Body(b"text", "", "", 0, 0)])
    messages = receiver.receive(1, 0)
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("CREATE TRIGGER no BEFORE DELETE ON body BEGIN SELECT RAISE(FAIL, 'database is full'); END")
    with pytest.raises(TransportError):
        receiver.delete(messages)
    database.execute("DROP TRIGGER no")
    database.close()
    sender.send([Body(b"more", "", "", 0, 0)])
    assert receiver.delete(messages) == []
    assert receiver.stat().visible == 1
    sender.close()
    receiver.close()


@pytest.mark.parametrize(
    "words",
    [
        ("tail", "q", "--consume", "--no-follow"),
        ("drain", "q", "-O", "-", "--idle-timeout", "0.1s"),
        ("top", "q", "--consume", "--no-follow", "-o", "json"),
    ],
)
def test_where_every_deletion_is_refused_a_reader_fails(
    sqstee: Sqstee, fake_sqs: FakeSqs, words: tuple[str, ...]
) -> None:
    """What was asked for is not done: status 1, and one line that says so; the lines are out all the same."""
    put(fake_sqs, whole_run(3))
    fake_sqs.faults(errors=[{"operation": "DeleteMessageBatch", "code": "AccessDenied", "status": 403}])
    found = sqstee.run(*words, environ=fake_sqs.environ())
    assert found.returncode == 1
    assert found.stdout
    assert b"could not be" in found.stderr
    assert b"AccessDenied" in found.stderr
    assert found.stderr.count(b"\n") == 1


def test_a_failing_library_does_not_end_the_ack_pool(tmp_path: Path) -> None:
    """An exception that no transport should raise counts as passing trouble: the threads live on and try again."""

    class Surprising(Queue):
        def delete(self, messages: object) -> list[Failure]:
            if not self.deleted:
                self.deleted.append([])
                raise KeyError("Id")
            return super().delete(messages)

    queue = Surprising([message(0, 1, "a")])
    assert printed(tmp_path, queue)[0] == expected(0, 1)
    assert [[one.handle for one in batch] for batch in queue.deleted] == [[], ["a"]]


def test_entries_that_were_not_released_are_tried_again(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """HTTP 200 with Failed entries is not success for a release either: the messages would stay hidden."""
    fake_sqs.create_queue("patient", VisibilityTimeout=3600)
    put(fake_sqs, whole_run(3), "patient")
    fake_sqs.faults(failed_entries=[{"operation": "ChangeMessageVisibilityBatch", "times": 2}])
    found = sqstee.run("tail", "patient", "--peek", "-o", "raw", environ=fake_sqs.environ())
    assert found.stdout == expected(1, 3)
    assert [one.receives for one in fake_sqs.messages("patient")] == [1, 1, 1]
    assert in_flight(fake_sqs, "patient") == 0
