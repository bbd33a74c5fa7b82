"""`sqstee flush`: ship what earlier runs left in the spool."""

from __future__ import annotations

import os

import typer

from sqstee.errors import EXIT_FAILURE


def flush(
    timeout: str = typer.Option("60s", "--timeout", metavar="TIME", help="The time for each run."),
    spool: str = typer.Option("", "--spool", metavar="DIR", help="The spool folder (default: as for run)."),
) -> int:
    """Ship what earlier runs left in the spool."""
    from sqstee import options
    from sqstee.errors import SqsteeError
    from sqstee.run import flush as work
    from sqstee.run.spool import default_root

    settings = options.load((), os.environ)
    try:
        seconds = options.duration(timeout)
    except ValueError as error:
        raise SqsteeError(f"--timeout: {timeout!r} is not right: {error}", "the form is --timeout TIME") from None
    root = os.path.abspath(spool or settings.spool or default_root())
    left = 0
    for run in work.waiting_runs(root):
        result = work.flush(root, run, seconds)
        if result is None:
            typer.echo(f"{run}: being shipped by another process")
        elif result.complete:
            typer.echo(f"{run}: shipped to {result.destination}")
        else:
            left += 1
            typer.echo(f"{run}: stays in the spool: {result.reason}")
    return EXIT_FAILURE if left else 0
