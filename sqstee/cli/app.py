"""The verbs' command line, and the one place where their errors are printed."""

from __future__ import annotations

import os
import sys

import typer

from sqstee.cli.tree import app
from sqstee.errors import EXIT_INTERRUPTED, SqsteeError


def _help(word: str) -> int:
    from sqstee.cli import help

    width = help.columns()
    verb = next((verb for verb in help.verbs() if verb.name == word), None)
    typer.echo(help.of_verb(verb, width) if verb else help.root(width))
    return 0


def main(words: list[str]) -> int:
    """Run a verb: its exit status."""
    if set(words[: words.index("--") if "--" in words else None]) & {"-h", "--help"}:
        return _help(words[0])
    try:
        return int(app(words, prog_name="sqstee", standalone_mode=False) or 0)
    except SqsteeError:
        raise
    except typer.Abort:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        # typer vendors its parser since 0.26: a usage error is known by what it can do, not by its class
        explain = getattr(error, "format_message", None)
        if explain is None:
            raise
        verb = words[0] if words and not words[0].startswith("-") else ""
        message = " ".join(str(explain()).split()).rstrip(".")
        raise SqsteeError(message, f"see: sqstee {verb} --help".replace("  ", " ")) from None
