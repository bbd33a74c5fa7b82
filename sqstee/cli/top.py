"""`sqstee top`: a live table of runs."""

from __future__ import annotations

import shutil
import signal
import sys
import time
from typing import TYPE_CHECKING

import typer

from sqstee.text import count, short_name

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live
    from rich.text import Text

    from sqstee.cli.sources import Sources
    from sqstee.read.follower import Follower
    from sqstee.read.run_table import RunState, RunTable
    from sqstee.read.stop_signal import StopSignal

_REDRAW_SECONDS = 0.25
_REST = 9  # times as long as a drawing takes no other begins: very many runs take a tenth of the time at most
_REPRINT_SECONDS = 2.0
_PEEK_VISIBILITY = 120  # seconds
_COLUMNS = {"stdout": 66, "stderr": 66, "lines/s": 100, "missing": 50}  # with the least width that shows each
_PLAIN_WIDTH = 160  # where stdout is no terminal and COLUMNS is not set
_LAST_LINE = 80  # the least width that shows the last line
_STYLES = {"failed": "red", "missing": "magenta", "silent": "yellow", "gone": "red", "running": "cyan", "ok": "green"}


def top(
    dest: list[str] = typer.Argument(None, metavar="[DEST]…", help="Where to read (default: as --to of run)."),
    consume: bool = typer.Option(False, "--consume", help="Delete each message once its lines are counted."),
    peek: bool = typer.Option(False, "--peek", help="Read the queue once; release every message at the end."),
    follow: bool = typer.Option(True, "--follow/--no-follow", help="Update the table, or show it once and stop."),
    silent: str = typer.Option("60s", "--silent", metavar="TIME", help="A job without lines for this long is silent."),
    via_s3: list[str] = typer.Option(
        [], "--via-s3", metavar="s3://BUCKET/PREFIX", help="Follow pointers there only (default: as --via-s3 of run)."
    ),
    start: str = typer.Option("30s", "--start-timeout", metavar="TIME", help="Give up if nothing answers this long."),
    output: str = typer.Option("default", "-o", "--output", metavar="default|json", help="The output format."),
) -> int:
    """A live table of the runs in a queue: failed, missing lines, silent, running, and lines per second.

    SQS cannot be read without receiving messages: --consume deletes them once they are counted, --peek releases them.
    """
    from sqstee.cli.sources import check_choice, open_sources, parse_seconds, payload_stores, reporting_errors
    from sqstee.read.stop_signal import StopSignal

    check_choice(output, "-o", ("default", "json"), "top")
    seconds = parse_seconds(silent, "--silent")
    start_timeout = parse_seconds(start, "--start-timeout")
    with reporting_errors("top"), StopSignal() as stop:
        visibility = _PEEK_VISIBILITY if peek else None
        stores = payload_stores(via_s3)
        sources = open_sources(
            dest,
            consume=consume,
            peek=peek,
            visibility=visibility,
            stores=stores,
            stop=stop,
            start_timeout=start_timeout,
        )
        for cost in sources.peek_costs:
            typer.echo(f"sqstee: {cost}", err=True)
        is_shared = any(not one.follows for one in sources.receivers)
        view = _JsonView(seconds) if output == "json" else _TableView(seconds, is_shared)
        if follow and not peek and output == "default" and sys.stdout.isatty():
            status = _show_live(sources, stop, view, start_timeout)
        else:
            status = _show_plain(sources, stop, view, start_timeout, once=peek or not follow)
    return status if stop.signal == signal.SIGINT and follow and not peek else stop.status or status


def _show_plain(
    sources: Sources, stop: StopSignal, view: _JsonView | _TableView, start_timeout: float, once: bool
) -> int:
    """Print the table at the end, or every two seconds while following."""
    from sqstee.read.follower import Follower
    from sqstee.read.printer import check_reader
    from sqstee.read.run_table import RunTable

    drawn = time.monotonic()

    def draw(table: RunTable) -> None:
        nonlocal drawn
        check_reader(1)
        if not once and time.monotonic() - drawn > _REPRINT_SECONDS:
            view.print(table)
            drawn = time.monotonic()  # printing many runs takes long: as much time is left for reading

    table = RunTable(draw)
    follower = Follower(
        sources.receivers, table, stop, sources.consumed, wait=1.0, records_only=True, start_timeout=start_timeout
    )
    if once:
        follower.drain()
        view.print(table)
    else:
        follower.follow()
    return _finish(follower, table, once and isinstance(view, _TableView))


def _show_live(sources: Sources, stop: StopSignal, view: _JsonView | _TableView, start_timeout: float) -> int:
    from rich.console import Console
    from rich.live import Live

    from sqstee.read.follower import Follower
    from sqstee.read.run_table import RunTable

    assert isinstance(view, _TableView)
    console = Console(highlight=False)
    with Live(console=console, auto_refresh=False, screen=True) as live:
        table = RunTable(_LiveDrawing(view, live, console))
        follower = Follower(
            sources.receivers, table, stop, sources.consumed, records_only=True, start_timeout=start_timeout
        )
        follower.follow()
    return _finish(follower, table, False)


def _finish(follower: Follower, table: RunTable, is_shown: bool) -> int:
    """Write the last notices to stderr unless the table on stdout shows them; the exit status."""
    from sqstee.cli.sources import status_of
    from sqstee.read.printer import neutral

    for notice in () if is_shown else table.notices:
        typer.echo(f"sqstee: {neutral(notice)}", err=True)
    return status_of(follower)


class _LiveDrawing:
    """Draws a table at most every _REDRAW_SECONDS, and skips it otherwise."""

    def __init__(self, view: _TableView, live: Live, console: Console) -> None:
        self._view, self._live, self._console = view, live, console
        self._drawn = 0.0

    def __call__(self, table: RunTable) -> None:
        """Draw, if it is time."""
        now = time.monotonic()
        if now - self._drawn >= _REDRAW_SECONDS:
            picture = self._view.render(table, self._console.width, self._console.height)
            self._live.update(picture, refresh=True)
            took = time.monotonic() - now
            self._drawn = now + _REST * took


class _JsonView:
    """One object per run."""

    def __init__(self, silent: float) -> None:
        self._silent = silent
        self._hidden = 0

    def print(self, table: RunTable) -> None:
        """Print all runs."""
        import json

        now = time.time()
        for run in table.runs(self._silent):
            rates = {name: round(run.rate(name, now), 1) for name in run.lines}
            fields = run.fields(now, self._silent) | {"rates": rates, "silent_s": round(now - run.heard, 1)}
            typer.echo(json.dumps(fields))
        sys.stdout.flush()
        if table.hidden != self._hidden:
            self._hidden = table.hidden
            typer.echo(f"sqstee: {count(table.hidden, 'more run')}: too many to show", err=True)


class _TableView:
    """One row per run, with as many columns as fit into the terminal.

    `is_shared`: a message that another reader receives never arrives here.
    """

    def __init__(self, silent: float, is_shared: bool = False) -> None:
        self._silent = silent
        self._is_shared = is_shared

    def print(self, table: RunTable) -> None:
        """Print all runs."""
        from rich.console import Console

        width = None if sys.stdout.isatty() else shutil.get_terminal_size((_PLAIN_WIDTH, 0)).columns
        console = Console(highlight=False, width=width)
        console.print(self.render(table, console.width, 0))
        console.file.flush()

    def render(self, table: RunTable, width: int, height: int) -> RenderableType:
        """The table; with a height only the rows that fit, those that need attention first."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        from sqstee.read.notices import ANOTHER_READER
        from sqstee.read.printer import neutral

        now = time.time()
        runs = table.runs(self._silent)
        notices = [f"sqstee: {neutral(notice)}" for notice in table.notices]
        if self._is_shared and any(run.missing for run in runs):
            notices.append(ANOTHER_READER)
        host, job = (24, 24) if width >= _COLUMNS["lines/s"] else (11, 13) if width >= _LAST_LINE else (9, 12)
        rows = Table(box=None, pad_edge=False, expand=True, header_style="bold dim")
        rows.add_column("state", no_wrap=True, min_width=13)
        rows.add_column("host", no_wrap=True, max_width=host)
        rows.add_column("job", no_wrap=True, max_width=job)
        for name in _columns(width):
            rows.add_column(name, justify="right", no_wrap=True, min_width=7)
        if width >= _LAST_LINE:
            rows.add_column("last line", no_wrap=True, ratio=1, min_width=10, overflow="ellipsis")
        room = len(runs) if not height else max(1, height - 3 - len(notices))
        for run in runs[:room]:
            rows.add_row(*self._row(run, now, width))
        counts: dict[str, int] = {}
        for run in runs:
            state = run.state(now, self._silent)
            counts[state] = counts.get(state, 0) + 1
        sums = ", ".join(f"{number:,} {state}" for state, number in counts.items())
        head = f"{count(len(runs), 'run')}: {sums}" if sums else "no runs yet"
        if unseen := table.hidden + max(0, len(runs) - room):
            head = f"{head}; {unseen:,} {'more ' if table.hidden else ''}not shown"
        cut = bool(height)  # each takes one line of the screen
        parts: list[RenderableType] = [Text(head, "bold", no_wrap=cut, overflow="ellipsis")]
        for notice in notices:
            parts.append(Text(notice, "yellow", no_wrap=cut, overflow="ellipsis"))
        if runs:
            parts.append(rows)
        return Group(*parts)

    def _row(self, run: RunState, now: float, width: int) -> list[Text]:
        from rich.text import Text

        from sqstee.read.printer import format_duration, neutral

        state = run.state(now, self._silent)
        shown = state
        if state == "silent":
            shown = f"silent {format_duration(round(now - run.heard))}"
        elif run.duration_s is not None and run.is_ended:
            shown = f"{state} {format_duration(run.duration_s)}"
        out = sum(lines for stream, lines in run.lines.items() if stream != "stderr")
        rate = sum(run.rate(name, now) for name in run.lines)
        missing = run.missing + run.dropped
        cells = {
            "stdout": Text(f"{out:,}"),
            "stderr": Text(f"{run.lines.get('stderr', 0):,}"),
            "lines/s": Text(f"{rate:,.1f}" if rate else "-"),
            "missing": Text(f"{missing:,}" if missing else "-", "magenta" if missing else ""),
        }
        row = [Text(shown, _STYLES[state]), Text(short_name(run.host)), Text(short_name(run.title))]
        row += [cells[name] for name in _columns(width)]
        if width >= _LAST_LINE:
            row.append(Text(neutral(_last_line(run)).replace("\t", " "), "red" if run.is_failed else "dim"))
        return row


def _last_line(run: RunState) -> str:
    """What a person needs to know of a run: how it failed, or where its lines are; else its last line."""
    if run.is_failed and run.result:
        return run.result
    if run.elsewhere:
        return f"{count(run.elsewhere, 'line')} went to {run.fallback}: read that destination as well"
    return run.last_line


def _columns(width: int) -> list[str]:
    """The optional columns that fit."""
    return [name for name, least in _COLUMNS.items() if width >= least]
