"""`sqstee help`, `sqstee man`, `sqstee completion`."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from support import ROOT, SCRIPT, Sqstee
from support.documents import PAGES
from support.terminal import Terminal

from sqstee.cli.page_writer import TextPage
from sqstee.errors import EXIT_USAGE


@pytest.mark.parametrize("words", [(), ("tail",), ("run",)])
def test_help_is_what_the_option_prints(sqstee: Sqstee, words: tuple[str, ...]) -> None:
    """Of all verbs, and of one."""
    assert sqstee.run("help", *words).stdout == sqstee.run(*words, "--help").stdout != b""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("help", "tial"), "unknown verb 'tial'; did you mean 'tail'?"),
        (("man", "tial"), "unknown page 'tial'; did you mean 'tail'?"),
        (("man", "sqstee-drian"), "unknown page 'sqstee-drian'; did you mean 'sqstee-drain'?"),
        (("man", "../README"), "unknown page '../README'"),
        (("completion", "fsh"), "unknown shell 'fsh'; did you mean 'fish'?"),
        (("completion",), "bash|zsh|fish is missing"),
    ],
)
def test_slips(sqstee: Sqstee, words: tuple[str, ...], message: str) -> None:
    """One line, and a hint."""
    found = sqstee.run(*words)
    assert (found.returncode, found.stdout) == (EXIT_USAGE, b"")
    line, hint = found.stderr.decode().splitlines()
    assert line == f"sqstee: {message}"
    assert hint.startswith("hint: ")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_page_can_be_read(sqstee: Sqstee, path: Path) -> None:
    """By its name in full and by its short one; as plain text in a pipe, and no wider than asked for."""
    full = path.name.removesuffix(".md")[:-2]
    found = sqstee.run("man", full, environ={"COLUMNS": "72"}).stdout.decode()
    assert found.startswith(f"{full}({path.name[-4]}): ")
    assert "\x1b" not in found
    short = full.removeprefix("sqstee-")
    assert sqstee.run("man", short, environ={"COLUMNS": "72"}).stdout.decode() == found
    code = set(re.findall(r"^ {6}.*$", found, re.MULTILINE))
    too_wide = [line for line in found.splitlines() if len(line) > 72 and line not in code]
    assert [line for line in too_wide if len(line.split()) > 1] == []


def test_without_a_page_it_lists_them(sqstee: Sqstee) -> None:
    """The page sqstee(1), whose end names the others."""
    text = sqstee.run("man").stdout.decode()
    assert text.startswith("sqstee(1): ")
    assert all(f"{path.name.removesuffix('.md')[:-2]}({path.name[-4]})" in text for path in PAGES)


def test_on_a_terminal_it_is_paged_and_bold(sqstee: Sqstee) -> None:
    """By the pager of the user."""
    environ = sqstee.environ | {"SQSTEE_PAGER": "sed 's/^/paged: /'", "TERM": "xterm"}
    with Terminal([SCRIPT, "man", "help"], environ) as screen:
        screen.expect(b"paged: \x1b[1msqstee-help(1)\x1b[0m: ")
        screen.expect(b"sqstee-man")


def test_the_blocks_of_a_page() -> None:
    """Every kind that pages hold, at a narrow width."""
    markdown = (
        "# x-y(7): a page\n\nSome `code here` and *more* [text](other.md), see [x-z(1)](x-z.1.md#there).\n\n"
        "## A part\n\n<!-- generated: nothing -->\n\n- one\n  item\n- two\n\n1. first\n\n```sh\nls  -l\n```\n\n"
        "| term | |\n|---|---|\n| `-a\\|b` | The text. |\n\n| a | b | c |\n|---|--:|---|\n| left | 1 | x |\n"
    )
    assert TextPage(30, False).write(markdown).splitlines() == [
        "x-y(7): a page",
        "",
        "    Some code here and more",
        "    text, see x-z(1).",
        "",
        "A PART",
        "",
        "    • one item",
        "",
        "    • two",
        "",
        "    1. first",
        "",
        "      ls  -l",
        "",
        "    -a|b",
        "        The text.",
        "",
        "      a     b  c",
        "      left  1  x",
    ]
    assert "\x1b[1mcode\x1b[0m \x1b[1mhere\x1b[0m and \x1b[4mmore\x1b[0m" in TextPage(80, True).write(markdown)
    with pytest.raises(ValueError, match="cannot hold blockquote"):
        TextPage(80, False).write("> quoted")


@pytest.mark.parametrize(("shell", "name"), [("bash", "sqstee.bash"), ("zsh", "_sqstee"), ("fish", "sqstee.fish")])
def test_completions_are_printed(sqstee: Sqstee, shell: str, name: str) -> None:
    """Byte for byte those that are installed."""
    assert sqstee.run("completion", shell).stdout == (ROOT / "completions" / name).read_bytes()


def test_the_line_for_bashrc(sqstee: Sqstee) -> None:
    """As sqstee-completion(1) has it."""
    page = (ROOT / "man/sqstee-completion.1.md").read_text()
    (line,) = re.findall(r"^```bash\n(?:#.*\n)?(.*)\n```", page, re.MULTILINE)
    code = f"{line}\ncomplete -p sqstee"
    environ = sqstee.environ | {"PATH": f"{Path(SCRIPT).parent}:{sqstee.environ['PATH']}"}
    found = subprocess.run(["bash", "-c", code], env=environ, capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout == "complete -F _sqstee sqstee\n"
