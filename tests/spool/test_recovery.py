"""What is left behind by a death is shipped later, with the same run and seq, and the run is closed."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest
from fakes.sqs import FakeSqs
from support import Sqstee, children, injecting, is_running, kill, running, wait_for
from support.recovery import LINES, assert_recovered, leave_behind, shipped, unfinished

from sqstee.jsonbytes import encode_object
from sqstee.ship.request import RequestLimits
from sqstee.ship.source import RunSource
from sqstee.spool.checkpoint import Checkpoint
from sqstee.spool.quota import UnboundedQuota
from sqstee.spool.segments import Segments, segment_name
from sqstee.spool.waiting import remove_half_made
from sqstee.spool.writer import Writer


def test_flush_closes_and_ships_a_dead_run(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """kill -9 of front and shipper: the spool holds everything, flush ships it and leaves nothing."""
    run = leave_behind(sqstee, fake_sqs, "later")
    listed = sqstee.run("flush", "--list", environ=fake_sqs.environ())
    assert listed.returncode == 1
    assert listed.stdout.startswith(f"{run}: 2001 records (".encode())
    assert listed.stdout.endswith(b"for later\n")
    assert b"would ship 2001 records" in sqstee.run("flush", "--dry-run").stdout
    fake_sqs.create_queue("later")
    found = sqstee.run("flush", environ=fake_sqs.environ())
    assert (found.returncode, found.stdout.decode()) == (0, f"{run}: shipped to later\n")
    assert_recovered(shipped(fake_sqs, "later"))
    assert sqstee.run("flush", "--list").stdout == b""
    assert sqstee.run("flush", "--list").returncode == 0


def test_the_next_run_ships_it_in_the_background(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """Without anybody's doing, while the next command on the host runs; never waited for."""
    run = leave_behind(sqstee, fake_sqs, "later")
    fake_sqs.create_queue("later")
    command = sqstee.words("--to", "q", "--", "sh", "-c", "read x; echo second")
    environ = sqstee.environ | fake_sqs.environ()
    with running(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environ) as process:
        wait_for(lambda: run not in sqstee.waiting_runs(), "orphan's delivery")
        process.communicate(b"\n", timeout=40)
    assert_recovered(shipped(fake_sqs, "later"))
    shipped(fake_sqs, "q").assert_whole()


@pytest.mark.parametrize("damage", ["torn", "zeros", "garbage", "no state", "torn first frame"])
def test_damage_after_a_power_cut(sqstee: Sqstee, fake_sqs: FakeSqs, damage: str) -> None:
    """A torn or zero-filled tail, no state file: what is whole is shipped, and the run is closed behind it."""
    run = leave_behind(sqstee, fake_sqs, "later")
    folder = sqstee.spool / run
    path = folder / segment_name(1)
    data = path.read_bytes()
    if damage == "torn":
        path.write_bytes(data[:-4])
    elif damage == "zeros":
        path.write_bytes(data + b"\0" * 5000)
    elif damage == "garbage":
        path.write_bytes(data + os.urandom(300))
    elif damage == "no state":
        (folder / "state").unlink(missing_ok=True)
    else:
        (folder / segment_name(2)).write_bytes(data[:20])
    fake_sqs.create_queue("later")
    assert sqstee.run("flush", environ=fake_sqs.environ()).returncode == 0
    found = shipped(fake_sqs, "later")
    found.assert_whole()
    if damage == "torn":  # what was in the last frame is gone, and nothing else
        assert (LINES + b"unfinished").startswith(found.stdout)
        assert found.stdout != LINES + b"unfinished"
    else:
        assert found.stdout == LINES + b"unfinished"
    assert sqstee.waiting_runs() == []


def test_a_segment_that_lost_what_was_delivered(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """A power cut that the state file survived, and the segment's end did not: the run's end arrives all the same."""
    words = sqstee.words("--to", "q", "--", "sh", "-c", "seq 2000; exec tail -f /dev/null")
    environ = sqstee.environ | fake_sqs.environ()
    with running(words, stdout=subprocess.DEVNULL, env=environ) as process:
        wait_for(
            lambda: any(Checkpoint(str(sqstee.spool / run)).next == 2001 for run in sqstee.waiting_runs()), "delivery"
        )
        kill(process.pid, *children(process.pid))
    (run,) = sqstee.waiting_runs()
    os.truncate(sqstee.spool / run / segment_name(1), 1500)
    found = sqstee.run("flush", environ=fake_sqs.environ())
    assert (found.returncode, found.stdout.decode()) == (0, f"{run}: shipped to q\n")
    shipped(fake_sqs, "q").assert_whole()
    assert shipped(fake_sqs, "q").stdout == LINES
    assert sqstee.waiting_runs() == []


def test_a_closed_run_is_not_closed_again(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """A run that ended as it should, undelivered: flush adds no second exit event."""
    sqstee.run("--to", "later", "--", "seq", "3", environ=fake_sqs.environ())
    fake_sqs.create_queue("later")
    assert sqstee.run("flush", environ=fake_sqs.environ()).returncode == 0
    found = shipped(fake_sqs, "later")
    found.assert_whole()
    assert found.events[-1].fields["exit_code"] == 0


def test_a_killed_shipper_sends_its_plan_again_unchanged(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """kill -9 of the shipper in the middle of its requests: nothing is missing, what came twice is the same."""
    environ = sqstee.environ | fake_sqs.environ()
    script = "echo 0; read x; seq 60000; read x"
    with running(
        sqstee.words("--to", "q", "--", "sh", "-c", script),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environ,
    ) as process:
        wait_for(lambda: shipped(fake_sqs, "q").stdout == b"0\n", "first line")
        fake_sqs.faults(black_hole="after")
        assert process.stdin
        process.stdin.write(b"\n")
        process.stdin.flush()
        wait_for(lambda: fake_sqs.counters().active > 1, "requests in flight")
        kill(children(process.pid)[-1])
        process.communicate(b"\n", timeout=40)
    fake_sqs.clear_faults()
    wait_for(lambda: fake_sqs.counters().active == 0, "end of the old requests")
    assert sqstee.run("flush", environ=fake_sqs.environ()).returncode == 0
    found = shipped(fake_sqs, "q")
    found.assert_whole()
    assert found.stdout == b"".join(b"%d\n" % n for n in range(60001))
    ranges = [message.attributes["seq"] for message in fake_sqs.sent("q")]
    firsts = {text.split("-")[0] for text in ranges}
    assert len(firsts) == len(set(ranges))  # no range was cut anew


@pytest.mark.parametrize("trouble", ["full", "late"])
def test_a_run_that_could_not_be_closed_is_not_removed(
    sqstee: Sqstee, fake_sqs: FakeSqs, tmp_path: Path, trouble: str
) -> None:
    """kill -9 of the front on a full disk, or one that dies slowly: its unfinished line and its end come later."""
    step = (
        "sqstee.spool.recovery:_close:full:1"
        if trouble == "full"
        else "sqstee.agent.shipper_process:close_dead_run:false:1-1000"
    )
    environ = fake_sqs.environ() | injecting(tmp_path, step)
    with unfinished(sqstee, environ, "q") as (process, _, shipper):
        kill(process.pid)
        wait_for(lambda: not is_running(shipper), "end of the shipper")
    assert (tmp_path / "injected").exists()
    assert shipped(fake_sqs, "q").stdout == LINES
    assert sqstee.run("flush", environ=fake_sqs.environ()).returncode == 0
    assert_recovered(shipped(fake_sqs, "q"))
    assert sqstee.waiting_runs() == []


def test_a_run_that_dies_while_flush_ships_it(sqstee: Sqstee, fake_sqs: FakeSqs, tmp_path: Path) -> None:
    """It lived when flush came, without its shipper: what its death leaves unfinished is shipped as well."""
    environ = sqstee.environ | fake_sqs.environ()
    with unfinished(sqstee, environ, "q") as (process, command, shipper):
        kill(shipper)
        slow = environ | injecting(tmp_path, "sqstee.agent.worker:ShippingWorker.close:hang:1")
        with running(sqstee.words("flush"), stdout=subprocess.DEVNULL, env=slow) as flush:
            wait_for((tmp_path / "injected").exists, "flush")
            kill(process.pid, command)
            (tmp_path / "injected.go").touch()
            assert flush.wait(timeout=40) == 0
    assert_recovered(shipped(fake_sqs, "q"))
    assert sqstee.waiting_runs() == []


@pytest.mark.parametrize("refusals", ["1-1", "1-2"])
def test_flush_on_a_full_disk(sqstee: Sqstee, fake_sqs: FakeSqs, tmp_path: Path, refusals: str) -> None:
    """What is there is shipped, which may make room for the run's end; else that stays, is said, and comes later."""
    run = leave_behind(sqstee, fake_sqs, "later")
    fake_sqs.create_queue("later")
    environ = fake_sqs.environ() | injecting(tmp_path, f"sqstee.spool.segments:Segments.append:full:{refusals}")
    found = sqstee.run("flush", environ=environ)
    assert (tmp_path / "injected").exists()
    if refusals == "1-2":
        assert found.returncode == 1
        why = b"its exit event cannot be written: No space left"
        assert b"stays in the spool, 0 records for later: " + why in found.stderr
        assert shipped(fake_sqs, "later").stdout == LINES
        assert sqstee.waiting_runs() == [run]
        found = sqstee.run("flush", environ=fake_sqs.environ())
    assert (found.returncode, found.stdout.decode()) == (0, f"{run}: shipped to later\n")
    assert_recovered(shipped(fake_sqs, "later"))
    assert shipped(fake_sqs, "later").duplicates == 0
    assert sqstee.waiting_runs() == []


def test_half_made_folders_are_swept_away(sqstee: Sqstee, tmp_path: Path) -> None:
    """A maker that was killed between two steps leaves nothing for ever."""
    sqstee.spool.mkdir(mode=0o700)
    for name, age in ((".new-OLD", 7200), (".new-YOUNG", 0)):
        (sqstee.spool / name).mkdir()
        os.utime(sqstee.spool / name, (time.time() - age,) * 2)
    with running(
        sqstee.words("--to", "local", "--", "sh", "-c", "read x"), stdin=subprocess.PIPE, env=sqstee.environ
    ) as process:
        wait_for(lambda: not (sqstee.spool / ".new-OLD").exists(), "sweep")
        process.communicate(b"\n", timeout=40)
    assert (sqstee.spool / ".new-YOUNG").exists()


def test_a_folder_that_gets_its_name_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the listing and the look at it; what is half made is swept away all the same."""
    (tmp_path / ".new-OLD").mkdir()
    os.utime(tmp_path / ".new-OLD", (0, 0))
    monkeypatch.setattr(os, "listdir", lambda _: [".new-NAMED", ".new-OLD"])
    remove_half_made(str(tmp_path))
    assert not (tmp_path / ".new-OLD").exists()


@pytest.mark.parametrize("verb", [("flush",), ("agent", "--once")], ids=" ".join)
@pytest.mark.parametrize("names", [(), ("00000001.seg",)], ids=["no segment", "an empty one"])
def test_a_run_of_which_nothing_was_written(sqstee: Sqstee, names: tuple[str, ...], verb: tuple[str, ...]) -> None:
    """Killed before, or on a full disk: such a folder once stayed for ever, and flush failed on it each time."""
    folder = sqstee.spool / "01JD0000000000000000000000"
    folder.mkdir(parents=True, mode=0o700)
    sqstee.spool.chmod(0o700)
    for name in names:
        (folder / name).touch()
    found = sqstee.run(*verb)
    assert (found.returncode, found.stderr) == (0, b"")
    assert sqstee.waiting_runs() == []


def test_a_disk_that_is_full_when_a_run_begins(sqstee: Sqstee, tmp_path: Path) -> None:
    """The shipper, which finds nothing that it can read, looks again: what comes once there is room is shipped."""
    # what was refused within the last second is not tried again at the end: the look must be older by then
    script = f"echo lost; while [ ! -e {sqstee.spool}/local.db ]; do sleep 0.02; done; sleep 5; echo kept"
    fault = injecting(tmp_path, "sqstee.spool.segments:write_whole:full:1-3")
    found = sqstee.run("--to", "local", "--", "sh", "-c", script, environ=fault)
    assert (found.returncode, found.stdout) == (0, b"lost\nkept\n")
    assert b"1 line dropped" in found.stderr
    assert b"not delivered" not in found.stderr
    assert sqstee.local().stdout == b"kept\n"
    sqstee.local().assert_without_holes()
    assert sqstee.waiting_runs() == []


META = encode_object({"run": "RUN", "host": "h"})


def written(folder: Path, lines: int = 5, limit: int = 10**6) -> None:
    """A spool with a frame a line."""
    writer = Writer(Segments(str(folder), META, UnboundedQuota(limit)), 100)
    for number in range(lines):
        writer.write(0, b"line %d\n" % number)
    writer.close()


def test_the_plan_survives_a_second_restart(tmp_path: Path) -> None:
    """After a restart only what was handed out again stayed in the plan."""
    written(tmp_path, 40)
    plan = [(first, first + 3) for first in range(0, 40, 4)]
    state = Checkpoint(str(tmp_path))
    state.save(0, (1, 0), plan)
    state.close()
    source = RunSource(str(tmp_path), 500, RequestLimits(), "none")
    source.read()
    source.close_open_body()
    source.plan([source.ready.popleft(), source.ready.popleft()])
    source.close()
    assert Checkpoint(str(tmp_path)).plan == plan
