"""sent + spooled + dropped-and-reported = captured, under every fault alone, under many in a row, and under kills."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from programs.chatter import lines, written
from support import PROGRAMS, Rebuilt, Sqstee, children, is_running, targets, wait_for
from support.recovery import flush_once
from support.targets import Target

pytestmark = pytest.mark.fault

CHUNK_BYTES = 4 * 65536  # in a flood; what a killed front had passed on and not yet spooled is not shipped
MANY_REQUESTS = ("--linger", "0.1s", "--message-bytes", "16K")
SHARE = {"sqs": 1, "http": 8, "s3": 10, "fallback": 10}  # a part of the steps and kills, so that a gate can wait


@pytest.fixture
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Target]:
    """A destination of the kind that the test's parameter names."""
    with targets.target(request.param, tmp_path) as found:
        yield found


everywhere = pytest.mark.parametrize("target", SHARE, indirect=True)


class Run:
    """A wrapped chatter, and what it was told to write."""

    def __init__(self, sqstee: Sqstee, target: Target, number: int) -> None:
        self.job = f"job-{number}"
        self.expected = {1: b"", 2: b""}
        self._written = {1: 0, 2: 0}
        self.status = 0
        self.front_was_killed = False
        words = ("--to", target.to, *target.options, "--job", self.job, *MANY_REQUESTS, "--flush-timeout", "1s", "--")
        self._paths = {fd: sqstee.folder / f"{self.job}.{fd}" for fd in (1, 2)}
        with open(self._paths[1], "wb") as out, open(self._paths[2], "wb") as err:
            self.process = subprocess.Popen(
                sqstee.words(*words, sys.executable, str(PROGRAMS / "chatter.py")),
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=err,
                env=sqstee.environ | target.environ,
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
        self.process.communicate(timeout=40)

    def kill(self, pid: int) -> None:
        """kill -9."""
        if is_running(pid):
            os.kill(pid, signal.SIGKILL)

    def clean_up(self) -> None:
        """Leave nothing of it running."""
        for pid in (self.shipper, self.process.pid, self.command):
            self.kill(pid)
        self.process.communicate(timeout=40)

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


def delivered(target: Target, sqstee: Sqstee) -> dict[str, Rebuilt]:
    """By job: what the destination ever accepted, and what was put aside in the place of a gap event."""
    folder = sqstee.spool / "quarantine"
    aside: targets.Bodies = [(path.read_bytes(), {}) for path in folder.iterdir()] if folder.exists() else []
    found = Rebuilt.of_many([*aside, *target.bodies()])
    return {one.items[0].job: one for one in found.values()}


def heal(sqstee: Sqstee, target: Target, runs: list[Run], in_process: bool = False) -> None:
    """The trouble is over: one flush, by the command or `in_process`, and the spool is empty."""
    target.heal()
    for run in runs:
        wait_for(run.is_over, f"end of {run}", 30)
    wait_for(lambda: target.active == 0, "end of old requests")
    if in_process:
        assert flush_once(sqstee, target.environ) == ""
    else:
        found = sqstee.run("flush", environ=target.environ)
        assert (found.returncode, found.stderr) == (0, b""), (found.stdout, found.stderr)
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


@pytest.mark.parametrize(
    ("target", "name"),
    [(kind, name) for kind, faults in targets.FAULTS.items() for name in faults],
    indirect=["target"],
)
def test_each_fault_alone(sqstee: Sqstee, target: Target, runs: list[Run], name: str) -> None:
    """A run begins, goes on and ends under it; after healing and one flush everything is there, and nothing twice."""
    target.seed(1)
    target.fault(name)
    run = Run(sqstee, target, 0)
    runs.append(run)
    for fd in (1, 2, 1):
        run.write(fd, 1000, 100)
    if name not in targets.UNCOUNTED:
        while not target.struck:
            run.write(1, 10, 100)
            time.sleep(0.01)
    run.end(3)
    heal(sqstee, target, runs, in_process=True)
    got = delivered(target, sqstee)[run.job]
    assert_exact(run, got)
    assert got.duplicates == 0 or not target.keeps_one or name in targets.DIVIDING


def step(choice: random.Random, sqstee: Sqstee, target: Target, runs: list[Run]) -> None:
    """One thing that happens, at random."""
    alive = [run for run in runs if run.process.returncode is None and not run.front_was_killed]
    what = choice.choices(
        ["write", "fault", "well", "begin", "end", "kill shipper", "kill front", "kill both", "flush"],
        [40, 10, 6, 6, 3, 2, 1, 1, 1],
    )[0]
    if (what == "begin" and len(alive) < 3) or not alive:
        runs.append(Run(sqstee, target, len(runs)))
        return
    run = choice.choice(alive)
    if what == "write":
        run.write(choice.choice([1, 2]), choice.choice([1, 10, 300]), choice.choice([2, 80, 120, 2000]))
    elif what == "fault":
        target.fault(choice.choice(list(target.known)))
    elif what == "well":
        target.heal()
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
        target.heal()
        sqstee.run("flush", "--timeout", "2s", environ=target.environ)


@everywhere
def test_many_faults_in_a_row(
    sqstee: Sqstee, target: Target, runs: list[Run], fault_steps: int, fault_seed: int
) -> None:
    """Seeded random sequences of output, faults, kills, recoveries, of several runs at once."""
    choice = random.Random(fault_seed)
    target.seed(fault_seed)
    for _ in range(fault_steps // SHARE[target.kind]):
        step(choice, sqstee, target, runs)
    for run in runs:
        if run.process.returncode is None and not run.front_was_killed:
            run.end(0)
    heal(sqstee, target, runs)
    got = delivered(target, sqstee)
    for run in runs:
        assert_exact(run, got[run.job])


@everywhere
@pytest.mark.parametrize("victim", ["front", "shipper"])
def test_kills_at_random_moments(
    sqstee: Sqstee, target: Target, runs: list[Run], victim: str, fault_kills: int
) -> None:
    """kill -9 of the front: nothing that reached the reader is missing but a chunk in hand; of the shipper: nothing."""
    choice = random.Random(victim)
    for number in range(fault_kills // SHARE[target.kind]):
        run = Run(sqstee, target, number)
        runs.append(run)
        for _ in range(choice.randrange(1, 30)):
            run.write(choice.choice([1, 2]), choice.choice([1, 100, 3000]), 100)
        run.front_was_killed = victim == "front"
        run.kill(run.process.pid if victim == "front" else run.shipper)
        if victim == "shipper":
            run.end(0)
        else:
            run.process.communicate(timeout=40)
    heal(sqstee, target, runs)
    got = delivered(target, sqstee)
    for run in runs:
        assert_exact(run, got[run.job])
