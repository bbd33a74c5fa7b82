"""Typer's tree of the verbs, with those that have no module: `run` without a command, `help`, and no verb at all."""

from __future__ import annotations

import typer

from sqstee.cli import agent, alert, check, demo, drain, flush, manual, measure, runs, serve, show, stat, tail, top, web
from sqstee.errors import SqsteeError

app = typer.Typer(
    name="sqstee",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command("run", add_help_option=False, context_settings={"ignore_unknown_options": True})
def _run(words: list[str] = typer.Argument(None, hidden=True)) -> None:
    """Wrap a command (as `sqstee [OPTIONS] -- COMMAND`)."""
    raise SqsteeError("no -- before the command", "the form is: sqstee run [OPTIONS] -- COMMAND [ARG…]")


app.command("tail")(tail.tail)
app.command("runs")(runs.runs)
app.command("show")(show.show)
app.command("drain")(drain.drain)
app.command("top")(top.top)
app.command("alert")(alert.alert)
app.command("stat")(stat.stat)
app.command("check")(check.check)
app.command("flush")(flush.flush)
app.command("agent")(agent.agent)
app.command("measure")(measure.measure)
app.command("serve")(serve.serve)
app.command("web")(web.web)
app.command("demo", context_settings={"allow_interspersed_args": False})(demo.demo)
app.command("man")(manual.man)
app.command("completion")(manual.completion)


@app.command("help")
def _help(verb: str = typer.Argument("", metavar="[VERB]", help="The verb (default: an overview of all).")) -> None:
    """Show the options of a verb, as `sqstee VERB --help` does."""
    raise SqsteeError("too many words", "the form is: sqstee help [VERB]")  # app answers, which has this tree


@app.callback(invoke_without_command=True)
def _root(
    version: bool = typer.Option(False, "-V", "--version", help="Show the version."),
    verbose: bool = typer.Option(False, "--verbose", help="With --version: details for a bug report."),
) -> None:
    if version:
        from sqstee.cli.version import lines

        for line in lines(verbose):
            typer.echo(line)
        raise typer.Exit
