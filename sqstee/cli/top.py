"""`sqstee top`: a live board of runs."""

from __future__ import annotations

import shutil
import signal
import sys
import time
from typing import TYPE_CHECKING

import typer

from sqstee.errors import SqsteeError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live
    from rich.text import Text

    from sqstee.cli.sources import Places
    from sqstee.read.run_table import Board, RunState
    from sqstee.read.stop_signal import Stop

_REDRAW_SECONDS = 0.25
_PEEK_VISIBILITY = 120  # seconds
_COLUMNS = {"stdout": 66, "stderr": 66, "lines/s": 100, "missing": 50}  # and the terminal's width from which they show
_PLAIN_WIDTH = 160  # where stdout is no terminal and COLUMNS does not say
_LAST_LINE = 80  # the width from which that shows
_STYLES = {"failed": "red", "missing": "magenta", "silent": "yellow", "running": "cyan", "ok": "green"}


def top(
    dest: list[str] = typer.Argument(None, metavar="[DEST]…", help="Where to look (default: what --to would be)."),
    consume: bool = typer.Option(False, "--consume", help="Delete from the queue what was counted."),
    peek: bool = typer.Option(False, "--peek", help="One pass over the queue; everything is given back at the end."),
    follow: bool = typer.Option(True, "--follow/--no-follow", help="Go on looking, or show one table and stop."),
    silent: str = typer.Option("60s", "--silent", metavar="TIME", help="A running job is silent after so long."),
    output: str = typer.Option("default", "-o", "--output", metavar="default|json", help="The form."),
) -> int:
    """A live board of the runs in a queue: what failed, what is missing, what is silent, and how fast lines come.

    A queue has no way to read without taking: --consume deletes what was counted, --peek gives everything back.
    """
    from sqstee.cli.sources import failures, opened, seconds_of
    from sqstee.read.stop_signal import Stop

    if output not in ("default", "json"):
        raise SqsteeError(f"{output!r} is not a form of output", "the form is -o default|json")
    seconds = seconds_of(silent, "--silent")
    with failures("top"), Stop() as stop:
        places = opened(dest, consume=consume, peek=peek, visibility=_PEEK_VISIBILITY if peek else None)
        for cost in places.peeked:
            typer.echo(f"sqstee: {cost}", err=True)
        show = _Json(seconds) if output == "json" else _Table(seconds)
        if follow and not peek and output == "default" and sys.stdout.isatty():
            _live(places, stop, show)
        else:
            _plain(places, stop, show, once=peek or not follow)
    return 0 if stop.signal == signal.SIGINT and follow and not peek else stop.status


def _plain(places: Places, stop: Stop, show: _Json | _Table, once: bool) -> None:
    """The board at the end; or, of what is followed, now and then."""
    from sqstee.read.follower import Follower
    from sqstee.read.run_table import Board

    drawn = time.monotonic()

    def draw(board: Board) -> None:
        nonlocal drawn
        if not once and time.monotonic() - drawn > 2.0:
            drawn = time.monotonic()
            show.print(board)

    board = Board(draw)
    follower = Follower(places.receivers, board, stop, places.consumed, wait=1.0, records_only=True)
    if once:
        follower.drain()
        show.print(board)
    else:
        follower.follow()


def _live(places: Places, stop: Stop, show: _Json | _Table) -> None:
    from rich.console import Console
    from rich.live import Live

    from sqstee.read.follower import Follower
    from sqstee.read.run_table import Board

    assert isinstance(show, _Table)
    table = show
    console = Console(highlight=False)
    with Live(console=console, auto_refresh=False, screen=True) as live:
        board = Board(_Drawing(table, live, console))
        Follower(places.receivers, board, stop, places.consumed, records_only=True).follow()


class _Drawing:
    """Draws a board at most so often; nothing is awaited for it."""

    def __init__(self, table: _Table, live: Live, console: Console) -> None:
        self._table, self._live, self._console = table, live, console
        self._drawn = 0.0

    def __call__(self, board: Board) -> None:
        """Draw, if it is time."""
        now = time.monotonic()
        if now - self._drawn >= _REDRAW_SECONDS:
            self._drawn = now
            picture = self._table.picture(board, self._console.width, self._console.height)
            self._live.update(picture, refresh=True)


class _Json:
    """An object a run."""

    def __init__(self, silent: float) -> None:
        self._silent = silent

    def print(self, board: Board) -> None:
        """Print all runs."""
        import json

        now = time.monotonic()
        for run in board.runs(self._silent):
            streams = {
                name: {"lines": run.lines(name), "rate": round(run.rate(name, now), 1)} for name in sorted(run.streams)
            }
            names = ("run", "host", "job", "started", "ended", "result", "duration", "missing", "dropped", "last_line")
            fields = {"state": run.state(now, self._silent)} | {name: getattr(run, name) for name in names}
            typer.echo(json.dumps(fields | {"streams": streams, "silent_s": round(now - run.seen, 1)}))
        sys.stdout.flush()


class _Table:
    """A row a run, as many columns as the terminal has room for."""

    def __init__(self, silent: float) -> None:
        self._silent = silent

    def print(self, board: Board) -> None:
        """Print all runs, plainly where stdout is no terminal."""
        from rich.console import Console

        width = None if sys.stdout.isatty() else shutil.get_terminal_size((_PLAIN_WIDTH, 0)).columns
        console = Console(highlight=False, width=width)
        console.print(self.picture(board, console.width, 0))
        console.file.flush()

    def picture(self, board: Board, width: int, height: int) -> RenderableType:
        """The board; with a height what needs attention most."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        from sqstee.read.printer import neutral

        now = time.monotonic()
        runs = board.runs(self._silent)
        host, job = (24, 24) if width >= _COLUMNS["lines/s"] else (11, 13) if width >= _LAST_LINE else (9, 12)
        table = Table(box=None, pad_edge=False, expand=True, header_style="bold dim")
        table.add_column("state", no_wrap=True, min_width=13)
        table.add_column("host", no_wrap=True, max_width=host)
        table.add_column("job", no_wrap=True, max_width=job)
        for name in _shown(width):
            table.add_column(name, justify="right", no_wrap=True, min_width=7)
        if width >= _LAST_LINE:
            table.add_column("last line", no_wrap=True, ratio=1, min_width=10, overflow="ellipsis")
        room = len(runs) if not height else max(1, height - 3 - len(board.remarks))
        for run in runs[:room]:
            table.add_row(*self._row(run, now, width))
        counts: dict[str, int] = {}
        for run in runs:
            state = run.state(now, self._silent)
            counts[state] = counts.get(state, 0) + 1
        sums = ", ".join(f"{count:,} {state}" for state, count in counts.items())
        head = f"{len(runs):,} run{'' if len(runs) == 1 else 's'}: {sums}" if sums else "no runs yet"
        cut = bool(height)  # a line of the screen for each
        parts: list[RenderableType] = [Text(head, "bold", no_wrap=cut, overflow="ellipsis")]
        for remark in board.remarks:
            parts.append(Text(f"sqstee: {neutral(remark)}", "yellow", no_wrap=cut, overflow="ellipsis"))
        if runs:
            parts.append(table)
        return Group(*parts)

    def _row(self, run: RunState, now: float, width: int) -> list[Text]:
        from rich.text import Text

        from sqstee.read.printer import duration, neutral

        state = run.state(now, self._silent)
        shown = state
        if state == "silent":
            shown = f"silent {duration(round(now - run.seen))}"
        elif run.duration is not None and run.ended:
            shown = f"{state} {duration(run.duration)}"
        out = run.lines("stdout") + run.lines("output")
        rate = sum(run.rate(name, now) for name in run.streams)
        last = run.result if run.failed and run.result else run.last_line
        gone = run.missing + run.dropped
        figures = {
            "stdout": Text(f"{out:,}"),
            "stderr": Text(f"{run.lines('stderr'):,}"),
            "lines/s": Text(f"{rate:,.1f}" if rate else "-"),
            "missing": Text(f"{gone:,}" if gone else "-", "magenta" if gone else ""),
        }
        row = [Text(shown, _STYLES[state]), Text(neutral(run.host)), Text(neutral(run.job or run.run))]
        row += [figures[name] for name in _shown(width)]
        if width >= _LAST_LINE:
            row.append(Text(neutral(last).replace("\t", " "), "red" if run.failed else "dim"))
        return row


def _shown(width: int) -> list[str]:
    """The figures that there is room for."""
    return [name for name, least in _COLUMNS.items() if width >= least]
