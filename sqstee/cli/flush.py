"""`sqstee flush`: ship what earlier runs left in the spool."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from sqstee.errors import EXIT_FAILURE, EXIT_INTERRUPTED
from sqstee.text import count, one_line

if TYPE_CHECKING:
    from sqstee.spool.waiting import WaitingRun

_PROGRESS_SECONDS = 0.1


def flush(
    listing: bool = typer.Option(False, "--list", help="Show waiting runs and quarantined records; ship nothing."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Show what would be shipped, and where; ship nothing."),
    timeout: str = typer.Option("60s", "--timeout", metavar="TIME", help="Time limit for each run."),
    spool: str = typer.Option("", "--spool", metavar="DIR", help="The spool folder (default: as for run)."),
    quiet: bool = typer.Option(False, "--quiet", "-q", help="Report only runs that stay in the spool, and why."),
) -> int:
    """Ship what earlier runs left in the spool.

    Status: 0 nothing is left except runs that are still running; 1 something is left.
    """
    from sqstee import options
    from sqstee.ship import flush as work
    from sqstee.spool.location import root_path
    from sqstee.spool.waiting import waiting_runs

    settings = options.load((), os.environ)
    seconds = options.seconds_of(timeout, "--timeout")
    root = root_path(spool or settings.spool)
    runs = waiting_runs(root)
    if listing or dry_run:
        return _show(root, runs, dry_run)
    os.umask(0o077)
    try:
        left = [run for run in runs if not _ship(root, run, seconds, quiet)]
        for destination in work.report_diverted(root):
            if not quiet:
                typer.echo(f"{destination}: sent gap events for the lines at its fallback")
    except KeyboardInterrupt:
        rest = waiting_runs(root)
        records = sum(found.records for run in rest if (found := _waiting(root, run)))
        left_over = f"{count(records, 'record')} of {count(len(rest), 'run')} stay in {root}"
        typer.echo(f"sqstee: interrupted: {left_over}; to continue: `sqstee flush`", err=True)
        return EXIT_INTERRUPTED
    return EXIT_FAILURE if left else 0


def _ship(root: str, run: str, seconds: float, quiet: bool) -> bool:
    """Ship one run and report the result, leftovers on stderr. Whether nothing is left of it that we have to ship."""
    from sqstee.ship import flush as work
    from sqstee.spool.quarantine import quarantine_notice

    with _progress(root, run):
        result = work.flush_run(root, run, seconds)
    if result.quarantined:
        typer.echo(f"{run}: {quarantine_notice(count(result.quarantined, 'record'), root)}", err=True)
    if result.complete:
        if not quiet:
            typer.echo(f"{run}: shipped to {result.destination}" if result.destination else f"{run}: already shipped")
        return True
    found = _waiting(root, run)
    if result.busy and (found is None or found.alive):
        if not quiet:
            typer.echo(f"{run}: running, ships its own lines")
        return True
    reason = one_line("another process is shipping it" if result.busy else result.reason)
    records = count(found.records, "record") if found and not found.problem else "everything"
    where = f" for {result.destination}" if result.destination else ""
    typer.echo(f"{run}: stays in the spool, {records}{where}: {reason}; fix that, then run: sqstee flush", err=True)
    return False


def _waiting(root: str, run: str) -> WaitingRun | None:
    """The waiting records of a run; None if another process has just shipped it."""
    from sqstee.spool.waiting import WaitingRun

    try:
        return WaitingRun(root, run)
    except OSError:
        return None


@contextmanager
def _progress(root: str, run: str) -> Iterator[None]:
    """On a terminal: a progress bar of a run, read from the checkpoint that its shipper keeps."""
    found = _waiting(root, run) if sys.stderr.isatty() else None
    if found is None or found.problem:
        yield
        return
    import threading

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn

    from sqstee.cli.progress import NARROW_BELOW
    from sqstee.spool.checkpoint import Checkpoint

    folder, ended = f"{root}/{run}", threading.Event()
    start, total = Checkpoint(folder).next, found.records
    console = Console(stderr=True)
    columns: list[ProgressColumn] = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()]
    columns.append(TimeRemainingColumn())
    if console.width < NARROW_BELOW:
        columns[1:] = [TextColumn("{task.percentage:>3.0f}%")]

    def watch() -> None:
        while not ended.wait(_PROGRESS_SECONDS):
            progress.update(task, completed=max(0, Checkpoint(folder).next - start) if os.path.isdir(folder) else total)

    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(run, total=total)
        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()


def _show(root: str, runs: list[str], dry_run: bool) -> int:
    from sqstee.spool.quarantine import QUARANTINE
    from sqstee.spool.waiting import WaitingRun

    left = False
    for run in runs:
        try:
            found = WaitingRun(root, run)
        except FileNotFoundError:
            continue  # another process has shipped it
        left = True
        waiting = found.problem or f"{found.records} records ({found.bytes} bytes on disk) for {found.destination}"
        name = f" of {found.job}" if found.job else ""
        state = "running, " if found.alive else "would ship " if dry_run else ""
        typer.echo(f"{run}{name}: {state}{waiting}")
    folder = f"{root}/{QUARANTINE}"
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
        size = os.path.getsize(f"{folder}/{name}")
        typer.echo(f"{folder}/{name}: {size} bytes in quarantine")
    return EXIT_FAILURE if left else 0
