"""--fsync: what was captured is on the disk soon, and before the exit; nothing else waits for it."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from support import PROGRAMS, Sqstee, running, wait_for

from sqstee.spool.fsync import Syncer

NOWHERE = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_DEFAULT_REGION": "eu-west-1"}
WORDS = ("--to", "no-such-queue", "--flush-timeout", "0s", "--fsync")


class Syncs:
    """What was synced so far."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "syncs"
        self.hold = folder / "hold"
        self.environ = NOWHERE | {
            "PYTHONPATH": str(PROGRAMS / "syncs"),
            "SYNC_LOG": str(self.log),
            "SYNC_HOLD": str(self.hold),
        }

    def lines(self) -> list[list[str]]:
        """`begun PATH`, `SIZE PATH`."""
        return [line.split() for line in self.log.read_text().splitlines()] if self.log.exists() else []

    def size(self, path: Path) -> int:
        """How much of a file is on the disk; -1 where none of it."""
        return max((int(size) for size, name in self.lines() if name == str(path) and size != "begun"), default=-1)


@pytest.fixture
def syncs(tmp_path: Path) -> Syncs:
    """A log of what was synced, by the environment that makes it."""
    return Syncs(tmp_path)


def segments(sqstee: Sqstee) -> list[Path]:
    """The segment files in the spool."""
    return sorted(sqstee.spool.glob("*/*.seg"))


def wait_until_durable(sqstee: Sqstee, syncs: Syncs, text: bytes) -> None:
    """Until the spool holds `text`, and all of it is on the disk."""
    wait_for(lambda: text in sqstee.spooled(), "text in the spool")
    (segment,) = segments(sqstee)
    wait_for(lambda: syncs.size(segment) == segment.stat().st_size, "sync")


def test_nothing_is_synced_without_it(sqstee: Sqstee, syncs: Syncs) -> None:
    """It costs the disk, so it is only done on request."""
    sqstee.run(*WORDS[:-1], "--", "seq", "3", environ=syncs.environ)
    assert segments(sqstee)
    assert syncs.lines() == []


def test_synced_while_the_command_runs_and_before_the_exit(sqstee: Sqstee, syncs: Syncs) -> None:
    """Each line soon, the folders of a new file, and everything when the status is there."""
    command = sqstee.words(*WORDS, "--", "sh", "-c", "echo one; read x; echo two; read x; seq 3")
    with running(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=sqstee.environ | syncs.environ,
    ) as process:
        assert process.stdin
        for text in (b"one\n", b"two\n"):
            wait_until_durable(sqstee, syncs, text)
            process.stdin.write(b"\n")
            process.stdin.flush()
        process.communicate(timeout=40)
    (segment,) = segments(sqstee)
    assert syncs.size(segment) == segment.stat().st_size
    assert syncs.size(segment.parent) >= 0
    assert syncs.size(sqstee.spool) >= 0


def test_every_segment_is_synced_to_its_end(sqstee: Sqstee, syncs: Syncs) -> None:
    """Also those that were complete before anybody looked."""
    found = sqstee.run(*WORDS, "--", "sh", "-c", "yes 'some line of text' | head -c 40000000", environ=syncs.environ)
    assert found.returncode == 0
    assert len(segments(sqstee)) > 1
    for segment in segments(sqstee):
        assert syncs.size(segment) == segment.stat().st_size


def test_a_segment_that_is_freed_meanwhile_leaves_none_unsynced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Freed between the listing and its sync: those behind it are synced all the same."""
    (tmp_path / "2.seg").touch()
    monkeypatch.setattr(os, "listdir", lambda _: ["1.seg", "2.seg"])
    synced: list[str] = []
    monkeypatch.setattr(os, "fdatasync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")))
    Syncer(str(tmp_path), ".seg").finish()
    assert synced == [str(tmp_path / "2.seg")]


def test_a_disk_that_hangs_delays_no_output(sqstee: Sqstee, syncs: Syncs) -> None:
    """The output and the spool go on; a signal ends the wait for the disk, and one line says so."""
    syncs.hold.touch()
    command = sqstee.words(*WORDS, "--flush-timeout", "60s", "--", "sh", "-c", "echo one; read x; echo two; exit 7")
    with running(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=sqstee.environ | syncs.environ,
    ) as process:
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline() == b"one\n"
        wait_for(syncs.lines, "sync")
        process.stdin.write(b"\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"two\n"
        wait_for(lambda: b'"event":"exit"' in sqstee.spooled(), "exit event")
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=40)
    syncs.hold.unlink()
    assert process.returncode == 7
    assert all(line.split()[0] == "begun" for line in syncs.log.read_text().splitlines())
    assert b"sqstee: --fsync: the disk takes too long; the last lines may not survive a power cut" in err
    assert b"2 lines not delivered yet (cut short by SIGTERM)" in err


def test_a_disk_that_refuses(sqstee: Sqstee, syncs: Syncs) -> None:
    """EIO: the command does not notice, one line says so."""
    found = sqstee.run(
        "--to", "local", "--fsync", "--", "sh", "-c", "echo hi; exit 7", environ=syncs.environ | {"SYNC_FAIL": "1"}
    )
    assert (found.stdout, found.returncode) == (b"hi\n", 7)
    assert found.stderr.decode().startswith("sqstee: --fsync: Input/output error; ")


def test_an_heir_syncs_too(sqstee: Sqstee, syncs: Syncs, tmp_path: Path) -> None:
    """What a process left behind writes is as durable."""
    for name in ("first", "second"):  # two: the second reader could meet the first writer, still there
        os.mkfifo(tmp_path / name)
    script = f"(read x <{tmp_path}/first; echo late; read x <{tmp_path}/second) 2>/dev/null & echo hi"
    with (tmp_path / "err").open("wb") as err:
        subprocess.run(
            sqstee.words(*WORDS, "--", "sh", "-c", script),
            stdout=subprocess.DEVNULL,
            stderr=err,
            env=sqstee.environ | syncs.environ,
            timeout=40,
            check=True,
        )
    (tmp_path / "first").write_text("\n")
    wait_until_durable(sqstee, syncs, b"late\n")
    (tmp_path / "second").write_text("\n")
    wait_until_durable(sqstee, syncs, b'"event":"end"')
