"""`sqstee flush`: ship what earlier runs left in the spool."""

from __future__ import annotations

import os

import typer

from sqstee.errors import EXIT_FAILURE


def flush(
    listing: bool = typer.Option(False, "--list", help="Show what waits, and what was put aside; ship nothing."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Say what would be shipped, and where; ship nothing."),
    timeout: str = typer.Option("60s", "--timeout", metavar="TIME", help="The time for each run."),
    spool: str = typer.Option("", "--spool", metavar="DIR", help="The spool folder (default: as for run)."),
) -> int:
    """Ship what earlier runs left in the spool. The status is 0 when nothing is left."""
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
    runs = work.waiting_runs(root)
    if listing or dry_run:
        return _show(root, runs, dry_run)
    left = 0
    for run in runs:
        result = work.flush(root, run, seconds)
        if result.busy:
            typer.echo(f"{run}: being shipped by another process")
        elif result.complete:
            typer.echo(f"{run}: shipped to {result.destination}" if result.destination else f"{run}: gone meanwhile")
        else:
            left += 1
            typer.echo(f"{run}: stays in the spool: {result.reason}")
    return EXIT_FAILURE if left else 0


def _show(root: str, runs: list[str], dry_run: bool) -> int:
    from sqstee.run.flush import Waiting
    from sqstee.run.source import QUARANTINE

    for run in runs:
        found = Waiting(root, run)
        what = found.problem or f"{found.records} records ({found.bytes} bytes on disk) for {found.destination}"
        name = f" of {found.job}" if found.job else ""
        if found.alive:
            typer.echo(f"{run}{name}: running, {what}")
        else:
            typer.echo(f"{run}{name}: {'would ship ' if dry_run else ''}{what}")
    folder = f"{root}/{QUARANTINE}"
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
        size = os.path.getsize(f"{folder}/{name}")
        typer.echo(f"{folder}/{name}: {size} bytes that no message can hold, put aside")
    return EXIT_FAILURE if runs else 0
