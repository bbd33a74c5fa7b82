"""Grandchildren, statuses and descriptors once the command has ended, as without the wrapper."""

from __future__ import annotations

import os
import pty
import socket
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from support import (
    SCRIPT,
    UNTIL_THE_FRONT_ENDS,
    Sqstee,
    children,
    injecting,
    python,
    running,
    wait_for,
)
from support.wrapping import Prefix, comm, shell

from sqstee.capture.signals import pending


def test_a_grandchild_keeps_the_pipe(sqstee: Sqstee, prefix: Prefix, tmp_path: Path) -> None:
    """The status at once; the late line reaches the file, and is shipped in the same run."""
    out, go = tmp_path / "out", tmp_path / "go"
    script = f"(while [ ! -e {go} ]; do sleep 0.02; done; echo late)& echo hi; exit 6"
    with open(out, "wb") as file:
        found = subprocess.run([*prefix, "sh", "-c", script], stdout=file, env=sqstee.environ, check=False, timeout=40)
    assert (found.returncode, out.read_bytes()) == (6, b"hi\n")
    go.touch()
    wait_for(lambda: out.read_bytes() == b"hi\nlate\n", "late line")
    if prefix:
        wait_for(lambda: sqstee.waiting_runs() == [], "delivery")
        shipped = sqstee.local()
        assert shipped.stdout == b"hi\nlate\n"
        assert [event.event for event in shipped.events] == ["start", "exit", "end"]
        assert shipped.events[1].fields["open"] == ["stdout", "stderr"]
        assert [item.seq for item in shipped.items] == list(range(5))
        assert shipped.items[-1] is shipped.events[-1]


def test_a_substitution_waits_for_the_grandchild(sqstee: Sqstee, prefix: Prefix) -> None:
    """`$(…)` reads until the last writer has gone, as it does bare."""
    until_the_end = UNTIL_THE_FRONT_ENDS if prefix else UNTIL_THE_FRONT_ENDS.replace("$PPID", "$$")
    found = shell(sqstee, 'x=$("$@"); echo "got $x"', *prefix, "sh", "-c", f"({until_the_end}; echo late)& echo hi")
    assert found.stdout == b"got hi\nlate\n"


def test_all_that_a_terminal_held_at_the_end_is_out_before_the_status(sqstee: Sqstee, prefix: Prefix) -> None:
    """Also what the kernel had not yet moved to the master's side, and although a grandchild holds the terminal."""
    script = (
        "import os, time\n"
        "os.set_blocking(1, False)\n"
        "size, full = 0, 0\n"
        "while full < 20:\n"  # until nothing more fits
        "    try:\n"
        "        size, full = size + os.write(1, b'x' * 1000), 0\n"
        "    except BlockingIOError:\n"
        "        full += 1\n"
        "        time.sleep(0.01)\n"
        "if not os.fork():\n"
        "    os.execvp('sleep', ['sleep', '5'])\n"
        "print(size, os.getpid(), file=open('size', 'w'))\n"
    )
    master, slave = pty.openpty()
    output = bytearray()

    def read() -> None:
        with suppress(OSError):
            while b"END" not in output:
                output.extend(os.read(master, 65536))

    with running([*prefix, *python(script)], stdout=slave, env=sqstee.environ, cwd=sqstee.folder) as process:
        file = sqstee.folder / "size"
        wait_for(lambda: file.exists() and file.read_text(), "the output")
        size, pid = map(int, file.read_text().split())
        wait_for(lambda: process.poll() is not None or not os.path.exists(f"/proc/{pid}"), "the command's end")
        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        assert process.wait(40) == 0
        os.set_blocking(slave, True)  # the bare command has it so
        os.write(slave, b"END")
        reader.join(40)
    os.close(slave)
    os.close(master)
    assert bytes(output) == b"x" * size + b"END"


def test_a_grandchild_that_writes_on_and_on_does_not_hold_the_status(sqstee: Sqstee, tmp_path: Path) -> None:
    """What is written after the command's end is the heir's: the status comes although the pipe is never empty."""
    go = tmp_path / "stop"
    script = f"(while [ ! -e {go} ]; do echo x; done)& echo hi; exit 7"
    with open(tmp_path / "out", "wb") as out:
        found = subprocess.run(
            sqstee.words("--to", "local", "--", "bash", "-c", script),
            stdout=out,
            env=sqstee.environ,
            check=False,
            timeout=40,
        )
    go.touch()
    assert found.returncode == 7
    wait_for(lambda: sqstee.waiting_runs() == [], "delivery")
    assert sqstee.local().stdout == (tmp_path / "out").read_bytes()


def test_a_reader_sees_the_end_before_the_delivery_is_done(sqstee: Sqstee) -> None:
    """stdout is given up when the stream ends: a slow delivery does not hold what follows in the pipeline."""
    blackhole = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{blackhole.getsockname()[1]}/123456789012/q"
    environ = sqstee.environ | {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y"}
    command = sqstee.words("--to", url, "--flush-timeout", "60s", "--", "echo", "hi")
    with blackhole, running(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environ) as process:
        assert process.stdout
        assert process.stdout.read() == b"hi\n"  # to the end of the file
        wait_for(lambda: "echo" not in map(comm, children(process.pid)), "end of the command")
        assert process.poll() is None  # while the wrapper is still delivering
        process.terminate()  # no more of that
        assert process.wait(40) == 0


@pytest.mark.parametrize("moment", ["_read:hang:1", "_end:hang:2"])
def test_a_signal_between_the_commands_end_and_ours(sqstee: Sqstee, tmp_path: Path, moment: str) -> None:
    """It came too late for the command, which is not said to have died of it, nor is its output lost: the capture only
    waits for the processor."""
    environ = sqstee.environ | injecting(tmp_path, f"sqstee.capture.loop:CaptureLoop.{moment}")
    command = sqstee.words("--to", "local", "--", "sh", "-c", "read x; echo hi; exit 7")
    with running(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ) as process:
        wait_for(lambda: len(os.listdir(f"/proc/{process.pid}/task")) == 2, "capture thread")
        assert process.stdin
        process.stdin.write(b"\n")
        process.stdin.flush()
        wait_for((tmp_path / "injected").exists, "capture")
        wait_for(lambda: "sh" not in map(comm, children(process.pid)), "end of the command")
        process.terminate()
        wait_for(lambda: not pending(process.pid), "arrival of the signal")
        time.sleep(1.2)  # so long it waits
        (tmp_path / "injected.go").touch()
        assert process.communicate(timeout=40)[0] == b"hi\n"
        assert process.returncode == 7


def test_pid_1_delivers_although_a_grandchild_holds_a_stream(sqstee: Sqstee) -> None:
    """Everybody ends with PID 1: there is no heir, and the tail was not delivered."""
    if subprocess.run(["unshare", "-fp", "--mount-proc", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no PID namespaces here")
    words = ["unshare", "-fp", "--mount-proc", *sqstee.words("--to", "local", "--"), "sh", "-c", "sleep 9 & echo last"]
    found = subprocess.run(words, capture_output=True, env=sqstee.environ, check=False, timeout=40)
    assert (found.stdout, found.stderr, found.returncode) == (b"last\n", b"", 0)
    assert sqstee.local().stdout == b"last\n"
    assert sqstee.local().events[-1].event == "exit"


@pytest.mark.parametrize(
    ("script", "status"), [('"$@" -- no-such 2>/dev/full', 127), ('"$@" --bogus -- true 2>&-', 125)]
)
def test_a_stderr_that_takes_nothing_changes_no_status(sqstee: Sqstee, script: str, status: int) -> None:
    """Our own message failed with a traceback's status."""
    assert shell(sqstee, script, SCRIPT).returncode == status
    found = shell(sqstee, 'ulimit -n 5; "$@" 2>/dev/full', *sqstee.words("--", "echo", "ran"))
    assert found.stdout == b"ran\n"


def test_a_working_directory_that_is_gone(sqstee: Sqstee, tmp_path: Path) -> None:
    """Relative paths cannot be made absolute: the command runs all the same."""
    (tmp_path / "gone").mkdir()
    sqstee.environ |= {"SQSTEE_NEST": "1:x:2.3", "SQSTEE_SPOOL": "spool"}
    words = sqstee.words("--token-file", "token", "--", "/bin/echo", "hi")
    found = shell(sqstee, f'cd {tmp_path}/gone; rmdir {tmp_path}/gone; "$@"', *words)
    assert (found.stdout, found.returncode) == (b"hi\n", 0)
