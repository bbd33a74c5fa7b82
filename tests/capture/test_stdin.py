"""`make | sqstee`: stdin is passed on as by tee(1), and shipped as the stream `stdin` of a run of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from fakes.sqs import FakeSqs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import Sqstee, children, kill, python, running, wait_for
from support.terminal import Terminal
from support.wrapping import shell

NOTICE = b"only stdin was captured; for stderr and the exit status wrap the command: sqstee -- COMMAND"


@pytest.fixture(autouse=True)
def _told(sqstee: Sqstee) -> None:
    """The notice about the local queue comes once per user: it is not what these tests are about."""
    sqstee.spool.mkdir(mode=0o700)
    (sqstee.spool / ".local-told").touch()


def copier_after_a_line(process: subprocess.Popen[bytes]) -> int:
    """The pid of the process that copies stdin, once it has passed the line `one` on."""
    assert process.stdin
    assert process.stdout
    process.stdin.write(b"one\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"one\n"
    return copier_of(process)


def copier_of(sqstee: subprocess.Popen[bytes]) -> int:
    """The process that reads stdin: the first one that the front has started."""
    return min(children(sqstee.pid))


@pytest.mark.parametrize(
    "data",
    [b"", b"a\n", b"no newline", b"\0\xff\r\n\n\x1b[31m", b"x" * 300_000, b"".join(b"%d\n" % n for n in range(50_000))],
    ids=["nothing", "a line", "no newline", "odd bytes", "a long line", "many lines"],
)
def test_stdin_is_passed_on_and_shipped(sqstee: Sqstee, data: bytes) -> None:
    """Byte for byte, both; without a word of ours where stderr is no terminal."""
    found = sqstee.run("--to", "local", stdin=data)
    assert (found.stdout, found.stderr, found.returncode) == (data, b"", 0)
    shipped = sqstee.local()
    shipped.assert_whole()
    assert shipped.stream("stdin") == data
    assert {record.stream for record in shipped.records} <= {"stdin"}
    assert sqstee.waiting_runs() == []


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=8))
@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
def test_any_bytes_in_any_pieces(sqstee: Sqstee, writes: list[bytes]) -> None:
    """As they come: a reader of our output waits for no newline."""
    for name in ("local.db", "local.db-wal", "local.db-shm"):
        (sqstee.spool / name).unlink(missing_ok=True)
    with running(
        sqstee.words(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=sqstee.environ
    ) as process:
        assert process.stdin
        assert process.stdout
        for data in writes:
            os.write(process.stdin.fileno(), data)
            got = b""
            while len(got) < len(data):
                got += os.read(process.stdout.fileno(), len(data) - len(got))
            assert got == data
        process.stdin.close()
        assert process.wait(60) == 0
    assert sqstee.local().stream("stdin") == b"".join(writes)


def test_the_run_has_a_name_and_no_command(sqstee: Sqstee) -> None:
    """Start and exit events say `stdin`, or the job; what the reading process has used means nothing."""
    assert sqstee.run("--send-command", "--label", "a=b", stdin=b"x\n").returncode == 0
    start, last = sqstee.local().events
    assert (start.fields["name"], last.fields["name"], last.message) == ("stdin", "stdin", "stdin has ended")
    assert not {"command", "cpu_s", "max_rss"} & {*start.fields, *last.fields}
    assert last.fields["exit_code"] == 0
    listed = sqstee.run("runs", "-o", "json").stdout
    assert b'"stdin"' in listed
    assert b"x\n" in sqstee.run("show", "--last", "-o", "raw").stdout
    assert sqstee.run("show", "--last", "--stream", "stdin", "-o", "raw").stdout == b"x\n"


@pytest.mark.parametrize("way", ["file", "socket", "non-blocking pipe"])
def test_a_file_a_socket_and_a_pipe_that_does_not_block(sqstee: Sqstee, tmp_path: Path, way: str) -> None:
    """Whatever the shell, ssh or a program connects; a terminal and /dev/null are no input."""
    data = b"".join(b"line %d\n" % n for n in range(20_000))
    script = {
        "file": "import os\nos.dup2(os.open(sys.argv[1], os.O_RDONLY), 0)",
        "socket": "import os, socket\na, b = socket.socketpair()\nos.dup2(b.fileno(), 0)",
        "non-blocking pipe": "import os\nr, w = os.pipe()\nos.set_blocking(r, False)\nos.dup2(r, 0)",
    }[way]
    feed = {
        "file": "",
        "socket": "a.sendall(data); a.close(); b.close()",
        "non-blocking pipe": "f = open(w, 'wb'); os.close(r); f.write(data); f.close()",
    }[way]
    code = f"import subprocess, sys\n{script}\nchild = subprocess.Popen(sys.argv[2:])\n"
    code += f"data = open(sys.argv[1], 'rb').read()\n{feed}\nsys.exit(child.wait())"
    (tmp_path / "data").write_bytes(data)
    found = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "data"), *sqstee.words()],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=sqstee.environ,
        timeout=60,
        check=False,
    )
    assert (found.stdout, found.stderr, found.returncode) == (data, b"", 0)
    assert sqstee.local().stream("stdin") == data


def test_a_reader_that_leaves(sqstee: Sqstee) -> None:
    """As tee: it dies of SIGPIPE, and so does whoever writes to it; what was read is shipped."""
    script = '{ while :; do echo y || exit 7; done 2> /dev/null; } | "$@" | head -n 3; echo ${PIPESTATUS[@]} >&2'
    found = shell(sqstee, script, *sqstee.words("--to", "local"))
    assert found.stdout == b"y\ny\ny\n"
    assert found.stderr.split() in ([b"141", b"141", b"0"], [b"7", b"141", b"0"])
    shipped = sqstee.local()
    assert shipped.events[-1].fields["signal"] == signal.SIGPIPE
    assert shipped.stream("stdin").startswith(b"y\ny\ny\n")


def test_stdout_is_closed_or_full(sqstee: Sqstee) -> None:
    """What cannot be shown is shipped all the same; a full disk gives status 1, as of tee."""
    assert shell(sqstee, 'echo a | "$@" >&-; exit ${PIPESTATUS[1]}', *sqstee.words("--to", "local")).returncode == 0
    found = shell(sqstee, 'echo b | "$@" > /dev/full; exit ${PIPESTATUS[1]}', *sqstee.words("--to", "local"))
    assert found.returncode == 1
    assert b"stdout could not be written: No space left on device" in found.stderr
    assert b"".join(body.data for body in sqstee.local_bodies()).count(b'"stream":"stdin"') == 2


def test_the_last_lines_after_an_interrupt(sqstee: Sqstee) -> None:
    """^C reaches the writer as well: what it says last is shipped, and then the shell sees that we were interrupted."""
    writer = "trap 'echo bye; exit 0' INT; echo ready; while :; do sleep 0.05; done"
    command = ["bash", "-c", 'bash -c "$1" | "${@:2}"', "bash", writer, *sqstee.words("--to", "local")]
    with running(command, stdout=subprocess.PIPE, env=sqstee.environ, start_new_session=True) as group:
        assert group.stdout
        assert group.stdout.readline() == b"ready\n"
        os.killpg(group.pid, signal.SIGINT)
        assert group.stdout.read() == b"bye\n"
        assert group.wait(60) == -signal.SIGINT
    shipped = sqstee.local()
    shipped.assert_whole()
    assert shipped.stream("stdin") == b"ready\nbye\n"
    assert shipped.events[-1].fields["signal"] == signal.SIGINT


def test_a_second_interrupt_ends_it(sqstee: Sqstee) -> None:
    """Where whoever writes goes on."""
    with running(sqstee.words(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=sqstee.environ) as process:
        assert process.stdin
        assert process.stdout
        for at in (b"1\n", b"2\n"):
            process.stdin.write(at)
            process.stdin.flush()
            assert process.stdout.readline() == at
            process.send_signal(signal.SIGINT)

        def interrupted() -> bool:
            """Two signals are one while the first is pending, so it is sent again, as a user does."""
            process.send_signal(signal.SIGINT)
            return process.poll() is not None

        wait_for(interrupted, "the end")
        assert process.returncode == -signal.SIGINT
    wait_for(lambda: sqstee.run("flush").returncode == 0, "delivery")  # a third one cuts the wait for it short
    assert sqstee.local().stream("stdin") == b"1\n2\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_it_waits_for_the_delivery(sqstee: Sqstee, fake_sqs: FakeSqs, number: int) -> None:
    """Regression: it ended with status 0, so that ^C did not end a shell's loop. The lines stay in the spool."""
    fake_sqs.faults(black_hole=True)
    words = sqstee.words("--to", "q", "--flush-timeout", "60s")
    environ = sqstee.environ | fake_sqs.environ()
    with running(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environ) as process:
        copier = copier_after_a_line(process)
        assert process.stdin
        process.stdin.close()
        wait_for(lambda: not Path(f"/proc/{copier}").exists(), "the end of stdin")
        process.send_signal(number)
        assert process.wait(60) == -number
        assert process.stderr
        assert f"cut short by {signal.Signals(number).name}".encode() in process.stderr.read()
    fake_sqs.clear_faults()
    assert sqstee.run("flush", environ=fake_sqs.environ()).returncode == 0


def test_a_front_that_is_killed(sqstee: Sqstee) -> None:
    """What was passed on is shipped, the reading process ends with it, and whoever writes gets SIGPIPE."""
    with running(sqstee.words(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=sqstee.environ) as process:
        copier = copier_after_a_line(process)
        assert process.stdin
        wait_for(lambda: b"one\n" in sqstee.spooled() or sqstee.local().records, "the line")
        kill(process.pid)
        wait_for(lambda: not Path(f"/proc/{copier}").exists(), "the end of the reading process")
        with pytest.raises(BrokenPipeError):
            os.write(process.stdin.fileno(), b"more\n")
    wait_for(lambda: sqstee.run("flush").returncode == 0, "delivery")
    shipped = sqstee.local()
    assert shipped.stream("stdin") == b"one\n"
    assert shipped.events[-1].fields["cause"] == "wrapper-died"


def test_an_outer_sqstee_captures_it_already(sqstee: Sqstee) -> None:
    """The inner one only passes it on: no line is shipped twice."""
    script = f"echo a | {sqstee.words()[0]}"
    found = sqstee.wrap("sh", "-c", script)
    assert (found.stdout, found.returncode) == (b"a\n", 0)
    shipped = sqstee.local()
    shipped.assert_whole()
    assert (shipped.stdout, shipped.stream("stdin")) == (b"a\n", b"")


def test_the_hint_comes_once_and_on_a_terminal(sqstee: Sqstee) -> None:
    """What wrapping would give more."""
    command = ["sh", "-c", f"echo hi | {sqstee.words()[0]} --to local"]
    outputs = []
    for _ in range(2):
        with Terminal(command, sqstee.environ) as terminal:
            terminal.wait()
            outputs.append(terminal.output)
    assert [(b"hi" in output, NOTICE in output) for output in outputs] == [(True, True), (True, False)]


def test_without_input_there_is_no_run(sqstee: Sqstee) -> None:
    """A terminal, or /dev/null as under cron: a usage error, as ever."""
    found = sqstee.run("--to", "local")
    assert (found.returncode, found.stderr.split(b"\n")[0]) == (125, b"sqstee: no -- before the command")
    with Terminal(sqstee.words(), sqstee.environ) as terminal:
        assert terminal.wait() == 125
        assert b"no command" in terminal.output


def test_options_are_checked_before_anything_is_read(sqstee: Sqstee) -> None:
    """A command that lacks its `--` is none of stdin's business."""
    found = sqstee.run("--job", "j", "cat", "-n", stdin=b"hi\n")
    assert (found.returncode, found.stdout) == (125, b"")
    assert found.stderr == b"sqstee: 'cat' is not an option\nhint: sqstee --job j -- cat -n\n"


def test_a_slow_reader_holds_up_the_writer_only(sqstee: Sqstee) -> None:
    """Back-pressure reaches whoever writes, as through tee, and memory stays bounded."""
    words = sqstee.words("--to", "local")
    code = python("import sys\nfor n in range(200_000): print('%0120d' % n)")
    with (
        running(code, stdout=subprocess.PIPE) as writer,
        running(words, stdin=writer.stdout, stdout=subprocess.PIPE, env=sqstee.environ) as process,
    ):
        assert process.stdout
        assert process.stdout.read(121) == b"0" * 120 + b"\n"
        assert writer.poll() is None
        assert process.stdout.read().count(b"\n") == 199_999
        assert process.wait(60) == 0
    assert len(sqstee.local().records) == 200_000
