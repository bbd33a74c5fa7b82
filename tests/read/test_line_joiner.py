"""Lines that came in pieces: joined before they are filtered, formatted, stored or counted."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import Sqstee

from sqstee.read import line_joiner
from sqstee.read.decode import ForeignLine, Item
from sqstee.read.follower import Follower
from sqstee.read.line_joiner import JOIN_SECONDS, JoinedLine, LineJoiner
from sqstee.read.stop_signal import StopSignal
from sqstee.record import Encoder
from sqstee.transports.base import QueueState, ReceivedMessage
from sqstee.transports.errors import Failure
from sqstee.wire import Event, Record, decode

RUN = "01JDRUNAAAAAAAAAAAAAAAAAAA"
LONG = "a" + "x" * 100_000 + "z"
MIB = 1024 * 1024


class Clock:
    """The time, as a test sets it."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def piece(seq: int, text: bytes, eol: bool = False, stream: str = "stdout", run: str = RUN) -> Record:
    """A record; without `eol` its line goes on in the stream's next one."""
    data = text + b"\n" if eol else text
    (found,) = decode(Encoder(run, "node1").lines(data, stream, 0, seq, eol=eol))
    assert isinstance(found, Record)
    return found


def event(name: str, seq: int) -> Event:
    """An event of the run."""
    return Event({"timestamp": "", "host": "node1", "run": RUN, "seq": seq, "event": name})


def texts(items: Iterable[Item]) -> list[str]:
    """The messages of records, with a … where a line was given up; the names of events."""
    return [item.event if isinstance(item, Event) else item.message + "…" * (not item.eol) for item in items]


@given(st.lists(st.tuples(st.sampled_from(("stdout", "stderr")), st.binary(max_size=5), st.booleans()), max_size=30))
def test_joined_lines_are_the_bytes_that_came(came: list[tuple[str, bytes, bool]]) -> None:
    """Two streams in pieces at any byte: each line is one record with all its bytes; at the end nothing is held."""
    joiner = LineJoiner()
    records = [
        piece(seq, text.replace(b"\n", b""), eol, stream) for seq, (stream, text, eol) in enumerate(came) if text or eol
    ]
    found = [item for record in records for item in joiner.join([record])]
    assert all(item.eol for item in found)
    found += joiner.flush(RUN)
    for stream in ("stdout", "stderr"):
        lines = [item for item in found if isinstance(item, Record) and item.stream == stream]
        assert b"".join(line.data for line in lines) == b"".join(one.data for one in records if one.stream == stream)
        assert all(Record(line.fields).data == line.data for line in lines)  # also as JSON
    assert joiner.border(RUN, 99) == 99
    assert list(joiner.overdue(at_end=True)) == []


def test_a_character_that_a_cut_has_split_is_whole_again() -> None:
    """The pieces have raw bytes; the line does not need them."""
    (line,) = LineJoiner().join([piece(3, b"caf\xc3"), piece(4, b"\xa9", eol=True)])
    assert isinstance(line, JoinedLine)
    assert (line.message, line.raw, line.seq, line.last) == ("café", None, 3, 4)


def test_an_unfinished_line_is_shown_when_its_next_piece_does_not_come() -> None:
    """A prompt, or a progress bar, has no newline: it is shown after a while, and the rest as it comes."""
    clock = Clock()
    joiner = LineJoiner(clock)
    assert joiner.join([piece(1, b"Continue? ")]) == []
    assert list(joiner.overdue()) == []
    clock.now += JOIN_SECONDS
    assert [(run, texts(lines)) for run, lines in joiner.overdue()] == [(RUN, ["Continue? …"])]
    assert texts(joiner.join([piece(2, b"yes", eol=True)])) == ["yes"]


def test_a_line_that_never_ends_is_not_held_for_ever() -> None:
    """Its pieces keep coming in time: the message of its first one would be delivered again."""
    clock = Clock()
    joiner = LineJoiner(clock)
    shown: list[str] = []
    for seq in range(30):
        assert joiner.join([piece(seq, b"x")]) == []
        clock.now += 1.0
        shown += [text for _, lines in joiner.overdue() for text in texts(lines)]
    assert shown == ["x" * 20 + "…"]


def test_no_line_is_glued_over_missing_ones_or_the_end_of_its_run() -> None:
    """What came before passes first, without a newline."""
    joiner = LineJoiner()
    assert texts(joiner.join([piece(1, b"cut"), event("exit", 2)])) == ["cut…", "exit"]
    assert joiner.join([piece(3, b"before a hole")]) == []
    assert texts(joiner.flush(RUN)) == ["before a hole…"]
    assert joiner.flush(RUN) == []


def test_a_hostile_queue_cannot_grow_a_line_without_end() -> None:
    """Neither one line, nor the lines of many runs and streams, nor pieces of no bytes."""
    joiner = LineJoiner()
    text = b"x" * 100_000
    lengths = [len(item.message) for seq in range(200) for item in joiner.join([piece(seq, text)]) if item.message]
    assert lengths
    assert max(lengths) <= 9 * MIB
    joiner = LineJoiner()
    for number in range(600):
        joiner.join([piece(number, text, run=f"run{number % 200}", stream=f"stream{number}")])
    held = sum(len(line.message) for _, lines in joiner.overdue(at_end=True) for line in lines)
    assert 30 * MIB < held <= 33 * MIB
    joiner = LineJoiner()
    empty = piece(1, b"x")
    given_up = sum(len(joiner.join([empty])) for _ in range(20_000))
    assert given_up == 20_000 // (8 * 1024)


class Pieces:
    """A queue in memory that hands out the pieces of a line one message at a time."""

    follows = ordered = False
    name = "memory"

    def __init__(self, *messages: bytes) -> None:
        self.messages = [ReceivedMessage(data, {}, f"handle{at}", f"id{at}") for at, data in enumerate(messages)]
        self.deleted: list[str] = []
        self.deleted_before_the_last: list[str] = []

    def receive(self, limit: int, wait: float) -> list[ReceivedMessage]:
        if len(self.messages) == 1:
            self.deleted_before_the_last = list(self.deleted)
        return [self.messages.pop(0)] if self.messages else []

    def delete(self, messages: Sequence[ReceivedMessage]) -> list[Failure]:
        self.deleted += [message.id for message in messages]
        return []

    def release(self, messages: Sequence[ReceivedMessage]) -> None:
        raise AssertionError(messages)

    def stat(self) -> QueueState:
        return QueueState(0)

    def close(self) -> None:
        pass


class Fifo(Pieces):
    """A FIFO queue: a message blocks those behind it until it is deleted."""

    ordered = True

    def __init__(self, *messages: bytes) -> None:
        super().__init__(*messages)
        self._most = len(messages)

    def receive(self, limit: int, wait: float) -> list[ReceivedMessage]:
        is_blocked = len(self.messages) + len(self.deleted) < self._most
        return [] if is_blocked else super().receive(limit, wait)

    def stat(self) -> QueueState:
        return QueueState(len(self.messages))


class Shown:
    """Remembers the lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def items(self, items: Sequence[Item | ForeignLine], late: bool = False) -> None:
        self.lines += [item.message for item in items]

    def notice(self, text: str, **fields: object) -> None:
        raise AssertionError(text)

    def flush(self) -> None:
        pass


def test_no_piece_is_deleted_before_its_line_is_out() -> None:
    """The line may be lost with its reader until then."""
    data = [Encoder(RUN, "node1").lines(b"xyz", "stdout", 0, seq, eol=False) for seq in range(3)]
    queue, shown = Pieces(*data, Encoder(RUN, "node1").lines(b"end\n", "stdout", 0, 3)), Shown()
    with StopSignal() as stop:
        Follower([queue], shown, stop, consume=True, threads=1, wait=0.0).drain()
    assert shown.lines == ["xyzxyzxyzend"]
    assert queue.deleted_before_the_last == []
    assert sorted(queue.deleted) == ["id0", "id1", "id2", "id3"]


def test_a_line_does_not_block_the_queue_that_its_next_piece_waits_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """A FIFO queue gives no further message of a run while one is in flight: waiting for it would be in vain."""
    monkeypatch.setattr(line_joiner, "JOIN_SECONDS", 3600.0)
    monkeypatch.setattr(line_joiner, "_LONGEST_JOIN_SECONDS", 3600.0)
    data = [Encoder(RUN, "node1").lines(text, "stdout", 0, seq, eol=False) for seq, text in enumerate((b"xy", b"z"))]
    queue, shown = Fifo(*data, Encoder(RUN, "node1").lines(b"end\n", "stdout", 0, 2)), Shown()
    with StopSignal() as stop:
        Follower([queue], shown, stop, consume=True, threads=1, wait=0.0).drain()
    assert shown.lines == ["xy", "z", "end"]
    assert queue.deleted == ["id0", "id1", "id2"]


class Late(Pieces):
    """Hands out the second message once the hole between the lines of the first one is reported."""

    def __init__(self, *messages: bytes) -> None:
        super().__init__(*messages)
        self.is_reported = threading.Event()

    def receive(self, limit: int, wait: float) -> list[ReceivedMessage]:
        return [] if len(self.messages) == 1 and not self.is_reported.is_set() else super().receive(limit, wait)

    def stat(self) -> QueueState:
        return QueueState(len(self.messages))


def test_a_gap_event_that_comes_late_does_not_cut_a_line_behind_it() -> None:
    """It explains a hole that was reported before the line began."""
    encoder, shown = Encoder(RUN, "node1"), Shown()
    gap = encoder.event(b'{"event":"gap","from":1,"to":1,"message":"dropped"}', 0, 1)
    first = encoder.lines(b"a\n", "stdout", 0, 0) + encoder.lines(b"xy", "stdout", 0, 2, eol=False)
    queue = Late(first, gap + encoder.lines(b"z\n", "stdout", 0, 3))
    shown.notice = lambda text, **fields: queue.is_reported.set()  # type: ignore[method-assign]
    with StopSignal() as stop:
        Follower([queue], shown, stop, consume=True, threads=1, wait=0.0, window=0.0).drain()
    assert shown.lines == ["a", "dropped", "xyz"]


def test_a_line_over_max_line_is_one_line_for_every_reader(sqstee: Sqstee) -> None:
    """For filters, templates, JSON, the board, the summary, the exit event and the verdicts of a drain."""
    queue = f"local:{sqstee.folder}/queue.db"
    code = "line = 'a' + 'x' * 100_000 + 'z'; print(line); print('short'); print(line, end='')"
    ran = sqstee.run("--to", queue, "--summary", "--", sys.executable, "-c", code)
    assert ran.stdout.decode() == f"{LONG}\nshort\n{LONG}"
    assert b"summary: 3 lines (" in ran.stderr
    assert b" s: 3 delivered in 1 request, 0 waiting, 0 dropped;" in ran.stderr

    def tail(*words: str) -> list[str]:
        return sqstee.run("tail", queue, "--no-follow", *words).stdout.decode().splitlines()

    assert tail("-o", "raw", "-i", "^ax+z$") == [LONG, LONG]
    assert tail("--template", "{seq} {message}", "--stream", "stdout") == [f"1 {LONG}", "5 short", f"6 {LONG}"]
    records = [json.loads(line) for line in tail("-o", "json")]
    assert [(one["seq"], one.get("last"), one.get("eol")) for one in records[1:4]] == [
        (1, 4, None),
        (5, None, None),
        (6, 9, False),
    ]
    assert records[-1]["lines"] == 3
    board = sqstee.run("top", queue, "--no-follow", "-o", "json")
    assert json.loads(board.stdout)["streams"]["stdout"]["lines"] == 3

    assert len(tail("--consume", "-i", "short", "--keep-unmatched", f"{queue}2")) == 1
    keep = sqstee.folder / "kept"
    sqstee.run("tail", f"{queue}2", "--consume", "--no-follow", "-i", "^never$", "--keep-unmatched", str(keep))
    kept = [json.loads(line) for line in keep.read_bytes().splitlines()]
    assert LONG in [line["message"] for line in kept]


def test_a_drain_counts_and_writes_lines_not_pieces(sqstee: Sqstee) -> None:
    """In each layout, with the same bytes."""
    for layout, suffix in (("streams", "stdout"), ("ndjson", "ndjson")):
        queue, out = f"local:{sqstee.folder}/{layout}.db", sqstee.folder / layout
        sqstee.run("--to", queue, "--host", "h", "--", "sh", "-c", f"echo {LONG}; echo short")
        found = sqstee.run("drain", queue, "-O", str(out), "--layout", layout, "-o", "json", "--idle-timeout", "0.1s")
        verdict = json.loads(found.stdout)
        assert (verdict["verdict"], verdict["lines"]) == ("complete", {"stdout": 2})
        (path,) = Path(out, "h").iterdir()
        assert path.suffix == f".{suffix}"
        lines = path.read_text().splitlines()
        if layout == "ndjson":
            assert len({line.count(" ") for line in lines[1:3]}) == 1  # in the same form
            lines = [json.loads(line)["message"] for line in lines][1:3]
        assert lines == [LONG, "short"]
        assert os.listdir(out / ".sqstee").count("index.db") == 0
