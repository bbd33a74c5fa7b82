"""Nesting, merging and buffering."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time
import tty
from pathlib import Path

from support import (
    SCRIPT,
    Rebuilt,
    Sqstee,
    children,
    python,
    running,
    wait_for,
)
from support.terminal import Terminal
from support.wrapping import Prefix, comm

from sqstee.capture.front import NEST_VARIABLE, nest_entry


def ticks(pid: int) -> int:
    """Processor time so far, in clock ticks."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_nesting_ships_one_copy(sqstee: Sqstee) -> None:
    """An alias inside a wrapped script: the inner one becomes its command."""
    inner = " ".join(sqstee.words("--"))
    code = python("import os; print(os.getppid(), flush=True)")
    script = f"echo $$; {inner} echo hi; {inner} sh -c 'echo err >&2; exit 3'; echo $?"
    found = sqstee.wrap("sh", "-c", script)
    assert found.stdout.splitlines()[1:] == [b"hi", b"3"]
    shipped = sqstee.local()
    shipped.assert_whole()
    assert (shipped.stdout, shipped.stderr) == (found.stdout, b"err\n")
    parent = sqstee.wrap("sh", "-c", f"echo $$; exec {inner} {sys.executable} -c '{code[2]}'").stdout.split()
    assert len(parent) == 2  # an exec: the inner front is not there any more


def test_nesting_elsewhere_or_with_one_stream_redirected(sqstee: Sqstee, tmp_path: Path) -> None:
    """Another destination is another copy; a stream that goes to a file is captured, the other one is not again."""
    other = f"local:{tmp_path}/other.db"
    inner = " ".join(sqstee.words("--to", other, "--"))
    sqstee.wrap("sh", "-c", f"{inner} echo hi")
    assert sqstee.local().stdout == b"hi\n"
    assert sqstee.local(tmp_path / "other.db").stdout == b"hi\n"
    (sqstee.spool / "local.db").unlink()
    inner = " ".join(sqstee.words("--"))
    sqstee.wrap("sh", "-c", f"{inner} sh -c 'echo out; echo err >&2' > {tmp_path}/file")
    bodies = sqstee.local_bodies()
    runs = {run: Rebuilt((b.data, b.attributes) for b in bodies if b.run == run) for run in {b.run for b in bodies}}
    assert sorted((one.stdout, one.stderr) for one in runs.values()) == [(b"", b"err\n"), (b"out\n", b"")]
    assert (tmp_path / "file").read_bytes() == b"out\n"


def test_nesting_on_a_terminal(sqstee: Sqstee) -> None:
    """One copy there too; and a terminal that only has the number of one that was captured is not captured."""
    inner = " ".join(sqstee.words("--"))
    undone = "until { stty -a <&3 | grep -q -- -opost; } 3>&1; do sleep 0.02; done"  # by the outer one
    script = f"stty sane <&1; {undone}; echo outer; {inner} echo inner"
    with Terminal(sqstee.words("--", "sh", "-c", script), sqstee.environ | {"TERM": "xterm"}) as terminal:
        assert terminal.wait() == 0
    shipped = sqstee.local()
    shipped.assert_whole()
    assert shipped.stdout == b"outer\ninner\n"
    assert len({body.run for body in sqstee.local_bodies()}) == 1
    (sqstee.spool / "local.db").unlink()
    master, slave = os.openpty()
    environ = sqstee.environ | {NEST_VARIABLE: nest_entry(str(sqstee.spool), {1: slave, 2: slave})}
    subprocess.run(sqstee.words("--", "echo", "later"), stdout=slave, stderr=slave, env=environ, timeout=60, check=True)
    os.close(master)
    os.close(slave)
    assert sqstee.local().stdout == b"later\n"


def test_unbuffer_makes_lines_come_at_once(sqstee: Sqstee) -> None:
    """Python and C programs write each line at once only when asked to."""
    code = "import sys, time\nprint('one')\ntime.sleep(30)"
    command = sqstee.words("--unbuffer", "--to", "local", "--", *python(code))
    with running(command, stdout=subprocess.PIPE, env=sqstee.environ) as process:
        assert process.stdout
        assert process.stdout.readline() == b"one\n"
        process.terminate()
    environ = {name: value for name, value in sqstee.environ.items() if name != "PYTHONUNBUFFERED"}
    for word, wanted in (("--no-unbuffer", False), ("--unbuffer", True)):
        found = subprocess.run(
            sqstee.words("--to", "local", word, "--", "env"), env=environ, capture_output=True, check=True
        )
        assert (b"PYTHONUNBUFFERED=1" in found.stdout, b"_STDBUF_O=L" in found.stdout) == (wanted, wanted)


def test_an_idle_wrapper_uses_no_processor(sqstee: Sqstee) -> None:
    """`sleep` under the wrapper: neither process of ours runs meanwhile."""
    with running(sqstee.words("--to", "local", "--", "sleep", "100"), env=sqstee.environ) as process:
        wait_for(lambda: len(children(process.pid)) == 2, "shipper")
        ours = [process.pid, *(pid for pid in children(process.pid) if comm(pid) != "sleep")]
        wait_for(lambda: sqstee.spool.joinpath("local.db").exists() and sqstee.local().events, "start event")

        def idle() -> bool:
            before = [ticks(pid) for pid in ours]
            time.sleep(2)  # the measured interval
            return [ticks(pid) for pid in ours] == before

        wait_for(idle, "two seconds without any work")  # once the shipper has done its last
        process.terminate()


def test_a_pseudo_terminal_as_dev_stdout(sqstee: Sqstee) -> None:
    """/dev/stdout can be opened by the command when it is a terminal."""
    master, slave = pty.openpty()
    command = sqstee.words("--to", "local", "--", "sh", "-c", "echo again > /dev/stdout")
    with running(command, stdout=slave, env=sqstee.environ) as process:
        os.close(slave)
        assert process.wait(40) == 0
        output = b""
        while not output.endswith(b"\n"):  # the kernel moves it there in pieces
            output += os.read(master, 100)
        assert output == b"again\r\n"
    os.close(master)


def test_stdout_is_the_master_of_a_pty(sqstee: Sqstee, prefix: Prefix) -> None:
    """What is written goes to that pty, and not to another one."""
    master, slave = pty.openpty()
    tty.setraw(slave)
    os.set_blocking(slave, False)
    found = subprocess.run([*prefix, "echo", "hi"], stdout=master, env=sqstee.environ, check=False, timeout=40)
    assert (found.returncode, os.read(slave, 100)) == (0, b"hi\n")
    os.close(slave)
    os.close(master)


def test_the_script_is_the_installed_one() -> None:
    """These tests run what users run."""
    assert Path(SCRIPT).exists()


def test_nesting_under_an_heir(sqstee: Sqstee, tmp_path: Path) -> None:
    """The outer front has gone, its heir still ships: the inner one is not another copy."""
    go = tmp_path / "go"
    inner = " ".join(sqstee.words("--"))
    script = f"(while [ ! -e {go} ]; do sleep 0.02; done; {inner} echo inner)& echo outer"
    with open(tmp_path / "out", "wb") as out:
        subprocess.run(sqstee.words("--", "sh", "-c", script), stdout=out, env=sqstee.environ, check=True)
    go.touch()
    wait_for(lambda: (tmp_path / "out").read_bytes() == b"outer\ninner\n", "inner line")
    wait_for(lambda: sqstee.waiting_runs() == [], "delivery")
    assert sqstee.local().stdout == b"outer\ninner\n"
