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
from support.documents import DOCUMENTS, PAGES, README, in_tables, page, prose, section

import man
from sqstee.options import RUN_OPTIONS
from sqstee.read.printer import TEMPLATE_FIELDS

ROFF = sorted((ROOT / "share/man").rglob("*.?"))
FISH = (ROOT / "completions/sqstee.fish").read_text()
# Options of other programs that the documents show.
FOREIGN = {"--delete", "--fault-seeds", "--fault-steps", "--no-deps", "--queue-name", "--scale", "--target"}


@pytest.mark.parametrize("name", generate.files())
def test_generated_files_are_fresh(name: str) -> None:
    """`make generate` would change no file."""
    assert (ROOT / name).read_text() == generate.files()[name], f"stale: run `{generate.COMMAND}`"


def test_there_is_no_roff_without_a_page() -> None:
    """A page that is gone leaves nothing behind."""
    assert {str(path.relative_to(ROOT)) for path in ROFF} == {man.roff_path(path.name) for path in PAGES}


def flags_of(verb: Verb) -> set[str]:
    """All spellings of a verb's options."""
    return {name for flag in verb.flags for name in flag.names}


def test_every_option_of_run_is_in_every_document_and_no_other() -> None:
    """Program, manual and completions name the same options."""
    expected = {option.shown for option in RUN_OPTIONS}
    assert in_tables(section(page("sqstee-run.1"), "Options")) == expected | {"-h", "--help"}
    keys = section(page("sqstee.toml.5"), "Keys and variables")
    assert re.findall(r"^\| `([a-z0-9-]+)`", keys, re.MULTILINE) == [option.name for option in RUN_OPTIONS]
    assert re.findall(r"`(SQSTEE_\w+)`", keys) == [option.variable for option in RUN_OPTIONS]
    in_fish = re.findall(r"'__sqstee_uses run'.* -l ([a-z0-9-]+)", FISH)
    assert {f"--{name}" for name in in_fish} == expected | {"--help"}


@pytest.mark.parametrize("verb", verbs(), ids=lambda verb: str(verb.name))
def test_every_verbs_options_are_those_of_its_help(sqstee: Sqstee, verb: Verb) -> None:
    """Options in `--help` are in the verb's page and in the completions."""
    text = sqstee.run(verb.name, "--help").stdout.decode()
    shown = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", text)) & flags_of(verb)
    expected = {name for name in flags_of(verb) if name.startswith("--")}
    assert shown | {"--help"} == expected
    assert in_tables(section(page(f"sqstee-{verb.name}.1"), "Options")) == flags_of(verb)
    in_fish = re.findall(rf"'__sqstee_uses {verb.name}' (.*) -d '", FISH)
    assert {f"--{name}" for line in in_fish for name in re.findall(r"-l ([a-z0-9-]+)", line)} == expected
    for name in ("sqstee.bash", "_sqstee"):
        completion = (ROOT / "completions" / name).read_text()
        assert all(flag in completion for flag in expected), name


def test_every_verb_has_a_page_with_its_parts() -> None:
    """Its name, its form and its options."""
    for verb in verbs():
        text = page(f"sqstee-{verb.name}.1")
        assert text.startswith(f"# sqstee-{verb.name}(1): ")
        assert "<!-- generated: synopsis -->" in section(text, "Synopsis")
        assert "<!-- generated: options -->" in section(text, "Options")


def test_every_page_can_be_found() -> None:
    """README's index has a link to each."""
    linked = set(re.findall(r"\]\(man/([^)#]+)\)", section(README.read_text(), "Index")))
    assert linked == {path.name for path in PAGES}


def test_documents_are_short() -> None:
    """README fits in five minutes, a page in ten."""
    assert README.read_text().count("\n") <= 200
    assert {path.name for path in PAGES if path.read_text().count("\n") > 300} == set()


def test_every_variable_that_the_program_reads_is_documented() -> None:
    """Including those that belong to no option."""
    code = "".join(path.read_text() for path in (ROOT / "sqstee").rglob("*.py"))
    named = set(re.findall(r"[\"'](SQSTEE_[A-Z_0-9]*[A-Z0-9])[\"']", code))
    assert {"SQSTEE_NEST", "SQSTEE_TOKEN"} <= named
    text = page("sqstee.1") + page("sqstee.toml.5") + page("sqstee-alert.1")
    assert {name for name in named if name not in text} == set()


def test_every_exit_status_is_documented_once() -> None:
    """The page sqstee(1) has the constants of errors.py, and names no other status of sqstee's own."""
    numbers = [status for status, _ in exit_statuses()]
    assert len(numbers) == len(set(numbers)) > 3
    text = section(page("sqstee.1"), "Exit status")
    assert [int(number) for number in re.findall(r"^\| `(\d+)` \|", text, re.MULTILINE)] == numbers
    by_signals = {128, 141}  # 128 plus a signal's number, SIGPIPE
    assert {int(number) for number in re.findall(r"\b\d+\b", text)} == {0, *by_signals, *numbers}


def test_variables_that_prose_names_exist() -> None:
    """No document names a variable that no code reads."""
    code = "".join(path.read_text() for path in (ROOT / "sqstee").rglob("*.py"))
    known = {option.variable for option in RUN_OPTIONS} | set(re.findall(r"\bSQSTEE_[A-Z0-9_]*[A-Z0-9]\b", code))
    for path in DOCUMENTS:
        named = set(re.findall(r"\bSQSTEE_[A-Z0-9_]*[A-Z0-9]\b", path.read_text())) - {"SQSTEE_NAME"}
        assert named <= known, (path.name, named - known)


def test_keys_of_configuration_files_that_prose_shows_exist() -> None:
    """In the examples of every document."""
    examples = [
        example
        for path in DOCUMENTS
        for example in re.findall(r"^```toml\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)
    ]
    known = {option.shown.removeprefix("--") for option in RUN_OPTIONS} | {"profile"}
    for example in examples:
        keys = set(re.findall(r"^([a-z-]+) *=", example, re.MULTILINE))
        assert keys
        assert keys <= known | {"agent"}, keys - known
    assert len(examples) > 2


def test_options_that_prose_names_exist() -> None:
    """No text names an option that does not exist (any more)."""
    known = {name for verb in verbs() for name in flags_of(verb)} | {option.flag for option in RUN_OPTIONS}
    known |= {"--version", "--verbose", "--no-SWITCH"} | FOREIGN
    for path in DOCUMENTS:
        text = path.read_text()
        text = prose(text) + "".join(line for line in text.splitlines(keepends=True) if "sqstee " in line)
        named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+(?:[A-Z]+)?", text))
        assert named <= known | {"--no-"}, (path.name, named - known)


def test_every_flag_has_a_help_text() -> None:
    """Nobody can use a flag without one."""
    flags: list[Flag] = [flag for verb in verbs() for flag in verb.flags]
    assert [flag.names for flag in flags if not flag.help.strip()] == []


def anchors(path: Path) -> set[str]:
    """Those of a document's headings, by GitHub's rule."""
    headings = re.findall(r"^#+ (.+)$", prose(path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    """To a file that is there, and to a heading in it."""
    linked = re.findall(r"\]\(([^)\s]+)\)", prose(path.read_text()))
    assert linked
    for link in linked:
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.is_file(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("path", ROFF, ids=lambda path: path.name)
@pytest.mark.skipif(not shutil.which("groff"), reason="groff is not installed")
def test_pages_are_clean_under_groff(path: Path) -> None:
    """No warning, with all of them on."""
    words = ["groff", "-ww", "-k", "-man", "-Tutf8", str(path)]
    found = subprocess.run(words, capture_output=True, text=True, check=True)
    assert found.stderr == ""
    assert "sqstee" in found.stdout.splitlines()[-1]


@pytest.mark.skipif(not shutil.which("mandoc"), reason="mandoc is not installed")
def test_pages_are_clean_under_mandoc() -> None:
    """Lint finds no fault, not even of style."""
    found = subprocess.run(["mandoc", "-Tlint", *map(str, ROFF)], capture_output=True, text=True, check=False)
    assert found.stdout + found.stderr == ""


def test_roff_prints_awkward_text_as_it_is() -> None:
    """What begins like a macro, backslashes, and signs that typesetters replace."""
    page = man.roff("# a-b(1): c\n\n## D\n\n`.dot` and `~/x`, `\\S`\n\n```\n.dot\n'quote' --x ^\n```\n")
    assert page.splitlines()[1:] == [
        '.TH A\\-B 1 2026-11-30 sqstee "User Commands"',
        ".ad l",
        ".SH NAME",
        "a\\-b \\- c",
        ".SH D",
        "\\fB.dot\\fR and \\fB\\(ti/x\\fR, \\fB\\eS\\fR",
        '.IP "" 4',
        ".EX",
        "\\&.dot",
        "\\(aqquote\\(aq \\-\\-x \\(ha",
        ".EE",
    ]


def test_the_columns_and_the_statements_of_sql_are_those_of_the_package() -> None:
    """Which are tested by themselves."""
    schema = pytest.importorskip("sqstee.at_rest.schema")
    table = page("sqstee-format.5").partition("### Columns of Parquet files")[2].partition("###")[0]
    named = re.findall(r"^\| `(\w+)` \| `([^`]+)` \| (\w+) \|", table, re.MULTILINE)
    columns = [*schema.COLUMNS, *schema.PARTITIONS]
    assert named == [(one.name, one.kind, one.on) for one in columns]
    files = "".join(path.read_text() for path in sorted((Path(schema.__file__).parent / "queries").glob("*.sql")))
    known = {part.strip() for part in re.split(r"^-- \w+: .*\n", files, flags=re.MULTILINE)}
    shown = re.findall(r"^```sql\n(.*?)\n```", page("sqstee-sql.7"), re.DOTALL | re.MULTILINE)
    assert len(shown) > 8
    assert [statement for statement in shown if statement not in known] == []


def test_the_fields_of_a_template_are_in_the_manual() -> None:
    """All of them, and no other."""
    (text,) = re.findall(r"fields of a template are ([^.]*)\.", page("sqstee-tail.1"))
    assert sorted(re.findall(r"`(\w+)`", text)) == sorted(TEMPLATE_FIELDS)
