"""The verbs with their arguments and options, from typer's tree and the table of `run` options, and their `--help`.

The help is laid out here, for any width down to 40 columns: below 60 an option stands above its text.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator
from typing import Any

from sqstee.options import RUN_OPTIONS, Option

_STACKED_BELOW = 60
_COLUMN = 34  # of an option's text
# In the order that people need them; other verbs come last.
_ORDER = "run runs show tail web drain top alert stat flush check agent serve measure demo".split()  # noqa: SIM905
_ORDER += ["help", "man", "completion"]

_USAGE = ["sqstee [OPTIONS] -- COMMAND [ARG…]", "sqstee VERB [OPTIONS] [ARG…]"]
_ABOUT = "Runs COMMAND, passes its output through, and ships every line to Amazon SQS."
_MORE = "Options: sqstee run --help, sqstee VERB --help. Manual: sqstee man [PAGE]."
_RUN = (
    "Runs COMMAND, passes its stdout and stderr through byte for byte, and ships every line in the background. "
    "The exit status is COMMAND's own."
)
_RUN_MORE = (
    "Each option is also a variable, SQSTEE_NAME, and a key of /etc/sqstee.toml and ~/.config/sqstee.toml. An option "
    "wins over a variable, and a variable over the files."
)


class Flag:
    """One option of a verb: all its spellings, its value's metavar ('' for a switch), and its help."""

    def __init__(self, names: list[str], metavar: str, help: str, repeat: bool = False) -> None:
        self.names = names
        self.metavar = metavar
        self.help = help
        self.repeat = repeat

    @property
    def choices(self) -> list[str]:
        """The accepted words, if the value is one of a few."""
        words = self.metavar.split("|") if "|" in self.metavar else []
        return [word for word in words if word.islower() or not word.isalpha()]

    @property
    def shown(self) -> str:
        """The option as the help shows it."""
        return f"{', '.join(self.names)} {self.metavar}".rstrip()


class Argument:
    """A positional argument: its form in the usage, and its help."""

    def __init__(self, shown: str, help: str) -> None:
        self.shown = shown
        self.help = help


class Verb:
    """One verb: its help, its positional arguments, and its options in the order of the help."""

    def __init__(self, name: str, help: str, arguments: list[Argument], flags: list[Flag]) -> None:
        self.name = name
        self.help = help
        self.arguments = arguments
        self.flags = flags

    @property
    def summary(self) -> str:
        """The first sentence, without its full stop."""
        return " ".join(self.help.partition("\n\n")[0].split()).partition(". ")[0].rstrip(".")


HELP = Flag(["-h", "--help"], "", "Show this help.")


def verbs() -> list[Verb]:
    """All verbs, in the order of the help."""
    import typer.main

    from sqstee.cli.tree import app

    commands: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]  # a group's own
    found = [_verb(name, command) for name, command in commands.items() if not command.hidden]
    return sorted(found, key=lambda verb: _ORDER.index(verb.name) if verb.name in _ORDER else len(_ORDER))


def _verb(name: str, command: Any) -> Verb:
    if name == "run":
        flags = [_run_flag(option) for option in RUN_OPTIONS]
        return Verb(name, command.help, [Argument("-- COMMAND [ARG…]", "")], [*flags, HELP])
    shown = [one for one in command.params if not getattr(one, "hidden", False)]
    arguments = [_argument(one) for one in shown if one.param_type_name == "argument"]
    flags = [_flag(one) for one in shown if one.param_type_name == "option"]
    return Verb(name, command.help or "", arguments, [*flags, HELP])


def _run_flag(option: Option) -> Flag:
    return Flag([option.shown], option.metavar, option.help, option.repeat)


def _argument(parameter: Any) -> Argument:
    text = parameter.metavar or parameter.name.upper()
    text += "…" if parameter.nargs == -1 and "…" not in text else ""
    shown = text if parameter.required or "[" in text else f"[{text}]"
    return Argument(shown, getattr(parameter, "help", "") or "")


def _flag(parameter: Any) -> Flag:
    metavar = "" if parameter.is_flag else parameter.metavar or _kind_of(parameter.default)
    names = [*parameter.opts, *parameter.secondary_opts]
    return Flag(names, metavar, _with_default(parameter), parameter.multiple)


def _kind_of(default: object) -> str:
    """The metavar of an option without one of its own."""
    return "NUMBER" if isinstance(default, int | float) else "TEXT"


def _with_default(parameter: Any) -> str:
    text, default = parameter.help or "", parameter.default
    if not isinstance(default, str | int | float) or isinstance(default, bool) or default == "" or "default" in text:
        return text
    return f"{text.rstrip('.')} (default: {default if isinstance(default, str) else format(default, 'g')})."


def root(width: int) -> str:
    """`sqstee --help`."""
    lines = [*_usage(_USAGE, width), "", *_wrapped(_ABOUT, width), ""]
    names = [verb for verb in verbs() if verb.name != "run"]
    left = max(len(verb.name) for verb in names) + 4
    for verb in names:
        summary = verb.summary
        if width >= _STACKED_BELOW:  # one line per verb: all fit on one screen
            summary = _shortened(summary, width - left)
        row = _wrap(summary, width, f"  {verb.name}".ljust(left), " " * left)
        lines += row or [f"  {verb.name}"]  # under python -OO there are no docstrings
    return "\n".join([*lines, "", *_wrapped(_MORE, width)])


def _shortened(text: str, width: int) -> str:
    """As many whole clauses as fit; if the first is too long already, as many words."""
    ends = [found.start() for found in re.finditer(r"[:;,] ", text) if found.start() <= width]
    if len(text) <= width or not ends:
        return textwrap.shorten(text, width, placeholder="…")
    return text[: ends[-1]]


def of_verb(verb: Verb, width: int) -> str:
    """`sqstee VERB --help`."""
    if verb.name == "run":
        usage, texts = "sqstee [run] [OPTIONS] -- COMMAND [ARG…]", [_RUN, _RUN_MORE]
    else:
        usage = " ".join(["sqstee", verb.name, "[OPTIONS]", *(one.shown for one in verb.arguments)])
        texts = verb.help.split("\n\n")
    lines = _usage([usage], width)
    for text in texts:
        lines += ["", *_wrapped(text, width)]
    rows = [(one.shown, one.help) for one in verb.arguments if one.help]
    if rows:
        lines += ["", "Arguments:", *_table(rows, width)]
    return "\n".join([*lines, "", "Options:", *_table([(flag.shown, flag.help) for flag in verb.flags], width)])


def _usage(forms: list[str], width: int) -> list[str]:
    lines = []
    for number, form in enumerate(forms):
        head = "       " if number else "Usage: "
        lines += _wrap(form, width, head, "         ")
    return lines


def _wrapped(text: str, width: int) -> list[str]:
    return _wrap(" ".join(text.split()), width, "  ", "  ")


def _wrap(text: str, width: int, first: str, others: str) -> list[str]:
    return textwrap.wrap(text, width, initial_indent=first, subsequent_indent=others, break_on_hyphens=False)


def _table(rows: Iterable[tuple[str, str]], width: int) -> Iterator[str]:
    stacked = width < _STACKED_BELOW
    indent = " " * (6 if stacked else _COLUMN)
    for left, text in rows:
        lines = _wrap(text, width, indent, indent)
        head = f"  {left}"
        if stacked or len(head) > _COLUMN - 2:
            yield from _wrap(left, width, "  ", "    ") if stacked else [head]
        elif lines:
            lines[0] = head.ljust(_COLUMN) + lines[0].lstrip()
        else:
            lines = [head]
        yield from lines
