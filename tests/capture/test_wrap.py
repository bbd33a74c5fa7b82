"""The wrapped command is the bare command: bytes, status, and what reaches the local queue."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import Sqstee, python, running, wait_for
from support.wrapping import shell

from sqstee.spool.run_events import program_name


def bare(*command: str) -> subprocess.CompletedProcess[bytes]:
    """The same command without the wrapper."""
    return subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=60, check=False)


@pytest.fixture(autouse=True)
def _told(sqstee: Sqstee) -> None:
    """The notice about the local queue comes once per user: it is not what these tests are about."""
    sqstee.spool.mkdir(mode=0o700)
    (sqstee.spool / ".local-told").touch()


@pytest.mark.parametrize(
    "script",
    [
        "echo hi; echo err >&2; printf abc; exit 3",
        "printf '\\0\\377\\nabc\\r\\n\\n'",
        "exit 0",
        "exit 255",
        "echo only; exec 1>&-; echo e >&2; exit 7",
        "head -c 300000 /dev/zero",
        "seq 30000; seq 20000 >&2",
        "printf 'no newline' >&2",
    ],
)
def test_streams_and_status_are_the_bare_commands(sqstee: Sqstee, script: str) -> None:
    """Both streams byte for byte, the same status, and the same bytes again from what was shipped."""
    expected = bare("sh", "-c", script)
    found = sqstee.wrap("sh", "-c", script)
    assert (found.stdout, found.stderr, found.returncode) == (expected.stdout, expected.stderr, expected.returncode)
    shipped = sqstee.local()
    shipped.assert_whole()
    assert (shipped.stdout, shipped.stderr) == (expected.stdout, expected.stderr)
    assert sqstee.waiting_runs() == []


@given(st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(min_size=1, max_size=200)), max_size=12))
@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
def test_any_bytes_pass_through_and_are_rebuilt(sqstee: Sqstee, writes: list[tuple[int, bytes]]) -> None:
    """A command that writes any bytes in any pieces to both streams."""
    (sqstee.spool / "local.db").unlink(missing_ok=True)
    for name in ("local.db-wal", "local.db-shm"):
        (sqstee.spool / name).unlink(missing_ok=True)
    found = sqstee.wrap(*python(f"import os\nfor fd, data in {writes!r}: os.write(fd, data)"))
    expected = [b"".join(data for fd, data in writes if fd == which) for which in (1, 2)]
    assert [found.stdout, found.stderr, found.returncode] == [*expected, 0]
    shipped = sqstee.local()
    shipped.assert_whole()
    assert [shipped.stdout, shipped.stderr] == expected


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, signal.SIGPIPE, signal.SIGINT])
def test_sqstee_dies_of_the_commands_signal(sqstee: Sqstee, number: int) -> None:
    """The caller sees the same death, and no core is left."""
    found = sqstee.wrap("sh", "-c", f"echo before; kill -{int(number)} $$")
    assert found.returncode == -number
    assert found.stdout == b"before\n"
    shipped = sqstee.local()
    shipped.assert_whole()
    assert shipped.events[-1].fields["signal"] == number
    assert not list(sqstee.folder.glob("core*"))


def test_a_signal_to_sqstee_reaches_the_command(sqstee: Sqstee) -> None:
    """TERM to the wrapper's pid alone: the command's trap runs, its last words are captured, its status is ours."""
    script = 'trap "echo bye; exit 3" TERM; echo ready; while :; do sleep 0.05; done'
    command = sqstee.words("--", "bash", "-c", script)
    with running(command, stdout=subprocess.PIPE, env=sqstee.environ) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == b"bye\n"
        assert process.wait(40) == 3
    assert sqstee.local().stdout == b"ready\nbye\n"


def test_missing_and_not_executable_commands(sqstee: Sqstee, tmp_path: Path) -> None:
    """127 and 126, as a shell, one line that names the command, and nothing in the spool or the queue."""
    plain = tmp_path / "plain"
    plain.write_text("echo no\n")
    for command, status in (("no-such-command", 127), ("./no/such", 127), (str(tmp_path), 126), (str(plain), 126)):
        found = sqstee.wrap(command)
        assert found.returncode == status
        assert found.stdout == b""
        assert found.stderr.decode().startswith(f"sqstee: {command}: ")
    assert sqstee.waiting_runs() == []
    assert not (sqstee.spool / "local.db").exists()


def test_a_script_without_a_first_line_is_run_by_sh(sqstee: Sqstee, tmp_path: Path) -> None:
    """ENOEXEC falls back to /bin/sh, as in every shell."""
    script = tmp_path / "script"
    script.write_text('echo "ok $1"\n')
    script.chmod(0o755)
    assert sqstee.wrap(str(script), "x").stdout == b"ok x\n"


def test_stdin_is_inherited_and_never_read_ahead(sqstee: Sqstee) -> None:
    """What the command leaves on stdin is there for the next one."""
    script = 'sqstee="$1"; { "$sqstee" -- sh -c "read x; echo got \\$x"; cat; }'
    found = subprocess.run(
        ["sh", "-c", script, "sh", sqstee.words()[0]],
        input=b"a\nb\n",
        capture_output=True,
        env=sqstee.environ,
        check=True,
    )
    assert found.stdout == b"got a\nb\n"


def test_the_environment_is_the_callers(sqstee: Sqstee) -> None:
    """Nothing is added but SQSTEE_NEST, not even what Python itself sets for the C locale (PEP 538)."""
    environ = {"PATH": os.environ["PATH"], "SQSTEE_SPOOL": str(sqstee.spool), "ODD": "a=b\nc"}
    command = [sys.executable, "-m", "sqstee", "--", "env", "-0"]
    found = subprocess.run(command, env=environ, capture_output=True, check=True)
    entries = [entry for entry in found.stdout.split(b"\0")[:-1] if not entry.startswith(b"SQSTEE_NEST=")]
    assert sorted(entries) == sorted(f"{k}={v}".encode() for k, v in environ.items())


def test_inherited_descriptors_reach_the_command_and_ours_do_not(sqstee: Sqstee, tmp_path: Path) -> None:
    """fd 3 of the caller is the command's; there is nothing else than what the bare command has."""
    script = 'exec 3>"$1"; shift; "$@"'
    look = "import os; os.write(3, b'x'); print(sorted(int(n) for n in os.listdir('/proc/self/fd'))[:-1])"
    outputs = []
    for prefix in ([], sqstee.words("--")):
        words = ["sh", "-c", script, "sh", str(tmp_path / "three"), *prefix, *python(look)]
        outputs.append(subprocess.run(words, capture_output=True, env=sqstee.environ, check=True).stdout)
    assert outputs[0] == outputs[1]
    assert (tmp_path / "three").read_bytes() == b"x"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_descriptors_stay_closed(sqstee: Sqstee, tmp_path: Path, closed: str) -> None:
    """What the caller closed is closed in the command, and what it left open still works."""
    look = (
        "import os, sys\nopen(sys.argv[1], 'w').write("
        "repr([n for n in (0, 1, 2) if os.path.exists(f'/proc/self/fd/{n}')]))"
    )
    program = tmp_path / "look.py"
    program.write_text(look)
    seen = []
    for name, prefix in (("bare", []), ("wrapped", sqstee.words("--"))):
        # -S -E: a Python whose own start opens nothing
        words = [*prefix, sys.executable, "-S", "-E", str(program), str(tmp_path / name)]
        found = subprocess.run(
            ["sh", "-c", f'"$@" {closed}', "sh", *words], env=sqstee.environ, check=False, timeout=60
        )
        assert found.returncode == 0
        seen.append((tmp_path / name).read_text())
    assert seen[0] == seen[1]


def test_the_reader_leaving_ends_the_command(sqstee: Sqstee) -> None:
    """`| head -1` ends an endless producer by SIGPIPE, promptly."""
    script = '"$1" -- yes | head -1; echo "${PIPESTATUS[0]}"'
    found = subprocess.run(
        ["bash", "-c", script, "bash", sqstee.words()[0]],
        capture_output=True,
        env=sqstee.environ,
        timeout=40,
        check=True,
    )
    assert found.stdout == b"y\n141\n"


def test_a_full_output_is_said_once_and_the_copy_is_shipped(sqstee: Sqstee) -> None:
    """/dev/full: status 1, one line, and the lines are in the queue."""
    with open("/dev/full", "wb") as full:
        found = subprocess.run(
            sqstee.words("--", "sh", "-c", "echo hi; echo there"),
            stdout=full,
            stderr=subprocess.PIPE,
            env=sqstee.environ,
            check=False,
        )
    assert found.returncode == 1
    what = b"stdout could not be written: No space left on device; it is incomplete, the shipped copy is not"
    assert found.stderr == b"sqstee: %s\n" % what
    assert sqstee.local().stdout == b"hi\nthere\n"


def test_a_stalled_stdout_does_not_delay_stderr(sqstee: Sqstee) -> None:
    """stdout is a full pipe that nobody reads: what goes to stderr is out at once, and the spool gets everything."""
    code = "import os, sys\nos.write(1, b'x' * 3000000)"
    script = f"""{sys.executable} -c "{code}" & sleep 0.2; echo through >&2; wait"""
    with running(
        sqstee.words("--", "sh", "-c", script), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=sqstee.environ
    ) as process:
        assert process.stderr
        assert process.stdout
        assert process.stderr.readline() == b"through\n"
        assert len(process.stdout.read()) == 3_000_000
        assert process.wait(40) == 0


def test_bytes_without_newline_are_out_at_once(sqstee: Sqstee) -> None:
    """A protocol over the pipes, as PySpark's daemon speaks it: NULs, no newline, then an answer on stdin."""
    code = (
        "import os\nos.write(1, b'\\0\\0\\0\\7')\nanswer = os.read(0, 4)\nos.write(1, answer * 2)\n"
        "os.read(0, 1) or os.write(1, b'eof')"
    )
    with running(
        sqstee.words("--", *python(code)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=sqstee.environ
    ) as process:
        assert process.stdin
        assert process.stdout
        assert os.read(process.stdout.fileno(), 4) == b"\0\0\0\7"
        process.stdin.write(b"\1\2\3\4")
        process.stdin.flush()
        assert process.stdout.read(8) == b"\1\2\3\4\1\2\3\4"
        process.stdin.close()
        assert process.stdout.read() == b"eof"


def test_non_blocking_outputs_lose_nothing(sqstee: Sqstee) -> None:
    """A stdout that somebody else made non-blocking, and that stays so."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with running(
        sqstee.words("--", "head", "-c", "2000000", "/dev/zero"), stdout=writing, env=sqstee.environ
    ) as process:
        assert not os.get_blocking(writing)
        os.close(writing)
        with open(reading, "rb") as pipe:
            assert len(pipe.read()) == 2_000_000
        assert process.wait(40) == 0


def test_an_idle_unfinished_line_is_shipped(sqstee: Sqstee) -> None:
    """A prompt without newline is in the queue after five seconds, while the command still runs."""
    with running(
        sqstee.words("--", "sh", "-c", "printf prompt; read x; echo done"),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env=sqstee.environ,
    ) as process:
        wait_for(lambda: (sqstee.spool / "local.db").exists() and sqstee.local().stdout == b"prompt", "prompt")
        assert process.poll() is None
        process.communicate(b"\n")
    shipped = sqstee.local()
    shipped.assert_whole()
    assert [(record.message, record.eol) for record in shipped.records] == [("prompt", False), ("done", True)]


def test_a_progress_bar_is_shipped_while_it_moves(sqstee: Sqstee) -> None:
    """A line that never rests was in no queue before its end."""
    script = "while [ ! -e stop ]; do printf '50 %%\\r'; sleep 0.2; done"
    words = sqstee.words("--to", "local", "--", "sh", "-c", script)
    with running(words, stdout=subprocess.PIPE, env=sqstee.environ, cwd=sqstee.folder) as process:
        wait_for(lambda: (sqstee.spool / "local.db").exists() and sqstee.local().stdout, "first part")
        assert process.poll() is None
        (sqstee.folder / "stop").touch()
        out, _ = process.communicate(timeout=40)
    shipped = sqstee.local()
    shipped.assert_whole()
    assert shipped.stdout == out
    assert {record.eol for record in shipped.records} == {False}


def test_the_spool_being_unusable_degrades_to_pass_through(sqstee: Sqstee, tmp_path: Path) -> None:
    """A spool folder that cannot be: the command runs all the same, with one warning after its output."""
    (tmp_path / "file").touch()
    found = sqstee.run("--spool", str(tmp_path / "file"), "--", "sh", "-c", "echo hi; exit 4")
    assert (found.stdout, found.returncode) == (b"hi\n", 4)
    assert found.stderr.decode().startswith("sqstee: the output was not captured: ")
    assert found.stderr.count(b"\n") == 1


def test_the_local_queue_is_announced_once(sqstee: Sqstee) -> None:
    """With nothing configured one notice says where the lines are: once per user, and not where --to names a place."""
    (sqstee.spool / ".local-told").unlink()
    assert sqstee.run("--to", "local", "--", "true").stderr == b""
    assert b"sqstee tail" in sqstee.wrap("true").stderr
    assert sqstee.wrap("true").stderr == b""


def test_a_notice_never_continues_an_unfinished_line(sqstee: Sqstee) -> None:
    """After a last line without newline our own begins on a new one."""
    (sqstee.spool / ".local-told").unlink()
    assert sqstee.wrap("sh", "-c", "printf abc >&2").stderr.startswith(b"abc\nsqstee: ")


def test_events_frame_the_run(sqstee: Sqstee) -> None:
    """Start and exit say what is known, and the arguments only when asked."""
    sqstee.run("--job", "nightly", "--label", "team=a", "--", "sh", "-c", "echo 1; echo 2; exit 5")
    shipped = sqstee.local()
    start, end = shipped.events
    assert (start.job, start.labels, "command" in start.fields) == ("nightly", {"team": "a"}, False)
    assert (end.fields["exit_code"], end.fields["lines"], end.fields["bytes"], end.fields["dropped"]) == (5, 2, 4, 0)
    assert isinstance(end.fields["max_rss"], int)
    assert isinstance(end.fields["cpu_s"], float)
    (sqstee.spool / "local.db").unlink()
    sqstee.run("--send-command", "--", "echo", "secret")
    assert sqstee.local().events[0].fields["command"] == ["echo", "secret"]


LOCAL = ("--to", "local")


def test_a_run_without_a_job_is_named_by_its_program(sqstee: Sqstee) -> None:
    """By the base name alone, in its start and exit events; --job and --no-auto-name leave it out."""
    sqstee.run("--", "/bin/sh", "-c", "echo SECRET-ARGUMENT > /dev/null")
    start, end = sqstee.local().events
    assert (start.fields["name"], end.fields["name"], start.message) == ("sh", "sh", "sh started")
    assert b"SECRET" not in b"".join(bytes(body.data) for body in sqstee.local_bodies())
    for option, message in (("--job=nightly", "nightly started"), ("--no-auto-name", "run started")):
        (sqstee.spool / "local.db").unlink()
        sqstee.run(option, "--", "true")
        start, end = sqstee.local().events
        assert (start.message, "name" in start.fields, "name" in end.fields) == (message, False, False)


@pytest.mark.parametrize(
    ("path", "name"),
    [("/usr/bin/make", "make"), ("./a b", "a b"), ("x\n\x1b[31m\udcff", "x??[31m?"), ("a" * 300, "a" * 64), ("/", "")],
)
def test_a_programs_name(path: str, name: str) -> None:
    """Printable and bounded, whatever a file is called."""
    assert program_name(path) == name


@pytest.mark.parametrize("name", ["select", "queue", "random", "stat", "json", "boto3"])
def test_modules_of_the_jobs_pythonpath(sqstee: Sqstee, tmp_path: Path, name: str) -> None:
    """A module of the job's with a name of the standard library's stood in for ours."""
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / f"{name}.py").write_text("raise RuntimeError('the job's own')\n")
    found = sqstee.run(*LOCAL, "--", "echo", "hi", environ={"PYTHONPATH": str(tmp_path / "path")})
    assert (found.stdout, found.stderr, found.returncode) == (b"hi\n", b"", 0)


def test_an_environment_entry_without_a_name(sqstee: Sqstee) -> None:
    """`=x=y` in the environment gave 126."""
    found = shell(sqstee, 'env "=x=y" "$@"', *sqstee.words(*LOCAL, "--", "echo", "hi"))
    assert (found.stdout, found.returncode) == (b"hi\n", 0)


def test_both_outputs_closed(sqstee: Sqstee) -> None:
    """Nothing to capture: an exec, and nothing stays in the spool."""
    assert shell(sqstee, '"$@" >&- 2>&-; echo $?', *sqstee.words(*LOCAL, "--", "sh", "-c", "exit 3")).stdout == b"3\n"
    assert sqstee.waiting_runs() == []


def test_the_job_is_in_the_start_event_once(sqstee: Sqstee) -> None:
    """The key stood twice in the object."""
    sqstee.run(*LOCAL, "--job", "J", "--", "true")
    assert sqstee.local_bodies()[0].data.splitlines()[0].count(b'"job"') == 1
