"""Every failure of ours, injected at every step: the command's output and status are as ever."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support import (
    Sqstee,
    children,
    injecting,
    kill,
    paced,
    running,
    time_to_meet,
    until_met,
    wait_for,
)
from support.terminal import Terminal
from support.wrapping import shell

BEFORE = [  # the command is executed in our place
    "sqstee.settings:load_settings:bug:1",
    "sqstee.destination:parse:bug:1",
    "sqstee.capture.front:Front.__init__:bug:1",
    "sqstee.capture.child:start:bug:1",
    "sqstee.capture.child:start:many:1",
    "sqstee.capture.child:start:memory:1",
    "sqstee.capture.loop:CaptureLoop.__init__:many:1",
    "sqstee.capture.front:nest_entry:bug:1",
    "sqstee.capture.signals:reset_sigchld:bug:1",
    "os:pipe:many:1",
    "os:fork:many:1",
]
SPOOL = [
    "sqstee.spool.location:open_root:full:1",
    "sqstee.spool.run_folder:new_ulid:bug:1",
    "sqstee.spool.run_folder:create:full:1",
    "sqstee.spool.run_folder:lock:bug:1",
    "sqstee.spool.run_folder:lock:full:2",
    "sqstee.spool.writer:Writer.event:bug:1",
    "sqstee.spool.writer:Writer.event:bug:2",
    "sqstee.spool.writer:Writer.write:bug:1",
    "sqstee.spool.writer:Writer.write:bug:2",
    "sqstee.spool.writer:Writer.cut:bug:1",
    "sqstee.spool.writer:Writer.end:bug:1",
    "sqstee.spool.segments:Segments.close:bug:1",
    "sqstee.spool.segments:Segments.append:full:1",
    "sqstee.spool.segments:Segments.append:full:3",
    "sqstee.spool.segments:write_whole:full:2",
    "sqstee.spool.run_events:start:bug:1",
    "sqstee.spool.run_events:command_exit:bug:1",
]
CAPTURE = [
    "sqstee.capture.stream:watch:many:1",
    "sqstee.capture.loop:CaptureLoop.look:bug:1",
    "sqstee.capture.loop:CaptureLoop.look:bug:12",
    "sqstee.capture.loop:CaptureLoop.run:bug:1",
    "sqstee.capture.loop:CaptureLoop._read:bug:1",
    "sqstee.capture.loop:CaptureLoop._write:bug:1",
    "sqstee.capture.loop:CaptureLoop._end:bug:1",
    "sqstee.capture.loop:CaptureLoop._end:bug:2",
    "sqstee.capture.loop:CaptureLoop._handle_due:bug:2",
    "sqstee.capture.loop:CaptureLoop.finish:bug:1",
    "sqstee.capture.loop:SpoolFeed.write:bug:1",
    "sqstee.capture.loop:SpoolFeed._wake:bug:1",
    "sqstee.capture.output:open_output:many:1",
    "_thread:start_new_thread:thread:1",
]
REST = [
    "sqstee.capture.signals:Relay.__init__:bug:1",
    "sqstee.ship.shipper_handle:fork:many:1",
    "sqstee.ship.shipper_handle:_keep_only:bug:1",
    "sqstee.ship.shipper_handle:ShipperHandle.notify:bug:1",
    "sqstee.ship.shipper_handle:ShipperHandle.close:bug:1",
    "sqstee.ship.shipper_handle:ShipperHandle.read_report:bug:1",
    "sqstee.capture.final_flush:FinalFlush.finish:bug:1",
    "sqstee.capture.final_flush:FinalFlush._wait:bug:1",
    "sqstee.capture.teardown:Teardown._print_notices:bug:1",
    "sqstee.capture.notices:Notices.add:bug:1",
    "sqstee.capture.supervisor:Supervisor.__init__:bug:1",
    "sqstee.capture.supervisor:Supervisor._start_shipper:bug:1",
    "sqstee.capture.teardown:Teardown._deliver:bug:1",
    "sqstee.capture.supervisor:Supervisor._make_relay:bug:1",
    "sqstee.capture.notices:Notices.print:bug:1",
    "sqstee.capture.supervisor:Supervisor._start_capture:bug:1",
    "sqstee.capture.supervisor:Supervisor._wait_for_end:bug:1",
    "sqstee.capture.supervisor:Supervisor._handle:bug:1",
    "sqstee.capture.teardown:Teardown._end_run:bug:1",
    "sqstee.agent.shipper_process:ship_run:bug:1",
    "sqstee.spool.agent_file:serving:bug:1",
    "sqstee.ship.shipper:Shipper.run:bug:1",
    "sqstee.ship.shipper:Shipper._step:bug:2",
    "sqstee.ship.shipper:SenderPool.submit:bug:2",
    "sqstee.ship.source:RunSource.__init__:bug:1",
    "sqstee.ship.source:RunSource.read:full:2",
    "sqstee.spool.checkpoint:Checkpoint.save:full:1",
    "sqstee.transports.local:LocalSender.send:bug:1",
]
SCRIPT = "for i in 1 2 3; do echo out $i; echo err $i >&2; sleep 0.03; done; printf end"


@pytest.mark.parametrize("fault", [*BEFORE, *SPOOL, *CAPTURE, *REST])
def test_a_failure_of_ours_is_not_the_commands(sqstee: Sqstee, tmp_path: Path, fault: str) -> None:
    """stdout and status exact; on stderr the command's own lines first, then at most a few of ours, no traceback."""
    environ = injecting(tmp_path, fault)
    script = f"{SCRIPT}; {until_met(tmp_path, fault)}; exit 7"
    found = sqstee.run(*time_to_meet(fault), "--", "sh", "-c", script, environ=environ)
    assert (found.stdout, found.returncode) == (b"out 1\nout 2\nout 3\nend", 7)
    lines = [line for line in found.stderr.decode().splitlines() if not line.startswith("sqstee: ")]
    assert lines == ["err 1", "err 2", "err 3"]
    assert len(found.stderr.splitlines()) <= 6
    assert (tmp_path / "injected").exists(), "the fault was not met"


UNSUPERVISED = [
    "sqstee.capture.supervisor:Supervisor.__init__:bug:1",
    "sqstee.capture.supervisor:Supervisor._supervise:bug:1",
]


@pytest.mark.parametrize("fault", UNSUPERVISED)
@pytest.mark.parametrize("status", [0, 7])
def test_without_supervision_the_status_is_the_commands(
    sqstee: Sqstee, tmp_path: Path, fault: str, status: int
) -> None:
    """Output and status exact, 0 as well, and one line that says so."""
    found = sqstee.run("--", "sh", "-c", f"echo out; exit {status}", environ=injecting(tmp_path, fault))
    assert (found.stdout, found.returncode) == (b"out\n", status)
    (said,) = found.stderr.splitlines()
    assert b"ZeroDivisionError: a bug" in said


@pytest.mark.parametrize("fault", UNSUPERVISED[:1])
def test_without_supervision_a_command_that_is_not_there(sqstee: Sqstee, tmp_path: Path, fault: str) -> None:
    """127, and the line that says so."""
    found = sqstee.run("--", "no-such-command", environ=injecting(tmp_path, fault))
    assert (found.stdout, found.returncode) == (b"", 127)
    assert b"no-such-command: command not found" in found.stderr


@contextmanager
def terminated(sqstee: Sqstee, tmp_path: Path, fault: str, script: str) -> Iterator[subprocess.Popen[bytes]]:
    """A shell that has said `first`; then the fault was met, and then sqstee alone got a SIGTERM."""
    words = sqstee.words("--to", "local", "--", "sh", "-c", script)
    environ = sqstee.environ | injecting(tmp_path, fault)
    with running(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environ) as process:
        assert process.stdout
        assert process.stdout.readline() == b"first\n"
        wait_for((tmp_path / "injected").exists, "fault")
        os.kill(process.pid, signal.SIGTERM)
        yield process


@pytest.mark.parametrize("fault", UNSUPERVISED)
def test_without_supervision_signals_reach_the_command(sqstee: Sqstee, tmp_path: Path, fault: str) -> None:
    """A SIGTERM to sqstee alone is the command's; one that kills it is our end as well."""
    script = "trap 'trap - TERM; echo trapped' TERM; echo first; while :; do sleep 0.05; done"
    with terminated(sqstee, tmp_path, fault, script) as process:
        assert process.stdout
        assert process.stdout.readline() == b"trapped\n"
        os.kill(process.pid, signal.SIGTERM)
        process.communicate(timeout=40)
    assert process.returncode == -signal.SIGTERM


@pytest.mark.parametrize(
    "fault",
    ["os:openpty:many:1", "sqstee.capture.pty:Pty.__init__:bug:2", "sqstee.capture.pty:Pty.handle_packet:bug:1"],
)
def test_a_terminal_that_cannot_be_had(sqstee: Sqstee, tmp_path: Path, fault: str) -> None:
    """The command gets ours, or the plainest loop, and works."""
    environ = sqstee.environ | injecting(tmp_path, fault)
    words = sqstee.words("--to", "local", "--", "sh", "-c", "stty -echo <&1; stty echo <&1; echo out; exit 7")
    with Terminal(words, environ) as terminal:
        assert terminal.wait() == 7
        assert b"out\r\n" in terminal.output
        assert b"Traceback" not in terminal.output
    assert (tmp_path / "injected").exists()


def test_a_shipper_that_is_killed(sqstee: Sqstee) -> None:
    """The output passes through all the same, and flush ships what is left."""
    command = sqstee.words("--", "sh", "-c", "echo $PPID; read x; echo on")
    with running(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=sqstee.environ
    ) as process:
        assert process.stdout
        process.stdout.readline()
        task = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        wait_for(lambda: len(task.read_text().split()) == 2, "shipper")
        kill(max(int(word) for word in task.read_text().split()))
        out, err = process.communicate(b"\n", timeout=40)
    assert out == b"on\n"
    assert process.returncode == 0
    assert b"the background process ended early" in err
    assert sqstee.run("flush").returncode == 0
    assert sqstee.local().stdout.endswith(b"on\n")


@pytest.mark.parametrize("error", ["full", "quota", "read-only", "denied"])
@pytest.mark.parametrize(
    "step", ["os:makedirs", "os:mkdir", "sqstee.spool.run_folder:lock", "os:rename", "os:ftruncate"]
)
def test_a_spool_that_cannot_be_made_costs_one_line(sqstee: Sqstee, tmp_path: Path, error: str, step: str) -> None:
    """The output passes through, and one line says what is wrong, with which folder, and what to do."""
    if step == "os:mkdir":
        sqstee.spool.mkdir(mode=0o700)
    script = "echo out; echo err >&2; exit 7"
    found = sqstee.run("--to", "q", "--", "sh", "-c", script, environ=injecting(tmp_path, f"{step}:{error}:1"))
    assert (tmp_path / "injected").exists()
    assert (found.stdout, found.returncode) == (b"out\n", 7)
    own, said = found.stderr.decode().splitlines()
    assert own == "err"
    beginning = "sqstee: the output was not captured: the spool folder "
    match = re.fullmatch(beginning + r"(\S+) cannot be \w+: [\w -]+ \(choose another .*\)", said)
    assert match, said
    assert match[1] == str(sqstee.spool)
    assert sqstee.waiting_runs() == []


@pytest.mark.parametrize("what", ["symlink", "file", "open to others", "somebody else's", "below a file"])
def test_a_spool_folder_that_is_not_safe_costs_one_line(sqstee: Sqstee, tmp_path: Path, what: str) -> None:
    """It is not used, not changed, and what it points to is not written."""
    real = tmp_path / "real"
    real.mkdir(mode=0o700)
    path = sqstee.spool
    if what == "symlink":
        path.symlink_to(real)
    elif what == "file":
        path.touch()
    elif what == "open to others":
        path.mkdir()
        path.chmod(0o755)
    elif what == "below a file":
        path.touch()
        path = path / "below"
    else:
        path.mkdir(mode=0o700)
        try:
            os.chown(path, 12345, -1)
        except PermissionError:
            pytest.skip("only root can give a folder away")
    found = sqstee.run("--spool", str(path), "--", "sh", "-c", "echo out; exit 7")
    assert (found.stdout, found.returncode) == (b"out\n", 7)
    (said,) = found.stderr.decode().splitlines()
    assert said.startswith(f"sqstee: the output was not captured: the spool folder {path} ")
    assert said.endswith(")")
    assert list(real.iterdir()) == []
    assert not path.is_dir() or path.is_symlink() or list(path.iterdir()) == []


@pytest.mark.parametrize("error", ["full", "quota"])
def test_a_disk_that_is_full_for_a_while(sqstee: Sqstee, tmp_path: Path, error: str) -> None:
    """What could not be written meanwhile is counted, reported and said; everything before and behind it arrives."""
    command = paced(*(b"line %d\n" % n for n in range(60)))
    fault = f"sqstee.spool.segments:write_whole:{error}:5-9"
    found = sqstee.run("--to", "local", "--", *command, environ=injecting(tmp_path, fault))
    lines = found.stdout.splitlines()
    assert lines == [b"line %d" % n for n in range(60)]
    got = sqstee.local()
    got.assert_whole()
    (gap,) = [event for event in got.events if event.event == "gap"]
    count = gap.last - gap.seq + 1
    assert [record.data for record in got.records] == [
        line + b"\n" for seq, line in enumerate(lines, 1) if not gap.seq <= seq <= gap.last
    ]
    (said,) = found.stderr.decode().splitlines()
    assert said.startswith(f"sqstee: {count} line{'s' if count > 1 else ''} dropped: the spool could not be written (")


def test_a_disk_that_hangs_does_not_keep_back_what_was_read(sqstee: Sqstee, tmp_path: Path) -> None:
    """As with tee: what was read is out before the spool is written, signals are relayed, and nothing is lost."""
    fault = "sqstee.spool.segments:write_whole:hang:3"
    script = "trap 'echo trapped; exit 7' TERM; echo first; while :; do sleep 0.05; done"
    with terminated(sqstee, tmp_path, fault, script) as process:
        wait_for(lambda: len(children(process.pid)) == 1, "command's end")
        (tmp_path / "injected.go").touch()
        out, err = process.communicate(timeout=40)
    assert (out, err, process.returncode) == (b"trapped\n", b"", 7)
    assert sqstee.local().stdout == b"first\ntrapped\n"


@pytest.mark.parametrize("what", ["read-only", "gone", "no space"])
def test_a_spool_that_goes_wrong(sqstee: Sqstee, tmp_path: Path, what: str) -> None:
    """A read-only file system, a folder that is deleted meanwhile, a full one."""
    spool = tmp_path / "disk"
    spool.mkdir(mode=0o700)
    if what != "gone":
        option = "size=64k" if what == "no space" else "ro"
        if subprocess.run(["mount", "-t", "tmpfs", "-o", f"{option},mode=700", "none", spool], check=False).returncode:
            pytest.skip("cannot mount here")
    script = f"echo first; {'rm -rf ' + str(spool) + '/*;' if what == 'gone' else ''} seq 20000; exit 7"
    try:
        words = ("--spool", str(spool), "--to", f"local:{tmp_path}/q.db", "--flush-timeout", "1s")
        found = sqstee.run(*words, "--", "sh", "-c", script)
    finally:
        if what != "gone":
            umount = ["umount", str(spool)]  # a killed shipper leaves it once it has got the processor to die
            wait_for(lambda: subprocess.run(umount, check=False).returncode == 0, "umount")
    assert found.stdout == b"first\n" + b"".join(b"%d\n" % n for n in range(1, 20001))
    assert found.returncode == 7
    assert b"Traceback" not in found.stderr
    assert len(found.stderr.splitlines()) <= 2


LOCAL = ("--to", "local")


@pytest.mark.parametrize("limit", range(6, 24))
def test_few_descriptors(sqstee: Sqstee, limit: int) -> None:
    """EMFILE after the fork once killed the front; now the command runs, captured or not."""
    found = shell(sqstee, f'ulimit -n {limit}; "$@"', *sqstee.words(*LOCAL, "--", "sh", "-c", "echo hi; exit 3"))
    assert (found.stdout, found.returncode) == (b"hi\n", 3)
    assert b"Traceback" not in found.stderr


def test_no_proc(sqstee: Sqstee) -> None:
    """Without /proc the command was not run."""
    script = 'unshare -m sh -c \'mount --make-rprivate / && umount -l /proc && "$@"\' sh "$@"'
    if shell(sqstee, script, "true").returncode:
        pytest.skip("no mount namespaces here")
    found = shell(sqstee, script, *sqstee.words(*LOCAL, "--", "sh", "-c", "echo hi; exit 3"))
    assert (found.stdout, found.returncode) == (b"hi\n", 3)
