"""The exact behaviours of a wrapped command, each beside the same command without the wrapper.

The cases are those that other wrappers get wrong: signals, terminals, grandchildren, nesting. Helper programs say
`ready`, tests poll.
"""

from __future__ import annotations

import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
import tty
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from support import (
    PROGRAMS,
    SCRIPT,
    UNTIL_THE_FRONT_ENDS,
    Rebuilt,
    Sqstee,
    children,
    injecting,
    is_running,
    python,
    running,
    wait_for,
)
from support.terminal import Terminal

from sqstee.capture.front import NEST_VARIABLE, nest_entry
from sqstee.capture.signals import pending

COUNT = [sys.executable, str(PROGRAMS / "count.py")]
Prefix = list[str]


@pytest.fixture(params=["bare", "wrapped"])
def prefix(request: pytest.FixtureRequest, sqstee: Sqstee) -> Prefix:
    """Nothing, or the wrapper: what a test says holds for both."""
    return [] if request.param == "bare" else sqstee.words("--to", "local", "--")


def shell(sqstee: Sqstee, script: str, *words: str, name: str = "bash") -> subprocess.CompletedProcess[bytes]:
    """Run a shell script in which `"$@"` is the command."""
    return subprocess.run(
        [name, "-c", script, name, *words], capture_output=True, env=sqstee.environ, timeout=60, check=False
    )


class Program(subprocess.Popen[bytes]):
    """A helper program that does not outlive a test that fails."""

    def __exit__(self, kind: object, value: object, traceback: object) -> None:
        if kind is not None:
            for pid in [*children(self.pid), self.pid]:
                os.kill(pid, signal.SIGKILL)
        super().__exit__(None, None, None)


def started(sqstee: Sqstee, prefix: Prefix, *words: str, group: int | None = None) -> Program:
    """Start a helper program, in process group `group` (0: its own), and wait until it is ready."""
    process = Program(
        [*prefix, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=sqstee.environ, process_group=group
    )
    assert process.stdout
    assert process.stdout.readline() == b"ready\n"
    return process


def ask_count(process: subprocess.Popen[bytes]) -> int:
    """Let the counting program end with what it counted."""
    process.send_signal(signal.SIGUSR2)
    return process.wait(40)


# Signals


@pytest.mark.parametrize("name", ["HUP", "INT", "QUIT", "TERM", "USR1", "CONT", "WINCH", "ALRM", "RT1", "RT5"])
def test_a_signal_to_the_wrapper_reaches_the_command_once(sqstee: Sqstee, prefix: Prefix, name: str) -> None:
    """kill(2) to the pid: once, each time, real-time signals too."""
    number = int(name[2:]) + signal.SIGRTMIN if name.startswith("RT") else signal.Signals[f"SIG{name}"]
    with started(sqstee, prefix, *COUNT, name) as process:
        assert process.stdout
        for _ in range(3):
            process.send_signal(number)
            assert process.stdout.readline() == f"got {int(number)}\n".encode()
        assert ask_count(process) == 3


@pytest.mark.parametrize("name", ["HUP", "INT", "TERM", "USR1"])
def test_a_signal_to_the_group_reaches_the_command_once(sqstee: Sqstee, prefix: Prefix, name: str) -> None:
    """kill(2) to the whole group: the command has it already, time after time."""
    number = signal.Signals[f"SIG{name}"]
    with started(sqstee, prefix, *COUNT, name, group=0) as process:
        assert process.stdout
        for _ in range(3):
            os.killpg(process.pid, number)
            assert process.stdout.readline() == f"got {int(number)}\n".encode()
            wait_for(lambda: not any(map(pending, children(process.pid))), "shipper to have taken the signal")
        process.send_signal(number)  # and one to the pid alone still gets through
        assert process.stdout.readline() == f"got {int(number)}\n".encode()
        assert ask_count(process) == 4


def test_every_signal_is_relayed_in_sequence(sqstee: Sqstee, prefix: Prefix) -> None:
    """One after the other, all that a program can handle, and each arrives as itself."""
    left_out = {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, signal.SIGUSR2}
    names = [one.name[3:] for one in signal.Signals if one not in left_out and one < signal.SIGRTMIN]
    names += [f"RT{number}" for number in range(1, 30)]
    with started(sqstee, prefix, *COUNT, *names) as process:
        assert process.stdout
        for name in names:
            number = int(name[2:]) + signal.SIGRTMIN if name.startswith("RT") else signal.Signals[f"SIG{name}"]
            process.send_signal(number)
            assert process.stdout.readline() == f"got {int(number)}\n".encode()
        assert ask_count(process) == len(names)


def test_stop_and_continue_by_pid(sqstee: Sqstee, prefix: Prefix) -> None:
    """TSTP and CONT to the wrapper's pid alone, again and again: command and wrapper stop and go on."""
    with started(sqstee, prefix, "sh", "-c", "echo ready; while read x; do echo $x; done; exit 3", group=0) as process:
        assert process.stdin
        assert process.stdout
        for word in (b"one\n", b"two\n"):
            process.send_signal(signal.SIGTSTP)
            wait_for(lambda: state(process.pid) == "T", "stop")
            process.send_signal(signal.SIGCONT)
            wait_for(lambda: state(process.pid) != "T", "continuation")
            process.stdin.write(word)
            process.stdin.flush()
            assert process.stdout.readline() == word
        process.stdin.close()
        assert process.wait(40) == 3


def test_an_ignored_signal_stays_ignored_when_sent_to_the_wrapper(sqstee: Sqstee, prefix: Prefix) -> None:
    """nohup: HUP to the pid changes nothing."""
    words = ["bash", "-c", "trap '' HUP; exec \"$@\"", "bash", *prefix, "sh", "-c", "echo ready; read x; exit 3"]
    with started(sqstee, [], *words) as process:
        process.send_signal(signal.SIGHUP)
        process.communicate(b"\n", timeout=40)
        assert process.returncode == 3


@pytest.mark.parametrize("redirection", [">/dev/full", "2>/dev/full", ">/dev/full 2>&1"])
def test_full_outputs(sqstee: Sqstee, redirection: str) -> None:
    """The other stream is untouched, the status says it, the command runs to its end."""
    script = "echo out; echo err >&2; echo done > /dev/null; exit 0"
    found = shell(sqstee, f'"$@" {redirection}; echo $?', *sqstee.words("--to", "local", "--", "sh", "-c", script))
    assert found.stdout.splitlines()[-1] == b"1"
    assert (b"out" in found.stdout) == (redirection == "2>/dev/full")
    assert (b"err" in found.stderr) == (redirection == ">/dev/full")
    shipped = sqstee.local()
    assert (shipped.stdout, shipped.stderr) == (b"out\n", b"err\n")


def test_a_stderr_that_nobody_reads_any_more(sqstee: Sqstee, prefix: Prefix) -> None:
    """The command's write to stderr fails as it does bare; stdout goes on."""
    script = "trap '' PIPE; read x; echo err >&2 || echo failed; exit 4"
    reading, writing = os.pipe()
    words, pipe = [*prefix, "bash", "-c", script], subprocess.PIPE
    with running(words, stdin=pipe, stdout=pipe, stderr=writing, env=sqstee.environ) as process:
        os.close(writing)
        os.close(reading)
        if prefix:  # the wrapper has noticed, as it does without a write
            wait_for(lambda: any(comm(pid) == "bash" for pid in children(process.pid)), "command")
            (command,) = [pid for pid in children(process.pid) if comm(pid) == "bash"]
            error = os.readlink(f"/proc/{command}/fd/2")
            wait_for(lambda: error not in pipes(process.pid), "pipe closed in the wrapper")
            shippers = [pid for pid in children(process.pid) if pid != command]  # just forked, with all descriptors
            wait_for(lambda: not any(error in pipes(pid) for pid in shippers), "pipe closed in the shipper")
        out, _ = process.communicate(b"\n", timeout=40)
        assert (out, process.returncode) == (b"failed\n", 4)


def pipes(pid: int) -> list[str]:
    """The pipes that a process has open, as far as it does not close them meanwhile."""
    found = set()
    for name in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):
            found.add(os.readlink(f"/proc/{pid}/fd/{name}"))
    return sorted(link for link in found if link.startswith("pipe:"))


def test_timeout_terminates_once(sqstee: Sqstee, prefix: Prefix) -> None:
    """timeout(1) signals its child and then the group: a handler runs once."""
    script = 'trap "echo got; n=1" TERM; echo ready; while [ -z "$n" ]; do sleep 0.05; done; sleep 0.3; echo end'
    with started(sqstee, ["timeout", "-s", "TERM", "1000", *prefix], "bash", "-c", script) as process:
        process.send_signal(signal.SIGALRM)  # as its timer does; a time of its own might come before the trap is set
        assert process.communicate(timeout=40)[0] == b"got\nend\n"
        assert process.returncode == 124


def test_a_signal_reaches_a_command_that_left_the_group(sqstee: Sqstee, prefix: Prefix) -> None:
    """A command in a group of its own gets what its caller sends to the wrapper's group as well as the pid."""
    path = str(PROGRAMS / "count.py")
    program = python(f"import os, runpy, sys\nos.setpgid(0, 0)\nsys.argv = ['', 'TERM']\nrunpy.run_path({path!r})")
    with started(sqstee, prefix, *program, group=0) as process:
        assert process.stdout
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == f"got {int(signal.SIGTERM)}\n".encode()
        assert ask_count(process) == 1


def test_an_alarm_survives_the_wrapper(sqstee: Sqstee, prefix: Prefix) -> None:
    """alarm(2) set before the execve ends the command."""
    found = shell(sqstee, 'perl -e "alarm 1; exec @ARGV" "$@"; echo $?', *prefix, "sleep", "30")
    assert found.stdout == b"142\n"


def test_interrupt_ends_a_shell_loop(sqstee: Sqstee, prefix: Prefix) -> None:
    """^C: the loop ends, because the wrapper dies of SIGINT as the command did."""
    loop = 'for i in 1 2 3; do "$@"; echo it; done'
    command = [*prefix, "sh", "-c", "echo ready; exec sleep 20"]
    with Terminal(["bash", "-c", loop, "bash", *command], sqstee.environ) as terminal:
        terminal.expect(b"ready\r\n")
        terminal.type(b"\x03")
        assert terminal.wait() == -signal.SIGINT
        assert b"it" not in terminal.output


def has_pending(pid: int, number: int) -> bool:
    """Whether a process has still to take a signal; the niced shipper takes a key's when it gets to it."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    found = re.search(r"^ShdPnd:\t(\w+)$", status, re.MULTILINE)
    return bool(found and int(found.group(1), 16) >> (number - 1) & 1)


def test_one_interrupt_key_is_one_sigint(sqstee: Sqstee, prefix: Prefix) -> None:
    """The terminal gives ^C to the whole group: it is not forwarded."""
    with Terminal([*prefix, *COUNT, "INT"], sqstee.environ) as terminal:
        terminal.expect(b"ready\r\n")
        for _ in range(2):
            terminal.type(b"\x03")
            terminal.expect(b"got 2\r\n")
            # which tells that the wrapper has taken it too: a second one would be lost in one that is pending
            wait_for(lambda: not any(has_pending(pid, signal.SIGINT) for pid in children(terminal.pid)), "witness")
        os.kill(terminal.pid, signal.SIGINT)  # and a kill(2) after that is not taken for the key's
        terminal.expect(b"got 2\r\n")
        os.kill(terminal.pid, signal.SIGUSR2)
        assert terminal.wait() == 3


def test_stop_and_continue_under_job_control(sqstee: Sqstee, prefix: Prefix) -> None:
    """^Z gives the prompt back with both stopped, fg goes on with both, and the terminal's modes are untouched."""
    environ = sqstee.environ | {"PS1": "prompt> ", "HISTFILE": "/dev/null"}
    program = "echo ready; read x; echo read:$x"
    with Terminal(["bash", "--norc", "--noediting", "-i"], environ) as terminal:
        terminal.expect(b"prompt> ")
        before = terminal.modes()
        words = " ".join(f"'{word}'" for word in [*prefix, "sh", "-c", program])
        terminal.type(words.encode() + b"\n")
        terminal.expect(b"\nready\r\n")
        terminal.type(b"\x1a")
        terminal.expect(b"Stopped")
        terminal.expect(b"prompt> ")
        assert terminal.modes() == before
        terminal.type(b"fg\n")
        terminal.expect(b"fg\r\n")
        terminal.expect(b"\n")
        terminal.type(b"word\n")
        terminal.expect(b"read:word\r\n")
        terminal.expect(b"prompt> ")
        terminal.type(b"exit 0\n")
        assert terminal.wait() == 0


@pytest.mark.parametrize(("key", "ends"), [(b"\x1a", b"Stopped"), (b"\x03", b"status 130\r\n")])
def test_a_key_just_before_the_command_is_forked(sqstee: Sqstee, tmp_path: Path, key: bytes, ends: bytes) -> None:
    """The terminal signals who is there: ^Z and ^C meet also a command that is not there yet."""
    environ = sqstee.environ | {"PS1": "prompt> ", "HISTFILE": "/dev/null"}
    environ |= injecting(tmp_path, "sqstee.capture.child:start:hang:1")
    with Terminal(["bash", "--norc", "--noediting", "-i"], environ) as terminal:
        terminal.expect(b"prompt> ")
        terminal.type(" ".join(sqstee.words("--to", "local", "--", "sleep", "60")).encode() + b"\n")
        wait_for((tmp_path / "injected").exists, "start")
        terminal.type(key)
        terminal.expect(b"^")
        (tmp_path / "injected.go").touch()
        wait_for(lambda: terminal.foreground() == terminal.pid, "the shell's turn", 30)
        terminal.type(b"echo status $?; kill -9 %1\n")
        terminal.expect(ends)


@pytest.mark.parametrize("to_whom", ["group", "wrapper"])
@pytest.mark.parametrize("moment", ["start", "Inherited.restore_signals"])
def test_a_stop_before_the_command_is_executed(sqstee: Sqstee, tmp_path: Path, to_whom: str, moment: str) -> None:
    """^Z at the very start: the wrapper stops as well, and both go on."""
    environ = sqstee.environ | injecting(tmp_path, f"sqstee.capture.child:{moment}:hang:1")
    words = sqstee.words("--to", "local", "--", "echo", "hi")
    with running(words, stdout=subprocess.PIPE, env=environ, process_group=0) as process:
        wait_for((tmp_path / "injected").exists, "start")
        os.killpg(process.pid, signal.SIGTSTP)
        (tmp_path / "injected.go").touch()
        wait_for(lambda: Path(f"/proc/{process.pid}/stat").read_text().split()[2] == "T", "stop", 20)
        (os.killpg if to_whom == "group" else os.kill)(process.pid, signal.SIGCONT)
        assert process.communicate(timeout=40)[0] == b"hi\n"
        assert process.returncode == 0


def test_a_command_stopped_by_others_does_not_stop_the_wrapper(sqstee: Sqstee) -> None:
    """kill -STOP of the inner command, as a debugger does: when it goes on, its output still comes through."""
    with started(sqstee, sqstee.words("--"), "sh", "-c", "echo ready; echo $$; read x; echo on") as process:
        assert process.stdout
        inner = int(process.stdout.readline())
        os.kill(inner, signal.SIGSTOP)
        wait_for(lambda: state(inner) == "T", "stop")
        os.kill(inner, signal.SIGCONT)
        wait_for(lambda: state(inner) != "T", "continuation")
        assert state(process.pid) != "T"
        process.kill()


@pytest.mark.parametrize("to_whom", ["group", "wrapper"])
def test_a_continuation_right_after_a_stop(sqstee: Sqstee, tmp_path: Path, to_whom: str) -> None:
    """The stopped command is continued before the wrapper has stopped as well: it does not stop any more."""
    environ = sqstee.environ | injecting(tmp_path, "sqstee.capture.signals:Relay.stop_like_command:hang:1")
    words = sqstee.words("--to", "local", "--", "sh", "-c", "echo $$; read x; echo $x; exit 3")
    with running(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ, process_group=0) as process:
        assert process.stdout
        inner = int(process.stdout.readline())
        os.killpg(process.pid, signal.SIGTSTP)
        wait_for((tmp_path / "injected").exists, "stop")
        assert state(inner) == "T"
        (os.killpg if to_whom == "group" else os.kill)(process.pid, signal.SIGCONT)
        (tmp_path / "injected.go").touch()
        wait_for(lambda: state(inner) != "T", "continuation")
        assert process.communicate(b"word\n", timeout=40)[0] == b"word\n"
        assert process.returncode == 3


def state(pid: int) -> str:
    """A process's state letter."""
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]


def test_a_hangup_reaches_the_command_of_a_session_leader(sqstee: Sqstee, prefix: Prefix, tmp_path: Path) -> None:
    """The kernel signals the leader alone when the terminal goes away."""
    log = tmp_path / "log"
    program = f"trap 'echo hup > {log}; exit' HUP; echo ready; while :; do sleep 0.05; done"
    terminal = Terminal([*prefix, "sh", "-c", program], sqstee.environ)
    terminal.expect(b"ready")
    os.close(terminal.fd)
    wait_for(log.exists, "trap")
    os.waitpid(terminal.pid, 0)


@pytest.mark.parametrize("ignored", ["", "HUP INT PIPE", "PIPE XFSZ", "CHLD", "TERM USR1"])
def test_inherited_ignores_are_the_commands(sqstee: Sqstee, ignored: str) -> None:
    """What the caller ignored is ignored in the command, and nothing else, whatever Python itself does."""
    trap = f"trap '' {ignored};" if ignored else ""
    bare, wrapped = (
        int(shell(sqstee, f'({trap} "$@"; :)', *prefix, "grep", "SigIgn", "/proc/self/status").stdout.split()[1], 16)
        for prefix in ([], sqstee.words("--to", "local", "--"))
    )
    assert wrapped == bare
    assert all(bare >> signal.Signals[f"SIG{name}"] - 1 & 1 for name in ignored.split())


def test_the_inherited_mask_is_the_commands(sqstee: Sqstee, prefix: Prefix) -> None:
    """A parent that blocks USR1 and a real-time signal."""
    code = (
        "import os, signal, sys\n"
        "signal.pthread_sigmask(signal.SIG_SETMASK, {signal.SIGUSR1, signal.SIGRTMIN + 3})\n"
        "os.execvp(sys.argv[1], sys.argv[1:])"
    )
    words = [*python(code), *prefix, "grep", "SigBlk", "/proc/self/status"]
    found = subprocess.run(words, capture_output=True, env=sqstee.environ, check=True)
    assert int(found.stdout.split()[1], 16) == 1 << signal.SIGUSR1 - 1 | 1 << signal.SIGRTMIN + 2


@pytest.mark.parametrize("statuses", [range(8), range(56, 64), range(120, 128), range(128, 136), range(248, 256)])
def test_an_exit_code_is_the_commands(sqstee: Sqstee, statuses: range) -> None:
    """Those that programs, shells and we ourselves give a meaning to, and the largest; eight at a time."""
    running = [
        subprocess.Popen(sqstee.words("--to", "local", "--", "sh", "-c", f"exit {status}"), env=sqstee.environ)
        for status in statuses
    ]
    assert [process.wait(40) for process in running] == [*statuses]


def test_the_death_is_seen_by_a_parent(sqstee: Sqstee, prefix: Prefix) -> None:
    """The parent's wait(2) tells the same signal, for each that ends a process."""
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, signal.SIGPIPE, signal.SIGABRT, signal.SIGRTMIN):
        found = subprocess.run([*prefix, "sh", "-c", f"kill -{int(number)} $$"], env=sqstee.environ, check=False)
        assert found.returncode == -number


def test_as_pid_1_orphans_are_reaped_and_term_works(sqstee: Sqstee, tmp_path: Path) -> None:
    """In a PID namespace of its own: no zombies, a signal's death is 128 + n."""
    if subprocess.run(["unshare", "-fp", "--mount-proc", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no PID namespaces here")
    script = (
        f"cd {tmp_path}; (sleep 0.1 & echo $! > one); (sh -c 'exit 3' & echo $! > other); echo ready; i=0;"
        "while [ $i -lt 400 ] && [ -e /proc/$(cat one) -o -e /proc/$(cat other) ]; do sleep 0.05; i=$((i+1)); done; "
        "grep -l '^State:.Z' /proc/[0-9]*/status; echo end; exit 5"
    )
    words = ["unshare", "-fp", "--mount-proc", *sqstee.words("--to", "local", "--"), "sh", "-c", script]
    found = subprocess.run(words, capture_output=True, env=sqstee.environ, check=False, timeout=40)
    assert (found.stdout, found.returncode) == (b"ready\nend\n", 5)
    words[-1] = "kill -TERM $$; sleep 5"
    assert subprocess.run(words, env=sqstee.environ, check=False, timeout=40).returncode == 128 + signal.SIGTERM


@pytest.mark.parametrize("how", ["nohup", "setsid -w", "env -i"])
def test_without_a_terminal_or_a_home(sqstee: Sqstee, how: str) -> None:
    """nohup, setsid, and cron's bare environment."""
    script = f'{how} "$@" < /dev/null'
    words = ["env", f"SQSTEE_SPOOL={sqstee.spool}", *sqstee.words("--to", "local", "--"), "sh", "-c", "echo hi; exit 3"]
    found = shell(sqstee, script, *words)
    assert found.stdout == b"hi\n"
    assert found.returncode == 3
    assert sqstee.local().stdout == b"hi\n"


# Readers and writers


def test_an_idle_command_ends_when_its_reader_leaves(sqstee: Sqstee, prefix: Prefix) -> None:
    """`tail -f` notices that nobody reads, without writing: so it does behind the wrapper."""
    script = '"$@" | head -1; echo "${PIPESTATUS[0]}"'
    found = shell(
        sqstee, f"timeout 20 bash -c '{script}' bash \"$@\"", *prefix, "sh", "-c", "echo a; exec tail -f /dev/null"
    )
    assert found.stdout == b"a\n141\n"


def test_each_streams_own_order_is_exact_in_one_place(sqstee: Sqstee) -> None:
    """2>&1: the lines of each stream in order, none lost; with --merge the exact order of both."""
    script = "for i in $(seq 500); do echo $i; echo $i >&2; done"
    found = shell(sqstee, '"$@" 2>&1', *sqstee.words("--to", "local", "--"), "bash", "-c", script)
    numbers = [int(line) for line in found.stdout.split()]
    assert sorted(numbers) == sorted([*range(1, 501), *range(1, 501)])
    assert sqstee.local().stdout == sqstee.local().stderr == b"".join(b"%d\n" % n for n in range(1, 501))
    merged = sqstee.run("--merge", "--to", f"local:{sqstee.folder}/m.db", "--", "bash", "-c", script)
    assert [int(line) for line in merged.stdout.split()] == [n for n in range(1, 501) for _ in range(2)]
    assert merged.stderr == b""
    assert sqstee.local(sqstee.folder / "m.db").stream("output") == merged.stdout


def test_several_writers_on_one_pipe_break_no_line(sqstee: Sqstee) -> None:
    """Four wrapped writers, lines of 100 bytes, one slow reader."""
    script = 'for n in 1 2 3 4; do "$@" $n & done; wait'
    writer = 'for i in $(seq 3000); do printf "%s%099d\\n" $1 $i; done'
    found = shell(
        sqstee, f"({script}) | (sleep 0.5; cat)", *sqstee.words("--to", "local", "--"), "bash", "-c", writer, "w"
    )
    lines = found.stdout.splitlines()
    assert len(lines) == 12000
    assert all(re.fullmatch(rb"[1-4]\d{99}", line) for line in lines)


@pytest.mark.parametrize("kind", ["socket", "file", "append"])
def test_other_outputs_than_pipes(sqstee: Sqstee, tmp_path: Path, kind: str) -> None:
    """Sockets and files, and /dev/stdout opened anew by the command, as it may bare."""
    command = sqstee.words("--to", "local", "--", "sh", "-c", "seq 20000; echo again > /dev/stdout; exit 4")
    expected = b"".join(b"%d\n" % n for n in range(1, 20001)) + b"again\n"
    if kind == "socket":
        ours, theirs = socket.socketpair()
        with ours, running(command, stdout=theirs.fileno(), env=sqstee.environ) as process:
            theirs.close()
            got = b""
            while data := ours.recv(65536):
                got += data
            assert process.wait(40) == 4
    else:
        with open(tmp_path / "out", "ab" if kind == "append" else "wb") as out:
            assert subprocess.run(command, stdout=out, env=sqstee.environ, check=False).returncode == 4
        got = (tmp_path / "out").read_bytes()
    assert got == expected


def test_a_file_is_complete_when_the_wrapper_ends(sqstee: Sqstee, tmp_path: Path) -> None:
    """`sqstee -- cmd > f; cat f` never misses a byte, again and again."""
    script = 'for i in $(seq 15); do "$@" > "$OUT"; wc -c < "$OUT"; done'
    sqstee.environ["OUT"] = str(tmp_path / "out")
    found = shell(sqstee, script, *sqstee.words("--to", "local", "--"), "head", "-c", "200000", "/dev/zero")
    assert found.stdout.split() == [b"200000"] * 15


def test_locks_and_pipes_of_the_caller_are_not_held(sqstee: Sqstee, prefix: Prefix, tmp_path: Path) -> None:
    """The command closes what it inherited: then nobody holds the lock, and a reader of fd 5 sees the end."""
    script = (
        'exec 9>"$LOCK"; flock 9; mkfifo "$FIFO"; cat "$FIFO" > "$GOT" & exec 5>"$FIFO"; "$@" & exec 9>&- 5>&-;'
        'flock -w 20 "$LOCK" echo free; wait %1; echo ended; touch "$GO"; wait'
    )
    sqstee.environ |= {name: str(tmp_path / name) for name in ("LOCK", "FIFO", "GOT", "GO")}
    inner = "echo x >&5; exec 5>&- 9>&-; for i in {1..600}; do [ -e $GO ] && break; sleep 0.05; done; echo done"
    found = shell(sqstee, script, *prefix, "bash", "-c", inner)
    assert found.stdout == b"free\nended\ndone\n"
    assert (tmp_path / "GOT").read_bytes() == b"x\n"


# After the command


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
    command = sqstee.words("--to", "local", "--", "sh", "-c", "echo hi; exit 7")
    with running(command, stdout=subprocess.PIPE, env=environ) as process:
        wait_for((tmp_path / "injected").exists, "capture")
        wait_for(lambda: "sh" not in map(comm, children(process.pid)), "end of the command")
        process.terminate()
        wait_for(lambda: not pending(process.pid), "arrival of the signal")
        time.sleep(1.2)  # so long it waits
        (tmp_path / "injected.go").touch()
        assert process.communicate(timeout=40)[0] == b"hi\n"
        assert process.returncode == 7


# Terminals

TERMINAL_COMMANDS = {
    "isatty": python("import os; print(os.isatty(1), os.isatty(2), os.get_terminal_size(), os.get_terminal_size(2))"),
    "colours": ["ls", "--color=auto", "/usr"],
    "carriage": python(r"import sys; sys.stdout.buffer.write(b'a\nb\r\nc\td\x1b[31mred\x1b[0m\n\x00\xff\n')"),
    "much": ["sh", "-c", "seq 20000"],
    "stdin": ["sh", "-c", "stty -a; tty -s && echo tty"],
    "width": ["sh", "-c", "stty size; tput cols; tput lines"],
}


@pytest.mark.parametrize("name", TERMINAL_COMMANDS)
def test_on_a_terminal_the_bytes_are_the_bare_commands(sqstee: Sqstee, name: str) -> None:
    """isatty, size, colours, carriage returns, modes: what comes out of the terminal is the same."""
    seen = []
    for prefix in ([], sqstee.words("--to", "local", "--")):
        with Terminal([*prefix, *TERMINAL_COMMANDS[name]], sqstee.environ | {"TERM": "xterm"}) as terminal:
            seen.append((terminal.wait(), terminal.output))
    assert seen[0] == seen[1]
    assert seen[0][1]


def test_both_streams_on_a_terminal(sqstee: Sqstee, prefix: Prefix, tmp_path: Path) -> None:
    """What is written to one once the other's is there comes behind it."""
    until = "until [ -e {} ]; do sleep 0.01; done"
    script = f"echo out; {until.format('one')}; echo err >&2; {until.format('two')}; printf 'no end'; exit 3"
    with Terminal([*prefix, "sh", "-c", f"cd {tmp_path}; {script}"], sqstee.environ) as terminal:
        for text, name in ((b"out\r\n", "one"), (b"err\r\n", "two")):
            terminal.expect(text)
            (tmp_path / name).touch()
        assert terminal.wait() == 3
        assert terminal.output == b"out\r\nerr\r\nno end"


def test_a_terminal_only_for_one_stream(sqstee: Sqstee, prefix: Prefix, tmp_path: Path) -> None:
    """stdout in a file, stderr on the terminal: each is what it is bare."""
    look = "import os,sys; print(os.isatty(1), file=sys.stdout); print(os.isatty(2), file=sys.stderr)"
    words = ["sh", "-c", f'"$@" > {tmp_path}/out', "sh", *prefix, *python(look)]
    with Terminal(words, sqstee.environ) as terminal:
        assert terminal.wait() == 0
        assert terminal.output == b"True\r\n"
    assert (tmp_path / "out").read_text() == "False\n"


def test_a_resize_reaches_the_command(sqstee: Sqstee, prefix: Prefix) -> None:
    """SIGWINCH, and the new size of stdout, stderr and stdin by then."""
    code = (
        "import os, signal, time\n"
        "def show(*_):\n"
        "    sizes = {tuple(os.get_terminal_size(fd)) for fd in (0, 1, 2)}\n"
        "    if sizes == {(77, 22)}: os.write(1, b'resized\\n')\n"
        "signal.signal(signal.SIGWINCH, show)\nos.write(1, b'ready\\n')\nsignal.alarm(20)\n"
        "while True: time.sleep(0.05)"
    )
    with Terminal([*prefix, *python(code)], sqstee.environ) as terminal:
        terminal.expect(b"ready")
        terminal.resize(22, 77)
        terminal.expect(b"resized")
        os.kill(terminal.pid, signal.SIGTERM)
        assert terminal.wait() == -signal.SIGTERM


def test_getpass_and_readline_work(sqstee: Sqstee, prefix: Prefix) -> None:
    """A password without echo, a line with editing."""
    code = "import getpass, readline; p = getpass.getpass(); print('secret', len(p)); print('line', input('? '))"
    environ = sqstee.environ | {"TERM": "xterm", "INPUTRC": "/dev/null"}
    with Terminal([*prefix, *python(code)], environ) as terminal:
        terminal.expect(b"Password: ")
        terminal.type(b"hunter2\n")
        terminal.expect(b"secret 7\r\n")
        terminal.expect(b"? ")
        terminal.type(b"abd\x7fc\n")
        terminal.expect(b"line abc\r\n")
        assert terminal.wait() == 0
        assert b"hunter2" not in terminal.output


def test_modes_set_on_stdout_reach_the_terminal_and_are_undone(sqstee: Sqstee, prefix: Prefix) -> None:
    """As curses does it: cbreak without echo on fd 1, keys read at once from fd 0, and back."""
    code = (
        "import os, termios, tty\nold = termios.tcgetattr(1)\nnew = termios.tcgetattr(1)\n"
        "new[3] &= ~(termios.ECHO | termios.ICANON)\ntermios.tcsetattr(1, termios.TCSADRAIN, new)\n"
        "import time\n"
        "while termios.tcgetattr(0)[3] & termios.ICANON: time.sleep(0.01)\n"
        "os.write(1, b'ready\\n')\nkey = os.read(0, 1)\nos.write(1, b'key ' + key + b'\\n')\n"
        "termios.tcsetattr(1, termios.TCSADRAIN, old)\n"
        "while not termios.tcgetattr(0)[3] & termios.ICANON: time.sleep(0.01)\n"
    )
    with Terminal([*prefix, *python(code)], sqstee.environ) as terminal:
        terminal.expect(b"ready\r\n")
        assert not terminal.modes()[3] & (termios.ECHO | termios.ICANON)
        terminal.type(b"k")
        terminal.expect(b"key k\r\n")
        assert terminal.wait() == 0
        assert terminal.modes() == terminal.before
        assert terminal.output == b"ready\r\nkey k\r\n"


RAW = (
    "import termios, time\nnew = termios.tcgetattr(1)\nnew[3] &= ~(termios.ECHO | termios.ICANON)\n"
    "termios.tcsetattr(1, termios.TCSADRAIN, new)\nprint('ready', flush=True)\ntime.sleep(30)"
)


@pytest.mark.parametrize("victim", ["command", "front"])
def test_the_terminals_modes_survive_a_kill(sqstee: Sqstee, victim: str) -> None:
    """The command, or sqstee itself, is killed while the terminal is in the command's modes: they are undone."""
    code = f"import os; print('pid', os.getpid(), flush=True)\n{RAW}"
    with Terminal(sqstee.words("--to", "local", "--", *python(code)), sqstee.environ) as terminal:
        inner = int(terminal.expect(b"ready").split()[1])
        wait_for(lambda: not terminal.modes()[3] & termios.ICANON, "raw mode")
        os.kill(inner if victim == "command" else terminal.pid, signal.SIGKILL)
        wait_for(lambda: terminal.modes() == terminal.before, "the old modes")
        assert terminal.wait() == -signal.SIGKILL
        wait_for(lambda: not is_running(inner), "end of the command")


def test_tty_always_and_never(sqstee: Sqstee) -> None:
    """A terminal where there is none, of COLUMNS × LINES; and none where there is one."""
    look = python("import os; print(os.isatty(1), os.isatty(2), os.isatty(1) and tuple(os.get_terminal_size(1)))")
    environ = {"COLUMNS": "90", "LINES": "33"}
    found = sqstee.run("--tty", "always", "--to", "local", "--", *look, environ=environ)
    assert found.stdout == b"True True (90, 33)\n"
    assert sqstee.run("--tty", "always", "--to", "local", "--", *look).stdout == b"True True (80, 24)\n"
    huge = sqstee.run("--tty", "always", "--to", "local", "--", *look, environ=environ | {"COLUMNS": "100000"})
    assert (huge.stdout, huge.stderr) == (b"True True (65535, 33)\n", b"")
    with Terminal(sqstee.words("--tty", "never", "--to", "local", "--", *look), sqstee.environ) as terminal:
        assert terminal.wait() == 0
        assert terminal.output == b"False False False\r\n"


def test_an_interactive_shell_keeps_its_job_control(sqstee: Sqstee) -> None:
    """The terminal is left to it; so is it with --tty pass."""
    environ = sqstee.environ | {"PS1": "prompt> ", "HISTFILE": "/dev/null"}
    shell_words = ["bash", "--norc", "--noediting"]
    with Terminal(sqstee.words("--to", "local", "--", *shell_words), environ) as terminal:
        terminal.expect(b"prompt> ")
        assert b"no job control" not in terminal.output
        terminal.type(b"sleep 50\n")
        terminal.expect(b"sleep 50\r\n")
        wait_for(lambda: comm(terminal.foreground()) == "sleep", "foreground job")
        terminal.type(b"\x1a")
        terminal.expect(b"Stopped")
        terminal.expect(b"prompt> ")
        terminal.type(b"fg\n")
        wait_for(lambda: comm(terminal.foreground()) == "sleep", "foreground job")
        terminal.type(b"\x03")
        terminal.expect(b"prompt> ")
        terminal.type(b"exit 4\n")
        assert terminal.wait() == 4


def comm(pid: int) -> str:
    """A process's name."""
    try:
        with open(f"/proc/{pid}/comm") as file:
            return file.read().strip()
    except OSError:
        return ""


def full_screen(name: str) -> Callable[[Terminal], None]:
    """How to use a full-screen program until it shows what it should, and to leave it."""

    def reads_keys(terminal: Terminal) -> None:
        """What is typed before the program has set its modes is lost, bare as well."""
        wait_for(lambda: not terminal.modes()[3] & termios.ICANON, "modes of a program that reads keys")

    def pager(terminal: Terminal) -> None:
        terminal.expect(b"line 20")
        reads_keys(terminal)
        terminal.type(b" ")
        terminal.expect(b"line 40")
        terminal.type(b"q")

    def editor(terminal: Terminal) -> None:
        terminal.expect(b"line 20")
        reads_keys(terminal)
        terminal.type(b"ddGAtyped\x1b:wq\r")

    def table(terminal: Terminal) -> None:
        terminal.expect(b"PID")
        reads_keys(terminal)
        terminal.type(b"q")

    return {"less": pager, "more": pager, "vi": editor, "top": table, "watch": table}[name]


@pytest.mark.parametrize("name", ["less", "more", "vi", "top"])
def test_full_screen_programs_are_usable(sqstee: Sqstee, prefix: Prefix, tmp_path: Path, name: str) -> None:
    """Keys arrive, the screen is drawn, the terminal is as before."""
    if not shutil.which(name):
        pytest.skip(f"{name} is not installed")
    path = tmp_path / "text"
    path.write_text("".join(f"line {n}\n" for n in range(1, 200)))
    command = [name] if name == "top" else [name, str(path)]
    environ = sqstee.environ | {"TERM": "xterm", "LESS": "", "MORE": "", "EXINIT": "set nocompatible"}
    with Terminal([*prefix, *command], environ, size=(24, 80)) as terminal:
        full_screen(name)(terminal)
        assert terminal.wait() == 0
        assert terminal.modes() == terminal.before
    if name == "vi":
        assert path.read_text().endswith("line 199typed\n")
        assert path.read_text().startswith("line 2\n")


def test_a_pager_that_was_in_the_background(sqstee: Sqstee, prefix: Prefix, tmp_path: Path) -> None:
    """What is typed meanwhile is the shell's; back in the foreground the terminal's modes and keys are the pager's."""
    if not shutil.which("less"):
        pytest.skip("less is not installed")
    path = tmp_path / "text"
    path.write_text("".join(f"line {n}\n" for n in range(1, 200)))
    environ = sqstee.environ | {"TERM": "xterm", "LESS": "", "PS1": "prompt> ", "HISTFILE": "/dev/null"}
    with Terminal(["bash", "--norc", "--noediting", "-i"], environ, size=(24, 80)) as terminal:
        terminal.expect(b"prompt> ")
        terminal.type(" ".join([*prefix, "less", str(path)]).encode() + b"\n")
        terminal.expect(b"line 23")
        wait_for(lambda: not terminal.modes()[3] & termios.ICANON, "the pager's modes")
        wait_for(lambda: suspended(terminal), "stop")
        terminal.expect(b"Stopped")
        terminal.expect(b"prompt> ")
        terminal.type(b"bg\n")
        terminal.expect(b"line 1\r\n" if prefix else b"prompt> ")
        terminal.type(b"echo $((41+1)); fg\n")
        terminal.expect(b"42\r\n")
        wait_for(lambda: not terminal.modes()[3] & termios.ICANON, "the pager's modes again")
        terminal.type(b"G")
        terminal.expect(b"line 199")
        terminal.type(b"q")
        terminal.expect(b"prompt> ")
        terminal.type(b"exit 7\n")
        assert terminal.wait() == 7


def suspended(terminal: Terminal) -> bool:
    """Press ^Z, which a pager may miss while it draws; whether the shell has the terminal a second later."""
    terminal.type(b"\x1a")
    deadline = time.monotonic() + 1
    while terminal.foreground() != terminal.pid and time.monotonic() < deadline:
        time.sleep(0.01)
    return terminal.foreground() == terminal.pid


# Nesting, merging, buffering


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


def ticks(pid: int) -> int:
    """Processor time so far, in clock ticks."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


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


# What a review found


def test_a_command_that_stops_itself(sqstee: Sqstee, prefix: Prefix) -> None:
    """`kill -TSTP $$` and the like: the shell gets its prompt back, fg goes on."""
    environ = sqstee.environ | {"PS1": "prompt> ", "HISTFILE": "/dev/null"}
    with Terminal(["bash", "--norc", "--noediting", "-i"], environ) as terminal:
        terminal.expect(b"prompt> ")
        for name in ("TSTP", "TTIN"):
            words = " ".join(f"'{word}'" for word in [*prefix, "sh", "-c", f'kill -{name} $$; echo ba""ck'])
            terminal.type(words.encode() + b"\n")
            terminal.expect(b"Stopped")
            terminal.expect(b"prompt> ")
            terminal.type(b"fg\n")
            terminal.expect(b"\nback\r\n")
            terminal.expect(b"prompt> ")
        terminal.type(b"exit 0\n")
        assert terminal.wait() == 0


def test_top_can_be_stopped(sqstee: Sqstee, prefix: Prefix) -> None:
    """A program that catches ^Z to tidy up and then stops itself."""
    if not shutil.which("top"):
        pytest.skip("top is not installed")
    environ = sqstee.environ | {"PS1": "prompt> ", "HISTFILE": "/dev/null", "TERM": "xterm"}
    with Terminal(["bash", "--norc", "--noediting", "-i"], environ, size=(24, 80)) as terminal:
        terminal.expect(b"prompt> ")
        terminal.type(" ".join(f"'{word}'" for word in [*prefix, "top"]).encode() + b"\n")
        terminal.expect(b"PID")
        terminal.type(b"\x1a")
        terminal.expect(b"Stopped")
        terminal.expect(b"prompt> ")
        terminal.type(b"fg\n")
        terminal.expect(b"PID")
        terminal.type(b"q")
        terminal.expect(b"prompt> ")
        terminal.type(b"exit 0\n")
        assert terminal.wait() == 0


def test_a_pager_with_merged_streams(sqstee: Sqstee, tmp_path: Path) -> None:
    """less got no keys under --merge."""
    if not shutil.which("less"):
        pytest.skip("less is not installed")
    path = tmp_path / "text"
    path.write_text("".join(f"line {n}\n" for n in range(1, 200)))
    words = sqstee.words("--merge", "--to", "local", "--", "less", str(path))
    with Terminal(words, sqstee.environ | {"TERM": "xterm", "LESS": ""}, size=(24, 80)) as terminal:
        full_screen("less")(terminal)
        assert terminal.wait() == 0


def test_pid_1_delivers_although_a_grandchild_holds_a_stream(sqstee: Sqstee) -> None:
    """Everybody ends with PID 1: there is no heir, and the tail was not delivered."""
    if subprocess.run(["unshare", "-fp", "--mount-proc", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no PID namespaces here")
    words = ["unshare", "-fp", "--mount-proc", *sqstee.words("--to", "local", "--"), "sh", "-c", "sleep 9 & echo last"]
    found = subprocess.run(words, capture_output=True, env=sqstee.environ, check=False, timeout=40)
    assert (found.stdout, found.stderr, found.returncode) == (b"last\n", b"", 0)
    assert sqstee.local().stdout == b"last\n"
    assert sqstee.local().events[-1].event == "exit"


def test_keys_are_not_taken_from_who_reads_stdin(sqstee: Sqstee, prefix: Prefix) -> None:
    """A program with the modes set on fd 2 and its keys from fd 0."""
    code = (
        "import os, tty, termios, time\ntty.setcbreak(2)\n"
        "while termios.tcgetattr(0)[3] & termios.ICANON: time.sleep(0.01)\n"
        "os.write(1, b'ready\\n')\nkeys = b''\n"
        "while len(keys) < 20:\n    keys += os.read(0, 1)\n    time.sleep(0.01)\n"
        "os.write(1, b'<' + keys + b'>\\n')"
    )
    with Terminal([*prefix, *python(code)], sqstee.environ) as terminal:
        terminal.expect(b"ready")
        for key in b"abcdefghijklmnopqrst":
            terminal.type(bytes([key]))
            time.sleep(0.005)  # as fingers do
        terminal.expect(b"<abcdefghijklmnopqrst>")
        assert terminal.wait() == 0


@pytest.mark.parametrize("source", ["&2", "/dev/stdout"])
def test_a_line_read_from_the_terminal_through_an_output(sqstee: Sqstee, prefix: Prefix, source: str) -> None:
    """`read x <&2`, the idiom of loops whose stdin is a list."""
    script = f"echo ready; read x <{source}; echo GOT $x"
    with Terminal([*prefix, "bash", "-c", script], sqstee.environ) as terminal:
        terminal.expect(b"ready")
        if prefix:
            wait_for(lambda: any(reads(pid) for pid in children(terminal.pid)), "reader")
        terminal.type(b"hey\n")
        terminal.expect(b"GOT hey")
        assert terminal.wait() == 0


def reads(pid: int) -> bool:
    """Whether a process sits in read(2)."""
    try:
        return Path(f"/proc/{pid}/syscall").read_text().split()[0] in ("0", "63")
    except OSError:
        return False


def test_modes_are_not_restored_over_another_job(sqstee: Sqstee, tmp_path: Path) -> None:
    """The command is killed in the background: the terminal is the shell's by then."""
    environ = sqstee.environ | {"PS1": "prompt> ", "HISTFILE": "/dev/null"}
    program = tmp_path / "raw.py"
    program.write_text(RAW)
    with Terminal(["bash", "--norc", "-i"], environ) as terminal:
        terminal.expect(b"prompt> ")
        words = sqstee.words("--to", "local", "--", sys.executable, str(program))
        terminal.type(" ".join(words).encode() + b"\n")
        terminal.expect(b"ready\r\n")
        terminal.type(b"\x1a")
        terminal.expect(b"prompt> ")
        wait_for(lambda: not terminal.modes()[3] & termios.ICANON, "the shell's own line editing")
        before = terminal.modes()
        terminal.type(b"kill -9 $(jobs -p)\n")
        terminal.expect(b"prompt> ")

        def told() -> bool:
            terminal.type(b"\n")
            terminal.expect(b"prompt> ")
            return b"Killed" in terminal.output

        wait_for(told, "death of the job")
        wait_for(lambda: terminal.modes() == before, "the shell's modes")
        time.sleep(0.3)  # whoever is left would have changed them by now
        assert terminal.modes() == before


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


@pytest.mark.parametrize("lead", [["env", "A=b"], ["nice"]])
def test_job_control_of_a_shell_behind_another_program(sqstee: Sqstee, lead: list[str]) -> None:
    """`env bash` is an interactive shell too."""
    environ = sqstee.environ | {"PS1": "prompt> ", "HISTFILE": "/dev/null"}
    words = sqstee.words("--to", "local", "--", *lead, "bash", "--norc", "--noediting")
    with Terminal(words, environ) as terminal:
        terminal.expect(b"prompt> ")
        assert b"no job control" not in terminal.output
        terminal.type(b"exit 4\n")
        assert terminal.wait() == 4


def test_a_limit_on_the_size_of_files(sqstee: Sqstee) -> None:
    """`ulimit -f` below a segment's size dropped lines for good: segments are made as large as they may be."""
    words = sqstee.words("--to", "local", "--flush-timeout", "0", "--", "seq", "200000")
    found = shell(sqstee, 'ulimit -f 200; "$@"', *words)
    assert found.stdout == b"".join(b"%d\n" % n for n in range(1, 200001))
    assert b"dropped" not in found.stderr
    wait_for(lambda: not any(map(sqstee.held, sqstee.waiting_runs())), "death of the shipper")
    assert sqstee.run("flush").returncode == 0
    assert sqstee.local().stdout == found.stdout


def test_a_named_pipe_whose_readers_come_and_go(sqstee: Sqstee, prefix: Prefix, tmp_path: Path) -> None:
    """Only a write tells that a FIFO has no reader."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    words = ["sh", "-c", f'exec "$@" > {fifo}', "sh", *prefix, "sh", "-c", "echo a; read x; echo b"]
    with running(words, stdin=subprocess.PIPE, env=sqstee.environ) as process:
        with open(fifo, "rb") as reader:
            assert reader.readline() == b"a\n"
        time.sleep(0.2)  # in which the wrapper might give up
        with open(fifo, "rb") as reader:
            assert process.stdin
            process.stdin.write(b"\n")
            process.stdin.close()
            assert reader.read() == b"b\n"
        assert process.wait(40) == 0


def test_a_named_pipe_whose_reader_is_still_to_come(sqstee: Sqstee, prefix: Prefix, tmp_path: Path) -> None:
    """A FIFO that nobody reads at the start cannot be opened anew; one that comes before the first write reads."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    both = os.open(fifo, os.O_RDWR)
    writing = os.open(fifo, os.O_WRONLY)
    os.close(both)
    words = [*prefix, "sh", "-c", "echo ready >&2; read x; echo $x"]
    with running(words, stdin=subprocess.PIPE, stdout=writing, stderr=subprocess.PIPE, env=sqstee.environ) as process:
        os.close(writing)
        assert process.stdin
        assert process.stderr
        assert process.stderr.readline() == b"ready\n"
        with open(fifo, "rb") as reader:
            process.stdin.write(b"word\n")
            process.stdin.close()
            assert reader.read() == b"word\n"
        assert process.wait(40) == 0


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


def test_real_time_signals_to_the_group_are_each_told_once(sqstee: Sqstee, prefix: Prefix) -> None:
    """Several of one number queue up; none is forwarded besides."""
    code = (
        "import os, signal\nnumber = signal.SIGRTMIN + 3\nsignal.pthread_sigmask(signal.SIG_BLOCK, {number})\n"
        "os.write(1, b'ready\\n')\ncount = 0\n"
        "while signal.sigtimedwait({number}, 10 if count < 3 else 0.5): count += 1\n"
        "os._exit(count)"
    )
    with started(sqstee, prefix, *python(code), group=0) as process:
        for _ in range(3):
            os.killpg(process.pid, signal.SIGRTMIN + 3)
        assert process.wait(40) == 3


def test_a_socket_of_datagrams(sqstee: Sqstee) -> None:
    """Each write is a message of its own: such an output is left alone."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    words = sqstee.words("--to", "local", "--", "sh", "-c", "echo a; echo b; echo err >&2")
    with ours, theirs:
        found = subprocess.run(words, stdout=theirs.fileno(), stderr=subprocess.PIPE, env=sqstee.environ, check=True)
        assert [ours.recv(100), ours.recv(100)] == [b"a\n", b"b\n"]
    assert found.stderr == b"err\n"
    assert sqstee.local().stderr == b"err\n"
