"""Terminals: programs on a pty behave as on the terminal itself."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support import (
    Sqstee,
    children,
    is_running,
    python,
    wait_for,
)
from support.terminal import Terminal
from support.wrapping import Prefix, comm

TERMINAL_COMMANDS = {
    "isatty": python("import os; print(os.isatty(1), os.isatty(2), os.get_terminal_size(), os.get_terminal_size(2))"),
    "colours": ["ls", "--color=auto", "/usr"],
    "carriage": python(r"import sys; sys.stdout.buffer.write(b'a\nb\r\nc\td\x1b[31mred\x1b[0m\n\x00\xff\n')"),
    "much": ["sh", "-c", "seq 20000"],
    "stdin": ["sh", "-c", "stty -a; tty -s && echo tty"],
    "width": ["sh", "-c", "stty size; tput cols; tput lines"],
}

RAW = (
    "import termios, time\nnew = termios.tcgetattr(1)\nnew[3] &= ~(termios.ECHO | termios.ICANON)\n"
    "termios.tcsetattr(1, termios.TCSADRAIN, new)\nprint('ready', flush=True)\ntime.sleep(30)"
)


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


def suspended(terminal: Terminal) -> bool:
    """Press ^Z, which a pager may miss while it draws; whether the shell has the terminal a second later."""
    terminal.type(b"\x1a")
    deadline = time.monotonic() + 1
    while terminal.foreground() != terminal.pid and time.monotonic() < deadline:
        time.sleep(0.01)
    return terminal.foreground() == terminal.pid


def reads(pid: int) -> bool:
    """Whether a process sits in read(2)."""
    try:
        return Path(f"/proc/{pid}/syscall").read_text().split()[0] in ("0", "63")
    except OSError:
        return False


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


def test_the_last_output_before_a_stop_is_shown_before_the_prompt(sqstee: Sqstee, prefix: Prefix) -> None:
    """A program leaves the alternate screen when it is stopped: that was on its way through the pty, often until fg.
    And one stopped just after fg stays stopped."""
    program = (
        "import os, signal\nfrom signal import SIG_DFL, SIGTSTP\n"
        "def stop(*_):\n    os.write(1, b'<left>')\n    signal.signal(SIGTSTP, SIG_DFL)\n"
        "    os.kill(os.getpid(), SIGTSTP)\n    signal.signal(SIGTSTP, stop)\n    os.write(1, b'<back>')\n"
        "signal.signal(SIGTSTP, stop)\nos.write(1, b'<ready>')\nwhile True: signal.pause()"
    )
    environ = sqstee.environ | {"PS1": "prompt> ", "HISTFILE": "/dev/null", "PROGRAM": program}
    with Terminal(["bash", "--norc", "--noediting", "-i"], environ) as terminal:
        terminal.expect(b"prompt> ")
        terminal.type(" ".join([*prefix, sys.executable, '-c "$PROGRAM"\n']).encode())
        terminal.expect(b"<ready>")
        for _ in range(15):
            terminal.type(b"\x1a")
            assert b"<left>" in terminal.expect(b"Stopped")
            terminal.expect(b"prompt> ")
            terminal.type(b"fg\n")
            terminal.expect(b"<back>")
        terminal.type(b"\x03")
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


@pytest.mark.parametrize(
    "wait",
    [
        "pass",
        "select.select([2], [], [])",
        "p = select.poll(); p.register(2, 1); p.poll()",
        "p = select.epoll(); p.register(2, 1); p.poll()",
        "p = select.poll(); p.register(0, 1); p.poll(); end = time.monotonic() + 0.01\n"
        "  while time.monotonic() < end: pass",
        "p = select.poll(); p.register(0, 1); p.register(2, 1)\n  while 2 not in dict(p.poll()): pass",
    ],
    ids=["read", "select", "poll", "epoll", "poll-of-stdin", "busy-poll-of-both"],
)
@pytest.mark.parametrize("read", ["key = os.read(2, 1)", "key = bytearray(1); os.readv(2, [key])"])
def test_keys_reach_a_pager_whatever_it_waits_in(sqstee: Sqstee, wait: str, read: str) -> None:
    """Pagers read keys from fd 2, which is open for writing too: only the system call that they sit in shows it."""
    code = (
        "import os, select, time, tty\ntty.setcbreak(2)\nos.write(1, b'ready')\n"
        f"for _ in range(5):\n  {wait}\n  {read}\n  os.write(1, b'got ' + bytes(key))"
    )
    with Terminal(sqstee.words("--to", "local", "--", *python(code)), sqstee.environ) as terminal:
        terminal.expect(b"ready")
        for key in (b"k", b"l", b"m", b"n", b"o"):
            terminal.type(key)
            terminal.expect(b"got " + key)
        assert terminal.wait() == 0


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
