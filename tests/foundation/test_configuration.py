"""Configuration files with profiles, the sources of values, and automatic labels."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support import Sqstee

from sqstee import auto_labels, config_file
from sqstee.errors import SqsteeError
from sqstee.settings import configuration_files, load_settings, settings_from

FILE = """\
to = "local"
job = "flat"   # a comment
linger = "2s"

[profile.nightly]  # another
to = "nightly-logs"
label = ["team=data", 'kind=batch']

[ profile . "test one" ]
linger = "5s"

[agent]
whatever = { left = "alone" }
rows = [
  [1, 2],
  [3],
]

[[arrays]]
of = "tables"
"""


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """An environment whose configuration file is FILE."""
    return configured(tmp_path, FILE)


def configured(tmp_path: Path, text: str) -> dict[str, str]:
    """An environment with this configuration file."""
    (tmp_path / ".config").mkdir()
    (tmp_path / ".config" / "sqstee.toml").write_text(text)
    return {"HOME": str(tmp_path), "TERM": "dumb"}


def test_a_profile_wins_over_the_rest_of_the_file(home: dict[str, str]) -> None:
    """Chosen by option or variable; environment and options win over its values."""
    assert load_settings((), home).to == "local"
    settings = load_settings(("--profile", "nightly"), home)
    assert (settings.to, settings.job, settings.linger) == ("nightly-logs", "flat", 2.0)
    assert settings.labels == {"team": "data", "kind": "batch"}
    assert load_settings((), home | {"SQSTEE_PROFILE": "nightly"}).to == "nightly-logs"
    assert load_settings((), home | {"SQSTEE_PROFILE": "nightly", "SQSTEE_TO": "other"}).to == "other"
    settings = load_settings(("--to=mine", "--profile=test one"), home | {"SQSTEE_PROFILE": "nightly"})
    assert (settings.to, settings.linger, settings.labels) == ("mine", 5.0, {})
    assert settings_from({"profile": "nightly"}, home).to == "nightly-logs"


def test_a_value_that_looks_like_an_option_stays_a_value(home: dict[str, str]) -> None:
    """The word after --job is its value, whatever it is."""
    assert load_settings(("--job", "--profile", "--host", "nightly"), home).profile == ""


def test_each_value_has_its_source(home: dict[str, str]) -> None:
    """File and line, variable, or flag."""
    settings = load_settings(("--host", "h", "--profile", "nightly"), home | {"SQSTEE_LINGER": "3s"})
    path = f"{home['HOME']}/.config/sqstee.toml"
    assert settings.sources == {
        "to": f"{path}:6",
        "job": f"{path}:2",
        "linger": "SQSTEE_LINGER",
        "label": f"{path}:7",
        "host": "--host",
        "profile": "--profile",
    }


def test_an_unknown_profile_is_an_error_with_a_list_of_the_known_ones(home: dict[str, str]) -> None:
    """A mistyped name must not send lines to another destination."""
    with pytest.raises(SqsteeError, match="unknown profile 'nigthly'; did you mean 'nightly'") as caught:
        load_settings(("--profile", "nigthly"), home)
    assert caught.value.hint == "the profiles are nightly, test one"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[profile.x]\nbogus = 1\n", 2),
        ("\n[profile.x]\nlinger = 'soon'\n", 3),
        ("[profile.x]\nprofile = 'y'\n", 2),
        ("[profile.x\n", 1),
        ("[profile.x] to = 'q'\n", 1),
        ("label = [\n  'a=1',\n]\n", 1),
        ("to =\n", 1),
        ("to = ['a', 'b']\n", 1),
        ("label = {team = 'data'}\n", 1),
        ("label = [{team = 'data'}]\n", 1),
        ("label = ['a=1' 'b=2']\n", 1),
        ("label = ['a=1'] 'b=2'\n", 1),
        ('job = """nightly"""\n', 1),
        ("job = 'it's'\n", 1),
        ("to = a, b\n", 1),
    ],
)
def test_a_mistake_is_named_by_file_and_line(tmp_path: Path, text: str, line: int) -> None:
    """An error with one hint, before a command is started."""
    environ = configured(tmp_path, text)
    with pytest.raises(SqsteeError, match=rf"sqstee\.toml:{line}: ") as caught:
        load_settings(("--profile", "x"), environ)
    assert caught.value.hint


def test_text_that_may_follow_a_value(tmp_path: Path) -> None:
    """Blanks, a comment, and in an array a comma after the last value."""
    text = "to = 'q'  # 'a'\nlabel = [ 'a=1' , 'b=]' ,] # 'c'\njob = two words # one\nlinger = 2s\n"
    settings = load_settings((), configured(tmp_path, text))
    assert (settings.to, settings.label, settings.job, settings.linger) == ("q", ("a=1", "b=]"), "two words", 2.0)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """Regression: it was ignored, and the lines went to the local queue. A file in an unreadable folder is ignored."""
    environ = configured(tmp_path, "")
    found = Path(configuration_files(environ)[-1])
    found.unlink()
    found.symlink_to(found)
    assert load_settings((), environ).to == ""
    found.unlink()
    found.mkdir()
    with pytest.raises(SqsteeError, match=r"sqstee\.toml cannot be read: Is a directory") as caught:
        load_settings((), environ)
    assert caught.value.hint


def test_a_mistake_in_a_profile_that_is_not_chosen_is_ignored(tmp_path: Path) -> None:
    """Jobs of other users keep running while somebody edits the node's file."""
    assert load_settings((), configured(tmp_path, "to = 'q'\n[profile.x]\nbogus = 1\n")).to == "q"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("[agent]\n", []),
        ("[agent]\nto = []\n", []),
        ("[ 'agent' ]  # quoted\nto = \"q\"  # one\n[other]\nto = 7\n", ["q"]),
        ("[agent]\nto = ['q', \"local:/a]b\",]\n", ["q", "local:/a]b"]),
        ("[agent]\nto = [  # all\n  'q', # first\n\n  # second\n  'r'\n]\n[profile.x]\nto = 's'\n", ["q", "r"]),
    ],
)
def test_destinations_of_the_agent(tmp_path: Path, text: str, expected: list[str]) -> None:
    """A string or an array of strings, which may take several lines."""
    (tmp_path / "file").write_text(text)
    assert config_file.read_config(str(tmp_path / "file")).agent_destinations() == expected


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[agent]\nto = 7\n", 2),
        ("[agent]\nto =\n", 2),
        ("[agent]\nto = q\n", 2),
        ("[agent]\nto = [7]\n", 2),
        ("[agent]\nto = {q = 1}\n", 2),
        ("[agent]\nto = ['q'\n[other]\n", 2),
        ("[agent]\nto = ['q']\nlinger = '1s'\n", 3),
        ("[agent]\nto = 'q'\nto = 'r'\n", 3),
        ("[other]\n[agent\nto = 'q'\n", 2),
        ("[agent] to = 'q'\n", 1),
        ("[[agent]]\nto = 'q'\n", 1),
        ("[agent.more]  # tables\nto = 'r'\n", 1),
    ],
)
def test_a_mistake_in_the_agents_table_is_named(tmp_path: Path, text: str, line: int) -> None:
    """By file and line: an agent must not ship to an unintended destination."""
    (tmp_path / "file").write_text(text)
    with pytest.raises(SqsteeError, match=rf"file:{line}: ") as caught:
        config_file.read_config(str(tmp_path / "file")).agent_destinations()
    assert caught.value.hint


@pytest.mark.parametrize(
    ("table", "meant"),
    [
        ("[profil.nightly]", "[profile.NAME]"),
        ("[profiles.nightly]", "[profile.NAME]"),
        ("[Profile.nightly]", "[profile.NAME]"),
        ("[porfile.nightly]", "[profile.NAME]"),
        ("[profile]", "[profile.NAME]"),
        ("[agents]", "[agent]"),
        ("[ Agent ]", "[agent]"),
    ],
)
def test_a_mistyped_table_is_named(tmp_path: Path, table: str, meant: str) -> None:
    """Its settings did not apply, and nobody noticed."""
    with pytest.raises(SqsteeError) as caught:
        load_settings((), configured(tmp_path, f"job = 'x'\n{table}\nto = 'q'\n"))
    assert caught.value.message.endswith(f"; did you mean {meant}?")
    assert ".toml:2: unknown table [" in caught.value.message


def test_the_agents_table_is_checked_although_its_destinations_are_given(sqstee: Sqstee) -> None:
    """With --to, an unknown key of [agent] was accepted."""
    (sqstee.folder / ".config").mkdir()
    (sqstee.folder / ".config" / "sqstee.toml").write_text("[agent]\ntwo = ['q']\n")
    found = sqstee.run("agent", "--to", "local", "--once")
    assert found.returncode == 125
    assert b"sqstee.toml:2: unknown key 'two' in [agent]" in found.stderr


def test_an_invalid_value_is_reported_with_its_source_and_form(tmp_path: Path) -> None:
    """For a flag, a variable, a key in a file, and a program's argument."""
    environ = configured(tmp_path, "linger = '5x'\n")
    path = configuration_files(environ)[-1]
    variable = {"SQSTEE_LINGER": "5x"}
    expected = "(expected a time such as 10s, 5m, 1h)"
    calls: list[tuple[str, str, Callable[[], object]]] = [
        (f"{path}:1: invalid value '5x' for linger", 'linger = "TIME"', lambda: load_settings((), environ)),
        ("invalid value '5x' for --linger", "--linger TIME", lambda: load_settings(("--linger=5x",), {})),
        ("invalid value '5x' for SQSTEE_LINGER", "SQSTEE_LINGER=TIME", lambda: load_settings((), variable)),
        ("invalid value '5x' for linger", "linger='TIME'", lambda: settings_from({"linger": "5x"}, {})),
    ]
    for message, hint, call in calls:
        with pytest.raises(SqsteeError) as caught:
            call()
        assert (caught.value.message, caught.value.hint) == (f"{message} {expected}", f"the form is {hint}")
        assert str(caught.value).startswith(f"sqstee: {message}")


def test_an_unknown_key_gets_a_suggestion(tmp_path: Path) -> None:
    """The nearest known key, as for options and verbs."""
    with pytest.raises(SqsteeError, match=r":1: unknown key 'flush_timout'; did you mean 'flush-timeout'\?\n"):
        load_settings((), configured(tmp_path, "flush_timout = '5s'\n"))


@pytest.mark.parametrize("row", auto_labels.TABLE, ids=lambda row: str(row[0]))
def test_every_row_of_the_table_becomes_a_label(row: tuple[str, str, str, str]) -> None:
    """If its variable is set, and the second variable that the row needs."""
    label, variable, also, _ = row
    environ = {variable: "77", "TERM": "dumb"}
    assert auto_labels.labels(environ | {also: "x"} if also else environ) == {label: "77"}
    if also:
        assert auto_labels.labels(environ) == {}


def test_a_task_of_an_array_has_the_arrays_own_number() -> None:
    """Each task has a job id of its own; sbatch, squeue and scancel show that of the array."""
    environ = {"SLURM_JOB_ID": "4713", "SLURM_ARRAY_JOB_ID": "4711", "SLURM_ARRAY_TASK_ID": "2"}
    expected = {"slurm_job_id": "4713", "slurm_array_job_id": "4711", "slurm_array_task_id": "2"}
    assert auto_labels.labels(environ) == expected


def test_given_labels_win_and_automatic_ones_can_be_switched_off(home: dict[str, str]) -> None:
    """--label wins over the environment; --no-auto-labels."""
    environ = home | {"SLURM_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "3", "SGE_ROOT": "/", "SGE_TASK_ID": "undefined"}
    assert load_settings((), environ).labels == {"slurm_job_id": "12", "slurm_array_task_id": "3"}
    words = ("--label", "slurm_job_id=mine")
    assert load_settings(words, environ).labels == {"slurm_job_id": "mine", "slurm_array_task_id": "3"}
    assert load_settings(("--no-auto-labels",), environ).labels == {}
    assert load_settings((), environ | {"SQSTEE_AUTO_LABELS": "false"}).labels == {}


def test_cron_is_known_by_its_daemons_name(tmp_path: Path) -> None:
    """A program called cron starts a shell, which starts this process without a terminal."""
    cron = tmp_path / "cron"
    cron.symlink_to(sys.executable)
    code = "from sqstee.auto_labels import labels; print(labels(dict(HOME=str())))"
    inner = f"import os; os.system(\"'{sys.executable}' -c '{code}'; :\")"
    environ = os.environ | {"PYTHONPATH": str(Path(auto_labels.__file__).parent.parent)}
    found = subprocess.run([cron, "-S", "-c", inner], capture_output=True, text=True, check=True, env=environ)
    assert found.stdout == "{'started_by': 'cron'}\n"
    assert auto_labels.started_by(["bash", "CROND"]) == "cron"
    assert auto_labels.started_by(["bash", "sshd"]) == ""


def test_lines_carry_automatic_labels(sqstee: Sqstee) -> None:
    """End to end."""
    assert sqstee.run("--", "echo", "hi", environ={"SLURM_JOB_ID": "5", "TERM": "dumb"}).returncode == 0
    assert {item.labels["slurm_job_id"] for item in sqstee.local().items} == {"5"}


LOCAL = ("--to", "local")


@pytest.mark.parametrize("option", ["--flush-timeout", "--linger"])
def test_very_long_times(sqstee: Sqstee, option: str) -> None:
    """Milliseconds beyond an int ended the shipper."""
    found = sqstee.run(*LOCAL, option, "1000h", "--", "seq", "5")
    assert found.stderr == b""
    assert sqstee.local().stdout == b"1\n2\n3\n4\n5\n"


def test_a_host_that_no_attribute_can_hold(sqstee: Sqstee, tmp_path: Path) -> None:
    """A control character in --host made every message of the run be refused."""
    for name in ("a\tb", "\ufffe", "x" * 300, ""):
        found = sqstee.run(*LOCAL, "--host", name, "--", "touch", str(tmp_path / "ran"))
        assert found.returncode == 125
        assert found.stderr.startswith(b"sqstee: invalid value ")
        assert b" for --host (expected " in found.stderr
    assert not (tmp_path / "ran").exists()


def test_rows_of_another_programs_array_stop_no_command(sqstee: Sqstee) -> None:
    """A row that holds the word agent is no header."""
    (sqstee.folder / ".config").mkdir()
    (sqstee.folder / ".config" / "sqstee.toml").write_text('[tool]\nrows = [\n ["agent"],\n]\n')
    found = sqstee.run("--to", "local", "--", "echo", "ran")
    assert (found.stdout, found.returncode) == (b"ran\n", 0)
