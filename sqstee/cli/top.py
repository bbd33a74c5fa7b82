"""`sqstee top`: a live table of runs."""

from __future__ import annotations

import shutil
import signal
import sys
import time
from typing import TYPE_CHECKING

import typer

from sqstee.cli import run_options
from sqstee.text import aligned, columns_of, count, short_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console
    from rich.live import Live

    from sqstee.cli.sources import Sources
    from sqstee.read.follower import Follower
    from sqstee.read.run_filter import RunFilter
    from sqstee.read.run_table import RunState, RunTable
    from sqstee.read.stop_signal import StopSignal

_REDRAW_SECONDS = 0.25
_REST = 9  # times as long as a drawing takes no other begins: very many runs take a tenth of the time at most
_REPRINT_SECONDS = 2.0
# Optional columns, each with its width and the least width of the terminal that shows it.
_COLUMNS = {
    "exit": (7, 100),
    "age": (4, 60),
    "stdout": (9, 130),
    "stderr": (7, 130),
    "lines/s": (9, 92),
    "missing": (7, 50),
}
_STATE = 14  # columns: missing 23h59m
_GAP = 2  # columns, between two
_LONGEST_NAME = 24  # columns of a host or a job
_LEAST_NAME = 4
_LAST_LINE, _LEAST_LINE = 80, 27  # from this width on the last line is shown, in a third of it
_PLAIN_WIDTH = 160  # where stdout is no terminal and COLUMNS is not set
_BOLD, _DIM, _RED, _YELLOW, _MAGENTA = 1, 2, 31, 33, 35  # of ANSI's Select Graphic Rendition


def top(
    dest: list[str] = typer.Argument(None, metavar="[DEST]…", help="Where to read (default: as --to of run)."),
    failed: bool = run_options.FAILED,
    running: bool = run_options.RUNNING,
    missing: bool = run_options.MISSING,
    silent: bool = run_options.SILENT,
    gone: bool = run_options.GONE,
    job: list[str] = run_options.JOB,
    host: list[str] = run_options.HOST,
    label: list[str] = run_options.LABEL,
    silent_after: str = run_options.SILENT_AFTER,
    consume: bool = run_options.CONSUME,
    peek: bool = run_options.PEEK,
    follow: bool = typer.Option(True, "--follow/--no-follow", help="Update the table, or show it once and stop."),
    via_s3: list[str] = run_options.VIA_S3,
    start: str = run_options.START_TIMEOUT,
    output: str = typer.Option("default", "-o", "--output", metavar="default|json", help="The output format."),
) -> int:
    """A live table of runs: failed, missing lines, gone, silent, running, and lines per second.

    SQS cannot be read without receiving messages: --consume deletes them once they are counted, --peek releases them.
    """
    from sqstee.cli.run_sources import open_run_sources, run_filter, states_asked
    from sqstee.cli.sources import check_choice, parse_seconds, reporting_errors
    from sqstee.read.stop_signal import StopSignal

    check_choice(output, "-o", ("default", "json"), "top")
    seconds = parse_seconds(silent_after, "--silent-after")
    states = states_asked(failed=failed, running=running, missing=missing, silent=silent, gone=gone)
    wanted = run_filter(states, job, host, label, "", "")
    start_timeout = parse_seconds(start, "--start-timeout")
    with reporting_errors("top"), StopSignal() as stop:
        sources = open_run_sources(dest, stop, consume, peek, via_s3, start_timeout)
        is_shared = any(not one.follows for one in sources.receivers)
        view = _JsonView(seconds, wanted) if output == "json" else _TableView(seconds, is_shared, wanted)
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
        from rich.console import Group
        from rich.text import Text

        now = time.monotonic()
        if now - self._drawn >= _REDRAW_SECONDS:
            lines = self._view.lines(table, self._console.width, self._console.height, colour=True)
            rows = [Text.from_ansi(line, no_wrap=True, overflow="ellipsis") for line in lines]
            self._live.update(Group(*rows), refresh=True)
            took = time.monotonic() - now
            self._drawn = now + _REST * took


class _JsonView:
    """One object per wanted run."""

    def __init__(self, silent: float, wanted: RunFilter) -> None:
        self._silent, self._wanted = silent, wanted
        self._hidden = 0

    def print(self, table: RunTable) -> None:
        """Print all runs."""
        import json

        now = time.time()
        for run in table.runs(self._silent):
            if self._wanted(run, now, self._silent):
                rates = {name: round(run.rate(name, now), 1) for name in run.lines}
                typer.echo(json.dumps(run.fields(now, self._silent) | {"rates": rates}))
        sys.stdout.flush()
        if table.hidden != self._hidden:
            self._hidden = table.hidden
            typer.echo(f"sqstee: {count(table.hidden, 'more run')}: too many to show", err=True)


class _TableView:
    """One row per wanted run, with as many columns as fit into the terminal.

    `is_shared`: a message that another reader receives never arrives here.
    """

    def __init__(self, silent: float, is_shared: bool = False, wanted: RunFilter | None = None) -> None:
        self._silent, self._wanted = silent, wanted
        self._is_shared = is_shared

    def print(self, table: RunTable) -> None:
        """Print all runs."""
        from sqstee.cli.sources import use_colour

        fallback = (80, 24) if sys.stdout.isatty() else (_PLAIN_WIDTH, 0)
        width = shutil.get_terminal_size(fallback).columns
        typer.echo("\n".join(self.lines(table, width, 0, use_colour("auto"))))
        sys.stdout.flush()

    def lines(self, table: RunTable, width: int, height: int, colour: bool = False) -> list[str]:
        """The table; with a height only the rows that fit, those that need attention first."""
        from sqstee.read.notices import ANOTHER_READER
        from sqstee.read.printer import neutral

        now = time.time()
        runs = table.runs(self._silent)
        if self._wanted:
            runs = [run for run in runs if self._wanted(run, now, self._silent)]
        notices = [f"sqstee: {neutral(notice)}" for notice in table.notices]
        if self._is_shared and any(run.missing for run in runs):
            notices.append(ANOTHER_READER)
        room = len(runs) if not height else max(1, height - 3 - len(notices))
        counts: dict[str, int] = {}
        for run in runs:
            state = run.state(now, self._silent)
            counts[state] = counts.get(state, 0) + 1
        sums = ", ".join(f"{number:,} {state}" for state, number in counts.items())
        head = f"{count(len(runs), 'run')}: {sums}" if sums else "no runs yet"
        if unseen := table.hidden + max(0, len(runs) - room):
            head = f"{head}; {unseen:,} {'more ' if table.hidden else ''}not shown"
        found = [_coloured(head, _BOLD, colour), *(_coloured(notice, _YELLOW, colour) for notice in notices)]
        return found + self._rows(runs[:room], now, width, colour) if runs else found

    def _rows(self, runs: Sequence[RunState], now: float, width: int, colour: bool) -> list[str]:
        """The names of the columns, and a row per run."""
        from sqstee.cli.runs import STATE_COLOURS

        numbers = _columns(width)
        names = ["state", "host", "job", *numbers, *(["last line"] if width >= _LAST_LINE else [])]
        cells = [self._cells(run, now, width) for run in runs]
        widths = _widths(names, cells, width)
        gap = " " * _GAP
        head = gap.join(aligned(name, size, name in _COLUMNS) for name, size in zip(names, widths, strict=True))
        found = [_coloured(head.rstrip(), _DIM, colour)]
        for run, row in zip(runs, cells, strict=True):
            texts = [aligned(text, size, name in _COLUMNS) for text, size, name in zip(row, widths, names, strict=True)]
            texts[-1] = texts[-1].rstrip()
            if colour:
                texts[0] = _coloured(texts[0], STATE_COLOURS[run.state(now, self._silent)], colour)
                if "missing" in names and run.missing + run.dropped:
                    at = names.index("missing")
                    texts[at] = _coloured(texts[at], _MAGENTA, colour)
                if width >= _LAST_LINE:
                    texts[-1] = _coloured(texts[-1], _RED if run.is_failed else _DIM, colour)
            found.append(gap.join(texts).rstrip())
        return found

    def _cells(self, run: RunState, now: float, width: int) -> list[str]:
        from sqstee.cli.runs import exit_text, format_age
        from sqstee.read.printer import format_duration, neutral
        from sqstee.run_summary import seconds_of

        state = run.state(now, self._silent)
        shown, since = state, {"silent": run.last_line_at, "gone": run.heard}.get(state)
        if since is not None:
            shown = f"{state} {format_duration(round(now - since))}"
        elif run.duration_s is not None and run.is_ended:
            shown = f"{state} {format_duration(round(run.duration_s, 1))}"
        out = sum(lines for stream, lines in run.lines.items() if stream != "stderr")
        rate = sum(run.rate(name, now) for name in run.lines)
        missing = run.missing + run.dropped
        cells = {
            "exit": exit_text(run),
            "age": format_age(now - seconds_of(run.started)) if run.started else "-",
            "stdout": f"{out:,}",
            "stderr": f"{run.lines.get('stderr', 0):,}",
            "lines/s": f"{rate:,.1f}" if rate else "-",
            "missing": f"{missing:,}" if missing else "-",
        }
        row = [shown, short_name(run.host), short_name(run.title), *(cells[name] for name in _columns(width))]
        return [*row, neutral(_last_line(run)).replace("\t", " ")] if width >= _LAST_LINE else row


def _last_line(run: RunState) -> str:
    """The most important line about a run: why or how it failed, or where its lines are; else its last line."""
    if run.is_failed and (run.last_stderr or run.result):
        return run.last_stderr or run.result
    if run.elsewhere:
        return f"{count(run.elsewhere, 'line')} went to {run.fallback}: read that destination as well"
    return run.last_line


def _columns(width: int) -> list[str]:
    """The optional columns that fit."""
    return [name for name, (_, least) in _COLUMNS.items() if width >= least]


def _widths(names: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[int]:
    """The width of each column: numbers are shown whole, host and job are cut to leave room for the last line."""
    found = [max(columns_of(row[at]) for row in rows) for at in range(len(names))]
    least = {"state": _STATE, "last line": _LEAST_LINE, **{name: size for name, (size, _) in _COLUMNS.items()}}
    found = [max(size, len(name), least.get(name, 0)) for name, size in zip(names, found, strict=True)]
    others = [size for name, size in zip(names, found, strict=True) if name not in ("host", "job", "last line")]
    left = width - sum(others) - (_LEAST_LINE if "last line" in names else 0) - _GAP * (len(names) - 1)
    found[1] = max(_LEAST_NAME, min(found[1], _LONGEST_NAME, left * 3 // 7))
    found[2] = max(_LEAST_NAME, min(found[2], _LONGEST_NAME, left - found[1]))
    if "last line" in names:
        found[-1] = max(1, width - sum(found[:-1]) - _GAP * (len(names) - 1))
    return found


def _coloured(text: str, number: int, colour: bool) -> str:
    return f"\x1b[{number}m{text}\x1b[0m" if colour else text
