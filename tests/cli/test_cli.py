"""The command line: routing, bad input, options from everywhere, and tail."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from fakes.sqs import FakeSqs
from support import Sqstee, running, wait_for

from sqstee.cli import habits, help
from sqstee.destination import parse
from sqstee.errors import SqsteeError
from sqstee.option_values import size
from sqstee.options import RUN_OPTIONS
from sqstee.settings import load_settings


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no command"),
        (["--"], "no command after --"),
        (["--bogus", "--", "touch", "ran"], "unknown option '--bogus'"),
        (["bogus"], "unknown verb 'bogus'"),
        (["touch", "ran"], "unknown verb 'touch'"),
        (["touch\nran\x1b[31m"], "unknown verb 'touch\\nran\\x1b[31m'"),
        (["touch\nran", "--", "touch", "ran"], "'touch\\nran' is not an option"),
        (["--job", "x"], "no -- before the command"),
        (["--to", "no queue!", "--", "touch", "ran"], "--to: 'no queue!' is not a destination"),
        (["--to", "s3://", "--", "touch", "ran"], "--to: 's3://' is not a destination"),
        (["--to", "arn:aws:sns:us-east-1:123456789012:q", "--", "touch", "ran"], "--to: 'arn:aws:sns"),
        (["--to"], "no -- before the command"),
        (["--to", "--", "touch", "ran"], "--to needs a value"),
        (["--linger", "soon", "--", "touch", "ran"], "invalid value 'soon' for --linger (expected a time such as 10s"),
        (["--linger", "8761h", "--", "touch", "ran"], "invalid value '8761h' for --linger (expected at most 365d)"),
        (["--max-line", "0", "--", "touch", "ran"], "invalid value '0' for --max-line (expected a size such as 256K"),
        (["--max-line", "1M", "--", "touch", "ran"], "invalid value '1M' for --max-line (expected at most 960K)"),
        (
            ["--message-bytes", "9", "--", "touch", "ran"],
            "invalid value '9' for --message-bytes (expected at least",
        ),
        (
            ["--compress=lzma", "--", "touch", "ran"],
            "invalid value 'lzma' for --compress (expected one of auto, gzip",
        ),
        (["--label", "novalue", "--", "touch", "ran"], "invalid value 'novalue' for --label (expected KEY=VALUE)"),
        (["x", "--", "touch", "ran"], "'x' is not an option"),
        (["run", "touch", "ran"], "no -- before the command"),
        (["tail", f"http://h:{'9' * 5000}/"], "'http://h:999"),
        (["tail", "--bogus"], "unknown option '--bogus'"),
        (["tail", "--consum"], "unknown option '--consum'; did you mean '--consume'?"),
        (["--lingr", "1s", "--", "touch", "ran"], "unknown option '--lingr'; did you mean '--linger'?"),
        (
            ["--no-auto-label", "--", "touch", "ran"],
            "unknown option '--no-auto-label'; did you mean '--no-auto-l",
        ),
        (["tial", "q"], "unknown verb 'tial'; did you mean 'tail'?"),
        (["tail", "-A", "x"], "invalid value for -A (expected a number)"),
        (["runs", "--tail", "-1"], "invalid value for --tail (expected a number greater than or equal to 0)"),
        (["tail", "--since"], "--since needs a value"),
        (["tail", "q"], "q: reading a queue needs --consume or --peek"),
        (
            ["tail", "--stream", "foo"],
            "invalid value 'foo' for --stream (expected stdout, stderr, output, stdin or event",
        ),
        (
            ["tail", "local:/vra/l/x.db"],
            "local:/vra/l/x.db: the folder /vra/l does not exist; did you mean '/var'?",
        ),
        (
            ["--to", "local:/vra/l/x.db", "--", "touch", "ran"],
            "local:/vra/l/x.db: the folder /vra/l does not exist",
        ),
        (["--to", "q", "--fallback", "local:/vra/x.db", "--", "touch", "ran"], "local:/vra/x.db: the folder /vra does"),
        (
            ["--to", "local:/etc/passwd/x.db", "--", "touch", "ran"],
            "local:/etc/passwd/x.db: /etc/passwd is not a folder",
        ),
        (["check", "local:/etc/passwd/l/x.db"], "local:/etc/passwd/l/x.db: /etc/passwd is not a folder"),
        (["check", "local:/vra/l/x.db"], "local:/vra/l/x.db: the folder /vra/l does not exist"),
        (["tail", "-o", "xml"], "invalid value 'xml' for -o (expected default, raw or json)"),
        (["flush", "--timeout", "x"], "invalid value 'x' for --timeout (expected a time such as 10s"),
    ],
)
def test_bad_input_gets_one_line_and_one_hint(sqstee: Sqstee, tmp_path: Path, words: list[str], message: str) -> None:
    """Exit 125 with the mistake and the right form; the command does not run."""
    found = subprocess.run(
        sqstee.words(*words),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=sqstee.environ,
        cwd=tmp_path,
        check=False,
        timeout=60,
    )
    assert found.returncode == 125
    first, second = found.stderr.splitlines()
    assert first.startswith(f"sqstee: {message}")
    assert second.startswith("hint: ")
    assert second.isprintable()
    assert not (tmp_path / "ran").exists()
    assert not sqstee.spool.exists()


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["drain", "logs", "-O", "out"], "logs: QueueDoesNotExist"),
        (["tail", "logs", "--consume"], "logs: QueueDoesNotExist"),
        (["top", "logs", "--consume"], "logs: QueueDoesNotExist"),
        (["runs", "logs", "--peek"], "logs: QueueDoesNotExist"),
        (["runs", "logs"], "logs: reading a queue needs"),
        (["show", "01A", "logs"], "logs: a queue cannot be searched"),
    ],
)
def test_a_folder_that_was_named_as_a_queue_is(
    sqstee: Sqstee, fake_sqs: FakeSqs, tmp_path: Path, words: list[str], problem: str
) -> None:
    """A plain name is a queue: the hint shows the form of a folder, whatever went wrong with the queue."""
    (tmp_path / "logs").mkdir()
    found = subprocess.run(
        sqstee.words(*words),
        capture_output=True,
        text=True,
        env=sqstee.environ | fake_sqs.environ(),
        cwd=tmp_path,
        check=False,
        timeout=60,
    )
    first, second = found.stderr.splitlines()
    assert found.returncode in (1, 125)
    assert first.startswith(f"sqstee: {problem}")
    assert second.startswith("hint: to read the folder of this name write ./logs; ")


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("logs",), "sqstee show --last"),
        (("ls",), "sqstee runs"),
        (("runs", "--status", "failed"), "--failed"),
        (("show", "--log-failed"), "--last-failed"),
        (("show", "-n", "5"), "tail -n 10"),
        (("tail", "-20"), "-n 20"),
        (("tail", "-u", "web"), "--job"),
        (("alert", "--failed"), "--on failed"),
    ],
)
def test_habits_from_other_programs_are_answered(sqstee: Sqstee, words: tuple[str, ...], hint: str) -> None:
    """The hint says what it is called here."""
    found = sqstee.run(*words)
    assert found.returncode == 125
    assert hint in found.stderr.decode().splitlines()[1]


def test_hints_for_habits_name_what_there_is() -> None:
    """No option that a verb has is called unknown, and each option in a hint is one."""
    verbs = {verb.name: {name for flag in verb.flags for name in flag.names} for verb in help.verbs()}
    for verb, options_of in habits.OPTIONS.items():
        assert not options_of.keys() & verbs[verb]
        for hint in options_of.values():
            named = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", hint.partition(" | ")[0]))
            assert named <= set[str]().union(*verbs.values()), hint


@pytest.mark.parametrize(
    "words",
    [("stat", "--spool", "x"), ("flush", "--spool", "x"), ("drain", "local", "-O", "x"), ("measure", "q", "--yes")],
)
def test_a_deleted_working_folder(sqstee: Sqstee, tmp_path: Path, words: tuple[str, ...]) -> None:
    """Regression: a relative path was reported as a failed write: `make room`."""
    gone = f"mkdir gone && cd gone && rmdir ../gone && exec {shlex.join(sqstee.words(*words))}"
    found = subprocess.run(
        ["sh", "-c", gone], capture_output=True, text=True, env=sqstee.environ, cwd=tmp_path, check=False, timeout=60
    )
    assert found.returncode == 1
    assert found.stderr == "sqstee: the working folder was deleted\nhint: cd to an existing one\n"


def test_a_verbs_name_after_the_dashes_is_a_command(sqstee: Sqstee, tmp_path: Path) -> None:
    """`sqstee -- tail` wraps the Unix program."""
    (tmp_path / "x").write_text("1\n2\n")
    assert sqstee.run("--", "tail", "-n1", str(tmp_path / "x")).stdout == b"2\n"
    assert sqstee.run("run", "--", "tail", "-n1", str(tmp_path / "x")).stdout == b"2\n"


def test_help_and_version(sqstee: Sqstee) -> None:
    """The help of run has every option; --help before a command shows it too."""
    for words in (("run", "--help"), ("--help", "--", "x")):
        text = sqstee.run(*words).stdout.decode()
        for option in RUN_OPTIONS:
            assert option.shown in text
    assert sqstee.run("--version").stdout.startswith(b"sqstee 0.")


def test_later_sources_win(tmp_path: Path) -> None:
    """File, then environment, then options."""
    folder = tmp_path / ".config"
    folder.mkdir()
    (folder / "sqstee.toml").write_text(
        '# mine\nto = "from-file"\njob = \'j1\'\nlinger = "2s"\nlabel = ["a=1", "b=2"]\n'
    )
    environ = {"HOME": str(tmp_path), "SQSTEE_JOB": "j2", "SQSTEE_LABEL": "c=3,d=4", "SQSTEE_LINGER": ""}
    settings = load_settings(["--host", "h", "--message-bytes=64K"], environ)
    assert (settings.to, settings.job, settings.host) == ("from-file", "j2", "h")
    assert (settings.linger, settings.message_bytes) == (2.0, 65536)
    assert settings.labels == {"a": "1", "b": "2", "c": "3", "d": "4"}


@pytest.mark.parametrize("line", ["bogus = 1", 'to = "unterminated', "linger = soon", "nonsense"])
def test_a_bad_line_of_a_file_is_named(tmp_path: Path, line: str) -> None:
    """The error has file and line."""
    folder = tmp_path / ".config"
    folder.mkdir()
    (folder / "sqstee.toml").write_text(f"\n{line}\n")
    with pytest.raises(SqsteeError, match=r"sqstee\.toml:2"):
        load_settings([], {"HOME": str(tmp_path)})


@pytest.mark.parametrize("text", ["1K", "256k", "2M", "1G", "5"])
def test_sizes(text: str) -> None:
    """K, M and G are powers of 1024."""
    units = {"k": 1024, "m": 1024**2, "g": 1024**3}
    assert size(text) == int(text.rstrip("KkMG")) * units.get(text[-1].lower(), 1)


@pytest.mark.parametrize(
    ("text", "kind", "name", "region"),
    [
        ("logs", "sqs", "logs", ""),
        ("logs.fifo", "sqs", "logs.fifo", ""),
        ("https://sqs.eu-west-1.amazonaws.com/123456789012/logs", "sqs", "logs", "eu-west-1"),
        ("https://eu-west-1.queue.amazonaws.com/123456789012/logs", "sqs", "logs", "eu-west-1"),
        ("https://vpce-0a-1b.sqs.eu-west-1.vpce.amazonaws.com/123456789012/logs", "sqs", "logs", "eu-west-1"),
        ("https://queue.amazonaws.com/123456789012/logs", "sqs", "logs", "us-east-1"),
        ("https://sqs.eu-west-1.api.aws/123456789012/logs", "sqs", "logs", "eu-west-1"),
        ("https://sqs-fips.us-west-2.api.aws/123456789012/logs", "sqs", "logs", "us-west-2"),
        ("https://sqs.cn-north-1.amazonaws.com.cn/123456789012/logs", "sqs", "logs", "cn-north-1"),
        ("http://localhost:4566/000000000000/logs", "sqs", "logs", ""),
        ("arn:aws:sqs:us-east-2:123456789012:logs", "sqs", "logs", "us-east-2"),
        ("arn:aws-cn:sqs:cn-north-1:123456789012:logs.fifo", "sqs", "logs.fifo", "cn-north-1"),
        ("s3://bucket/some/prefix", "s3", "bucket", ""),
        ("https://collector.example/v1/lines", "http", "collector.example", ""),
        ("local", "local", "", ""),
        ("local:/data/q.db", "local", "/data/q.db", ""),
        ("http://localhost:4566/queue/eu-west-1/000000000000/q", "sqs", "q", "eu-west-1"),
        ("http://eu-west-1.queue.localhost.localstack.cloud:4566/000000000000/q", "sqs", "q", "eu-west-1"),
        ("http://localhost:9324/queue/q.fifo", "sqs", "q.fifo", ""),
        ("http://localhost:9324/queue/a/b", "http", "localhost:9324", ""),
        ("https://api.execute-api.us-east-1.amazonaws.com/logs", "http", "api.execute-api.us-east-1.amazonaws.com", ""),
        ("https://SQS.us-east-1.AMAZONAWS.com/123456789012/q", "sqs", "q", "us-east-1"),
        (
            "s3://arn:aws:s3:us-east-1:1:accesspoint:a/x",
            "s3",
            "arn:aws:s3:us-east-1:1:accesspoint:a",
            "",
        ),
    ],
)
def test_destinations(text: str, kind: str, name: str, region: str) -> None:
    """The kind of each form, and the region of a URL or ARN."""
    found = parse(text)
    assert (found.kind, found.name, found.region, found.text) == (kind, name, region, text)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("https://sqs.us-east-1.amazonaws.com/12345/q", "https://sqs.us-east-1.amazonaws.com/ACCOUNT/QUEUE"),
        ("https://sqs.us-east-1.amazonaws.com/q", "https://sqs.us-east-1.amazonaws.com/ACCOUNT/QUEUE"),
        ("https://sqs.us-east-1.amazonaws.com/123456789012/q?Action=Send", "/ACCOUNT/QUEUE"),
        ("https://sqs.us-east-1.api.aws/", "https://sqs.us-east-1.api.aws/ACCOUNT/QUEUE"),
        ("https://vpce-1-x.sqs.us-east-1.vpce.amazonaws.com/q", "/ACCOUNT/QUEUE"),
        ("http://sqs.us-east-1.localhost.localstack.cloud:4566/q", "/ACCOUNT/QUEUE"),
        ("https://us-east-1.console.aws.amazon.com/sqs/v3/home?region=us-east-1#/queues", "/ACCOUNT/QUEUE"),
        ("https://bkt.s3.us-east-1.amazonaws.com/logs", "s3://BUCKET/PREFIX"),
        ("https://s3.us-east-1.amazonaws.com/bkt/logs", "s3://BUCKET/PREFIX"),
        ("s3://Bad_Bucket/x", "s3://BUCKET/PREFIX"),
        ("s3://b", "s3://BUCKET/PREFIX"),
        ("s3://a..b/x", "s3://BUCKET/PREFIX"),
        ("s3://-ab/x", "s3://BUCKET/PREFIX"),
    ],
)
def test_a_mistyped_queue_or_bucket_is_no_collector(text: str, hint: str) -> None:
    """Lines were posted to SQS as to a collector, or nowhere, and nobody was told."""
    with pytest.raises(SqsteeError) as caught:
        parse(text)
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    "text", ["", "a b", "q" * 81, "arn:aws:sqs:us-east-1:12:q", "http://", "local:", "ftp://x/y", ".fifo"]
)
def test_malformed_destinations(text: str) -> None:
    """They are refused, with the list of forms."""
    with pytest.raises(SqsteeError, match="is not a destination"):
        parse(text)


def test_tail_shows_lines_with_host_and_stream(sqstee: Sqstee) -> None:
    """`sqstee -- make`, then `sqstee tail`, on a machine with no account."""
    sqstee.run("--host", "node1", "--job", "j", "--", "sh", "-c", "echo out; echo err >&2")
    found = sqstee.run("tail", "--no-follow")
    lines = found.stdout.decode().splitlines()
    assert "node1 stdout out" in lines
    assert "node1 stderr err" in lines
    assert lines[0] == "node1 event  j started"
    assert lines[-1].startswith("node1 event  j: exited with status 0")
    assert sqstee.run("tail", "--no-follow").stdout == found.stdout  # nothing is consumed


def test_tail_raw_is_the_bytes_and_json_the_records(sqstee: Sqstee) -> None:
    """-o raw rebuilds the bytes, -o json is the wire format."""
    made = sqstee.run("--", "sh", "-c", "seq 1000; printf 'a\\377\\nend'")
    assert sqstee.run("tail", "--no-follow", "-o", "raw").stdout == made.stdout
    items = [json.loads(line) for line in sqstee.run("tail", "--no-follow", "-o", "json").stdout.splitlines()]
    assert [item["seq"] for item in items] == list(range(1004))
    assert items[-2]["eol"] is False


def test_tail_follows_while_lines_arrive(sqstee: Sqstee) -> None:
    """A follower that starts before the command prints each line as it arrives."""
    with running(
        sqstee.words("tail", "-o", "raw"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=sqstee.environ
    ) as follower:
        try:
            assert follower.stdout
            sqstee.run("--", "echo", "one")
            assert follower.stdout.readline() == b"one\n"
            sqstee.run("--", "echo", "two")
            assert follower.stdout.readline() == b"two\n"
        finally:
            follower.kill()


def test_tail_consumes_or_peeks_at_a_queue(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """--peek gives everything back; --consume deletes what was printed."""
    environ = fake_sqs.environ()
    sqstee.run("--to", "q", "--", "seq", "3", environ=environ)
    for _ in range(2):
        assert sqstee.run("tail", "q", "--peek", "-o", "raw", environ=environ).stdout == b"1\n2\n3\n"
    words = ("tail", "q", "--consume", "--no-follow", "-o", "raw")
    assert sqstee.run(*words, environ=environ).stdout == b"1\n2\n3\n"
    assert fake_sqs.messages("q") == []


def test_tail_drops_duplicates(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """A line with the same run and seq is printed once."""
    environ = fake_sqs.environ()
    sqstee.run("--to", "q", "--", "seq", "3", environ=environ)
    (message, *_) = fake_sqs.messages("q")
    parameters = {
        "MessageAttributes": {
            name: {"DataType": "String", "StringValue": value} for name, value in message.attributes.items()
        }
    }
    fake_sqs.put("q", message.body, message.body, **parameters)
    words = ("tail", "q", "--consume", "--no-follow", "-o", "raw")
    assert sqstee.run(*words, environ=environ).stdout == b"1\n2\n3\n"
    wait_for(lambda: fake_sqs.messages("q") == [], "empty queue")


def test_tail_of_a_missing_queue(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """One line and one hint, status 1."""
    found = sqstee.run("tail", "missing", "--consume", environ=fake_sqs.environ())
    assert found.returncode == 1
    assert found.stderr.decode().startswith("sqstee: missing: QueueDoesNotExist")
    assert found.stderr.count(b"\n") == 2
