"""Readers that leave, writers that fill pipes, sockets and closed descriptors, as without the wrapper."""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import time
from pathlib import Path

import pytest
from support import (
    Sqstee,
    children,
    injecting,
    is_running,
    python,
    running,
    wait_for,
)
from support.wrapping import Prefix, shell

from sqstee.capture.loop import CaptureLoop
from sqstee.capture.output import Output
from sqstee.capture.stream import Stream, pass_through, watch


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


def test_an_error_before_buffered_output_comes_first(sqstee: Sqstee) -> None:
    """The command ends before we are loaded: stdout, first in our list, overtook stderr, which was written first."""
    script = "ls /nonexistent /etc/hostname 2>&1"
    bare = shell(sqstee, script).stdout
    for _ in range(3):
        assert shell(sqstee, f'"$@" {script}', *sqstee.words("--to", "local", "--")).stdout == bare
    runs = [body.data for body in sqstee.local_bodies()]
    assert len(runs) == 3
    assert all(data.index(b'"stream":"stderr"') < data.index(b'"stream":"stdout"') for data in runs)


@pytest.mark.parametrize("script", ["echo 1; echo 2 >&2", "echo 1 >&2; echo 2"])
def test_the_first_writes_come_in_their_order(sqstee: Sqstee, script: str) -> None:
    """The outputs are watched before the command can write: two pipes become readable in the order of its writes."""
    for _ in range(5):
        found = shell(sqstee, f'"$@" sh -c {shlex.quote(script)} 2>&1', *sqstee.words("--to", "local", "--"))
        assert found.stdout == b"1\n2\n"


def test_what_is_read_while_we_load_is_spooled(sqstee: Sqstee, tmp_path: Path) -> None:
    """The command has written and ended before there is a spool; one stream ended before the other."""
    environ = sqstee.environ | injecting(tmp_path, "sqstee.capture.supervisor:Supervisor._open_spool:hang:1")
    script = "exec 2>&-; seq 9000; printf end"
    words = sqstee.words("--to", "local", "--", "sh", "-c", f"echo first >&2; {script}")
    with running(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environ) as process:
        wait_for((tmp_path / "injected").exists, "start")
        wait_for(lambda: not any(map(is_running, children(process.pid))), "end of the command")
        (tmp_path / "injected.go").touch()
        out, err = process.communicate(timeout=40)
    assert (out, err) == (shell(sqstee, script).stdout, b"first\n")
    found = sqstee.local()
    found.assert_whole()
    assert (found.stdout, found.stderr) == (out, err)


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


def test_a_socket_of_datagrams(sqstee: Sqstee) -> None:
    """Each write is a message of its own: such an output is left alone."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    words = sqstee.words("--to", "local", "--", "sh", "-c", "echo a; echo b; echo err >&2")
    with ours, theirs:
        found = subprocess.run(words, stdout=theirs.fileno(), stderr=subprocess.PIPE, env=sqstee.environ, check=True)
        assert [ours.recv(100), ours.recv(100)] == [b"a\n", b"b\n"]
    assert found.stderr == b"err\n"
    assert sqstee.local().stderr == b"err\n"


LOCAL = ("--to", "local")


def test_what_was_in_the_pipe_when_the_reader_left(sqstee: Sqstee, tmp_path: Path) -> None:
    """The command had written it: it is shipped, although nobody reads stdout any more."""
    code = (
        "import os, signal\nsignal.signal(signal.SIGPIPE, signal.SIG_IGN)\nwritten = 0\n"
        "try:\n    for n in range(20000): written += os.write(1, b'%06d ' % n + b'x' * 92 + b'\\n')\n"
        f"except BrokenPipeError: pass\nopen({str(tmp_path / 'written')!r}, 'w').write(str(written))"
    )
    shell(sqstee, '"$@" | head -c 10 > /dev/null', *sqstee.words(*LOCAL, "--", *python(code)))
    wait_for(lambda: sqstee.local().events[-1].event == "exit", "exit event")
    shipped = sqstee.local()
    shipped.assert_whole()
    # what is written between the last look into the pipe and its close cannot be had any more
    assert 0 <= int((tmp_path / "written").read_text()) - len(shipped.stdout) < 65536
    assert shipped.events[-1].fields["bytes"] == len(shipped.stdout)
    assert shipped.stdout.startswith(b"000000 x")


def between_pipes() -> tuple[int, Stream, int]:
    """The command's end of a captured pipe, its stream, and the reader's end of our output."""
    source, command = os.pipe()
    reader, output = os.pipe()
    return command, Stream(0, output, source, Output(output), None), reader


def test_output_that_is_held_has_not_been_passed_on() -> None:
    """A stop of the command in its first milliseconds would have left it on the way until fg."""
    command, stream, reader = between_pipes()
    loop = CaptureLoop([stream], watch([stream]))
    os.write(command, b"line\n")
    loop.look()
    assert not loop.is_drained()
    os.close(command)
    loop.run()
    assert loop.is_drained()
    assert os.read(reader, 9) == b"line\n"
    for fd in (stream.fd, reader):
        os.close(fd)


def test_a_reader_that_left_while_we_loaded_ends_the_command() -> None:
    """Nobody closed the command's pipe, and it waited for room there for ever."""
    command, stream, reader = between_pipes()
    stream.pending = memoryview(b"read before\n")
    os.close(reader)
    pass_through([stream])
    with pytest.raises(BrokenPipeError):
        os.write(command, b"line\n")
    for fd in (stream.fd, command):
        os.close(fd)
