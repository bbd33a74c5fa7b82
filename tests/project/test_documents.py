"""Documents match the program: generated parts are fresh, every option is documented, pages are clean."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import generate
import pytest
from program import Flag, Verb, exit_statuses, verbs
from support import ROOT, Sqstee

from sqstee.options import RUN_OPTIONS

PAGES = sorted(path for path in (ROOT / "man").iterdir() if path.is_file())
FISH = (ROOT / "completions/sqstee.fish").read_text()


@pytest.mark.parametrize("name", generate.files())
def test_generated_files_are_fresh(name: str) -> None:
    """`make generate` would change no file."""
    assert (ROOT / name).read_text() == generate.files()[name], f"stale: run `{generate.COMMAND}`"


def plain(page: Path) -> str:
    """A page's text without escaped hyphens."""
    return page.read_text().replace("\\-", "-")


def sections(text: str) -> dict[str, str]:
    """A page's sections by name."""
    parts = re.split(r"^\.SH (.+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def flags_of(verb: Verb) -> set[str]:
    """All spellings of a verb's options."""
    return {name for flag in verb.flags for name in flag.names}


def test_every_option_of_run_is_in_every_document_and_no_other() -> None:
    """Program, manual page, README and completions name the same options."""
    expected = {option.shown for option in RUN_OPTIONS}
    page = sections(plain(ROOT / "man/sqstee.1"))
    assert set(re.findall(r"^\.TP\n\\fB(--[a-z0-9-]+)\\fR", page["OPTIONS"], re.MULTILINE)) == expected
    variables = set(re.findall(r"^\.B (SQSTEE_\w+)$", page["ENVIRONMENT"], re.MULTILINE)) - {
        "SQSTEE_NEST",
        "SQSTEE_DEBUG",
        "SQSTEE_PAGER",
        "SQSTEE_TOKEN",
        "SQSTEE_LAMBDA_VIA_S3",
    }
    assert variables == {option.variable for option in RUN_OPTIONS}
    assert set(re.findall(r"^\| `(--[a-z0-9-]+)", (ROOT / "README.md").read_text(), re.MULTILINE)) == expected
    in_fish = re.findall(r"'__sqstee_uses run'.* -l ([a-z0-9-]+)", FISH)
    assert {f"--{name}" for name in in_fish} == expected | {"--help"}


@pytest.mark.parametrize("verb", verbs(), ids=lambda verb: str(verb.name))
def test_every_verbs_options_are_those_of_its_help(sqstee: Sqstee, verb: Verb) -> None:
    """Options in `--help` are in the manual page and in the completions."""
    text = sqstee.run(verb.name, "--help").stdout.decode()
    shown = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", text)) & flags_of(verb)
    expected = {name for name in flags_of(verb) if name.startswith("--")}
    assert shown | {"--help"} == expected
    page = plain(ROOT / "man/sqstee.1")
    assert verb.name == "run" or f".SS \\fBsqstee {verb.name}\\fR" in page
    assert all(f"\\fB{name}\\fR" in page for name in expected - {"--help"})
    in_fish = re.findall(rf"'__sqstee_uses {verb.name}' (.*) -d '", FISH)
    assert {f"--{name}" for line in in_fish for name in re.findall(r"-l ([a-z0-9-]+)", line)} == expected
    for name in ("sqstee.bash", "_sqstee"):
        completion = (ROOT / "completions" / name).read_text()
        assert all(flag in completion for flag in expected), name


def test_every_variable_that_the_program_reads_is_documented() -> None:
    """Including those that belong to no option."""
    code = "".join(path.read_text() for path in (ROOT / "sqstee").rglob("*.py"))
    named = set(re.findall(r"[\"'](SQSTEE_[A-Z_0-9]*[A-Z0-9])[\"']", code))
    assert {"SQSTEE_NEST", "SQSTEE_TOKEN"} <= named
    page = plain(ROOT / "man/sqstee.1")
    assert {name for name in named if name not in page} == set()


def test_every_exit_status_is_documented_once() -> None:
    """The manual page has the constants of errors.py."""
    numbers = [status for status, _ in exit_statuses()]
    assert len(numbers) == len(set(numbers)) > 3
    text = sections(plain(ROOT / "man/sqstee.1"))["EXIT STATUS"]
    assert [int(number) for number in re.findall(r"^\.B (\d+)$", text, re.MULTILINE)] == numbers


def test_readme_has_every_exit_status_and_no_other() -> None:
    """Those of errors.py, and 0."""
    section = (ROOT / "README.md").read_text().partition("\n## Exit status\n")[2].partition("\n## ")[0]
    assert {int(number) for number in re.findall(r"\b\d+\b", section)} == {0} | {
        number for number, _ in exit_statuses()
    }


def test_variables_that_prose_names_exist() -> None:
    """README and the pages name no variable that no code reads."""
    code = "".join(path.read_text() for path in (ROOT / "sqstee").rglob("*.py"))
    known = {option.variable for option in RUN_OPTIONS} | set(re.findall(r"\bSQSTEE_[A-Z0-9_]*[A-Z0-9]\b", code))
    for path in (ROOT / "README.md", *PAGES):
        named = set(re.findall(r"\bSQSTEE_[A-Z0-9_]*[A-Z0-9]\b", plain(path))) - {"SQSTEE_NAME"}
        assert named <= known, (path.name, named - known)


def test_keys_of_configuration_files_that_prose_shows_exist() -> None:
    """In the examples of sqstee.toml(5) and of README."""
    examples = [plain(ROOT / "man/sqstee.toml.5").partition(".nf\n")[2].partition(".fi")[0]]
    examples += re.findall(r"^```toml\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    known = {option.shown.removeprefix("--") for option in RUN_OPTIONS} | {"profile"}
    for example in examples:
        keys = set(re.findall(r"^([a-z-]+) *=", example, re.MULTILINE))
        assert keys
        assert keys <= known | {"agent"}, keys - known
    assert len(examples) > 2


def test_options_that_prose_names_exist() -> None:
    """No text names an option that does not exist (any more)."""
    known = {name for verb in verbs() for name in flags_of(verb)} | {option.flag for option in RUN_OPTIONS}
    known |= {"--version", "--verbose", "--no-SWITCH"}
    for page in PAGES:
        text = re.sub(r"\\f[BIRP]|\\&", "", plain(page))
        named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+(?:[A-Z]+)?", text))
        assert named <= known | {"--no-"}, (page.name, named - known)


def test_every_flag_has_a_help_text() -> None:
    """Nobody can use a flag without one."""
    flags: list[Flag] = [flag for verb in verbs() for flag in verb.flags]
    assert [flag.names for flag in flags if not flag.help.strip()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
@pytest.mark.skipif(not shutil.which("groff"), reason="groff is not installed")
def test_pages_are_clean_under_groff(page: Path) -> None:
    """No warning, with all of them on."""
    words = ["groff", "-ww", "-k", "-man", "-Tutf8", str(page)]
    found = subprocess.run(words, capture_output=True, text=True, check=True)
    assert found.stderr == ""
    assert "sqstee" in found.stdout.splitlines()[-1]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
@pytest.mark.skipif(not shutil.which("mandoc"), reason="mandoc is not installed")
def test_pages_are_clean_under_mandoc(page: Path) -> None:
    """Lint finds no fault, not even of style."""
    found = subprocess.run(["mandoc", "-Tlint", str(page)], capture_output=True, text=True, check=False)
    assert found.stdout + found.stderr == ""
