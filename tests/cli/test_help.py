"""Output for people: help of any width, colours on terminals only, the report of versions."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support import SCRIPT, Sqstee
from support.terminal import Terminal

from sqstee.__main__ import VERBS
from sqstee.cli import help

NAMES = [verb.name for verb in help.verbs()]


def test_the_root_is_one_screen_and_names_every_verb_once(sqstee: Sqstee) -> None:
    """It fits 80 × 24, and begins with the main form."""
    found = sqstee.run("--help", environ={"COLUMNS": "80"})
    lines = found.stdout.decode().splitlines()
    assert found.returncode == 0
    assert lines[0] == "Usage: sqstee [OPTIONS] -- COMMAND [ARG…]"
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    named = [line.split()[0] for line in lines if re.match(r"  [a-z]+  +[A-Z]", line)]
    assert sorted([*named, "run"]) == sorted(VERBS)
    assert "…" not in "".join(lines[2:])  # long summaries end after a clause
    assert sqstee.run("-h", environ={"COLUMNS": "80"}).stdout == found.stdout


def test_verbs_are_named_also_without_docstrings(sqstee: Sqstee) -> None:
    """PYTHONOPTIMIZE=2, set for the command, removes their summaries."""
    lines = sqstee.run("--help", environ={"PYTHONOPTIMIZE": "2"}).stdout.decode().splitlines()
    assert [verb for verb in VERBS if f"  {verb}" in lines] == [verb for verb in VERBS if verb != "run"]


@pytest.mark.parametrize("columns", [40, 59, 60, 80, 200])
def test_help_of_every_verb_keeps_to_the_width(columns: int) -> None:
    """No line is longer, no option is missing, and no text is cut off."""
    assert all(len(line) <= columns for line in help.root(columns).splitlines())
    for verb in help.verbs():
        text = help.of_verb(verb, columns)
        assert [line for line in text.splitlines() if len(line) > columns and " " in line.strip()] == []
        words = " ".join(text.split())
        for flag in verb.flags:
            assert " ".join(flag.shown.split()) in words
            assert " ".join(flag.help.split()) in words.replace("- ", "-") or flag.help.split()[-1] in words


@pytest.mark.parametrize("verb", NAMES)
def test_each_verb_explains_itself(sqstee: Sqstee, verb: str) -> None:
    """--help prints to stdout, with status 0 and without escapes."""
    found = sqstee.run(verb, "--help", environ={"COLUMNS": "40"})
    assert (found.returncode, found.stderr) == (0, b"")
    assert found.stdout.startswith(f"Usage: sqstee {'[run]' if verb == 'run' else verb}".encode())
    assert b"\x1b" not in found.stdout
    assert max(len(line) for line in found.stdout.decode().splitlines()) <= 40


def test_help_after_the_dashes_is_the_commands_own(sqstee: Sqstee) -> None:
    """A wrapped command gets its --help."""
    assert sqstee.run("--", "printf", "%s", "--help").stdout == b"--help"


@pytest.mark.parametrize(("variable", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_a_terminal_gets_colours_unless_no_color_is_set(
    sqstee: Sqstee, variable: dict[str, str], coloured: bool
) -> None:
    """As https://no-color.org asks; a pipe never gets colours."""
    sqstee.run("--", "echo", "hi")
    words = [SCRIPT, "tail", "--no-follow"]
    with Terminal(words, sqstee.environ | {"TERM": "xterm"} | variable, (24, 40)) as terminal:
        assert terminal.wait() == 0
        assert b"hi" in terminal.output
        assert (b"\x1b[" in terminal.output) == coloured
    assert b"\x1b" not in sqstee.run("tail", "--no-follow", environ=variable).stdout


def test_the_bug_report_has_sources_but_no_values(sqstee: Sqstee, tmp_path: Path) -> None:
    """It has versions, paths, and names of variables and settings, but no value of a variable."""
    (tmp_path / ".config").mkdir()
    (tmp_path / ".config" / "sqstee.toml").write_text('to = "secret-queue"\n')
    environ = {"AWS_SECRET_ACCESS_KEY": "hunter2", "SQSTEE_JOB": "hunter3", "HTTPS_PROXY": "http://u:hunter4@p"}
    text = sqstee.run("--version", "--verbose", environ=environ).stdout.decode()
    assert re.search(r"^Python +CPython 3\.", text, re.MULTILINE)
    assert re.search(r"^boto3 +\d", text, re.MULTILINE)
    assert re.search(r"^set +to \(.*sqstee\.toml:1\)$", text, re.MULTILINE)
    assert "AWS_SECRET_ACCESS_KEY" in text
    assert "HTTPS_PROXY" in text
    assert "hunter" not in text
    assert "secret-queue" not in text
    assert sqstee.run("--version").stdout.count(b"\n") == 1
