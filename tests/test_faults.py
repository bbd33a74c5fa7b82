"""sent + spooled + dropped-and-reported = captured, under every fault alone, under many in a row, and under kills."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_sqs import FakeSqs
from programs.chatter import lines, written
from support import PROGRAMS, Rebuilt, Sqstee, children, is_running, wait_for

from sqstee.record import decode

pytestmark = pytest.mark.fault

CHUNK_BYTES = 65536
SENDING = {"operation": "SendMessageBatch"}
FAULTS: dict[str, dict[str, Any]] = {
    "internal errors": {"errors": [{"probability": 0.4, "code": "InternalError", "status": 500}]},
    "throttling": {"throttle": {"probability": 0.4}},
    "failed entries": {"failed_entries": [{"probability": 0.4, "code": "InternalError"}]},
    "failed but stored": {"failed_entries": [{"probability": 0.4, "code": "InternalError", "stored": True}]},
    "no answer": {"dropped": {"probability": 0.4, **SENDING}},
    "resets": {"reset": {"probability": 0.4}},
    "cut answers": {"truncated": {"probability": 0.4}},
    "made-up answers": {"garbage": {"probability": 0.4}},
    "no server": {"refuse": True},
    "black hole": {"black_hole": "before"},
    "held answers": {"black_hole": "after"},
    "slow": {"latency_ms": 80},
    "access denied": {"errors": [{"code": "AccessDenied", "status": 403}]},
    "no queue": {"errors": [{"code": "QueueDoesNotExist", "status": 400, **SENDING}]},
    "expired credentials": {"errors": [{"code": "ExpiredToken", "status": 403}]},
    "poison": {"failed_entries": [{"probability": 0.3, "code": "InvalidMessageContents", "sender_fault": True}]},
    "whole calls refused": {"errors": [{"probability": 0.4, "code": "ValidationError", "status": 400, **SENDING}]},
    "too large": {"errors": [{"probability": 0.4, "code": "BatchRequestTooLong", "status": 400, **SENDING}]},
}


class Run:
    """A wrapped chatter, and what it was told to write."""

    def __init__(self, sqstee: Sqstee, environ: dict[str, str], number: int) -> None:
        self.job = f"job-{number}"
        self.expected = {1: b"", 2: b""}
        self._written = {1: 0, 2: 0}
        self.status = 0
        self.front_was_killed = False
        words = ("--to", "q", "--job", self.job, "--flush-timeout", "1s", "--linger", "0.1s", "--")
        self._paths = {fd: sqstee.folder / f"{self.job}.{fd}" for fd in (1, 2)}
        with open(self._paths[1], "wb") as out, open(self._paths[2], "wb") as err:
            self.process = subprocess.Popen(
                sqstee.words(*words, sys.executable, str(PROGRAMS / "chatter.py")),
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=err,
                env=environ,
            )
        wait_for(lambda: len(children(self.process.pid)) == 2, "shipper")
        found = {is_chatter(pid): pid for pid in children(self.process.pid)}
        wait_for(lambda: any(is_chatter(pid) for pid in children(self.process.pid)), "command")
        found = {is_chatter(pid): pid for pid in children(self.process.pid)}
        self.command, self.shipper = found[True], found[False]

    def tell(self, order: str) -> None:
        """Give the command an order; one that is dead hears nothing."""
        assert self.process.stdin
        try:
            self.process.stdin.write(order.encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass

    def write(self, fd: int, count: int, length: int) -> None:
        """Have lines written."""
        self.tell(f"{fd} {count} {length}")
        written.update(self._written)
        self.expected[fd] += lines(fd, count, length)
        self._written.update(written)

    def end(self, status: int) -> None:
        """Have it end."""
        self.status = status
        self.tell(f"exit {status}")
        self.process.communicate(timeout=30)

    def kill(self, pid: int) -> None:
        """kill -9."""
        if is_running(pid):
            os.kill(pid, signal.SIGKILL)

    def clean_up(self) -> None:
        """Leave nothing of it running."""
        for pid in (self.shipper, self.process.pid, self.command):
            self.kill(pid)
        self.process.communicate(timeout=30)

    def __repr__(self) -> str:
        alive = [name for name in ("command", "shipper") if is_running(getattr(self, name))]
        return f"{self.job} (front {self.process.returncode}, running: {alive})"

    def is_over(self) -> bool:
        """Whether front, shipper and command have ended."""
        self.process.poll()
        return not any(is_running(pid) for pid in (self.process.pid, self.shipper, self.command))

    def output(self, fd: int) -> bytes:
        """What came out of the wrapper, without its own last words."""
        kept = self._paths[fd].read_bytes().splitlines(keepends=True)
        return b"".join(line for line in kept if not line.startswith(b"sqstee: "))


def is_chatter(pid: int) -> bool:
    """Whether a process is the command."""
    try:
        return b"sqstee" not in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[1].rsplit(b"/", 1)[-1]
    except (OSError, IndexError):
        return False


def delivered(server: FakeSqs, sqstee: Sqstee) -> dict[str, Rebuilt]:
    """By job: what the queue ever accepted, and what was put aside in the place of a gap event."""
    bodies: dict[str, list[tuple[str | bytes, dict[str, str]]]] = {}
    for message in server.sent("q"):
        job = decode(message.body, message.attributes)[0].job
        bodies.setdefault(job, []).append((message.body, message.attributes))
    folder = sqstee.spool / "quarantine"
    for path in folder.iterdir() if folder.exists() else ():
        data = path.read_bytes()
        bodies[decode(data)[0].job].insert(0, (data, {}))
    return {job: Rebuilt(found) for job, found in bodies.items()}


def heal(sqstee: Sqstee, server: FakeSqs, runs: list[Run]) -> None:
    """The trouble is over: one flush, and the spool is empty."""
    server.clear_faults()
    server.release()
    for run in runs:
        wait_for(run.is_over, f"end of {run}", 30)
    wait_for(lambda: server.counters().active == 0, "end of old requests")
    found = sqstee.run("flush", environ=server.environ())
    assert (found.returncode, found.stderr) == (0, b""), found.stdout
    assert [name for name in sqstee.waiting_runs() if name != "quarantine"] == []


def assert_exact(run: Run, got: Rebuilt) -> None:
    """Both streams as they were written, the sequence without a hole; of a killed front what it had in hand aside."""
    for fd, stream in ((1, got.stdout), (2, got.stderr)):
        if run.front_was_killed:
            assert run.expected[fd].startswith(stream)
            assert len(run.output(fd)) - len(stream) <= CHUNK_BYTES
        else:
            assert (stream, run.output(fd)) == (run.expected[fd], run.expected[fd])
    seqs = [item.seq for item in got.items]
    assert seqs == list(range(len(seqs)))
    assert {event.event for event in got.events} <= {"start", "exit"}
    if not run.front_was_killed:
        assert got.events[-1].fields["exit_code"] == run.process.returncode == run.status


@pytest.fixture
def runs() -> Iterator[list[Run]]:
    """The runs of a test, of which nothing is left behind."""
    found: list[Run] = []
    yield found
    for run in found:
        run.clean_up()


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_alone(sqstee: Sqstee, fake_sqs: FakeSqs, runs: list[Run], name: str) -> None:
    """A run begins, goes on and ends under it; after healing and one flush everything is there."""
    fake_sqs.faults(seed=1, **FAULTS[name])
    run = Run(sqstee, sqstee.environ | fake_sqs.environ(), 0)
    runs.append(run)
    for fd in (1, 2, 1):
        run.write(fd, 3000, 100)
    run.end(3)
    heal(sqstee, fake_sqs, runs)
    assert_exact(run, delivered(fake_sqs, sqstee)[run.job])


def step(choice: random.Random, sqstee: Sqstee, server: FakeSqs, runs: list[Run]) -> None:
    """One thing that happens, at random."""
    alive = [run for run in runs if run.process.returncode is None and not run.front_was_killed]
    what = choice.choices(
        ["write", "fault", "well", "begin", "end", "kill shipper", "kill front", "kill both", "flush"],
        [40, 10, 6, 6, 3, 2, 1, 1, 1],
    )[0]
    if (what == "begin" and len(alive) < 3) or not alive:
        runs.append(Run(sqstee, sqstee.environ | server.environ(), len(runs)))
        return
    run = choice.choice(alive)
    if what == "write":
        run.write(choice.choice([1, 2]), choice.choice([1, 10, 300]), choice.choice([2, 80, 120, 2000]))
    elif what == "fault":
        server.faults(**FAULTS[choice.choice(list(FAULTS))])
    elif what == "well":
        server.clear_faults()
        server.release()
    elif what == "end":
        run.end(choice.randrange(4))
    elif what.startswith("kill"):
        run.front_was_killed = what != "kill shipper"
        if what != "kill front":
            run.kill(run.shipper)
            wait_for(lambda: not is_running(run.shipper), "end of the shipper")
        if what != "kill shipper":
            run.kill(run.process.pid)
            if not is_running(run.shipper):  # nobody is left who would end it
                run.kill(run.command)
    elif what == "flush":
        server.clear_faults()
        server.release()
        sqstee.run("flush", "--timeout", "2s", environ=server.environ())


def test_many_faults_in_a_row(
    sqstee: Sqstee, fake_sqs: FakeSqs, runs: list[Run], fault_steps: int, fault_seed: int
) -> None:
    """Seeded random sequences of output, faults, kills, recoveries, of several runs at once."""
    choice = random.Random(fault_seed)
    fake_sqs.faults(seed=fault_seed)
    for _ in range(fault_steps):
        step(choice, sqstee, fake_sqs, runs)
    for run in runs:
        if run.process.returncode is None and not run.front_was_killed:
            run.end(0)
    heal(sqstee, fake_sqs, runs)
    got = delivered(fake_sqs, sqstee)
    for run in runs:
        assert_exact(run, got[run.job])


@pytest.mark.parametrize("victim", ["front", "shipper"])
def test_kills_at_random_moments(
    sqstee: Sqstee, fake_sqs: FakeSqs, runs: list[Run], victim: str, fault_kills: int
) -> None:
    """kill -9 of the front: nothing that reached the reader is missing but a chunk in hand; of the shipper: nothing."""
    choice = random.Random(victim)
    environ = sqstee.environ | fake_sqs.environ()
    for number in range(fault_kills):
        run = Run(sqstee, environ, number)
        runs.append(run)
        for _ in range(choice.randrange(1, 30)):
            run.write(choice.choice([1, 2]), choice.choice([1, 100, 3000]), 100)
        run.front_was_killed = victim == "front"
        run.kill(run.process.pid if victim == "front" else run.shipper)
        if victim == "shipper":
            run.end(0)
        else:
            run.process.communicate(timeout=30)
    heal(sqstee, fake_sqs, runs)
    got = delivered(fake_sqs, sqstee)
    for run in runs:
        assert_exact(run, got[run.job])
