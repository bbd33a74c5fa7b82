"""`sqstee runs`: which runs there are, and how each went."""

from __future__ import annotations

import os
import shutil
import sys
import time
from typing import TYPE_CHECKING

import typer

from sqstee.cli import run_options
from sqstee.errors import SqsteeError
from sqstee.text import aligned, columns_of, count, one_line, short_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sqstee.run_summary import RunSummary

_LISTED = 20  # runs, unless -n says otherwise
_LEAST_ID = 8  # characters of a run's id
STATE_COLOURS = {"failed": 31, "missing": 35, "gone": 31, "silent": 33, "running": 36, "ok": 32}  # ANSI foregrounds


def runs(
    source: list[str] = typer.Argument(
        None, metavar="[SOURCE]…", help="Where to look (default: as --to of run): a store, s3://, a folder, a queue."
    ),
    failed: bool = run_options.FAILED,
    running: bool = run_options.RUNNING,
    missing: bool = run_options.MISSING,
    silent: bool = run_options.SILENT,
    gone: bool = run_options.GONE,
    job: list[str] = run_options.JOB,
    host: list[str] = run_options.HOST,
    label: list[str] = run_options.LABEL,
    since: str = typer.Option("", "--since", metavar="TIME", help="Only runs that ran since then: 2h, yesterday."),
    until: str = typer.Option("", "--until", metavar="TIME", help="Only runs that began before then."),
    number: str = typer.Option(
        "", "-n", "--limit", metavar="N|all", help="Show at most N runs (default: 20; JSON: all)."
    ),
    tail: int = typer.Option(0, "--tail", metavar="N", min=0, help="Below each run its last N lines of stderr."),
    silent_after: str = run_options.SILENT_AFTER,
    consume: bool = run_options.CONSUME,
    peek: bool = run_options.PEEK,
    via_s3: list[str] = run_options.VIA_S3,
    start: str = run_options.START_TIMEOUT,
    output: str = typer.Option("default", "-o", "--output", metavar="default|json", help="The output format."),
    color: str = typer.Option("auto", "--color", metavar="auto|always|never", help="When to use colours."),
) -> int:
    """List runs, newest first: state, host, job, times, exit status, lines, missing lines, the last stderr line.

    A local or collector's store and a drained folder list their runs at once; other sources are read to their end.
    """
    from sqstee.cli.run_sources import check_read_twice, collect_runs, last_stderr_lines, run_filter, states_asked
    from sqstee.cli.sources import check_choice, parse_seconds, reporting_errors, use_colour
    from sqstee.read.stop_signal import StopSignal

    check_choice(output, "-o", ("default", "json"), "runs")
    check_choice(color, "--color", ("auto", "always", "never"), "runs")
    states = states_asked(failed=failed, running=running, missing=missing, silent=silent, gone=gone)
    wanted = run_filter(states, job, host, label, since, until)
    most = _most(number, output)
    seconds = parse_seconds(silent_after, "--silent-after")
    start_timeout = parse_seconds(start, "--start-timeout")
    if tail:
        check_read_twice(source, consume, tail)
    with reporting_errors("runs"), StopSignal() as stop:
        found = collect_runs(source, stop, consume=consume, peek=peek, via_s3=via_s3, start_timeout=start_timeout)
        now = time.time()
        selected = [run for run in found.runs if wanted(run, now, seconds)]
        shown = selected[:most]
        last_lines = last_stderr_lines(source, shown, tail, stop) if tail else {}
        if output == "json":
            _print_json(shown, last_lines, now, seconds)
        else:
            listing = RunListing(shown, [run.run for run in found.runs], now, seconds, last_lines)
            typer.echo("\n".join(listing.lines(_width(), use_colour(color))))
        for notice in found.notices:
            typer.echo(f"sqstee: {one_line(notice)}", err=True)
        if more := len(selected) - len(shown):
            typer.echo(f"sqstee: {count(more, 'more run')} not shown; -n all shows all", err=True)
    return stop.status or found.status


def _most(text: str, output: str) -> int | None:
    if text == "all" or (not text and output == "json"):
        return None
    if not text:
        return _LISTED
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise SqsteeError(f"invalid value {text!r} for -n (expected a number, or all)", "for example: -n 50")
    return int(text)


def _width() -> int:
    """The columns of the terminal; without one, as many as it takes."""
    is_bound = sys.stdout.isatty() or "COLUMNS" in os.environ
    return shutil.get_terminal_size().columns if is_bound else 10_000


def _print_json(
    found: Sequence[RunSummary], last_lines: Mapping[str, Sequence[str]], now: float, silent: float
) -> None:
    import json

    for run in found:
        more = {"tail": last_lines[run.run]} if run.run in last_lines else {}
        typer.echo(json.dumps(run.fields(now, silent) | more))


class RunListing:
    """A table of runs, with `last_lines` of a run below its row.

    `ids` are the ids of all runs, among which the shown ones must be unique.
    """

    def __init__(
        self,
        found: Sequence[RunSummary],
        ids: Sequence[str],
        now: float,
        silent: float,
        last_lines: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self._found, self._now, self._silent = found, now, silent
        self._last_lines = last_lines or {}
        self._ids = unique_beginnings(ids)

    def lines(self, width: int, colour: bool) -> list[str]:
        """The table, with as many columns as fit into `width`."""
        from sqstee.read.printer import cell_text

        if not self._found:
            return ["no runs"]
        columns = [column for column in _COLUMNS if width >= column.least_width]
        rows = [[column.text(self, run) for column in columns] for run in self._found]
        rows.insert(0, [column.name for column in columns])
        widths = _widths(columns, rows, width)
        found = []
        for number, row in enumerate(rows):
            cells = [
                aligned(text, size, column.is_number) for text, size, column in zip(row, widths, columns, strict=True)
            ]
            cells[-1] = cells[-1].rstrip()
            if colour and number:
                state = self._found[number - 1].state(self._now, self._silent)
                cells[0] = f"\x1b[{STATE_COLOURS[state]}m{cells[0]}\x1b[0m"
            line = "  ".join(cells).rstrip()
            found.append(f"\x1b[2m{line}\x1b[0m" if colour and not number else line)
            if number:
                texts = self._last_lines.get(self._found[number - 1].run, ())
                found += [f"    {cell_text(text)}"[:width] for text in texts]
        return found

    def state(self, run: RunSummary) -> str:
        """The state of a run."""
        return run.state(self._now, self._silent)

    def id(self, run: RunSummary) -> str:
        """The beginning of a run's id that no other run has."""
        return short_name(self._ids.get(run.run, run.run))

    def age(self, run: RunSummary) -> str:
        """How long ago a run began."""
        from sqstee.run_summary import seconds_of

        began = seconds_of(run.started)
        return format_age(self._now - began) if began else "-"


class _Column:
    """A column: at most `most` characters, shown from a terminal of `least_width` columns on.

    `least`: the characters that stay of a name where others need the room; 0 where nothing may be cut.
    """

    def __init__(
        self,
        name: str,
        text: Callable[[RunListing, RunSummary], str],
        most: int,
        least_width: int = 0,
        is_number: bool = False,
        least: int = 0,
    ) -> None:
        self.name, self.text, self.most, self.least = name, text, most, least
        self.least_width, self.is_number = least_width, is_number


def _widths(columns: Sequence[_Column], rows: Sequence[Sequence[str]], width: int) -> list[int]:
    """The widths of the columns: names make room for the last line, which gets a third of the whole if it needs it."""
    found = [min(column.most, max(columns_of(row[at]) for row in rows)) for at, column in enumerate(columns)]
    room = width - 2 * (len(columns) - 1)
    lacking = sum(found[:-1]) + min(found[-1], width // 3) - room
    for at, column in enumerate(columns[:-1]):
        if column.least and lacking > 0:
            least = max(column.least, found[at] - (lacking + 1) // 2 if column.name == "host" else 0)
            lacking -= max(0, found[at] - least)
            found[at] = min(found[at], least)
    found[-1] = max(1, min(found[-1], room - sum(found[:-1])))
    return found


def unique_beginnings(ids: Sequence[str]) -> dict[str, str]:
    """The shortest beginning of each id that no other id has, of at least eight characters."""
    found = {}
    ordered = sorted(set(ids))
    for at, name in enumerate(ordered):
        neighbours = [ordered[other] for other in (at - 1, at + 1) if 0 <= other < len(ordered)]
        shared = max((_shared_length(name, other) for other in neighbours), default=0)
        found[name] = name[: max(_LEAST_ID, shared + 1)]
    return found


def _shared_length(one: str, other: str) -> int:
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def exit_text(run: RunSummary) -> str:
    """How a run ended, in one word: its exit status or signal."""
    import signal

    if run.signal is not None:
        try:
            return signal.Signals(run.signal).name
        except ValueError:
            return f"signal {run.signal}"
    if run.exit_code is not None:
        return str(run.exit_code)
    return "?" if run.is_ended and run.cause == "wrapper-died" else "-"


def local_time(timestamp: str) -> str:
    """RFC 3339 as local time: 2026-11-30 09:15:02."""
    from sqstee.run_summary import seconds_of

    seconds = seconds_of(timestamp)
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds)) if seconds else "-"


def format_age(seconds: float) -> str:
    """An age in its largest unit: 12s, 5m, 3h, 12d."""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{int(seconds // size)}{unit}"
    return f"{max(0, int(seconds))}s"


def _duration(run: RunSummary) -> str:
    from sqstee.read.printer import format_duration

    return "-" if run.duration_s is None else format_duration(run.duration_s)


def _missing(run: RunSummary) -> str:
    lacking = run.missing + run.dropped + run.elsewhere
    return f"{lacking:,}" if lacking else "-"


def _last_words(run: RunSummary) -> str:
    """The last stderr line; without one, of a failed run its last line."""
    from sqstee.read.printer import cell_text

    return cell_text(run.last_stderr or (run.last_line if run.is_failed else ""))


_COLUMNS = [
    _Column("state", lambda listing, run: listing.state(run), 8),
    _Column("run", lambda listing, run: listing.id(run), 26),
    _Column("host", lambda listing, run: short_name(run.host), 24, least=8),
    _Column("job", lambda listing, run: short_name(run.job or run.name) or "-", 24, least=8),
    _Column("started", lambda listing, run: local_time(run.started), 19, 110),
    _Column("age", lambda listing, run: listing.age(run), 5, 60, True),
    _Column("took", lambda listing, run: _duration(run), 8, 90, True),
    _Column("exit", lambda listing, run: exit_text(run), 9, 0, True),
    _Column("lines", lambda listing, run: f"{sum(run.lines.values()):,}", 12, 100, True),
    _Column("missing", lambda listing, run: _missing(run), 12, 90, True),
    _Column("last line", lambda listing, run: _last_words(run), 500, 70),
]
