"""A run that writes nothing says that it lives: at which times, and what that costs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import Sqstee, running, wait_for

from sqstee.jsonbytes import encode_object
from sqstee.ship.request import PendingBody, RequestLimits
from sqstee.ship.source import RunSource
from sqstee.spool import run_events
from sqstee.spool.heartbeat import Heartbeat, process_usage
from sqstee.spool.quota import FullError, UnboundedQuota
from sqstee.spool.segments import Segments
from sqstee.spool.writer import Writer

PIPES = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE}
SCRIPT = "echo one; read x; echo two"
EVENT: dict[str, object] = {"event": "start", "message": ""}


class Clock:
    """The monotonic clock is 1000 s behind the wall clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 12_030.0
        monkeypatch.setattr(time, "time", lambda: self.now)
        monkeypatch.setattr(time, "monotonic", lambda: self.now - 1000)


def spool(folder: Path, quota: UnboundedQuota | None = None) -> Writer:
    """The writer of a new run."""
    folder.mkdir(exist_ok=True)
    return Writer(Segments(str(folder), encode_object({"run": "R", "host": "h"}), quota), 1000)


def source(folder: Path) -> RunSource:
    """What ships the run."""
    return RunSource(str(folder), 65536, RequestLimits(1024**2, 10, False), "none")


def test_it_beats_on_the_wall_clock_and_only_after_a_whole_interval_of_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All runs of a host beat at the same times, whenever they began; a beat that comes early is not repeated."""
    clock = Clock(monkeypatch)
    writer = spool(tmp_path / "run")
    beating = Heartbeat(60.0, dict)
    assert beating.due == 12_060 - 1000
    written = []
    for at in (12_060.1, 12_119.9, 12_180, 12_240, 12_300):
        clock.now = at
        before = writer.next_seq
        beating.beat(writer)
        written.append(writer.next_seq - before)
        assert 54 <= beating.due - (at - 1000) <= 66
        assert (beating.due + 1000) % 60 == pytest.approx(0)
        if at == 12_180:
            writer.write(0, b"a line\n")
    assert written == [0, 1, 1, 0, 1]
    assert [writer.alive_since(seq) for seq in range(5)] == [3, 2, 1, 1, 0]


def test_a_full_spool_takes_no_heartbeat(tmp_path: Path) -> None:
    """What is reserved for the run's end stays free; no seq is lost."""

    class FullQuota(UnboundedQuota):
        def grant(self, size: int, need: int, ceiling: int) -> int:
            raise FullError(1)

    writer = spool(tmp_path / "run", FullQuota())
    before = writer.next_seq
    writer.alive(run_events.alive(writer, {}))
    assert (writer.next_seq, writer.alive_since(0), writer.spooled) == (before, 0, before)


def test_a_heartbeat_can_wait_and_a_line_cannot(tmp_path: Path) -> None:
    """It makes no request of its own before others may have joined it (see Pace)."""
    writer = spool(tmp_path / "run")
    writer.event(EVENT)
    found = source(tmp_path / "run")
    states = []

    def note() -> None:
        found.read()
        states.append((found.waiting, found.can_wait))

    def hand_out() -> None:
        found.close_open_body()
        found.acknowledge(_planned(found))
        note()

    note()
    hand_out()
    writer.alive(run_events.alive(writer, {}))
    note()
    writer.write(0, b"a line\n")
    note()
    hand_out()
    assert states == [(True, False), (False, True), (True, True), (True, False), (False, True)]
    found.close()
    writer.close()


def _planned(found: RunSource) -> list[PendingBody]:
    bodies = found.partial_request().bodies
    found.plan(bodies)
    return bodies


def test_what_a_process_has_used() -> None:
    """CPU time with that of its children, and the peak of its memory; nothing of a process that has gone."""
    found = process_usage(os.getpid())
    assert isinstance(found["cpu_s"], float)
    assert found["cpu_s"] > 0
    assert isinstance(found["max_rss"], int)
    assert found["max_rss"] > 1024**2
    done = subprocess.Popen(["true"])
    done.wait()
    assert process_usage(done.pid) == {}


def test_a_silent_command(sqstee: Sqstee) -> None:
    """Its start event says how often it beats, each beat is an event with a seq, and the totals count lines alone."""
    words = sqstee.words("--to", "local", "--heartbeat", "1", "--summary", "--", "sh", "-c", SCRIPT)
    with running(words, **PIPES, env=sqstee.environ) as process:
        wait_for(lambda: len(_beats(sqstee)) >= 2, "two heartbeats")
        _, stderr = process.communicate(b"\n", timeout=40)
    assert b"2 lines (8 bytes)" in stderr
    assert b": 2 delivered" in stderr
    beat = _beats(sqstee)[0]
    found = sqstee.local()
    found.assert_without_holes()
    assert (found.stdout, found.events[-1].fields["lines"]) == (b"one\ntwo\n", 2)
    assert found.events[0].fields["heartbeat_s"] == 1.0
    assert (beat["message"], beat["lines"]) == ("still running", 1)
    assert isinstance(beat["cpu_s"], float)
    assert isinstance(beat["max_rss"], int)


def test_heartbeats_that_wait_are_no_lines(sqstee: Sqstee) -> None:
    """Of an unreachable destination the notice at the end counts the lines alone."""
    words = sqstee.words("--to", "http://127.0.0.1:9/x", "--heartbeat", "1", "--flush-timeout", "0", "--", "sh", "-c")
    with running(
        [*words, "echo one; read x"], stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=sqstee.environ
    ) as one:
        wait_for(lambda: b'"alive"' in sqstee.spooled(), "heartbeat")
        _, stderr = one.communicate(b"\n", timeout=40)
    assert b"1 line not delivered yet" in stderr


@pytest.mark.parametrize(
    ("words", "interval"),
    [
        (("local",), 60.0),
        (("s3://bucket/prefix",), None),
        (("q", "--via-s3", "s3://bucket/prefix"), None),
        (("s3://bucket/prefix", "--heartbeat", "5m"), 300.0),
    ],
)
def test_by_default(sqstee: Sqstee, words: tuple[str, ...], interval: float | None) -> None:
    """Every minute; to S3, where each costs an object, only if asked for."""
    sqstee.run("--flush-timeout", "0", "--share", "never", "--to", *words, "--", "true")
    text = sqstee.spooled() or b"".join(bytes(body.data) for body in sqstee.local_bodies())
    assert (b'"heartbeat_s":%d.0' % (interval or 0) in text) == bool(interval)
    assert (b"heartbeat_s" in text) == bool(interval)


def test_logging_beats_only_if_asked(sqstee: Sqstee) -> None:
    """From a thread of its own, which a program that does not ask for it does not get."""
    code = (
        "import logging, os, sys, threading, sqstee\n"
        "handler = sqstee.configure(to='local', heartbeat=int(sys.argv[1]))\n"
        "logging.info('one')\nprint(any('heartbeat' in one.name for one in threading.enumerate()), flush=True)\n"
        "sys.stdin.read()\nlogging.info('two')\n"
    )
    for interval, beats in ((0, False), (1, True)):
        words = [sys.executable, "-c", code, str(interval)]
        with running(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=sqstee.environ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"%r\n" % beats
            if beats:
                wait_for(lambda: bool(_beats(sqstee)), "heartbeat")
            process.communicate(timeout=40)
        beaten, found = _beats(sqstee), sqstee.local()
        found.assert_without_holes()
        assert [record.message for record in found.records] == ["one", "two"]
        assert ("heartbeat_s" in found.events[0].fields) == bool(beaten) == beats
        (sqstee.spool / "local.db").unlink()


def _beats(sqstee: Sqstee) -> list[dict[str, object]]:
    if not (sqstee.spool / "local.db").exists():
        return []
    return [event.fields for event in sqstee.local().events if event.event == "alive"]
