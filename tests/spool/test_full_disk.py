"""A run on a full disk: what is shipped and what its gap events cover are what was captured, and its end arrives."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support import Rebuilt, Sqstee, children, kill, python, running, wait_for

from sqstee.jsonbytes import decode_object, encode_object
from sqstee.ship.request import RequestLimits
from sqstee.ship.source import RunSource
from sqstee.spool import segments
from sqstee.spool.frame import EVENT, GAP, HEADER, HEADER_BYTES, LINES, pack_note, unpack_note
from sqstee.spool.quota import Quota
from sqstee.spool.reader import FrameReader
from sqstee.spool.recovery import SpoolTail, close_dead_run
from sqstee.spool.segments import RESERVE, Segments, write_whole
from sqstee.spool.waiting import waiting_runs
from sqstee.spool.writer import Writer

SIZES = {
    "no inode": ("size=50m,nr_inodes=6", ("seq", "100000"), 100_000),
    "1 MiB": ("size=1m", ("seq", "300000"), 300_000),
    "2 MiB": ("size=2m", python("for n in range(60000): print('%069d' % n)"), 60_000),
}
META = encode_object({"run": "RUN", "host": "h"})


@contextmanager
def disk(path: Path, options: str) -> Iterator[Path]:
    """A file system of its own."""
    path.mkdir(mode=0o700)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"{options},mode=700", "none", path], check=False).returncode:
        pytest.skip("cannot mount here")
    try:
        yield path
    finally:
        wait_for(lambda: subprocess.run(["umount", path], check=False).returncode == 0, "end of its last user")


def assert_told(found: Rebuilt, captured: int) -> None:
    """Every line is there or in a gap event, and the run has its end."""
    found.assert_without_holes()
    gaps = [event for event in found.events if event.event == "gap"]
    dropped = sum(event.last - event.seq + 1 for event in gaps)
    assert len(found.records) + dropped == captured
    assert found.events[-1].event == "exit"
    assert found.events[-1].fields["exit_code"] == 0
    assert (found.events[-1].fields["lines"], found.events[-1].fields["dropped"]) == (captured, dropped)


@pytest.mark.parametrize("size", SIZES)
def test_a_disk_that_is_full_at_the_runs_end(sqstee: Sqstee, tmp_path: Path, size: str) -> None:
    """The gap event and the exit event were not written, and the shipper removed the run as if it were complete."""
    options, command, captured = SIZES[size]
    queue = tmp_path / "q.db"
    with disk(tmp_path / "disk", options) as spool:
        words = ("--spool", str(spool), "--to", f"local:{queue}", "--")
        found = sqstee.run(*words, *command)
        assert (found.returncode, found.stdout.count(b"\n")) == (0, captured)
        assert list(spool.iterdir()) == []
    assert_told(sqstee.local(queue), captured)
    assert (b"lines dropped: the spool could not be written" in found.stderr) == (size != "no inode")
    assert b"no gap event" not in found.stderr
    assert b"exit event" not in found.stderr


@pytest.mark.parametrize("size", SIZES)
def test_a_disk_that_is_full_during_an_outage(sqstee: Sqstee, tmp_path: Path, size: str) -> None:
    """Nothing is freed before the command has ended: the end of the run waits in the spool with its lines."""
    options, command, captured = SIZES[size]
    queue = tmp_path / "q.db"
    queue.mkdir()
    with disk(tmp_path / "disk", options) as spool:
        words = ("--spool", str(spool), "--to", f"local:{queue}", "--flush-timeout", "0", "--")
        found = sqstee.run(*words, *command)
        assert (found.returncode, found.stdout.count(b"\n")) == (0, captured)
        (run,) = spool.iterdir()
        tail = SpoolTail(str(run))
        assert (tail.closure.closed, tail.next_seq) == (True, captured + 2)
        queue.rmdir()
        flush = sqstee.run("flush", "--spool", str(spool))
        assert (flush.returncode, flush.stderr, list(spool.iterdir())) == (0, b"", [])
    assert_told(sqstee.local(queue), captured)


@pytest.mark.parametrize("options", ["size=4k", "size=50m,nr_inodes=4"])
def test_a_disk_that_has_no_room_for_a_checkpoint(sqstee: Sqstee, tmp_path: Path, options: str) -> None:
    """Nothing is freed then: the run waited for it, and flush sent the same lines again and again, for all their time.

    Both end long before the time that they are given.
    """
    with disk(tmp_path / "disk", options) as spool:
        words = ("--spool", str(spool), "--to", f"local:{tmp_path}/q.db", "--flush-timeout", "1h", "--")
        found = sqstee.run(*words, "seq", "200000")
        assert (found.returncode, found.stdout.count(b"\n")) == (0, 200_000)
        assert b"the exit event is missing: the spool could not be written" in found.stderr
        left = waiting_runs(str(spool))
        flush = sqstee.run("flush", "--spool", str(spool), "--timeout", "1h")
        assert waiting_runs(str(spool)) == (left if flush.returncode else [])
        assert flush.returncode == (options == "size=4k")
        assert flush.stderr.count(b"its exit event cannot be written: No space left on device") == flush.returncode


def test_what_was_reserved_is_given_back(tmp_path: Path) -> None:
    """A closed run that waits for its delivery holds no more than its lines."""
    writer = Writer(Segments(str(tmp_path), META), 100)
    writer.event({"event": "start", "message": ""})
    assert (tmp_path / RESERVE).stat().st_size == 4096
    assert writer.end({"event": "exit", "message": ""})
    assert [path.name for path in tmp_path.iterdir()] == ["00000001.seg"]


def test_a_run_that_is_not_closed_is_not_removed(tmp_path: Path) -> None:
    """All of it is delivered, and its front left without an exit event: whoever comes next writes one."""
    folder = tmp_path / "RUN"
    folder.mkdir()
    writer = Writer(Segments(str(folder), META), 100)
    writer.event({"event": "start", "message": ""})
    writer.close()
    source = RunSource(str(folder), 10_000, RequestLimits(), "none")

    def deliver() -> None:
        source.read()
        source.close_open_body()
        bodies = source.partial_request().bodies
        source.plan(bodies)
        source.acknowledge(bodies)
        source.remove()

    deliver()
    assert folder.exists()
    assert close_dead_run(str(folder))
    deliver()
    source.close()
    assert not folder.exists()


def test_a_reserve_that_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In another user's folder it may be anything: each try of the agent left a descriptor open."""
    writer = Writer(Segments(str(tmp_path), META), 100)
    writer.event({"event": "start", "message": ""})
    (tmp_path / RESERVE).unlink()
    os.mkfifo(tmp_path / RESERVE)

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("sqstee.spool.segments.write_whole", refuse)
    before = os.listdir("/proc/self/fd")
    assert not writer.end({"event": "exit", "message": ""})
    assert os.listdir("/proc/self/fd") == before
    writer.close()


def test_a_run_that_has_used_up_its_quota_enters_its_reserve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was left to announce: the exit event was refused as an invalid argument, or the run looked closed."""
    run_folder = tmp_path / "RUN"
    run_folder.mkdir()
    announced = os.open(run_folder / "writer", os.O_RDWR | os.O_CREAT, 0o600)
    writer = Writer(Segments(str(run_folder), META, Quota(str(tmp_path), "RUN", announced, 2**30, "drop")), 2**20)
    writer.event({"event": "start", "message": ""})
    writer._segments._ceiling = 0
    real = segments.write_whole
    refusals = [errno.ENOSPC]

    def refuse_once(*arguments: Any) -> None:
        if refusals:
            raise OSError(refusals.pop(), "")
        real(*arguments)

    monkeypatch.setattr(segments, "write_whole", refuse_once)
    assert writer.event({"event": "exit", "open": ["stdout"]}, closing=True)
    assert os.fstat(announced).st_size > 0
    assert writer.end({"event": "end", "message": ""})
    assert os.fstat(announced).st_size == 0
    os.close(announced)


def test_a_writer_that_is_killed_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines that it had dropped were counted in its memory only: nobody was told of them."""
    writer = Writer(Segments(str(tmp_path), META), 100)
    writer.event({"event": "start", "message": ""})
    writer.write(0, b"kept\nbegun")
    writer.write(1, b"whole")

    def refuse_lines(fd: int, header: bytes, payload: bytes, size: int) -> None:
        if HEADER.unpack_from(header)[2] == LINES:
            refuse()
        write_whole(fd, header, payload, size)

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("sqstee.spool.segments.write_whole", refuse_lines)
        patch.setattr("os.posix_fallocate", refuse)
        for _ in range(1000):
            writer.write(0, b" dropped\n" * 10)
        writer.write(0, b"a rest that is dropped")
    reader = FrameReader(str(tmp_path))  # one that has read everything up to then goes on
    assert [frame.kind for frame in reader.frames()] == [EVENT, LINES, LINES, LINES, LINES]
    writer.abandon()  # as SIGKILL does
    tail = SpoolTail(str(tmp_path))
    assert (tail.framed, tail.next_seq, tail.unfinished) == (2, 10_003, [0, 5, 0, 0])
    assert close_dead_run(str(tmp_path))
    gap, end, event = reader.frames()
    reader.close()
    assert (gap.kind, gap.first, gap.lines) == (GAP, 2, 10_001)
    assert decode_object(gap.payload)["reason"] == "spool: No space left on device"
    assert (end.kind, end.first, end.stream) == (LINES, 10_003, 1)
    assert (event.kind, event.first) == (EVENT, 10_004)
    assert not SpoolTail(str(tmp_path)).unfinished[1]


def test_a_note_that_is_torn(tmp_path: Path) -> None:
    """It says nothing, and a reader takes no note for a frame."""
    note = pack_note(7, 2)
    assert unpack_note(bytes(100) + note) == (7, 2)
    for torn in (b"", note[1:], bytes(100), note + b"\0", b"\1" + note, note[:-5] + bytes([note[-5] ^ 1]) + note[-4:]):
        assert unpack_note(torn) is None
    assert len(note) < HEADER_BYTES


def test_a_run_that_is_killed_on_a_full_disk(sqstee: Sqstee, tmp_path: Path) -> None:
    """Of 300,000 lines 165,669 were delivered or told of."""
    queue = tmp_path / "q.db"
    queue.mkdir()
    with disk(tmp_path / "disk", "size=1m") as spool:
        to = ("--spool", str(spool), "--to", f"local:{queue}")
        words = sqstee.words(*to, "--", "sh", "-c", "seq 300000; exec sleep 60")
        with running(words, env=sqstee.environ, stdout=subprocess.DEVNULL) as front:

            def all_noted() -> bool:
                runs = waiting_runs(str(spool))
                return bool(runs) and SpoolTail(f"{spool}/{runs[0]}").next_seq == 300_001

            wait_for(all_noted, "the note of the last line")
            kill(*children(front.pid), front.pid)
        queue.rmdir()
        flush = sqstee.run("flush", "--spool", str(spool))
        assert (flush.returncode, flush.stderr, list(spool.iterdir())) == (0, b"", [])
    found = sqstee.local(queue)
    found.assert_without_holes()
    assert found.events[-1].event == "exit"
    assert found.events[-1].seq == 300_001
