"""The messages of a run: one line each, with an event and an advice, whatever foreign text is in it."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from fakes.sqs import FakeSqs
from support import Sqstee, injecting, time_to_meet, until_met
from support.terminal import Terminal
from support.wrapping import shell

from sqstee.capture.notices import Notices

# Advice: a command or an option. Every line of ours has one of these.
ADVICE = re.compile(
    r"`sqstee (flush|tail)|--spool|--send|--tty|--redact|--to, |wait for|send signals|check the disk|please report"
    r"|the shipped copy is not|as without it|make room|cannot be unmounted|the line above"
)
FAULTS = {
    "spool": "sqstee.spool.location:open_root:full:1",
    "no thread, no fsync": "sqstee.spool.fsync:Syncer.start:thread:1",
    "dropped": "sqstee.spool.segments:Segments.append:full:2",
    "a bug in the writer": "sqstee.spool.writer:Writer.write:bug:1",
    "a bug in the event": "sqstee.spool.run_events:command_exit:bug:1",
    "no shipper": "sqstee.ship.shipper_handle:fork:many:1",
    "no relay": "sqstee.capture.signals:Relay.__init__:bug:1",
    "no keys": "sqstee.capture.loop:CaptureLoop.watch_keys:bug:1",
    "relaying": "sqstee.capture.supervisor:Supervisor._handle:bug:1",
    "a bug in our end": "sqstee.capture.supervisor:Supervisor._start_capture:bug:1",
    "not delivered": "sqstee.transports.local:LocalSender.send:bug:1",
    "delivery": "sqstee.capture.teardown:Teardown._deliver:bug:1",
    "the shipper's code": "sqstee.ship.shipper:Shipper.run:bug:1",
    "masking": "sqstee.spool.redact:Masker.spans:bug:1",
    "syncing": "sqstee.spool.fsync:Syncer.finish:bug:1",
    "leaving the folder": "os:chdir:bug:1",
}


def check(text: str) -> None:
    """Check that there are lines, that all are ours, and that each has an advice."""
    lines = text.splitlines()
    assert lines
    for line in lines:
        assert line.startswith("sqstee: "), text
        assert ADVICE.search(line), line
        assert line.isprintable()
        assert len(line) < 500


@pytest.mark.parametrize("what", FAULTS)
def test_every_failure_is_reported_in_one_line(sqstee: Sqstee, what: str) -> None:
    """The event, and what to do about it."""
    words = ("--to", "local", "--fsync", "--redact", "x", *time_to_meet(FAULTS[what]))
    environ = injecting(sqstee.folder, FAULTS[what])
    script = f"echo a; {until_met(sqstee.folder, FAULTS[what])}; sleep .1"
    found = sqstee.run(*words, "--", "sh", "-c", script, environ=environ)
    assert (sqstee.folder / "injected").exists()
    assert (found.stdout, found.returncode) == (b"a\n", 0)
    check(found.stderr.decode())
    assert len(found.stderr.splitlines()) <= 2


def test_a_full_output(sqstee: Sqstee) -> None:
    """The message has the error, and the place of the lines."""
    environ = sqstee.environ | {"SQSTEE_TO": "local"}
    command = f"{' '.join(sqstee.words('--'))} echo hi >/dev/full"
    with Terminal(["sh", "-c", command], environ) as terminal:
        assert terminal.wait() == 1
    text = terminal.output.decode().replace("\r", "")
    assert text.startswith("sqstee: stdout could not be written: No space left on device")
    check(text)


def test_a_spool_with_a_newline_in_its_name(sqstee: Sqstee, fake_sqs: FakeSqs, tmp_path: Path) -> None:
    """Neither a user's path nor a server's text can break a line."""
    code = {"code": "Odd\nError", "status": 400, "message": "line\r\nbreak \x1b[2J"}
    fake_sqs.faults(errors=[code])
    words = ("--to", "q", "--flush-timeout", "1s", "--spool", f"{tmp_path}/a\nb", "--", "true")
    found = sqstee.run(*words, environ=fake_sqs.environ())
    check(found.stderr.decode())
    assert len(found.stderr.splitlines()) == 1


@pytest.mark.parametrize("mode", [0o755, 0o000])
def test_a_spool_that_cannot_be_used(sqstee: Sqstee, mode: int) -> None:
    """The command runs; the message names the folder and a remedy."""
    (sqstee.folder / "spool").mkdir(mode=0o700)
    os.chmod(sqstee.folder / "spool", mode)
    spool = sqstee.folder / "spool" if mode else sqstee.folder / "spool" / "file"
    if not mode:
        os.chmod(sqstee.folder / "spool", 0o700)
        spool.write_text("")
    found = sqstee.run("--spool", str(spool), "--", "echo", "hi")
    assert (found.stdout, found.returncode) == (b"hi\n", 0)
    line = found.stderr.decode()
    assert line.startswith(f"sqstee: the output was not captured: the spool folder {spool} ")
    assert "chmod 700" in line or "--spool" in line
    assert mode == 0 or f"--spool {spool}/sqstee" in line  # the folder may be /tmp
    assert line.count("\n") == 1


def test_equal_messages_are_reported_once() -> None:
    """A hundred signals that cannot be relayed make one line."""
    messages = Notices()
    for _ in range(3):
        messages.add("the\nsame")
    assert messages._texts == ["the same"]


def test_an_unfinished_line_of_the_command(sqstee: Sqstee) -> None:
    """Messages begin on a line of their own."""
    found = sqstee.run("--summary", "--to", "local", "--", "sh", "-c", "printf half >&2")
    first, second = found.stderr.decode().splitlines()
    assert first == "half"
    assert second.startswith("sqstee: summary: 1 line (4 bytes) in ")


@pytest.mark.parametrize("place", ["2>&1", ">log 2>&1; cat log", ">>log 2>>log; cat log"])
def test_a_notice_after_an_unfinished_line_in_one_place(sqstee: Sqstee, tmp_path: Path, place: str) -> None:
    """With 2>&1, to a file as well, our notice went on in the command's last line."""
    found = shell(sqstee, f'cd {tmp_path}; "$@" {place}', *sqstee.words("--", "printf", "abc"))
    assert found.stdout.startswith(b"abc\nsqstee: ")


def test_a_servers_words_are_one_harmless_line(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """A message with newlines and escape codes came through as it was."""
    words = "first line\nsecond\x1b[31m line"
    fake_sqs.faults(errors=[{"operation": "SendMessageBatch", "code": "AccessDenied", "status": 403, "message": words}])
    found = sqstee.run("--to", "q", "--", "echo", "hi", environ=fake_sqs.environ())
    assert found.stderr.count(b"\n") == 1
    assert b"\x1b" not in found.stderr
    assert b"first line second" in found.stderr
