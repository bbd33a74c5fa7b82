"""`sqstee run` without a command: what is missing."""

from __future__ import annotations

import typer

from sqstee.errors import SqsteeError


def explain(words: list[str] = typer.Argument(None, hidden=True)) -> None:
    """Wrap a command (as `sqstee [OPTIONS] -- COMMAND`)."""
    raise SqsteeError("no -- before the command", "the form is: sqstee run [OPTIONS] -- COMMAND [ARG…]")
