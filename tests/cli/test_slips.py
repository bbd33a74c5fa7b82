"""Slips of the fingers: the table in slips.md, typed line by line, and the pieces that the answers are made of."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from support import Sqstee

from sqstee.cli import habits, slips
from sqstee.errors import SqsteeError, closest
from sqstee.option_values import duration, near_value, size
from sqstee.options import flags

TABLE = Path(__file__).parent / "slips.md"


def rows() -> list[tuple[str, str, str]]:
    """The cells of the table; a `|` in one is written `\\|`."""
    found = []
    for line in TABLE.read_text().splitlines():
        if line.startswith("| `"):
            typed, answer, hint = (cell.strip().strip("`") for cell in re.split(r"(?<!\\)\|", line)[1:4])
            found.append((typed.replace("\\|", "|"), answer.replace("\\|", "|"), hint.replace("\\|", "|")))
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a program `make-all` in its PATH, a script, and two files that cannot be executed."""
    for name, text, mode in (
        ("bin/make-all", "#!/bin/sh\n", 0o755),
        ("job.sh", "#!/bin/sh\n", 0o755),
        ("plain", "#!/bin/sh\n", 0o644),
        ("orphan", "#!/none/such\n", 0o755),
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
    return tmp_path


@pytest.mark.parametrize(("typed", "answer", "hint"), rows())
def test_the_answer_to_a_slip(sqstee: Sqstee, folder: Path, typed: str, answer: str, hint: str) -> None:
    """One line with the mistake, one with what to type; nothing is run, and nothing is left behind."""
    environ = sqstee.environ | {"PATH": f"{folder}/bin:/usr/bin:/bin", "SHELL": "/bin/bash"}
    found = subprocess.run(
        sqstee.words(*shlex.split(typed)[1:]),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=environ,
        cwd=folder,
        timeout=60,
        check=False,
    )
    assert found.stderr == f"sqstee: {answer}\nhint: {hint}\n"
    statuses = {"command not found": 127, "Permission denied": 126}
    assert found.returncode == statuses.get(answer.rpartition(": ")[2], 125)
    assert found.stdout == ""
    assert sqstee.waiting_runs() == []


def test_the_table_is_long_enough() -> None:
    """Forty are promised, each once."""
    assert len({typed for typed, _, _ in rows()}) == len(rows()) >= 40


def test_a_corrected_line_is_none_of_the_slips() -> None:
    """What a hint says to type is right: it is not in the table itself."""
    typed = {row[0] for row in rows()}
    assert not typed & {hint for _, _, hint in rows()}


def test_other_names_of_flags_lead_to_flags() -> None:
    """Each is none of ours, and what it leads to is one."""
    for name, meant in habits.RUN_FLAGS.items():
        assert name not in flags()
        assert meant.partition("=")[0] in flags()


@pytest.mark.parametrize("options", [[], ["--to", "q"]])
def test_a_file_in_a_pipe_as_tee_takes_it(sqstee: Sqstee, options: list[str]) -> None:
    """Regression: the hint was to wrap the file, as if it were a command."""
    found = sqstee.run(*options, "build log", stdin=b"x\n")
    assert (found.returncode, found.stdout) == (125, b"")
    assert found.stderr.endswith("\nhint: to write a file as well: … | tee 'build log' | sqstee\n".encode())


def test_a_line_that_cannot_be_copied_is_no_hint() -> None:
    """Because it is too long, or holds what a terminal would not show."""
    for word in ("x" * 500, "a\nb"):
        error = slips.without_command(["--to", "q", word], ["tail"])
        assert error.hint == "the form is: sqstee [OPTIONS] -- COMMAND [ARG…]"


@pytest.mark.parametrize(
    ("text", "meant"),
    [("10sec", "10s"), ("3 hours", "3h"), ("250ms", "0.25s"), ("5 m", "5m"), ("1month", ""), ("soon", ""), ("", "")],
)
def test_the_time_that_was_meant(text: str, meant: str) -> None:
    """A unit that is spelled out, and one that is not ours."""
    assert near_value(text, duration) == meant


@pytest.mark.parametrize(("text", "meant"), [("2GB", "2G"), ("64kib", "64K"), ("1.5G", ""), ("10TB", "")])
def test_the_size_that_was_meant(text: str, meant: str) -> None:
    """Units of 1024, whatever they are called."""
    assert near_value(text, size) == meant


def test_the_name_that_was_meant() -> None:
    """Its case and its underscores do not count; the beginning of one name is enough, not that of two."""
    known = ["--to", "--spool", "--spool-max", "tail", "top"]
    assert [closest(word, known) for word in ("--TO", "--spool_mx", "ta", "t", "--xyz")] == [
        "--to",
        "--spool-max",
        "tail",
        "",
        "",
    ]


def test_an_error_is_an_error_without_a_correction() -> None:
    """A message about another word than one of the line keeps its own hint."""
    error = SqsteeError("no", "a hint", meant=("elsewhere", "there"))
    slips.correct(error, ["--to", "q", "--", "x"], ["tail"])
    assert (error.message, error.hint) == ("no", "a hint")
