"""`sqstee run --help`: the options of the wrapping command line, from their one table."""

from __future__ import annotations

import textwrap

import typer

from sqstee.errors import SqsteeError
from sqstee.options import RUN_OPTIONS

_TEXT = """Usage: sqstee [run] [OPTIONS] -- COMMAND [ARG…]

  Runs COMMAND, passes its stdout and stderr through byte for byte, and ships every line in the background.
  The exit status is COMMAND's own.

Options (each is also SQSTEE_NAME in the environment and `name = …` in a configuration file):
"""


def explain(words: list[str] = typer.Argument(None, hidden=True)) -> None:
    """Wrap a command (as `sqstee [OPTIONS] -- COMMAND`)."""
    if words and not set(words) & {"-h", "--help"}:
        raise SqsteeError("no -- before the command", "the form is: sqstee run [OPTIONS] -- COMMAND [ARG…]")
    typer.echo(_TEXT + "\n".join(_rows()))


def _rows() -> list[str]:
    rows = []
    for option in RUN_OPTIONS:
        left = f"  {option.shown} {option.metavar}".rstrip()
        help_lines = textwrap.wrap(option.help, 76)
        if len(left) > 32:
            rows.append(left)
            left = ""
        rows.append(f"{left:34}{help_lines[0]}")
        rows.extend(f"{'':34}{line}" for line in help_lines[1:])
    return rows
