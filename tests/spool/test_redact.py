"""--redact: secrets are masked in the shipped copy, are in no file at any time, and stay in the own output."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from fakes.sqs import FakeSqs
from hypothesis import given, settings
from hypothesis import strategies as st
from support import Rebuilt, Sqstee, injecting, paced, python, running, wait_for

from sqstee.errors import EXIT_UNDELIVERED, EXIT_USAGE, SqsteeError
from sqstee.spool import redact
from sqstee.spool.quota import UnboundedQuota
from sqstee.spool.reader import FrameReader
from sqstee.spool.redact import MASK, Masker, RedactingWriter
from sqstee.spool.segments import Segments

SECRET = b"AKIA0123456789ABCDEF"
PATTERN = "AKIA[0-9A-Z]{16}"


def spooled(sqstee: Sqstee, text: bytes) -> bool:
    """Whether a segment holds some text."""
    return text in sqstee.spooled()


def on_disk(folder: Path) -> bytes:
    """All that any file below a folder holds."""
    found = b""
    for path in folder.rglob("*"):
        try:
            found += path.read_bytes() if path.is_file() else b""
        except FileNotFoundError:  # shipped meanwhile
            pass
    return found


def lines_of(folder: Path) -> bytes:
    """The bytes that the segments in a folder hold."""
    reader = FrameReader(str(folder))
    try:
        return b"".join(frame.payload for frame in reader.frames())
    finally:
        reader.close()


@settings(max_examples=300)
@given(
    st.lists(st.sampled_from([b"S12", b"S1", b"2345", b"\n", b"\r\n", b"\xff", "ä€".encode(), b"\0", b"a", b"\xc3"]))
)
def test_masks_what_matches_and_nothing_else(parts: list[bytes]) -> None:
    """In every line as Python's re does it, byte for byte, whatever the bytes around are."""
    text = b"".join(parts)
    expected = b"\n".join(re.sub(rb"S[0-9]{2,4}", MASK, line) for line in text.split(b"\n"))
    assert Masker(["S[0-9]{2,4}"]).mask(text) == expected


@pytest.mark.parametrize(
    ("patterns", "text", "expected"),
    [
        (["^a+"], b"aab\nab aa\n", b"***b\n***b aa\n"),
        ([r"\Aa+"], b"aab\nab aa\n", b"***b\n***b aa\n"),
        (["(?-m:^)a+", "x"], b"aab\nab aax\n", b"***b\n***b aa***\n"),
        (["a+$"], b"baa\naab\nba", b"b***\naab\nb***"),
        ([r"(?i)token=\S+"], b"Token=abc def\n", b"*** def\n"),
        (["a[^b]c", r"a\sc", "(?s:a.c)", "a\nc"], b"a\nc axc\n", b"a\nc ***\n"),  # never beyond a line
        (["abc", "cde"], b"abcde\n", b"***\n"),  # each on the whole line: nothing of the second one is left
        (["ä+"], "aää\n".encode(), b"a***\n"),
        ([r"p=\S+"], "p=ä\xff b\n".encode("latin-1"), b"*** b\n"),  # a secret need not be UTF-8
        ([r"p=\S+"], b"ok\n\xff p=\xc3\xa4\xff\nok\n", b"ok\n\xff ***\nok\n"),
        (["."], b"\xff", b"***"),
        (["(a)(b)"], b"abab", b"******"),
        ([r"\Qa.b"], b"axb a.b\n", b"axb ***\n"),  # quoted to the pattern's end
    ],
)
def test_patterns(patterns: list[str], text: bytes, expected: bytes) -> None:
    """Anchors are those of lines, several patterns mask what any of them matches, invalid UTF-8 hides nothing."""
    assert Masker(patterns).mask(text) == expected


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("hunter2(", "missing )"),
        ("a)|(b", "unexpected )"),
        ("(?=hunter2)a", "invalid perl operator"),
        (r"(hunter2)\1", "invalid escape sequence"),
        ("(hunter2)?", "it matches the empty string"),
        ("|hunter2", "it matches the empty string"),
        (r"hunter2|\b", "it matches the empty string"),
        (r"\Bx*", "it matches the empty string"),
        ("(hunter2){900}", "it is too complex"),
    ],
)
def test_a_pattern_that_is_not_right(sqstee: Sqstee, pattern: str, reason: str) -> None:
    """One line, one hint, before the command starts; the pattern, which may be a secret, is not repeated."""
    found = sqstee.run("--redact", "fine", "--redact", pattern, "--", "echo", "hi")
    assert (found.returncode, found.stdout) == (EXIT_USAGE, b"")
    line, hint = found.stderr.decode().splitlines()
    assert line == f"sqstee: --redact, pattern 2: {reason}"
    assert hint.startswith("hint: ")
    assert "hunter2" not in found.stderr.decode()
    assert not sqstee.spool.exists()


def test_without_the_engine(sqstee: Sqstee, tmp_path: Path) -> None:
    """The package is an extra: where it is missing one line says what to install, and nothing runs unmasked."""
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['re2'] = None\n")
    found = sqstee.run("--redact", "a", "--", "echo", "hi", environ={"PYTHONPATH": str(tmp_path)})
    assert (found.returncode, found.stdout) == (EXIT_USAGE, b"")
    assert found.stderr.decode() == (
        "sqstee: --redact needs the package google-re2, which is not installed\n"
        f"hint: {sys.executable} -m pip install google-re2\n"
    )
    assert sqstee.run("--", "true", environ={"PYTHONPATH": str(tmp_path)}).returncode == 0


@pytest.mark.parametrize("pattern", ["a.*b|a", "(a*)*b|a", "(a|aa)+b|a", "((a?){100})b|a", "a.{40}b|a"])
def test_takes_linear_time(pattern: str) -> None:
    """Searches that fail at each of a million places: what takes too long is masked to the line's end."""
    found = Masker([pattern]).mask(b"a" * 1024 * 1024 + b"\nnext a line\n")
    assert found.replace(MASK, b"") == b"\nnext  line\n"


def test_a_long_line_costs_the_command_no_output(sqstee: Sqstee) -> None:
    """A pattern with a million matches, on the real command."""
    found = sqstee.run("--to", "local", "--redact", "a.*b|a", "--", *python("print('a' * 2**20); print('end')"))
    assert found.stdout == b"a" * 2**20 + b"\nend\n"
    assert sqstee.local().stdout.replace(MASK, b"") == b"\nend\n"


def test_own_output_and_shipped_copy(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """The command's output is as ever; on the queue the secret is not to be found."""
    script = f"echo key {SECRET.decode()} end; printf '\\377{SECRET.decode()}' >&2"
    words = ("--to", "q", "--redact", PATTERN, "--redact", "hunter2", "--", "sh", "-c", script)
    found = sqstee.run(*words, environ=fake_sqs.environ())
    assert (found.stdout, found.stderr) == (b"key " + SECRET + b" end\n", b"\xff" + SECRET)
    messages = fake_sqs.sent("q")
    rebuilt = Rebuilt((message.body, message.attributes) for message in messages)
    rebuilt.assert_whole()
    assert (rebuilt.stdout, rebuilt.stderr) == (b"key *** end\n", b"\xff***")


def test_a_secret_in_two_chunks_is_in_no_file(sqstee: Sqstee) -> None:
    """The unfinished line is held back, so that its first half is not spooled; at the end of the stream it is."""
    code = (
        "import sys, os\n"
        "for part in ('first\\nAKIA01234567', '89ABCDEF tail\\nAKIA0123456', '789ABCDEF'):\n"
        "    os.write(1, part.encode()); sys.stdin.readline()\n"
    )
    command = sqstee.words("--to", "no-such-queue", "--flush-timeout", "0s", "--redact", PATTERN, "--", *python(code))
    environ = sqstee.environ | {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_DEFAULT_REGION": "eu-west-1"}
    seen = []
    with running(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environ
    ) as process:
        assert process.stdin
        assert process.stdout
        for part in (b"first\n", b" tail\n", b""):
            if part:
                wait_for(partial(spooled, sqstee, part), "line")
            seen.append(on_disk(sqstee.spool))
            process.stdin.write(b"\n")
            process.stdin.flush()
        out, _ = process.communicate(timeout=40)
    assert out == b"first\n" + SECRET + b" tail\n" + SECRET
    (run,) = sqstee.waiting_runs()
    assert b"*** tail\n" in lines_of(sqstee.spool / run)
    for content in (*seen, on_disk(sqstee.spool)):
        assert b"AKIA" not in content


def test_an_idle_unfinished_line_is_shipped_masked(sqstee: Sqstee) -> None:
    """After five seconds, as without --redact; what the line's rest completes is masked from there on."""
    code = (
        "import sys, os\n"
        "os.write(1, b'AKIA0123456789ABCDEF password='); sys.stdin.readline(); os.write(1, b'hunter2 end\\n')"
    )
    words = ("--to", "local", "--redact", PATTERN, "--redact", r"password=\w*", "--", *python(code))
    with running(sqstee.words(*words), stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=sqstee.environ) as process:
        wait_for(lambda: (sqstee.spool / "local.db").exists() and sqstee.local().stdout, "line")
        out, _ = process.communicate(b"\n", timeout=40)
    assert out == SECRET + b" password=hunter2 end\n"
    assert sqstee.local().stdout == b"*** ****** end\n"
    assert [record.eol for record in sqstee.local().records] == [False, True]


def test_a_killed_front_leaves_no_secret(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """kill -9: what was held back is gone rather than spooled as it was."""
    script = "echo whole; printf AKIA0123; exec tail -f /dev/null"
    command = sqstee.words("--to", "q", "--redact", PATTERN, "--", "sh", "-c", script)
    environ = sqstee.environ | fake_sqs.environ()
    with running(command, stdout=subprocess.PIPE, env=environ) as process:
        assert process.stdout
        assert process.stdout.read(14) == b"whole\nAKIA0123"
        wait_for(partial(spooled, sqstee, b"whole"), "first line")
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=40)
    wait_for(lambda: not sqstee.waiting_runs(), "end of the run")
    rebuilt = Rebuilt((message.body, message.attributes) for message in fake_sqs.sent("q"))
    rebuilt.assert_whole()
    assert rebuilt.stdout == b"whole\n"


@pytest.mark.parametrize("call", [1, 2])
def test_a_failure_of_the_engine_drops(sqstee: Sqstee, tmp_path: Path, call: int) -> None:
    """Counted, said, covered by a gap event with the reason; never spooled as it is."""
    environ = injecting(tmp_path, f"sqstee.spool.redact:Masker.spans:bug:{call}")
    lines = [b"line %d %s\n" % (n, SECRET) for n in range(3)]
    words = ("--to", "local", "--strict", "--no-auto-name", "--redact", PATTERN, "--", *paced(*lines))
    found = sqstee.run(*words, environ=environ)
    assert found.stdout == b"".join(lines)
    number = 4 - call
    noun = "line" if number == 1 else "lines"
    assert found.stderr.decode() == (
        f"sqstee: {number} {noun} dropped: masking failed (ZeroDivisionError); a gap event says which lines; "
        "check the patterns of --redact\n"
    )
    assert found.returncode == EXIT_UNDELIVERED
    rebuilt = sqstee.local()
    rebuilt.assert_whole()
    assert rebuilt.stdout == b"line 0 ***\n"[: 11 * (call - 1)]
    (gap,) = [event for event in rebuilt.events if event.event == "gap"]
    assert "masking failed" in str(gap.fields["reason"])
    assert SECRET not in on_disk(sqstee.spool)


@settings(max_examples=150)
@given(st.data())
def test_every_way_to_cut_a_stream_into_chunks(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """The spool holds the masked stream, however it came; long lines come in pieces, and hide what is in their way."""
    words = st.sampled_from([b"S123", b"\n", b"x" * 30, b"ab ", b"\xff"])
    text = b"".join(data.draw(st.lists(words, max_size=40)))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=10)))
    chunks = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    folder = tmp_path_factory.mktemp("spool")
    limits = redact.HELD_BYTES, redact.OVERLAP_BYTES
    redact.HELD_BYTES, redact.OVERLAP_BYTES = data.draw(st.sampled_from([(64, 8), (10**6, 10**5)]))
    try:
        writer = RedactingWriter(Segments(str(folder), b"{}"), 1000, Masker(["S[0-9]{3}"]))
        for chunk in chunks:
            writer.write(0, chunk)
        writer.cut(0)
        writer.close()
    finally:
        redact.HELD_BYTES, redact.OVERLAP_BYTES = limits
    assert lines_of(folder) == text.replace(b"S123", MASK)
    assert writer.lines == writer.next_seq == text.count(b"\n") + (not text.endswith(b"\n") and bool(text))


def test_a_match_without_an_end_hides_the_rest_of_a_long_line(tmp_path: Path) -> None:
    """What follows `password=` is masked for as long as its line lasts, be that three times what is held."""
    writer = RedactingWriter(Segments(str(tmp_path), b"{}"), 32768, Masker(["password=.*"]))
    for chunk in (b"before password=", *[b"x" * 65536] * 48, b"hunter2", b"\nafter\n"):
        writer.write(0, chunk)
    writer.close()
    assert lines_of(tmp_path) == b"before ***\nafter\n"


def test_in_the_environment_and_in_a_file(sqstee: Sqstee) -> None:
    """A variable holds one pattern a line, since patterns hold commas; a literal string takes backslashes."""
    sqstee.run("--to", "local", "--", "echo", "aaa b22", environ={"SQSTEE_REDACT": "a{2,3}\nb[0-9]+"})
    folder = sqstee.folder / ".config"
    folder.mkdir()
    (folder / "sqstee.toml").write_text("redact = ['c{2,3}', 'd\\d+']\n")
    sqstee.run("--to", "local", "--", "echo", "ccc d33")
    bodies = sqstee.local_bodies()
    assert b"".join(bytes(body.data) for body in bodies).count(b'"message":"*** ***"') == 2


def test_masker_reports_the_pattern_by_its_number() -> None:
    """The error names no part of it."""
    with pytest.raises(SqsteeError, match="pattern 2: missing"):
        Masker(["a", "(secret"])


def test_the_commands_arguments_are_masked_too(sqstee: Sqstee) -> None:
    """--send-command puts them into the start event, which is in the spool as well."""
    sqstee.run("--to", "local", "--send-command", "--redact", "hunter[0-9]", "--", "echo", "a hunter2", "start")
    (start, _) = sqstee.local().events
    assert start.fields["command"] == ["echo", "a ***", "start"]


def test_the_programs_name_is_masked_too(sqstee: Sqstee, tmp_path: Path) -> None:
    """In the events, and in the META frame for whoever finds the run dead."""
    (tmp_path / "hunter2").symlink_to("/bin/cat")
    words = sqstee.words("--to", "local", "--redact", "hunter[0-9]", "--", str(tmp_path / "hunter2"))
    with running(words, stdin=subprocess.PIPE, env=sqstee.environ) as process:
        wait_for(lambda: b"started" in sqstee.spooled(), "start event")
        assert b"hunter2" not in sqstee.spooled()
        process.communicate(timeout=40)
    start, end = sqstee.local().events
    assert (start.fields["name"], end.fields["name"], start.message) == ("***", "***", "*** started")


class FullNowAndThen(Segments):
    """Segments that have room as a list says, and always once it is used up."""

    def __init__(self, folder: str, room: list[bool]) -> None:
        super().__init__(folder, b"{}", WaitingQuota())
        self._answers = room

    def has_quota(self, size: int, first: int) -> bool:
        return self._answers.pop() if self._answers else super().has_quota(size, first)


class WaitingQuota(UnboundedQuota):
    """Where the spool is full, waiting is the rule."""

    def should_wait(self) -> bool:
        return True


@settings(max_examples=200)
@given(st.data())
def test_a_full_spool_is_waited_for(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """What could not be spooled is given again: nothing comes twice, and no secret comes unmasked."""
    words = st.sampled_from([b"S123", b"\n", b"x" * 30, b"ab ", b"S1", b"23"])
    chunks = data.draw(st.lists(st.lists(words, min_size=1, max_size=8).map(b"".join), max_size=8))
    folder = tmp_path_factory.mktemp("spool")
    limits = redact.HELD_BYTES, redact.OVERLAP_BYTES
    redact.HELD_BYTES, redact.OVERLAP_BYTES = data.draw(st.sampled_from([(64, 8), (10**6, 10**5)]))
    try:
        segments = FullNowAndThen(str(folder), data.draw(st.lists(st.booleans(), max_size=30)))
        writer = RedactingWriter(segments, data.draw(st.sampled_from([20, 1000])), Masker(["S[0-9]{3}"]))
        for chunk in chunks:
            while chunk:
                chunk = writer.write(0, chunk, True)
        writer.cut(0)
        writer.close()
    finally:
        redact.HELD_BYTES, redact.OVERLAP_BYTES = limits
    text = b"".join(chunks)
    assert lines_of(folder) == text.replace(b"S123", MASK)
    assert (writer.dropped, writer.bytes) == (0, len(text.replace(b"S123", MASK)))
