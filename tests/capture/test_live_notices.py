"""A mistake that no retry will mend is reported while the command runs, once, and never inside a line of its output."""

from __future__ import annotations

import os
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import Sqstee
from support.wrapping import shell

from sqstee.capture.live_notices import LiveNotices
from sqstee.capture.notices import Notices
from sqstee.capture.output import Output
from sqstee.capture.pty import Pty
from sqstee.capture.stream import Stream
from sqstee.ship.shipper_handle import Report, ShipperHandle, send_refusal, send_report

REFUSED = "local:/proc/none.db"  # a file that nobody can create
NOTICE = "sqstee: local:/proc/none.db refuses the lines, which are kept in "
ADVICE = "; `sqstee check local:/proc/none.db` looks for the cause: SQLite: /proc/none.db"
UNTIL_REPORTED = "until grep -q 'sqstee: ' log; do sleep 0.02; done"
UNTIL_REFUSED = "until grep -qs 'shipper: refused' trace; do sleep 0.02; done"


def lines_of(folder: Path) -> list[str]:
    """The lines of the command's stderr, a file."""
    return (folder / "log").read_text().splitlines()


def wrap(sqstee: Sqstee, script: str, *options: str) -> int:
    """Wrap a shell script in the test's folder, with its stderr in the file `log`; the exit status."""
    (sqstee.folder / "log").touch()
    words = sqstee.words("--to", REFUSED, *options, "--", "sh", "-c", script)
    sqstee.environ["SQSTEE_DEBUG"] = str(sqstee.folder / "trace")
    return shell(sqstee, f'cd {sqstee.folder}; "$@" 2>>log', *words).returncode


def test_a_refusal_is_reported_while_the_command_runs(sqstee: Sqstee) -> None:
    """It was reported when the command had ended, ten hours later."""
    assert wrap(sqstee, f"echo a; {UNTIL_REPORTED}; echo b") == 0
    first, last = lines_of(sqstee.folder)
    assert first.startswith(f"{NOTICE}{sqstee.spool}{ADVICE}")
    assert last.startswith("sqstee: 2 lines not delivered yet (SQLite: /proc/none.db")


def test_a_refusal_is_not_glued_to_an_unfinished_line(sqstee: Sqstee) -> None:
    """The notice waits for the end of the command's line."""
    assert wrap(sqstee, f"printf half >&2; {UNTIL_REFUSED}; echo ' a line' >&2; {UNTIL_REPORTED}") == 0
    first, notice, _ = lines_of(sqstee.folder)
    assert first == "half a line"
    assert notice.startswith(NOTICE)


def test_a_short_run_reports_a_refusal_in_one_line(sqstee: Sqstee) -> None:
    """What could not be reported earlier becomes an advice of the line about what waits."""
    assert wrap(sqstee, "echo a") == 0
    (line,) = lines_of(sqstee.folder)
    assert line.startswith("sqstee: 1 line not delivered yet (SQLite: ")
    assert line.endswith("`sqstee check local:/proc/none.db` looks for the cause, `sqstee flush` ships it")


def test_a_refusal_is_reported_although_the_fallback_accepts_the_lines(sqstee: Sqstee) -> None:
    """Nobody was told that the destination is mistyped, and that all lines go elsewhere."""
    second = sqstee.folder / "second.db"
    assert wrap(sqstee, f"echo a; {UNTIL_REPORTED}", "--fallback", f"local:{second}") == 0
    (line,) = lines_of(sqstee.folder)
    assert line.startswith(f"sqstee: {REFUSED} refuses the lines, which go to local:{second}{ADVICE}")
    assert len(sqstee.local_bodies(second)) >= 1


def test_a_refusal_by_the_fallback_names_the_fallback(sqstee: Sqstee) -> None:
    """Regression: the notice named the first destination, with a command that found nothing about the fallback."""
    fallback = "local:/proc/other.db"
    assert wrap(sqstee, f"echo a; {UNTIL_REPORTED}", "--fallback", fallback) == 0
    first, last = lines_of(sqstee.folder)
    assert first.startswith(f"sqstee: {fallback} refuses the lines, which are kept in {sqstee.spool}; ")
    assert f"; `sqstee check {fallback}` looks for the cause: SQLite: /proc/other.db" in first
    assert last.startswith(f"sqstee: 1 line not delivered yet ({fallback}: SQLite: ")


def test_a_short_run_advises_to_check_the_destination_that_refused(sqstee: Sqstee) -> None:
    """Regression: the advice named the first destination where the fallback refused the lines."""
    fallback = "local:/proc/other.db"
    assert wrap(sqstee, "echo a", "--fallback", fallback) == 0
    assert lines_of(sqstee.folder)[-1].endswith(
        f"`sqstee check {fallback}` looks for the cause, `sqstee flush` ships it"
    )


@pytest.mark.parametrize("way", ["option", "variable"])
def test_quiet_silences_everything(sqstee: Sqstee, way: str) -> None:
    """A cron job's mail held our notices; the status still shows what --strict found."""
    if way == "variable":
        sqstee.environ["SQSTEE_QUIET"] = "1"
    options = ("--quiet",) if way == "option" else ()
    assert wrap(sqstee, f"echo a; {UNTIL_REFUSED}; echo mine >&2", *options, "--strict", "--summary") == 122
    assert lines_of(sqstee.folder) == ["mine"]


def test_quiet_leaves_the_first_notice_about_the_local_queue_for_later(sqstee: Sqstee) -> None:
    """That is printed once per user: a quiet run must not use it up."""
    assert sqstee.run("--quiet", "--", "true").stderr == b""
    assert b"no destination is configured" in sqstee.run("--", "true").stderr


def test_quiet_runs_still_report_usage_errors(sqstee: Sqstee) -> None:
    """The command was not started: somebody has to know why."""
    assert sqstee.run("--quiet", "--linger", "x", "--", "true").stderr.startswith(b"sqstee: invalid value 'x'")


class Screen:
    """Streams that lead to our stderr, and a shipper's report pipe."""

    def __init__(self, streams: list[Stream], capture: pytest.CaptureFixture[str]) -> None:
        reading, self.report = os.pipe()
        os.set_blocking(reading, False)
        self.shipper = ShipperHandle(1, -1, reading)
        self.notices = LiveNotices(Notices(), self.shipper, streams)
        self._capture = capture

    @property
    def printed(self) -> str:
        """What was written to stderr since the last look."""
        return self._capture.readouterr().err

    def refuse(self, text: str) -> None:
        """A notice from the shipper."""
        send_refusal(self.report, text, "q")
        assert self.notices.read()


@pytest.fixture
def terminal() -> Iterator[Stream]:
    """A stream from a pty."""
    pty = Pty(None, (24, 80))
    yield Stream(1, 2, pty.master, Output(2), pty)
    os.close(pty.master)
    os.close(pty.slave)


def test_on_a_terminal_a_refusal_comes_below_a_line_that_stays_unfinished(
    terminal: Stream, capfd: pytest.CaptureFixture[str]
) -> None:
    """A progress bar's line never ends."""
    screen = Screen([terminal], capfd)
    screen.refuse("first")
    terminal.last_byte = b"%"
    assert screen.notices.print(10.0) == 15.0
    assert screen.notices.print(14.9) == 15.0
    assert screen.printed == ""
    assert screen.notices.print(15.0) is None
    assert screen.printed == "\nsqstee: first\n"
    assert screen.notices.unprinted == []


def test_a_refusal_does_not_disturb_a_full_screen(terminal: Stream, capfd: pytest.CaptureFixture[str]) -> None:
    """An editor's screen was broken by a line of ours."""
    screen = Screen([terminal], capfd)
    modes = termios.tcgetattr(terminal.source)
    editing = [*modes[:3], modes[3] & ~termios.ICANON, *modes[4:]]
    termios.tcsetattr(terminal.source, termios.TCSANOW, editing)
    screen.refuse("later")
    assert screen.notices.print(10.0)
    assert screen.notices.print(100.0)
    assert screen.printed == ""
    termios.tcsetattr(terminal.source, termios.TCSANOW, modes)
    screen.notices.print(101.0)
    assert screen.printed == "sqstee: later\n"


def test_the_report_is_found_behind_refusals(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Both come through one pipe, and may be read in one piece or in several."""
    screen = Screen([], capfd)
    screen.refuse("one")
    send_refusal(screen.report, "two", "")
    send_report(screen.report, Report(7, 0, 3, "why"))
    assert screen.notices.read()
    found = screen.shipper.read_report(str(tmp_path), 9, "ended early")
    assert (found.acknowledged, found.requests, found.reason) == (7, 3, "why")
    assert screen.notices.unprinted == [("one", "q"), ("two", "")]
    os.close(screen.report)
    assert not screen.notices.read()


def test_the_first_part_of_a_long_notice_is_no_report(capfd: pytest.CaptureFixture[str]) -> None:
    """A pipe takes a notice above 4 KiB in parts: the front ended without the report."""
    screen = Screen([], capfd)
    os.write(screen.report, b"refused\tthe first part")
    assert not screen.shipper.has_reported
    os.write(screen.report, b", the rest\n")
    assert not screen.shipper.has_reported
    send_report(screen.report, Report(7, 0, 3, ""))
    assert screen.shipper.has_reported
    os.close(screen.report)
