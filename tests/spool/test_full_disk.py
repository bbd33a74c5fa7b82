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
from support import Rebuilt, Sqstee, python, wait_for

from sqstee.jsonbytes import encode_object
from sqstee.ship.request import RequestLimits
from sqstee.ship.source import RunSource
from sqstee.spool import segments
from sqstee.spool.quota import Quota
from sqstee.spool.recovery import SpoolTail, close_dead_run
from sqstee.spool.segments import RESERVE, Segments
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
