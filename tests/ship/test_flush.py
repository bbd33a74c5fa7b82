"""`sqstee flush` on a terminal, from cron, interrupted; leftovers are reported, and set the status."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Sequence
from functools import partial
from operator import le
from pathlib import Path

import pytest
from fakes.sqs import FakeSqs
from support import TIMEOUT, Rebuilt, Sqstee, running, wait_for
from support.scripted import Scripted
from support.targets import target
from support.terminal import Terminal

from sqstee.agent.agent import Agent
from sqstee.agent.config import AgentConfig
from sqstee.agent.flush import ship_all
from sqstee.agent.other_runs import OtherRuns, ship
from sqstee.cli.flush import _show as show_waiting
from sqstee.destination import Destination
from sqstee.record import Body
from sqstee.settings import Settings
from sqstee.spool.run_folder import create, lock
from sqstee.transports.errors import OPEN, RETRY, Failure, TransportError
from sqstee.wire import by_run


def leave(sqstee: Sqstee, server: FakeSqs, to: str, *command: str) -> str:
    """A run whose lines stay in the spool; its name."""
    before = set(sqstee.waiting_runs())
    server.faults(refuse=True)
    sqstee.run("--to", to, "--flush-timeout", "0s", "--", *command, environ=server.environ())
    server.clear_faults()
    (run,) = set(sqstee.waiting_runs()) - before
    wait_for(lambda: sqstee.left_alone(run), "end of its shipper")
    return run


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_run_that_is_shipped_during_the_listing_is_no_failure(
    sqstee: Sqstee, fake_sqs: FakeSqs, capsys: pytest.CaptureFixture[str], dry_run: bool
) -> None:
    """It is left out; the others are listed."""
    gone = "0" * 26
    run = leave(sqstee, fake_sqs, "q", "seq", "3")
    assert show_waiting(str(sqstee.spool), [gone], dry_run) == 0
    assert show_waiting(str(sqstee.spool), [gone, run], dry_run) == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{run}: ")


def test_from_cron(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """No output without waiting runs, nor on success with -q. Leftovers go to stderr with number and reason."""
    nothing = sqstee.run("flush", environ=fake_sqs.environ())
    assert (nothing.returncode, nothing.stdout, nothing.stderr) == (0, b"", b"")
    good, bad = leave(sqstee, fake_sqs, "q", "seq", "3"), leave(sqstee, fake_sqs, "missing", "seq", "3")
    found = sqstee.run("flush", "-q", environ=fake_sqs.environ())
    assert (found.returncode, found.stdout) == (1, b"")
    start = f"{bad}: stays in the spool, 5 records for missing: QueueDoesNotExist: "
    assert found.stderr.decode().startswith(start), found.stderr
    assert len(found.stderr.splitlines()) == 1
    assert sqstee.waiting_runs() == [bad] != [good]
    fake_sqs.create_queue("missing")
    assert sqstee.run("flush", environ=fake_sqs.environ()).stdout.decode() == f"{bad}: shipped to missing\n"


def test_quarantined_records_are_reported(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """A record that the queue refuses for good: it is reported, with -q as well, and the rest is shipped."""
    run = leave(sqstee, fake_sqs, "q", "sh", "-c", "echo one; echo poisonous; echo two")
    fault = {"contains": "poisonous", "code": "InvalidMessageContents", "sender_fault": True}
    fake_sqs.faults(failed_entries=[fault])
    found = sqstee.run("flush", "-q", environ=fake_sqs.environ())
    assert (found.returncode, found.stdout) == (0, b"")
    what = "1 record larger than the destination takes, or refused by it: kept in"
    assert found.stderr.decode().startswith(f"{run}: {what} {sqstee.spool}/quarantine, ")
    assert found.stderr.count(b"\n") == 1


def test_a_running_run_is_left_alone(sqstee: Sqstee) -> None:
    """It ships its own lines, which do not count as leftovers."""
    command = sqstee.words("--to", "local", "--", "sh", "-c", "echo hi; read x")
    with running(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=sqstee.environ) as process:
        assert process.stdout
        process.stdout.readline()
        wait_for(sqstee.waiting_runs, "run")
        (run,) = sqstee.waiting_runs()
        found = sqstee.run("flush")
        assert (found.returncode, found.stdout.decode()) == (0, f"{run}: running, ships its own lines\n")
        process.communicate(b"\n", timeout=40)


def test_interrupted(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """^C ends it and reports the rest; no line is lost, and the next flush continues."""
    leave(sqstee, fake_sqs, "q", "seq", "3")
    leave(sqstee, fake_sqs, "q", "seq", "4")
    fake_sqs.faults(black_hole=True)
    environ = sqstee.environ | fake_sqs.environ()
    command = sqstee.words("flush", "--timeout", "60s")
    with running(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environ) as process:
        wait_for(lambda: fake_sqs.counters().active > 0, "request")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=40)
    what = f"11 records of 2 runs stay in {sqstee.spool}"
    assert (out, err.decode()) == (b"", f"sqstee: interrupted: {what}; to continue: `sqstee flush`\n")
    assert process.returncode == 130
    fake_sqs.clear_faults()
    assert sqstee.run("flush", environ=fake_sqs.environ()).returncode == 0
    found = Rebuilt.of_many((message.body, message.attributes) for message in fake_sqs.sent("q"))
    assert sorted(one.stdout for one in found.values()) == [b"1\n2\n3\n", b"1\n2\n3\n4\n"]


@pytest.mark.parametrize(("columns", "shown"), [(40, b"%"), (80, b"/3002")])
def test_progress_on_a_terminal(sqstee: Sqstee, fake_sqs: FakeSqs, columns: int, shown: bytes) -> None:
    """A progress line that is never cut off; only the result stays on the screen."""
    run = leave(sqstee, fake_sqs, "q", "seq", "3000")
    fake_sqs.faults(latency_ms=700)
    environ = sqstee.environ | fake_sqs.environ() | {"TERM": "xterm", "NO_COLOR": "1"}
    for name in ("COLUMNS", "LINES"):
        environ.pop(name, None)
    with Terminal(sqstee.words("flush"), environ, (24, columns)) as terminal:
        terminal.expect(b"seq ")  # the bar is called as the run is in every list
        terminal.expect(shown)
        terminal.expect(f"{run}: shipped to q".encode())
        assert terminal.wait() == 0
    assert "…" not in terminal.output.decode()
    assert b"\x1b[3" not in terminal.output


@pytest.mark.parametrize("kind", [OPEN, RETRY])
def test_trying_again_and_again_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A long run checks for leftovers of others every half minute: each check frees its threads and descriptors."""

    def refuse(bodies: Sequence[Body]) -> list[Failure]:
        raise TransportError(kind, "Refused", "")

    monkeypatch.setattr("sqstee.transports.factory.open_sender", lambda *arguments, **options: Scripted(refuse))
    run = "0" * 26
    leave_in(tmp_path, run, "q")

    def held() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))

    before = held()
    for _ in range(5):
        assert run in ship(str(tmp_path), [run], 0.2)
    wait_for(lambda: all(map(le, held(), before)), "end of what was made")  # what was there before may end, too


def test_a_short_run_ships_what_earlier_ones_left(sqstee: Sqstee, tmp_path: Path) -> None:
    """It ended with its own delivery, before its background had tried theirs: they stayed for ever."""
    queue = tmp_path / "queue.db"
    queue.mkdir()  # no queue can be made there
    for _ in range(2):
        sqstee.run("--to", f"local:{queue}", "--flush-timeout", "0s", "--", "seq", "3")
    queue.rmdir()
    assert len(sqstee.waiting_runs()) == 2
    found = sqstee.run("--", "sh", "-c", "exit 3")
    assert (found.returncode, found.stdout) == (3, b"")
    wait_for(lambda: not sqstee.waiting_runs(), "delivery")
    assert len({body.run for body in sqstee.local_bodies(queue)}) == 2


def test_many_runs_are_shipped_together(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """One by one, each with a client of its own, thousands of small runs took minutes. --timeout bounds them all."""
    sqstee.spool.mkdir(mode=0o700)
    good, bad = [[f"{number:026}" for number in range(start, start + 20)] for start in (0, 20)]
    for names, to in ((good, "q"), (bad, f"{fake_sqs.url('q').replace('127.0.0.1', '127.0.0.9')}")):
        for name in names:
            leave_in(sqstee.spool, name, to)
    found = sqstee.run("flush", "--timeout", "2s", environ=fake_sqs.environ())
    assert found.returncode == 1
    assert found.stdout.decode().splitlines() == [f"{name}: shipped to q" for name in good]
    assert [line.split(": ")[0] for line in found.stderr.decode().splitlines()] == bad
    assert len(fake_sqs.requests("SendMessageBatch")) < 4
    assert set(Rebuilt.of_many((message.body, message.attributes) for message in fake_sqs.sent("q"))) == set(good)


def test_the_timeout_bounds_the_look_at_many_runs_too(tmp_path: Path) -> None:
    """A second took thirteen where 3,000 runs waited: all of them were opened first."""
    for number in range(3):
        leave_in(tmp_path, f"{number:026}", f"local:{tmp_path}/queue.db")
    agent = Agent(str(tmp_path), AgentConfig(None, Settings()))
    assert ship_all(agent, 0.0) == dict.fromkeys((f"{number:026}" for number in range(3)), "not done within --timeout")
    assert ship_all(agent, 60.0) == {}


def test_a_lock_that_is_held_for_a_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run beside it looks for who ships it: flush took that for another process that ships it."""
    name, queue = "0" * 26, tmp_path / "queue.db"
    spool = tmp_path / "spool"
    spool.mkdir()
    leave_in(spool, name, f"local:{queue}")
    held = [lock(f"{spool}/{name}", "ship")]
    agent = Agent(str(spool), AgentConfig(None, Settings()))
    real = agent.scan

    def scan(until: float) -> None:
        real(until)
        while held and (fd := held.pop()) is not None:
            os.close(fd)

    monkeypatch.setattr(agent, "scan", scan)
    assert ship_all(agent, TIMEOUT) == {}
    assert agent.delivered == {name: f"local:{queue}"}


def test_what_earlier_runs_left_holds_no_short_run_up(sqstee: Sqstee, tmp_path: Path) -> None:
    """The command's status is there while the background still waits for their destination; ^C does not reach it."""
    with target("http", tmp_path) as collector:
        collector.server.faults(refuse=True)
        sqstee.run("--to", collector.to, "--flush-timeout", "0s", "--", "seq", "3", environ=collector.environ)
        (left,) = sqstee.waiting_runs()
        collector.heal()
        collector.server.faults(black_hole="before")
        words = sqstee.words("--", "sh", "-c", "exit 3")
        with running(words, env=sqstee.environ | collector.environ, start_new_session=True) as process:
            assert process.wait(TIMEOUT) == 3
            wait_for(lambda: collector.active > 0, "request")
            assert sqstee.held(left)
            with pytest.raises(ProcessLookupError):
                os.killpg(process.pid, 0)
        assert sqstee.waiting_runs() == [left]
        collector.heal()
        wait_for(lambda: not sqstee.waiting_runs(), "delivery")


def leave_in(root: Path, run: str, to: str) -> None:
    """A run with one line, whose front and shipper have ended."""
    meta = json.dumps({"run": run, "host": "h", "to": to}).encode()
    writer, *locks = create(str(root), run, meta, 32768, 1024**3, "auto")
    writer.write(0, b"line\n")
    writer.event({"event": "exit"})
    writer.close()
    for fd in locks:
        os.close(fd)


def test_a_run_that_cannot_be_delivered_holds_up_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others leave at once; what was tried in vain is left alone for half a minute."""
    tried: list[str] = []
    attempts = 0

    def send(bodies: Sequence[Body]) -> list[Failure]:
        runs = {part.run for body in bodies for part in by_run(body.data)}
        tried.extend(runs)
        if min(runs) < "3":
            raise TransportError(OPEN, "Refused", "")
        return []

    destinations: dict[str, Scripted] = {}

    def open_sender(to: Destination, *_: object, **options: object) -> Scripted:
        return destinations.setdefault(to.text, Scripted(send))

    monkeypatch.setattr("sqstee.transports.factory.open_sender", open_sender)

    def looked(others: OtherRuns) -> bool:
        return others.left == (not tried)

    names = [digit * 26 for digit in "012345"]
    for name in names:
        leave_in(tmp_path, name, "bad" if name < "3" else "good")
    (damaged,) = (tmp_path / names[3]).glob("*.seg")
    damaged.write_bytes(b"x" * 100)
    for _ in range(2):
        others = OtherRuns(f"{tmp_path}/own")
        others.start()
        wait_for(partial(looked, others), "look at what is left")
        others.finish(TIMEOUT)
        assert sorted(entry.name for entry in tmp_path.iterdir()) == names[:4]
        assert set(tried) == {*names[:3], *names[4:]}
        attempts = attempts or len(tried)
        assert len(tried) == attempts


def test_the_end_of_a_run_does_not_wait_for_the_look_at_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With 80,000 runs in the spool it takes half a second."""
    go_on = threading.Event()
    monkeypatch.setattr("sqstee.agent.other_runs.remove_half_made", lambda root: go_on.wait(TIMEOUT))
    others = OtherRuns(f"{tmp_path}/own")
    others.start()
    assert others.left
    go_on.set()
    wait_for(lambda: not others.left, "look at what is left")
    others.finish(TIMEOUT)


def test_files_made_by_flush_are_private(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """The local queue, whatever the umask."""
    path = sqstee.folder / "queue.db"
    environ = sqstee.environ | fake_sqs.environ()
    (sqstee.folder / "queue.db").mkdir()
    found = sqstee.run("--to", f"local:{path}", "--flush-timeout", "1s", "--", "seq", "3")
    assert b"not delivered yet" in found.stderr
    (run,) = sqstee.waiting_runs()
    wait_for(lambda: sqstee.left_alone(run), "end of its shipper")
    path.rmdir()
    subprocess.run(sqstee.words("flush"), env=environ, umask=0, check=True, timeout=40, capture_output=True)
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert sqstee.local(path).stdout == b"1\n2\n3\n"


def test_flush_of_a_file(sqstee: Sqstee) -> None:
    """--spool with a file gave a traceback."""
    found = sqstee.run("flush", "--spool", "/etc/passwd")
    assert found.returncode == 125
    assert found.stderr.startswith(b"sqstee: the spool folder /etc/passwd cannot be read")
