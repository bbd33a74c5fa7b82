"""The end of a run: the final flush, what cuts it short, what is said about it, and the status."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fakes.sqs import FakeSqs
from support import (
    UNTIL_THE_FRONT_ENDS,
    Rebuilt,
    Sqstee,
    children,
    injecting,
    running,
    time_to_meet,
    until_met,
    wait_for,
)
from support.terminal import Terminal
from support.wrapping import comm

from sqstee.capture.final_flush import DeliveryStats
from sqstee.capture.signals import pending
from sqstee.errors import EXIT_UNDELIVERED

LONG = ("--flush-timeout", "60s")


def shipped(server: FakeSqs) -> Rebuilt:
    """The streams in everything that the queue ever accepted."""
    return Rebuilt((message.body, message.attributes) for message in server.sent("q"))


@contextmanager
def flushing(sqstee: Sqstee, server: FakeSqs, script: str, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """A run whose command has ended and whose final flush hangs in a black hole."""
    server.faults(black_hole=True)
    command = sqstee.words("--to", "q", *LONG, *words, "--", "sh", "-c", script)
    environ = sqstee.environ | server.environ()
    with running(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environ) as process:
        wait_for(lambda: b'"event":"exit"' in sqstee.spooled(), "exit event")
        yield process


def heal(sqstee: Sqstee, server: FakeSqs) -> None:
    """The destination is well again, and what stayed behind is shipped."""
    server.clear_faults()
    wait_for(lambda: not any(map(sqstee.held, sqstee.waiting_runs())), "death of the shipper")
    found = sqstee.run("flush", environ=server.environ())
    assert (found.returncode, sqstee.waiting_runs()) == (0, []), found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_in_the_final_flush(sqstee: Sqstee, fake_sqs: FakeSqs, number: signal.Signals) -> None:
    """The lines stay in the spool, one line says so, and the status is the command's own."""
    with flushing(sqstee, fake_sqs, "seq 3; exit 7") as process:
        process.send_signal(number)
        out, err = process.communicate(timeout=40)
    assert (out, process.returncode) == (b"1\n2\n3\n", 7)
    why = f"3 lines not delivered yet (cut short by {number.name}): kept in {sqstee.spool}, `sqstee flush` ships them"
    assert err.decode() == f"sqstee: {why}\n"
    heal(sqstee, fake_sqs)
    found = shipped(fake_sqs)
    found.assert_whole()
    assert found.stdout == out


def test_several_signals_at_once(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """Nothing hangs, and nothing is lost."""
    with flushing(sqstee, fake_sqs, "seq 3; exit 7") as process:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            process.send_signal(number)
        process.communicate(timeout=40)
    assert process.returncode == 7
    heal(sqstee, fake_sqs)
    shipped(fake_sqs).assert_whole()


def test_the_commands_death_is_mirrored_after_a_signal_in_the_flush(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """Killed by KILL, and ^C while its last lines were on their way: dead by KILL."""
    with flushing(sqstee, fake_sqs, "seq 3; kill -9 $$") as process:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=40)
    assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("times", [1, 2])
def test_the_signal_that_ended_the_command_does_not_cut_short(sqstee: Sqstee, fake_sqs: FakeSqs, times: int) -> None:
    """One that ends a tree of processes signals one after the other, and the command has died when ours comes. Only a
    second one is meant for the delivery."""
    with flushing(sqstee, fake_sqs, "seq 3; kill $$") as process:
        for _ in range(times):
            process.terminate()
            wait_for(lambda: not pending(process.pid), "arrival of the signal")
        fake_sqs.clear_faults()
        _, err = process.communicate(timeout=40)
    assert process.returncode == -signal.SIGTERM
    assert err.count(b"cut short by SIGTERM") == times - 1
    assert bool(err) == (times > 1)


@pytest.mark.parametrize(
    "script", ["echo $$; exec sleep 60", "trap 'exit 3' TERM; echo $$; while :; do sleep .1; done"]
)
def test_a_signal_to_the_group_ends_the_command_not_the_delivery(sqstee: Sqstee, tmp_path: Path, script: str) -> None:
    """The command's end is learnt before the signal that it died of, in one of five runs."""
    environ = sqstee.environ | injecting(tmp_path, "sqstee.capture.supervisor:Supervisor._note_pending_signals:hang:1")
    words = sqstee.words("--to", "local", "--summary", "--", "sh", "-c", script)
    with running(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environ) as process:
        assert process.stdout
        os.kill(int(process.stdout.readline()), signal.SIGTERM)
        wait_for((tmp_path / "injected").exists, "end of the command")
        process.terminate()
        (tmp_path / "injected.go").touch()
        _, err = process.communicate(timeout=40)
    assert b": 1 delivered in " in err
    assert b", 0 waiting, " in err
    assert err.count(b"\n") == 1


def test_an_ignored_signal_cuts_nothing_short(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """Under nohup a hangup in the final flush is as ignored as it is by the command."""
    fake_sqs.faults(black_hole=True)
    script = f"trap '' HUP; exec {' '.join(sqstee.words(*LONG))} --to q -- seq 3"
    environ = sqstee.environ | fake_sqs.environ()
    with running(["sh", "-c", script], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environ) as process:
        wait_for(lambda: b'"event":"exit"' in sqstee.spooled(), "exit event")
        process.send_signal(signal.SIGHUP)
        fake_sqs.clear_faults()
        _, err = process.communicate(timeout=40)
    assert (err, process.returncode) == (b"", 0)
    assert shipped(fake_sqs).stdout == b"1\n2\n3\n"


def test_progress_on_a_terminal(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """After a second: how much, how long, and what ^C does; it is wiped, and ^C does what was said."""
    fake_sqs.faults(black_hole=True)
    words = sqstee.words("--to", "q", *LONG, "--", "sh", "-c", "seq 3; printf unfinished; exit 7")
    with Terminal(words, sqstee.environ | fake_sqs.environ()) as terminal:
        shown = terminal.expect(b"^C leaves them in the spool")
        assert re.search(rb"3\r\nunfinished\r?\n\rsqstee: delivering 4 lines, 5\d s left; ", shown), shown
        terminal.expect(b"^C leaves them in the spool")
        terminal.type(b"\x03")
        assert terminal.wait() == 7
    *_, drawn, rest = terminal.output.split(b"\x1b[K")
    # the terminal shows the key, unless one more was drawn over it, and the last of ours wipes the line
    assert drawn.removeprefix(b"^C") == b"\r"
    assert rest.startswith(b"sqstee: 4 lines not delivered yet (cut short by SIGINT)")


def test_progress_is_cut_to_the_terminals_width(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """A line that wrapped could not be redrawn in place."""
    fake_sqs.faults(black_hole=True)
    words = sqstee.words("--to", "q", *LONG, "--", "echo", "x")
    with Terminal(words, sqstee.environ | fake_sqs.environ(), size=(10, 21)) as terminal:
        terminal.expect(b"\rsqstee: delivering 1\x1b[K")
        terminal.type(b"\x03")
        assert terminal.wait() == 0


def test_no_progress_where_nobody_looks(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """stderr is a pipe: only the final line."""
    fake_sqs.faults(black_hole=True)
    found = sqstee.run("--to", "q", "--flush-timeout", "2s", "--", "seq", "3", environ=fake_sqs.environ())
    assert found.returncode == 0
    assert len(found.stderr.splitlines()) == 1
    assert b"not delivered yet" in found.stderr


def test_why_lines_stay_is_always_said(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """A destination that is merely slow has no reason of its own."""
    fake_sqs.faults(latency_ms=20_000)
    found = sqstee.run("--to", "q", "--flush-timeout", "1s", "--", "seq", "3", environ=fake_sqs.environ())
    assert b"3 lines not delivered yet (not done within 1 s): kept in " in found.stderr


def lost(sqstee: Sqstee, fault: str, *words: str, code: int = 0) -> subprocess.CompletedProcess[bytes]:
    """A run with an injected fault."""
    environ = injecting(sqstee.folder, fault)
    (sqstee.folder / "injected").unlink(missing_ok=True)
    script = f"printf 'a\\nb\\n'; {until_met(sqstee.folder, fault)}; exit {code}"
    found = sqstee.run(*words, "--", "sh", "-c", script, environ=environ)
    assert (sqstee.folder / "injected").exists()
    assert found.stdout == b"a\nb\n"
    return found


FAULTS = [
    "sqstee.spool.location:open_root:full:1",
    "sqstee.spool.segments:Segments.append:full:2",
    "sqstee.spool.writer:Writer.write:bug:1",
    "sqstee.ship.shipper_handle:fork:many:1",
    "sqstee.transports.local:LocalSender.send:bug:1",
    "sqstee.capture.teardown:Teardown._deliver:bug:1",
]


@pytest.mark.parametrize("fault", FAULTS)
def test_strict_tells_by_the_status(sqstee: Sqstee, fault: str) -> None:
    """Lines that were not captured, dropped, or stay behind: a status of its own, in the place of 0 only."""
    words = ("--strict", "--to", "local", *time_to_meet(fault))
    found = lost(sqstee, fault, *words)
    assert found.returncode == EXIT_UNDELIVERED, found.stderr
    assert found.stderr.startswith(b"sqstee: ")
    assert lost(sqstee, fault, *words, code=7).returncode == 7
    assert lost(sqstee, fault, *words[1:]).returncode == 0


def test_an_exit_event_that_the_disk_refuses_for_a_moment(sqstee: Sqstee) -> None:
    """It is written once the shipper has freed what is delivered."""
    found = lost(sqstee, "sqstee.spool.segments:Segments.append:full:3-3", "--to", "local", "--strict")
    assert (found.returncode, found.stderr) == (0, b"")
    assert [event.event for event in sqstee.local().events] == ["start", "exit"]
    assert sqstee.waiting_runs() == []


def test_an_exit_event_that_the_disk_refuses(sqstee: Sqstee) -> None:
    """It is reported, no gap event covers a line that never was, and the run stays until it can be closed."""
    fault = "sqstee.spool.segments:Segments.append:full:3-1000000"
    found = lost(sqstee, fault, "--to", "local", "--strict", "--summary")
    assert found.returncode == EXIT_UNDELIVERED
    missing, summary = found.stderr.decode().splitlines()
    why = "the spool could not be written (No space left on device); make room in"
    assert missing.startswith(f"sqstee: the exit event is missing: {why} ")
    assert re.search(r": 2 delivered in \d requests?, 0 waiting, 0 dropped; to local:", summary)
    assert [item.seq for item in sqstee.local().items] == [0, 1, 2]
    assert [event.event for event in sqstee.local().events] == ["start"]
    assert sqstee.run("flush").returncode == 0
    assert [event.event for event in sqstee.local().events] == ["start", "exit"]
    assert "cause" in sqstee.local().events[-1].fields
    assert sqstee.waiting_runs() == []


def test_strict_is_content_when_all_is_delivered(sqstee: Sqstee) -> None:
    """Then the status is 0, and nothing is said."""
    found = sqstee.run("--strict", "--to", "local", "--", "seq", "1000")
    assert (found.returncode, found.stderr) == (0, b"")


def test_strict_and_a_record_that_is_put_aside(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """What no message can hold was not delivered."""
    fake_sqs.create_queue("small", MaximumMessageSize=1024)
    words = ("--strict", "--summary", "--to", "small", "--", "sh", "-c", "echo a; head -c 3000 /dev/zero; echo")
    found = sqstee.run(*words, environ=fake_sqs.environ())
    assert found.returncode == EXIT_UNDELIVERED
    aside, summary = found.stderr.decode().splitlines()
    assert aside.startswith(
        f"sqstee: 1 line larger than the destination takes, or refused by it: kept in {sqstee.spool}/quarantine"
    )
    assert "2 lines (3,003 bytes)" in summary
    assert "1 delivered" in summary
    assert "1 quarantined" in summary


def test_summary(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """One line of figures, which are the run's."""
    found = sqstee.run("--to", "q", "--summary", "--", "seq", "2000", environ=fake_sqs.environ())
    form = (
        r"sqstee: summary: 2,000 lines \(8,893 bytes\) in \d+\.\d s: 2,000 delivered in (\d+) requests?, 0 waiting,"
        r" 0 dropped; to q\n"
    )
    match = re.fullmatch(form, found.stderr.decode())
    assert match, found.stderr
    assert int(match[1]) == len(fake_sqs.requests("SendMessageBatch")) + len(fake_sqs.requests("SendMessage"))


@pytest.mark.parametrize("fault", [{"black_hole": True}, {"errors": [{"code": "AccessDenied", "status": 403}]}])
def test_summary_of_what_waits(sqstee: Sqstee, fake_sqs: FakeSqs, fault: dict[str, Any]) -> None:
    """Nothing was delivered, and the figures say so; they have the requests from the shipper, if it lives to say it."""
    fake_sqs.faults(**fault)
    words = ("--to", "q", "--summary", "--flush-timeout", "1s" if "black_hole" in fault else "60s", "--", "seq", "20")
    found = sqstee.run(*words, environ=fake_sqs.environ())
    assert b"20 lines (51 bytes)" in found.stderr
    requests = "( in 0 requests)?" if "black_hole" in fault else " in 0 requests"
    assert re.search(rf": 0 delivered{requests}, 20 waiting, 0 dropped; to q\n", found.stderr.decode()), found.stderr


def test_summary_without_a_capture(sqstee: Sqstee) -> None:
    """It is not silent about a spool that could not be used."""
    found = lost(sqstee, "sqstee.spool.location:open_root:full:1", "--summary")
    assert found.stderr.decode().splitlines()[1:] == [
        "sqstee: summary: nothing was captured; the line above says why",
    ]


def test_an_exit_after_a_pause_is_shipped_while_an_heir_goes_on(
    sqstee: Sqstee, fake_sqs: FakeSqs, tmp_path: Path
) -> None:
    """The shipper sleeps since the last line, and the processes left behind write nothing: the exit event arrives."""
    os.mkfifo(tmp_path / "fifo")
    command = sqstee.words("--to", "q", "--", "sh", "-c", f"(read x <{tmp_path}/fifo) & echo hi; read x; exit 7")
    environ = sqstee.environ | fake_sqs.environ()
    with running(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environ) as process:
        wait_for(lambda: shipped(fake_sqs).stdout == b"hi\n", "line")
        shipped_at = time.monotonic()
        wait_for(lambda: time.monotonic() - shipped_at > 1, "shipper to be asleep")
        process.communicate(b"\n", timeout=40)
        assert process.returncode == 7
        wait_for(lambda: len(shipped(fake_sqs).events) == 2, "exit event")
        assert shipped(fake_sqs).events[1].fields["open"] == ["stdout", "stderr"]
        (tmp_path / "fifo").write_text("\n")
    wait_for(lambda: not sqstee.waiting_runs(), "end of the streams")


def test_an_heir_is_known_to_strict_and_summary(sqstee: Sqstee, fake_sqs: FakeSqs, tmp_path: Path) -> None:
    """What came before the command's end is waited for; the stream that goes on is named."""
    script = f"(read x <{tmp_path}/fifo; echo late) & seq 3"
    os.mkfifo(tmp_path / "fifo")
    command = sqstee.words("--to", "q", "--strict", "--summary", *LONG, "--", "sh", "-c", script)
    environ = sqstee.environ | fake_sqs.environ()
    with (
        (tmp_path / "err").open("wb") as err,
        running(command, stdout=subprocess.DEVNULL, stderr=err, env=environ) as process,
    ):
        assert process.wait(timeout=40) == 0
        summary = (tmp_path / "err").read_text()
        assert re.fullmatch(
            r"sqstee: summary: 3 lines \(6 bytes\) in .* s: 3 delivered, 0 waiting, 0 dropped; to q;"
            r" still open: stdout, stderr\n",
            summary,
        ), summary
        assert shipped(fake_sqs).stdout == b"1\n2\n3\n"
        (tmp_path / "fifo").write_text("\n")
    wait_for(lambda: not sqstee.waiting_runs(), "end of the streams")
    assert shipped(fake_sqs).stdout == b"1\n2\n3\nlate\n"


def test_an_heir_and_a_record_that_is_put_aside(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """It is said, and --strict tells it, also where the run goes on without the front."""
    fake_sqs.faults(failed_entries=[{"contains": "poisonous", "code": "InvalidMessageContents", "sender_fault": True}])
    script = f"({UNTIL_THE_FRONT_ENDS}) & echo good; echo poisonous"
    words = sqstee.words("--strict", "--summary", "--to", "q", "--", "sh", "-c", script)
    environ = sqstee.environ | fake_sqs.environ()
    with running(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environ) as process:
        assert process.stderr
        aside, summary = process.stderr.readline(), process.stderr.readline()
        assert process.wait(60) == EXIT_UNDELIVERED
    assert aside.startswith(b"sqstee: 1 line larger than the destination takes, or refused by it: kept in ")
    assert b"1 delivered, 0 waiting, 0 dropped, 1 quarantined; to q; still open: " in summary


def test_an_heir_that_ends_while_the_front_waits(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """Everything is delivered in one request, for which both wait: nothing of the run stays in the spool."""
    fake_sqs.faults(latency_ms=1000)
    until_there_is_an_heir = f"""until grep -qs '"event":"exit"' {sqstee.spool}/*/*.seg; do sleep 0.02; done"""
    words = ("--to", "q", "--summary", "--", "sh", "-c", f"({until_there_is_an_heir}; echo late) & echo first")
    found = sqstee.run(*words, environ=fake_sqs.environ())
    assert b"0 waiting" in found.stderr
    wait_for(lambda: not sqstee.waiting_runs(), "end of the run")
    assert shipped(fake_sqs).stdout == b"first\nlate\n"


def test_a_signal_where_no_heir_can_be_had(sqstee: Sqstee, tmp_path: Path) -> None:
    """The status then waits for the last writer, and whoever does not want that ends it by a signal."""
    words = sqstee.words("--to", "local", "--", "sh", "-c", "tail -f /dev/null --pid=$PPID & echo hi")
    environ = sqstee.environ | injecting(tmp_path, "os:fork:many:3-3")
    with running(words, stdout=subprocess.PIPE, env=environ) as process:
        wait_for((tmp_path / "injected").exists, "fork that is refused")
        process.terminate()
        assert process.wait(40) == -signal.SIGTERM


def test_strict_with_an_heir_and_an_outage(sqstee: Sqstee, fake_sqs: FakeSqs, tmp_path: Path) -> None:
    """What came before the command's end waits: that is told by the status."""
    fake_sqs.faults(black_hole=True)
    os.mkfifo(tmp_path / "fifo")
    script = f"(read x <{tmp_path}/fifo) & seq 3"
    words = ("--to", "q", "--strict", "--flush-timeout", "1s", "--", "sh", "-c", script)
    command, environ = sqstee.words(*words), sqstee.environ | fake_sqs.environ()
    with (tmp_path / "err").open("wb") as err:
        process = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=err, env=environ, timeout=40, check=False)
    (tmp_path / "fifo").write_text("\n")
    assert process.returncode == EXIT_UNDELIVERED
    assert (tmp_path / "err").read_text().startswith("sqstee: 3 lines not delivered yet (not done within 1 s)")


@pytest.mark.parametrize("which", ["front", "shipper"])
def test_suspended_in_the_middle_of_delivery(sqstee: Sqstee, fake_sqs: FakeSqs, which: str) -> None:
    """SIGSTOP and SIGCONT, as a suspended machine or a debugger does it: nothing is lost or sent twice."""
    command = sqstee.words("--to", "q", "--", "sh", "-c", "seq 20; read x; seq 20; read x; seq 20000")
    environ = sqstee.environ | fake_sqs.environ()
    with running(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environ
    ) as process:
        wait_for(lambda: fake_sqs.counters().stored, "delivery")
        fake_sqs.faults(black_hole=True)
        assert process.stdin
        process.stdin.write(b"\n")
        process.stdin.flush()
        wait_for(lambda: fake_sqs.counters().injected.get("black_hole"), "request that was read to its end")
        pid = process.pid if which == "front" else children(process.pid)[-1]
        os.kill(pid, signal.SIGSTOP)
        wait_for(lambda: stopped(pid), "stop")
        fake_sqs.faults(black_hole=False)
        wait_for(lambda: fake_sqs.counters().active == 0, "end of what was in flight")
        os.kill(pid, signal.SIGCONT)
        out, err = process.communicate(b"\n", timeout=40)
    wrote = b"".join(b"%d\n" % n for last in (20, 20, 20000) for n in range(1, last + 1))
    assert (out, err, process.returncode) == (wrote, b"", 0)
    found = shipped(fake_sqs)
    found.assert_whole()
    assert (found.stdout, found.duplicates) == (out, 0)


def stopped(pid: int) -> bool:
    """Whether a process is stopped."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def test_figures_add_up() -> None:
    """What is captured is delivered, waiting, dropped or quarantined; the run's own events are no lines."""
    figures = DeliveryStats(captured=10, size=100, reasons={})
    figures.count_waiting(acknowledged=0, next_seq=12)
    assert (figures.delivered, figures.waiting, figures.waiting_events, figures.complete) == (0, 10, 2, False)
    figures.count_waiting(acknowledged=4, next_seq=12)
    assert (figures.delivered, figures.waiting) == (3, 7)
    figures.count_waiting(acknowledged=12, next_seq=12)
    assert (figures.delivered, figures.waiting, figures.complete) == (10, 0, True)


LOCAL = ("--to", "local")


@contextmanager
def waiting(sqstee: Sqstee, *words: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A wrapper whose command waits for a line, and the pid of its shipper."""
    with running(
        sqstee.words(*LOCAL, *words, "--", "sh", "-c", "echo $$; read x"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=sqstee.environ,
    ) as process:
        assert process.stdout
        command = int(process.stdout.readline())
        wait_for(lambda: len(children(process.pid)) == 2, "shipper")
        (shipper,) = [pid for pid in children(process.pid) if pid != command]
        yield process, shipper


def test_a_full_stderr_that_nobody_reads(sqstee: Sqstee) -> None:
    """A notice of ours waited for room in the caller's stderr, for ever."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    while True:
        try:
            os.write(writing, b"x" * 4096)
        except BlockingIOError:
            break
    os.set_blocking(writing, True)
    assert subprocess.run(sqstee.words("--", "true"), stderr=writing, env=sqstee.environ, timeout=40, check=False)
    os.close(reading)
    os.close(writing)


def test_term_after_the_end_with_a_stalled_output(sqstee: Sqstee) -> None:
    """The command has ended, nobody takes its output: TERM ends us, and not with the command's success."""
    command = sqstee.words(*LOCAL, "--", "sh", "-c", "head -c 100000 /dev/zero; echo end >&2")
    with running(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=sqstee.environ) as process:
        assert process.stderr
        assert process.stderr.readline() == b"end\n"
        wait_for(lambda: "sh" not in (found := list(map(comm, children(process.pid)))) and found, "end of the command")
        process.send_signal(signal.SIGTERM)
        assert process.wait(40) == -signal.SIGTERM


def test_a_shipper_that_was_stopped_is_not_dead(sqstee: Sqstee) -> None:
    """SIGSTOP and SIGCONT of the shipper counted as its end."""
    with waiting(sqstee) as (process, shipper):
        os.kill(shipper, signal.SIGSTOP)
        os.kill(shipper, signal.SIGCONT)
        _, errors = process.communicate(b"\n", timeout=40)
        assert errors == b""


def test_a_shipper_that_hangs_is_late_not_ended(sqstee: Sqstee) -> None:
    """It does not end in its time: the reason named our own kill in the place of why."""
    with waiting(sqstee, "--flush-timeout", "0.5s") as (process, shipper):
        os.kill(shipper, signal.SIGSTOP)
        _, errors = process.communicate(b"\n", timeout=40)
    assert process.returncode == 0
    assert b"not delivered yet (not done within 0.5 s): kept in " in errors
