"""The program as documents describe it: verbs and options from typer's tree and the one table, exit statuses."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import typer.main

from sqstee import errors
from sqstee.cli.app import app
from sqstee.options import RUN_OPTIONS, Option

ROOT = Path(__file__).parent.parent


class Flag:
    """One option of a verb: all its spellings, the value that it takes ('' for none), and what it does."""

    def __init__(self, names: list[str], metavar: str, help: str, repeat: bool = False) -> None:
        self.names = names
        self.metavar = metavar
        self.help = help
        self.repeat = repeat

    @property
    def choices(self) -> list[str]:
        """The words that it takes, where its value is one of a few."""
        return self.metavar.split("|") if "|" in self.metavar else []


class Verb:
    """One verb: what it does, its positional arguments as shown, and its options in the order of its help."""

    def __init__(self, name: str, help: str, arguments: list[str], flags: list[Flag]) -> None:
        self.name = name
        self.help = help
        self.arguments = arguments
        self.flags = flags

    @property
    def summary(self) -> str:
        """The first sentence, without its full stop."""
        return self.help.partition("\n")[0].partition(". ")[0].rstrip(".")


def run_flag(option: Option) -> Flag:
    """An option of `run` from its table."""
    return Flag([option.shown], option.metavar, option.help, option.repeat)


def verbs() -> list[Verb]:
    """All verbs, in the order of the help."""
    commands: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]  # a group's own
    found = [_verb(name, command) for name, command in commands.items() if not command.hidden]
    return sorted(found, key=lambda verb: verb.name != "run")


def _verb(name: str, command: Any) -> Verb:
    if name == "run":
        return Verb(name, command.help, ["-- COMMAND [ARG…]"], [*map(run_flag, RUN_OPTIONS), HELP])
    shown = [one for one in command.params if not getattr(one, "hidden", False)]
    arguments = [_argument(one) for one in shown if one.param_type_name == "argument"]
    flags = [_flag(one) for one in shown if one.param_type_name == "option"]
    return Verb(name, " ".join(command.help.split()), arguments, [*flags, HELP])


def _argument(parameter: Any) -> str:
    text = (parameter.metavar or parameter.name.upper()).strip("[]")
    text += "…" if parameter.nargs == -1 and "…" not in text else ""
    return text if parameter.required else f"[{text}]"


def _flag(parameter: Any) -> Flag:
    switch = bool(parameter.is_flag)
    metavar = "" if switch else parameter.metavar or str(parameter.type.name).upper()
    return Flag([*parameter.opts, *parameter.secondary_opts], metavar, parameter.help or "", parameter.multiple)


HELP = Flag(["-h", "--help"], "", "Show what there is to choose from.")


def exit_statuses() -> list[tuple[int, str]]:
    """The program's own exit statuses, each with the comment behind its constant, which says what it means."""
    found = []
    for name, comment in re.findall(r"^(EXIT_\w+) = \d+  # (.+)$", Path(errors.__file__).read_text(), re.MULTILINE):
        found.append((int(getattr(errors, name)), comment))
    return sorted(found)
