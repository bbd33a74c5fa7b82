"""sqstee show: one run, found by its id, its job, or for being the last that failed."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from fakes.bucket import FakeS3
from fakes.web import FakeWeb
from support import TIMEOUT, Sqstee
from support.bodies import event_of, gap_of, lines_of, put_local, whole_run
from support.terminal import Terminal

from sqstee.transports.local import LocalSender

SCRIPT = "printf 'one\\n\\033[32mtwo\\033[0m\\r2\\n'; echo 'it broke' >&2; printf end; exit 3"
BYTES = b"one\n\x1b[32mtwo\x1b[0m\r2\nend"


def test_last_failed_says_what_it_said(sqstee: Sqstee) -> None:
    """The head has what is known of the run; the lines stand alone, without host and stream."""
    sqstee.run("--job", "nightly", "--label", "team=data", "--send-command", "--", "sh", "-c", SCRIPT)
    sqstee.run("--", "echo", "fine")
    found = sqstee.run("show", "--last-failed")
    assert found.returncode == 0, found.stderr
    head, _, lines = found.stdout.decode().partition("\n\n")
    facts = dict(re.findall(r"^(\w+) +(.*)$", head, re.MULTILINE))
    assert (facts["job"], facts["labels"], facts["state"]) == ("nightly", "team=data", "failed: exited with status 3")
    assert facts["command"].startswith("sh -c ")
    assert facts["lines"] == "3 stdout, 1 stderr; nothing is missing"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d after [\d.]+ s", facts["ended"])
    assert sorted(lines.splitlines()) == ["2", "end", "it broke", "one"]
    assert sqstee.run("show", "--last", "-o", "raw").stdout == b"fine\n"


def test_a_run_by_the_beginning_of_its_id_or_by_its_job(sqstee: Sqstee) -> None:
    """A job stands for its last run; an id's beginning must be that of one run."""
    for text in ("old", "new"):
        sqstee.run("--job", "etl", "--", "echo", text)
    new, old = (json.loads(line)["run"] for line in sqstee.run("runs", "-o", "json").stdout.splitlines())
    assert sqstee.run("show", "etl", "-o", "raw").stdout == b"new\n"
    for text in (old, old[:-1], old.lower()):
        assert sqstee.run("show", text, "-o", "raw").stdout == b"old\n"
    ambiguous = sqstee.run("show", new[:2])
    assert ambiguous.returncode == 125
    assert f"2 runs begin with '{new[:2]}': {new} (etl), {old} (etl)" in ambiguous.stderr.decode()
    unknown = sqstee.run("show", "nobody")
    assert unknown.stderr == b"sqstee: no run or job 'nobody'\nhint: sqstee runs lists the runs\n"


@pytest.mark.parametrize(
    ("script", "status"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill -15 $$", 143)]
)
def test_exit_status_is_the_commands(sqstee: Sqstee, script: str, status: int) -> None:
    """As a shell reports it; without the option a run that failed is shown with success."""
    sqstee.run("--", "sh", "-c", script)
    assert sqstee.run("show", "--last").returncode == 0
    assert sqstee.run("show", "--last", "--exit-status").returncode == status


@pytest.mark.parametrize("fields", [{"exit_code": 256}, {"exit_code": 0, "signal": None}, {"signal": 128}, {}])
def test_exit_status_of_a_failed_run_is_never_0(sqstee: Sqstee, tmp_path: Path, fields: dict[str, Any]) -> None:
    """Whatever numbers an exit event holds that another program wrote."""
    where = put_local(tmp_path / "store.db", event_of("exit", 0, "R", cause="wrapper-died", **fields))
    assert sqstee.run("show", "R", where, "--exit-status").returncode == 1


def test_bytes_records_and_streams(sqstee: Sqstee) -> None:
    """-o raw is what the command wrote, byte for byte; -o json what was shipped."""
    sqstee.run("--job", "j", "--", "sh", "-c", SCRIPT)
    assert sqstee.run("show", "j", "-o", "raw", "--stream", "stdout").stdout == BYTES
    assert sqstee.run("show", "j", "-o", "raw", "--stream", "stderr").stdout == b"it broke\n"
    records = [json.loads(line) for line in sqstee.run("show", "j", "-o", "json").stdout.splitlines()]
    assert [record["seq"] for record in records] == list(range(6))
    timed = sqstee.run("show", "j", "--stream", "stderr", "--utc").stdout.decode().splitlines()[-1]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}Z it broke", timed)


def test_a_run_that_has_not_ended_and_lacks_lines(sqstee: Sqstee, tmp_path: Path) -> None:
    """What is missing is in the head, and where it is missing, in its place between the lines."""
    where = put_local(
        tmp_path / "store.db",
        event_of("start", 0, "R", job="j"),
        lines_of(1, 2, "R"),
        lines_of(6, 6, "R"),
        gap_of(7, 8, "R"),
    )
    found = sqstee.run("show", "R", where)
    head, _, lines = found.stdout.decode().partition("\n\n")
    assert re.search(r"^state +missing: it has not ended$", head, re.MULTILINE)
    assert re.search(r"^lines +3 stdout; 3 missing \(seq 3-5\), 2 dropped by the sender$", head, re.MULTILINE)
    shown = lines.splitlines()
    assert [shown[0], shown[1], shown[3]] == ["line 1", "line 2", "line 6"]
    assert shown[2].startswith("sqstee: 3 lines missing so far in run R (seq 3-5)")
    assert shown[4].startswith("sqstee: 2 lines dropped by the sender in run R (seq 7-8)")
    assert sqstee.run("show", "R", where, "--exit-status").returncode == 4


def test_lines_that_the_store_has_deleted_are_not_missing(sqstee: Sqstee, tmp_path: Path) -> None:
    """A run longer than --local-max: all of it came, and its end is there."""
    sender = LocalSender(str(tmp_path / "store.db"), 100_000)
    for body in (event_of("start", 0, "R"), lines_of(1, 1000, "R"), lines_of(1001, 1002, "R")):
        sender.send([body])
    sender.close()
    found = sqstee.run("show", "R", f"local:{tmp_path}/store.db")
    assert found.stderr == b""
    assert b"1,002 stdout; nothing is missing so far; the store has deleted those before seq 1001\n" in found.stdout
    assert found.stdout.endswith(b"\n\nline 1001\nline 1002\n")


def test_other_sources(sqstee: Sqstee, fake_sqs: Any, tmp_path: Path) -> None:
    """A bucket is read; a queue cannot be read twice, and says what can be done."""
    with FakeWeb(FakeS3("bkt")) as web:
        sqstee.run("--to", "s3://bkt/logs", "--job", "j", "--", "sh", "-c", SCRIPT, environ=web.environ())
        sqstee.run("--to", "s3://bkt/logs", "--", "echo", "other", environ=web.environ())
        found = sqstee.run("show", "j", "s3://bkt/logs", "-o", "raw", "--stream", "stdout", environ=web.environ())
        assert found.stdout == BYTES, found.stderr
    refused = sqstee.run("show", "R", "q", environ=fake_sqs.environ())
    assert refused.stderr.startswith(b"sqstee: q: a queue cannot be searched for a run\nhint: sqstee tail q --peek")
    one = put_local(tmp_path / "one.db", event_of("start", 0, "R"), lines_of(1, 2, "R"))
    two = put_local(tmp_path / "two.db", lines_of(3, 4, "R"), event_of("exit", 5, "R", exit_code=0))
    merged = sqstee.run("show", "R", one, two)
    assert b"nothing is missing" in merged.stdout
    assert merged.stdout.endswith(b"\n\nline 1\nline 2\nline 3\nline 4\n")


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ((), "no run is given"),
        (("",), "no run is given"),
        (("--last", "--last-failed"), "--last and --last-failed exclude each other"),
        (("--last",), "there is no run"),
        (("--last-failed",), "no run has failed"),
        (("x", "--stream", "foo"), "invalid value 'foo' for --stream"),
        (("x", "-o", "yaml"), "invalid value 'yaml' for -o"),
        (("x\x1b[2J",), "no run or job 'x\ufffd[2J'"),
    ],
)
def test_bad_input_gets_a_line_and_a_hint(sqstee: Sqstee, words: tuple[str, ...], problem: str) -> None:
    """And no traceback."""
    found = sqstee.run("show", *words)
    assert (found.returncode, found.stdout) == (125, b"")
    assert found.stderr.decode().startswith(f"sqstee: {problem}")
    assert found.stderr.count(b"\nhint: ") == 1


def test_hostile_lines_do_nothing_to_a_terminal(sqstee: Sqstee, tmp_path: Path) -> None:
    """Neither in the head nor below it."""
    bad = "\x1b]0;title\x07\x1b[2J"
    where = put_local(
        tmp_path / "store.db",
        event_of("start", 0, "R", host=bad, job=bad, command=[bad], name=bad),
        *whole_run(1, "R", host=bad)[1:],
    )
    with Terminal(sqstee.words("show", "R", where, "--no-pager"), sqstee.environ) as terminal:
        assert terminal.wait() == 0
        shown = terminal.output
    assert b"\x1b]0" not in shown
    assert b"\x1b[2J" not in shown
    assert b"line 1" in shown


@pytest.mark.parametrize(
    ("pager", "shown"), [("head -n 3", 3), ("false", 0), ("/nonexistent/pager", 2000), ("cat", 2000)]
)
def test_a_pager_that_leaves_early_is_no_error(sqstee: Sqstee, pager: str, shown: int) -> None:
    """As with git: what was shown was enough. Without a pager everything is shown."""
    sqstee.run("--job", "j", "--", "seq", "2000")
    with Terminal(sqstee.words("show", "j"), sqstee.environ | {"SQSTEE_PAGER": pager}) as terminal:
        assert terminal.wait() == 0
        found = terminal.output
    assert b"Traceback" not in found
    lines = found.count(b"\n")
    assert lines == shown if shown < 2000 else lines > shown


def test_a_pipe_needs_no_pager_and_may_break(sqstee: Sqstee) -> None:
    """`sqstee show j | head` ends as any program of a broken pipe does."""
    sqstee.run("--job", "j", "--", "seq", "200000")
    words = " ".join(sqstee.words("show", "j"))
    found = subprocess.run(
        ["sh", "-c", f"PAGER='echo paged' {words} | head -n 1"],
        env=sqstee.environ,
        capture_output=True,
        timeout=TIMEOUT,
    )
    assert found.stdout.startswith(b"run ")
    assert found.stderr == b""
