"""kill -9 exactly between two steps, of everybody who has a hand on a spool: nothing is lost, or left for ever."""

from __future__ import annotations

import fcntl
import signal
import subprocess
import time
from pathlib import Path

import pytest
from fakes.sqs import FakeSqs
from support import TIMEOUT, UNTIL_THE_FRONT_ENDS, Sqstee, injecting, python, wait_for
from support.recovery import LINES, assert_recovered, flush, leave_behind, shipped, unfinished

from sqstee.spool.segments import segment_name

LONG_LINES = b"".join(b"%060000d\n" % n for n in range(290))  # more than a segment, in several frames each
WRITE = "import os\nfor n in range(290): os.write(1, b'%060000d\\n' % n)"
FRONT = [
    "os:rename:kill-after:1",  # the folder has its name, and no segment
    "sqstee.spool.segments:Segments._rotate:kill-after:1",  # the first segment holds nothing but its first frame
    "sqstee.capture.supervisor:Supervisor._start_shipper:kill-after:1",  # the start event is there, and nobody reads it
    "sqstee.spool.writer:Writer.write:kill:1",  # a chunk is out, and not spooled
    "sqstee.spool.writer:Writer.write:kill-after:1",
    "sqstee.spool.segments:Segments._rotate:kill:2",  # a segment is full, and there is no other
    "sqstee.spool.segments:Segments._rotate:kill-after:2",  # the next one is there, and its line is not
    "sqstee.spool.writer:Writer.event:kill:2",  # the command has ended, and no event says so
    "sqstee.spool.writer:Writer.event:kill-after:2",
    "sqstee.spool.writer:Writer.end:kill-after:1",  # the run is closed, and its lock is held
    "sqstee.capture.teardown:Teardown._deliver:kill:1",
    "sqstee.capture.final_flush:FinalFlush.finish:kill-after:1",  # everything is delivered, and nothing is said
]


@pytest.mark.parametrize("moment", FRONT)
def test_the_front_is_killed_between_two_steps(sqstee: Sqstee, fake_sqs: FakeSqs, tmp_path: Path, moment: str) -> None:
    """kill -9 exactly there: what was spooled arrives without a hole, as a run with an end; nothing stays behind."""
    environ = fake_sqs.environ() | injecting(tmp_path, moment)
    found = sqstee.run("--to", "q", "--", *python(WRITE), environ=environ)
    assert (tmp_path / "injected").exists()
    assert found.returncode == -signal.SIGKILL
    flush(sqstee, fake_sqs)
    if not fake_sqs.sent("q"):
        assert moment in FRONT[:2]
        return
    got = shipped(fake_sqs, "q")
    got.assert_without_holes()
    assert got.events[-1].event == "exit"
    assert LONG_LINES.startswith(got.stdout)
    assert len(found.stdout) - len(got.stdout) <= 65536  # a chunk in hand
    if moment in FRONT[8:]:
        assert (got.stdout, got.events[-1].fields.get("cause")) == (LONG_LINES, None)


SHIPPER = [
    "sqstee.ship.source:RunSource.plan:kill:1",
    "sqstee.spool.checkpoint:Checkpoint.save:kill-after:1",  # planned, and not sent
    "sqstee.ship.sender_pool:SenderPool._call:kill-after:2",  # sent (the first call asks for limits), not acknowledged
    "sqstee.ship.shipper:Shipper._acknowledge:kill:1",
    "sqstee.ship.source:RunSource._free:kill:1",
    "sqstee.ship.source:delete_segments_before:kill:1",  # acknowledged, and not freed
    "sqstee.ship.source:delete_segments_before:kill-after:1",
    "sqstee.ship.source:RunSource.remove:kill:1",  # everything is acknowledged, and nothing removed
]


@pytest.mark.parametrize("moment", SHIPPER)
def test_the_shipper_is_killed_between_two_steps(
    sqstee: Sqstee, fake_sqs: FakeSqs, tmp_path: Path, moment: str
) -> None:
    """kill -9 exactly there: the command's output is as ever, every line arrives, what comes twice are whole bodies."""
    environ = fake_sqs.environ() | injecting(tmp_path, moment)
    found = sqstee.run("--to", "q", "--", *python(WRITE), environ=environ)
    assert (tmp_path / "injected").exists()
    assert (found.stdout, found.returncode) == (LONG_LINES, 0)
    flush(sqstee, fake_sqs)
    got = shipped(fake_sqs, "q")
    got.assert_whole()
    assert got.stdout == LONG_LINES
    bodies: dict[str, set[bytes]] = {}
    for message in fake_sqs.sent("q"):
        bodies.setdefault(message.attributes["seq"], set()).add(message.body.encode())
    assert {len(same) for same in bodies.values()} == {1}
    firsts = sorted(int(name.partition("-")[0]) for name in bodies)
    assert len(set(firsts)) == len(firsts)


CLOSER = [
    "sqstee.spool.writer:Writer.cut:kill-after:1",  # the torn tail is cut, and the unfinished line ended
    "sqstee.spool.recovery:_append_end:kill-after:1",
    "sqstee.agent.claimed_run:close_dead_run:kill-after:1",  # closed, and its lock is free again
]


@pytest.mark.parametrize("moment", CLOSER)
def test_who_closes_a_dead_run_is_killed(sqstee: Sqstee, fake_sqs: FakeSqs, tmp_path: Path, moment: str) -> None:
    """kill -9 between two steps of that: the next one closes what is open, and nothing twice."""
    run = leave_behind(sqstee, fake_sqs, "later")
    with (sqstee.spool / run / segment_name(1)).open("ab") as file:
        file.write(b"torn")
    fake_sqs.create_queue("later")
    found = sqstee.run("flush", environ=fake_sqs.environ() | injecting(tmp_path, moment))
    assert found.returncode == -signal.SIGKILL
    flush(sqstee, fake_sqs)
    assert_recovered(shipped(fake_sqs, "later"))


@pytest.mark.parametrize("moment", ["Teardown._be_the_heir:kill:1", "Teardown._end_streams:kill:1"])
def test_an_heir_is_killed(sqstee: Sqstee, fake_sqs: FakeSqs, tmp_path: Path, moment: str) -> None:
    """kill -9 of it: the front's status is as ever, and the run gets the end that is missing."""
    environ = fake_sqs.environ() | injecting(tmp_path, f"sqstee.capture.teardown:{moment}")
    script = f"({UNTIL_THE_FRONT_ENDS}) & echo first; exit 7"
    found = sqstee.run("--to", "q", "--", "sh", "-c", script, environ=environ)
    assert (found.stdout, found.returncode) == (b"first\n", 7)
    wait_for((tmp_path / "injected").exists, "the heir's death")  # it gives up the outputs before it ends the run
    flush(sqstee, fake_sqs)
    got = shipped(fake_sqs, "q")
    got.assert_without_holes()
    assert got.stdout == b"first\n"
    assert [event.event for event in got.events] == ["start", "exit", "end"]
    assert got.events[-1].fields["cause"] == "wrapper-died"


def test_an_heir_is_killed_long_after_the_exit(sqstee: Sqstee, fake_sqs: FakeSqs, tmp_path: Path) -> None:
    """The segment with the exit event is freed by then: that event is not made up once more, as a death."""
    environ = fake_sqs.environ() | injecting(tmp_path, "sqstee.capture.teardown:Teardown._end_streams:kill:1")
    until_freed = f"while [ -e {sqstee.spool}/*/{segment_name(1)} ]; do sleep 0.02; done"
    script = f"({UNTIL_THE_FRONT_ENDS}; seq 60000; {until_freed}) & exit 7"
    words = ("--to", "q", "--", "sh", "-c", script)
    small = ["sh", "-c", 'ulimit -f 200; exec "$@"', "-", *sqstee.words(*words)]  # the size at which segments end
    found = subprocess.run(small, env=sqstee.environ | environ, capture_output=True, timeout=TIMEOUT, check=False)
    assert found.returncode == 7
    wait_for((tmp_path / "injected").exists, "the heir's death")
    flush(sqstee, fake_sqs)
    got = shipped(fake_sqs, "q")
    got.assert_without_holes()
    assert got.stdout == b"".join(b"%d\n" % n for n in range(1, 60001))
    assert [event.event for event in got.events] == ["start", "exit", "end"]
    assert (got.events[1].fields["exit_code"], got.events[2].fields["cause"]) == (7, "wrapper-died")


def test_a_dead_fronts_lock_that_is_free_late(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """A dying process lets go of one descriptor after the other: its shipper closes the run all the same."""
    with unfinished(sqstee, fake_sqs.environ(), "q") as (process, _, _):
        (run,) = sqstee.waiting_runs()
        with open(sqstee.spool / run / "writer", "rb") as lock:
            process.kill()
            fcntl.flock(lock, fcntl.LOCK_EX)  # as soon as it is free, and the shipper asks ten times a second
            time.sleep(1.5)
    wait_for(lambda: not sqstee.waiting_runs(), "end of the run")
    assert_recovered(shipped(fake_sqs, "q"))


@pytest.mark.parametrize("step", range(1, 5))
@pytest.mark.parametrize("by", ["flush", "agent"])
def test_killed_while_it_removes_a_run(sqstee: Sqstee, fake_sqs: FakeSqs, tmp_path: Path, step: int, by: str) -> None:
    """kill -9 between any two of its files: the rest goes with the next flush, and nothing is sent that is not so."""
    environ = fake_sqs.environ() | injecting(tmp_path, f"os:unlink:kill-after:{step}")
    sqstee.run("--to", "q", "--", "seq", "2000", environ=environ)
    assert (tmp_path / "injected").exists()
    (run,) = sqstee.waiting_runs()
    wait_for(lambda: sqstee.left_alone(run), "end of the processes")  # the front dies too, of giving back its reserve
    words = ("flush",) if by == "flush" else ("agent", "--once", "--to", "q")
    assert sqstee.run(*words, environ=fake_sqs.environ()).returncode == 0
    found = shipped(fake_sqs, "q")
    found.assert_whole()
    assert found.stdout == LINES
    assert found.duplicates == 0
    assert sqstee.waiting_runs() == []
