"""`sqstee flush`: ship lines that earlier runs left in the spool."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from sqstee.errors import EXIT_FAILURE, EXIT_INTERRUPTED
from sqstee.text import count, one_line, short_name

if TYPE_CHECKING:
    from sqstee.agent.agent import Agent
    from sqstee.settings import Settings
    from sqstee.spool.waiting import WaitingRun

_PROGRESS_SECONDS = 0.1


def flush(
    listing: bool = typer.Option(False, "--list", help="Show waiting runs and quarantined records; ship nothing."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Show which runs would be shipped, and where; ship nothing."),
    timeout: str = typer.Option("60s", "--timeout", metavar="TIME", help="Time limit for all of them."),
    spool: str = typer.Option("", "--spool", metavar="DIR", help="The spool folder (default: as for run)."),
    quiet: bool = typer.Option(False, "--quiet", "-q", help="Report only runs that stay in the spool, and why."),
) -> int:
    """Ship lines that earlier runs left in the spool.

    Status: 0 nothing is left except runs that are still running; 1 something is left.
    """
    from sqstee.option_values import seconds_of
    from sqstee.settings import load_settings
    from sqstee.spool.location import existing_roots
    from sqstee.spool.waiting import waiting_runs

    settings = load_settings((), os.environ)
    deadline = time.monotonic() + seconds_of(timeout, "--timeout")
    roots = existing_roots(spool or settings.spool)
    if listing or dry_run:
        shown = [_show(root, waiting_runs(root), dry_run) for root in roots]
        return EXIT_FAILURE if any(shown) else 0
    os.umask(0o077)
    left = False
    for root in roots:
        try:
            runs = waiting_runs(root)
            seconds = max(0.0, deadline - time.monotonic())
            left = bool(runs and not _ship(root, runs, seconds, quiet, settings)) or left
            for destination in _report_diverted(root):
                if not quiet:
                    typer.echo(f"{destination}: sent gap events for the lines at its fallback")
        except KeyboardInterrupt:
            rest = waiting_runs(root)
            records = sum(found.records for run in rest if (found := _waiting(root, run)))
            left_over = f"{count(records, 'record')} of {count(len(rest), 'run')} stay in {root}"
            typer.echo(f"sqstee: interrupted: {left_over}; to continue: `sqstee flush`", err=True)
            return EXIT_INTERRUPTED
    return EXIT_FAILURE if left else 0


def _ship(root: str, runs: list[str], seconds: float, quiet: bool, settings: Settings) -> bool:
    """Ship runs and report the results, leftovers on stderr. Whether nothing is left of them that we have to ship."""
    from sqstee.agent.agent import Agent
    from sqstee.agent.config import AgentConfig
    from sqstee.agent.flush import ship_all
    from sqstee.spool.quarantine import quarantine_notice, quarantined_records
    from sqstee.spool.run_folder import DeliveryTrouble

    before = {run: quarantined_records(f"{root}/{run}") for run in runs}
    agent = Agent(os.path.realpath(root), AgentConfig(None, settings))
    with _progress(root, runs, agent):
        left = ship_all(agent, seconds)
    complete = True
    for run in runs:
        if records := quarantined_records(f"{root}/{run}") - before[run]:
            typer.echo(f"{run}: {quarantine_notice(count(records, 'record'), root)}", err=True)
        found = None if run in agent.delivered else _waiting(root, run)
        if found is None:
            to = agent.delivered.get(run)
            line = f"{run}: shipped to {to}" if to else f"{run}: already shipped"
        elif found.alive and run not in left:
            line = f"{run}: running, ships its own lines"
        else:
            complete = False
            reason = left.get(run) or DeliveryTrouble.read(f"{root}/{run}").reason or "another process is shipping it"
            _report_left(found, reason)
            continue
        if not quiet:
            typer.echo(line)
    return complete


def _report_diverted(root: str) -> list[str]:
    """Report to primary destinations which lines went to their fallbacks; returns the destinations that were notified.

    A destination that cannot be reached is notified by a later flush, and a live process reports its own lines. Either
    can wait, since the lines themselves are delivered.
    """
    from sqstee.destination import parse
    from sqstee.spool.location import local_queue
    from sqstee.transports.factory import open_sender
    from sqstee.transports.fallback import FallbackSender
    from sqstee.transports.fallback_ledger import unreported_pairs

    notified = []
    for pair in unreported_pairs(root):
        try:
            to = parse(pair["to"])
            sender = open_sender(
                to,
                local_queue(root),
                0,
                token_file=pair["token_file"],
                via_s3=pair["via_s3"],
                group=pair["group"],
                fallback=(pair["fallback"],),
            )
            if isinstance(sender, FallbackSender) and sender.report_diverted():
                notified.append(to.text)
        except Exception:  # the destination cannot be reached, or the ledger is damaged or from another version
            pass
    return notified


def _report_left(found: WaitingRun, reason: str) -> None:
    what = "everything" if found.problem else count(found.records, "record")
    if found.destination and not found.problem:
        what += f" for {found.destination}"
    why = f"{one_line(reason)}; fix that, then run: sqstee flush"
    typer.echo(f"{found.run}: stays in the spool, {what}: {why}", err=True)


def _waiting(root: str, run: str) -> WaitingRun | None:
    """The waiting records of a run; None if another process has just shipped it."""
    from sqstee.spool.waiting import WaitingRun

    try:
        return WaitingRun(root, run)
    except FileNotFoundError:
        return None


@contextmanager
def _progress(root: str, runs: list[str], agent: Agent) -> Iterator[None]:
    """On a terminal: a progress bar of the records that are accepted."""
    waiting = [found for run in runs if (found := _waiting(root, run)) and not found.problem]
    if not waiting or not sys.stderr.isatty():
        yield
        return
    import threading

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn

    from sqstee.cli.progress import NARROW_BELOW

    ended = threading.Event()
    console = Console(stderr=True)
    columns: list[ProgressColumn] = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()]
    columns.append(TimeRemainingColumn())
    if console.width < NARROW_BELOW:
        columns[1:] = [TextColumn("{task.percentage:>3.0f}%")]

    def watch() -> None:
        while not ended.wait(_PROGRESS_SECONDS):
            progress.update(task, completed=agent.acknowledged)

    with Progress(*columns, console=console, transient=True) as progress:
        name = short_name(waiting[0].name) or waiting[0].run if len(waiting) == 1 else count(len(waiting), "run")
        task = progress.add_task(name, total=sum(found.records for found in waiting))
        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()


def _show(root: str, runs: list[str], dry_run: bool) -> bool:
    """Show the runs of a spool folder; returns whether there are any."""
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
        name = f" of {short_name(found.job)}" if found.job else ""
        plan = "stays in the spool: " if found.problem else "would ship "
        state = "running, " if found.alive else plan if dry_run else ""
        typer.echo(f"{run}{name}: {state}{waiting}")
    folder = f"{root}/{QUARANTINE}"
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
        size = os.path.getsize(f"{folder}/{name}")
        typer.echo(f"{folder}/{name}: {size} bytes in quarantine")
    return left
