"""The verbs' standard streams, and ^C: closed, full, left or narrow, nothing ends in a traceback."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from fakes.sqs import FakeSqs
from support import SCRIPT, TIMEOUT, Sqstee, python, running

VERBS = ("--help", "tail --no-follow", "top --no-follow", "check")


def shell(sqstee: Sqstee, script: str, **environ: str) -> subprocess.CompletedProcess[bytes]:
    """Run a script of bash in which `$0` is the command."""
    words = ["bash", "-c", script, SCRIPT]
    return subprocess.run(words, capture_output=True, env=sqstee.environ | environ, check=False, timeout=60)


@pytest.mark.parametrize("verb", VERBS)
def test_a_full_disk_behind_stdout_is_one_line_and_one_hint(sqstee: Sqstee, verb: str) -> None:
    """Status 1, and nothing more when the interpreter ends."""
    assert sqstee.wrap("echo", "hi").returncode == 0
    found = shell(sqstee, f'"$0" {verb} >/dev/full')
    assert found.returncode == 1
    first, second = found.stderr.decode().splitlines()
    assert first == "sqstee: writing failed: No space left on device"
    assert second.startswith("hint: ")


@pytest.mark.parametrize("verb", [verb for verb in VERBS if "tail" not in verb])
def test_with_closed_streams_a_verb_does_what_it_does(sqstee: Sqstee, verb: str) -> None:
    """Its status is the same; nothing is said where nobody listens."""
    found = shell(sqstee, f'"$0" {verb} <&- >&-; one=$?; "$0" {verb} <&- >&- 2>&-; exit $((one + $?))')
    assert (found.returncode, found.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("verb", "closed"),
    [("tail q --consume --no-follow", "<&- >&- 2>&-"), ("drain q -O - --idle-timeout 1s", ">&-")],
)
def test_nothing_is_deleted_that_a_closed_stdout_could_not_take(
    sqstee: Sqstee, fake_sqs: FakeSqs, verb: str, closed: str
) -> None:
    """Not even where a file of sqstee's own could have got the number of the closed descriptor."""
    environ = fake_sqs.environ()
    assert sqstee.run("--to", "q", "--", "echo", "precious", environ=environ).returncode == 0
    assert shell(sqstee, f'"$0" {verb} {closed}', **environ).returncode == 1
    assert "precious" in "".join(message.body for message in fake_sqs.messages("q"))


@pytest.mark.parametrize(
    "words",
    [
        ("tail",),
        ("drain", "q", "-O", "-", "--idle-timeout", "1h"),
        ("top", "-o", "json"),
        ("stat", "local", "--watch", "-o", "json", "--interval", "1h"),
    ],
    ids=lambda words: words[0],
)
def test_a_verb_that_waits_notices_that_its_reader_has_left(
    sqstee: Sqstee, fake_sqs: FakeSqs, words: tuple[str, ...]
) -> None:
    """`sqstee tail | head -2` ends at once, and not with the next line, which may never come."""
    for dest in ("local", "q"):
        assert sqstee.run("--to", dest, "--", "echo", "hi", environ=fake_sqs.environ()).returncode == 0
    environ = sqstee.environ | fake_sqs.environ()
    with running(sqstee.words(*words), stdout=subprocess.PIPE, env=environ) as process:
        assert process.stdout
        assert process.stdout.read(1)
        process.stdout.close()
        assert process.wait(TIMEOUT) == 141


@pytest.mark.parametrize("verb", VERBS)
def test_a_reader_that_leaves_ends_a_verb_like_the_signal(sqstee: Sqstee, verb: str) -> None:
    """Quietly, with the status that shells tell of SIGPIPE."""
    assert sqstee.wrap("echo", "hi").returncode == 0
    reading, writing = os.pipe()
    os.close(reading)
    try:
        words = sqstee.words(*verb.split())
        found = subprocess.run(
            words, stdout=writing, stderr=subprocess.PIPE, env=sqstee.environ, check=False, timeout=60
        )
    finally:
        os.close(writing)
    assert (found.returncode, found.stderr) == (128 + signal.SIGPIPE, b"")


@pytest.mark.parametrize(
    "environ", [{"PYTHONIOENCODING": "ascii"}, {"COLUMNS": "wide"}, {"COLUMNS": "1", "TERM": "dumb"}], ids=str
)
@pytest.mark.parametrize("verb", ["top --no-follow", "check"])
def test_no_locale_and_no_width_stops_a_verb(sqstee: Sqstee, verb: str, environ: dict[str, str]) -> None:
    """What cannot be said so is said otherwise."""
    assert sqstee.wrap("echo", "caf\u00e9 \u2603" * 20).returncode == 0
    found = sqstee.run(*verb.split(), environ=environ)
    assert (found.returncode, found.stderr) == (0, b"")
    assert found.stdout


def test_a_path_that_is_not_utf_8_is_shown(sqstee: Sqstee, tmp_path: Path) -> None:
    """Its bytes, where they are no text."""
    found = subprocess.run(
        [os.fsencode(SCRIPT), b"stat", b"--interval", b"0", b"--spool", os.fsencode(tmp_path) + b"/\xff"],
        capture_output=True,
        env=sqstee.environ,
        check=False,
        timeout=60,
    )
    assert (found.returncode, found.stderr) == (0, b"")
    assert b"spool " + os.fsencode(tmp_path) in found.stdout


@pytest.mark.parametrize(("module", "status"), [("typer", -signal.SIGINT), ("sqstee.read.stop_signal", 130)])
def test_an_interrupt_while_modules_are_loaded_is_no_traceback(sqstee: Sqstee, module: str, status: int) -> None:
    """Before the verb it ends the process as any other; within the verb with the verb's status."""
    code = f"""
import os, runpy, signal, sys
class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupting())
sys.argv = ["sqstee", "stat", "--interval", "0"]
runpy.run_path({SCRIPT!r}, run_name="__main__")
"""
    found = subprocess.run(python(code), capture_output=True, env=sqstee.environ, check=False, timeout=60)
    assert found.returncode == status
    assert found.stderr.strip() == b""
