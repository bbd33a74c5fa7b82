"""Nothing that gives access to anything is kept, shipped or said; the spool is the owner's alone."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest
from fakes.sqs import FakeSqs
from support import Sqstee, running, wait_for

from sqstee.__main__ import main
from sqstee.text import one_line, without_userinfo
from sqstee.transports.errors import RETRY, TransportError

KEY, SECRET, TOKEN, PROXY = (
    "AKIDNOBODYSHOULDSEE1",
    "wJalrNOBODYSHOULDSEE2",
    "FwoGNOBODYSHOULDSEE3",
    "pw:NOBODY/SHOULDSEE4",
)
MARK = b"SHOULDSEE"


def all_on_disk(folder: Path) -> bytes:
    """The names and contents of all files below a folder."""
    paths = list(folder.rglob("*"))
    return b"\n".join(str(path).encode() for path in paths) + b"".join(p.read_bytes() for p in paths if p.is_file())


ENVIRON = {
    "AWS_ACCESS_KEY_ID": KEY,
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_SESSION_TOKEN": TOKEN,
    "AWS_DEFAULT_REGION": "eu-west-1",
}


@pytest.mark.parametrize("trouble", ["proxy", "odd proxy", "refused", "signature", "no queue"])
def test_no_credentials_in_the_spool_or_on_stderr(sqstee: Sqstee, fake_sqs: FakeSqs, trouble: str) -> None:
    """Not from the environment, a proxy's URL, or a server that repeats them; nor the command's arguments."""
    environ = fake_sqs.environ() | ENVIRON
    if "proxy" in trouble:
        environ |= {"HTTPS_PROXY": f"http://user:{PROXY}@127.0.0.1:9", "HTTP_PROXY": f"http://user:{PROXY}@127.0.0.1:9"}
        environ |= {"AWS_ENDPOINT_URL_SQS": "https://sqs.invalid"}
        if trouble == "odd proxy":
            environ["HTTPS_PROXY"] = f"user:{PROXY}@127.0.0.1:9"
    elif trouble == "refused":
        fake_sqs.faults(refuse=True)
    elif trouble == "signature":
        canonical = f"The Canonical String for this request should have been 'POST\n/\n\nx-amz-security-token:{TOKEN}'"
        fake_sqs.faults(errors=[{"code": "SignatureDoesNotMatch", "status": 403, "message": f"No match. {canonical}"}])
    to = "other" if trouble == "no queue" else "q"
    words = ("--to", to, "--flush-timeout", "1s", "--summary", "--", "sh", "-c", "echo hi; exit 7 # SHOULDSEE")
    found = sqstee.run(*words, environ=environ)
    assert (found.stdout, found.returncode) == (b"hi\n", 7)
    assert b"1 line not delivered yet (" in found.stderr
    assert MARK not in found.stderr
    assert b"hi\n" in sqstee.spooled()
    assert MARK not in all_on_disk(sqstee.spool)
    flushed = sqstee.run("flush", "--timeout", "1s", environ=environ)
    listed = sqstee.run("flush", "--list", environ=environ)
    assert flushed.returncode == listed.returncode == 1
    assert MARK not in flushed.stdout + flushed.stderr + listed.stdout + listed.stderr
    assert MARK not in all_on_disk(sqstee.spool)


def test_the_arguments_are_sent_only_on_request(sqstee: Sqstee) -> None:
    """They can hold secrets; --send-command puts them into the start event."""
    sqstee.run("--to", "local", "--", "sh", "-c", "true # SHOULDSEE")
    assert b"".join(bytes(body.data) for body in sqstee.local_bodies()).count(MARK) == 0
    sqstee.run("--to", "local", "--send-command", "--", "sh", "-c", "true # SHOULDSEE")
    assert b"".join(bytes(body.data) for body in sqstee.local_bodies()).count(MARK) == 1


@pytest.mark.parametrize(
    "to",
    [
        "https://user:SHOULDSEE@sqs.eu-west-1.amazonaws.com/123456789012/q",
        "https://SHOULDSEE@collector.example/path",
        "http://user:SHOULDSEE@/",
        "nonsense://user:SHOULDSEE@host/",
    ],
)
@pytest.mark.parametrize("way", ["option", "variable", "file"])
def test_a_destination_with_a_password(sqstee: Sqstee, to: str, way: str) -> None:
    """SQS takes none in its URL: refused before anything is written, and not repeated."""
    if way == "file":
        (sqstee.folder / ".config").mkdir()
        (sqstee.folder / ".config" / "sqstee.toml").write_text(f'to = "{to}"\n')
    words = ("--to", to) if way == "option" else ()
    found = sqstee.run(*words, "--", "echo", "hi", environ={"SQSTEE_TO": to} if way == "variable" else {})
    assert (found.returncode, found.stdout) == (125, b"")
    assert b"is not a destination\nhint: " in found.stderr
    assert MARK not in found.stderr
    assert not sqstee.spool.exists()


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_the_spool_is_private_whatever_the_umask(sqstee: Sqstee, fake_sqs: FakeSqs, umask: int) -> None:
    """Folders 0700 and files 0600, while a run is on, in what stays behind, and in what is put aside."""
    fake_sqs.create_queue("small", MaximumMessageSize=1024)
    script = "head -c 3000 /dev/zero; echo; read x"
    command = sqstee.words("--to", "small", "--linger", "0s", "--", "sh", "-c", script)
    environ = sqstee.environ | fake_sqs.environ()
    with running(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environ, umask=umask
    ) as process:
        wait_for(lambda: list(sqstee.spool.glob("quarantine/*")), "quarantine")
        wait_for(lambda: list(sqstee.spool.glob("*/state")), "state")
        assert_private(sqstee.spool)
        process.communicate(b"\n", timeout=40)
    words = sqstee.words("--to", "other", "--flush-timeout", "0s", "--", "echo", "x")
    subprocess.run(words, env=environ, umask=umask, check=True, capture_output=True, timeout=40)
    subprocess.run(sqstee.words("--", "echo"), env=environ, umask=umask, check=True, capture_output=True, timeout=40)
    assert (sqstee.spool / "local.db").exists()
    assert_private(sqstee.spool)


def assert_private(folder: Path) -> None:
    """Nobody else may read, write or look."""
    for path in (folder, *folder.rglob("*")):
        mode = os.lstat(path).st_mode
        assert stat.S_IMODE(mode) == (0o700 if stat.S_ISDIR(mode) else 0o600), path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("to http://u:p@h:1/x", "to http://h:1/x"),
        ("a://u:p@ss@h b://c d@e", "a://h b://c d@e"),
        ("https://h/path?x=1", "https://h/path?x=1"),
        ("://", "://"),
        ("x:// u@h", "x:// u@h"),
        ("to http://u:p%40h/x", "to http://h/x"),
        ("http://h/x%40y", "http://h/x%40y"),
        ("http:/u:p@h/x", "…@h/x"),
        ("mail to a@b.example", "mail to a@b.example"),
        ("arn:aws:sts::1:assumed-role/R/a@b.example may not", "arn:aws:sts::1:assumed-role/R/a@b.example may not"),
    ],
)
def test_without_userinfo(text: str, expected: str) -> None:
    """What stands between :// and @ goes, and nothing else."""
    assert without_userinfo(text) == expected


SCHEMES = ("https://", "htps://", "http:/", "http//", "s3://", "s3:/", "")
MISTYPED = [*(f"{scheme}user:hunter2@host/x" for scheme in SCHEMES), "https://user:hunter2%40host/x"]


@pytest.mark.parametrize("destination", MISTYPED)
@pytest.mark.parametrize("words", ["--to {} --", "--fallback {} --", "{} --", "{}", "check {}"])
def test_a_password_in_a_mistyped_destination_is_not_printed(
    destination: str, words: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """It stood in errors, and so in the logs of the jobs that were refused."""
    typed = [word.format(destination) for word in words.split()]
    monkeypatch.setattr("sys.argv", ["sqstee", *typed])
    assert main() == 125
    assert "ter2" not in capfd.readouterr().err


def test_check_prints_no_password_of_an_endpoint(sqstee: Sqstee) -> None:
    """It printed the variables as they are."""
    sqstee.environ |= {"AWS_ENDPOINT_URL": "http://user:hunter2@host", "AWS_ENDPOINT_URL_SQS": "user:hunter2@host"}
    found = sqstee.run("check", "local").stdout
    assert b"AWS_ENDPOINT_URL: http://host" in found
    assert b"AWS_ENDPOINT_URL_SQS: \xe2\x80\xa6@host" in found
    assert b"hunter2" not in found


def test_one_line() -> None:
    """A server's words are one line, without controls, bounded, and without what SQS repeats of a request."""
    assert one_line("a\n\tb\x1b[31m\u2028c") == "a b\ufffd[31m c"
    assert len(one_line("x" * 10_000)) < 500
    error = TransportError(RETRY, "SignatureDoesNotMatch", f"no. The Canonical String is {TOKEN}")
    assert str(error) == "SignatureDoesNotMatch: no."
