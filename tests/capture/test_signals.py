"""Signals: each reaches the command exactly as often as without the wrapper."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from support import (
    PROGRAMS,
    Sqstee,
    children,
    injecting,
    python,
    running,
    states,
    wait_for,
)
from support.terminal import Terminal
from support.wrapping import Prefix, comm, shell

from sqstee.capture.signals import pending

COUNT = [sys.executable, str(PROGRAMS / "count.py")]


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


def pipes(pid: int) -> list[str]:
    """The pipes that a process has open, as far as it does not close them meanwhile."""
    found = set()
    for name in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):
            found.add(os.readlink(f"/proc/{pid}/fd/{name}"))
    return sorted(link for link in found if link.startswith("pipe:"))


def has_pending(pid: int, number: int) -> bool:
    """Whether a process has still to take a signal; the niced shipper takes a key's when it gets to it."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    found = re.search(r"^ShdPnd:\t(\w+)$", status, re.MULTILINE)
    return bool(found and int(found.group(1), 16) >> (number - 1) & 1)


def state(pid: int) -> str:
    """A process's state letter."""
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]


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


def test_timeout_terminates_once(sqstee: Sqstee, prefix: Prefix) -> None:
    """timeout(1) signals its child and then the group: a handler runs once."""
    script = 'trap "echo got; n=1" TERM; echo ready; while [ -z "$n" ]; do sleep 0.05; done; sleep 0.3; echo end'
    with started(sqstee, ["timeout", "-s", "TERM", "1000", *prefix], "bash", "-c", script) as process:
        # while it runs it may not have returned from the fork yet: then it would end, and leave its child alone
        wait_for(lambda: states(process.pid) == {"S"}, "timeout to wait for its child")
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


LOCAL = ("--to", "local")


def test_an_interrupt_at_the_very_start(sqstee: Sqstee) -> None:
    """^C in the first milliseconds gave a traceback."""
    for step in range(12):
        with running(
            sqstee.words(*LOCAL, "--", "sleep", "20"), stderr=subprocess.PIPE, env=sqstee.environ, process_group=0
        ) as process:
            try:
                process.wait(0.004 + 0.003 * step)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGINT)
            assert process.stderr
            errors = process.stderr.read()
            process.wait(40)
            assert b"/sqstee/" not in errors  # before our first instruction Python itself may answer
