"""The verbs' command line: typer's tree, and the one place where their errors are printed."""

from __future__ import annotations

import os
import sys

import typer

from sqstee.cli import agent, check, demo, drain, flush, measure, serve, stat, tail, top, wrap
from sqstee.errors import EXIT_INTERRUPTED, SqsteeError

app = typer.Typer(
    name="sqstee",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("run", add_help_option=False, context_settings={"ignore_unknown_options": True})(wrap.explain)
app.command("tail")(tail.tail)
app.command("drain")(drain.drain)
app.command("top")(top.top)
app.command("stat")(stat.stat)
app.command("check")(check.check)
app.command("flush")(flush.flush)
app.command("agent")(agent.agent)
app.command("measure")(measure.measure)
app.command("serve")(serve.serve)
app.command("demo", context_settings={"allow_interspersed_args": False})(demo.demo)


@app.callback(invoke_without_command=True)
def _root(
    version: bool = typer.Option(False, "--version", help="Show the version."),
    verbose: bool = typer.Option(False, "--verbose", help="With --version: what a bug report should say."),
) -> None:
    if version:
        from sqstee.cli.version import lines

        for line in lines(verbose):
            typer.echo(line)
        raise typer.Exit


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
