"""`sqstee drain`: empty destinations fast, into files."""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

import typer

from sqstee.errors import EXIT_MISSING, EXIT_OPEN, SqsteeError
from sqstee.text import count

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from sqstee.drain.journaling import Limits, Progress
    from sqstee.drain.store import Store
    from sqstee.drain.verdict import Verdict
    from sqstee.read.stop_signal import Stop
    from sqstee.transports.base import Receiver

_REDRAW_SECONDS = 0.2
_MAKE_ROOM = "make room, then drain again: what came is in the folder, everything else in the queue"
_SPARE = ((2,), (2, 3), (0, 2, 3))  # what goes where the line is too long: the size, then the rate, then the name
_RATE_SECONDS = 3.0  # over which the rate is taken
_MOST_SHOWN = 40  # complete runs that are listed one by one


def drain(
    context: typer.Context,
    dest: list[str] = typer.Argument(..., metavar="DEST…", help="What to empty; several are merged."),
    output: str = typer.Option(..., "-O", "--output-dir", metavar="DIR|-", help="The folder, or - for stdout."),
    layout: str = typer.Option("streams", "--layout", metavar="streams|ndjson", help="What the files hold."),
    packed: bool = typer.Option(False, "--gzip", help="Compress the files."),
    form: str = typer.Option("default", "-o", "--output", metavar="default|json", help="The form of the verdicts."),
    concurrency: int = typer.Option(16, "--concurrency", min=1, max=256, help="Receivers at a time, of a process."),
    processes: int = typer.Option(1, "--processes", min=1, max=64, help="Processes: one does some 3,000 messages/s."),
    max_messages: int = typer.Option(0, "--max-messages", min=0, help="Stop after so many (default: all)."),
    visibility: str = typer.Option(
        "", "--visibility-timeout", metavar="TIME", help="Hide what is received so long (default: the queue's)."
    ),
    shards: str = typer.Option("", "--shards", metavar="XX[-XX]", help="Of S3 this part of 00-ff only, as 00-7f."),
    wait: str = typer.Option("1s", "--wait-time", metavar="TIME", help="One long poll: 1s to 20s."),
    idle: str = typer.Option("5s", "--idle-timeout", metavar="TIME", help="Stop when nothing came for so long."),
) -> int:
    """Empty destinations fast: each message is on disk before it is deleted; then the files are put together.

    The folder gets HOST/RUN.stdout and .stderr, byte for byte what the commands wrote, or HOST/RUN.ndjson. Killed at
    any moment it can be run again and goes on; a later run into the same folder fills what was missing.

    Status: 0 every run is complete; 3 lines are missing; 4 nothing is missing, but a run has not ended; 1 a failure.
    """
    from sqstee.cli.sources import check_shards, destinations, failures, seconds_of
    from sqstee.drain.files import LAYOUTS
    from sqstee.drain.journaling import Limits
    from sqstee.read.stop_signal import Stop

    if layout not in LAYOUTS:
        raise SqsteeError(f"{layout!r} is not a layout", f"the form is --layout {'|'.join(LAYOUTS)}")
    if form not in ("default", "json"):
        raise SqsteeError(f"{form!r} is not a form of output", "the form is -o default|json")
    if not output:
        raise SqsteeError("-O: the folder has no name", "the form is -O DIR, or -O - for stdout")
    hidden = round(seconds_of(visibility, "--visibility-timeout")) if visibility else None
    if hidden is not None and not 1 <= hidden <= 43200:
        raise SqsteeError("--visibility-timeout is from 1s to 12h", "the form is --visibility-timeout TIME")
    limits = Limits(concurrency, max(1.0, seconds_of(wait, "--wait-time")), seconds_of(idle, "--idle-timeout"))
    limits.most = max_messages or None
    check_shards(shards, destinations(dest))  # before there is a folder
    if output == "-":
        _check_stdout(context)
        with failures("drain"), Stop() as stop:
            return _to_stdout(dest, limits, hidden, shards, stop)
    with failures("drain", _MAKE_ROOM), Stop() as stop:
        return _Draining(dest, limits, hidden, shards, processes, stop).into(output, layout, packed, form == "json")


def _check_stdout(context: typer.Context) -> None:
    """Refuse what was given for files: stdout gets records, plain, of one process."""
    for name, flag in (("layout", "--layout"), ("packed", "--gzip"), ("processes", "--processes")):
        source = context.get_parameter_source(name)
        if source and source.name != "DEFAULT":
            hint = f"leave {flag} out, or name a folder: -O DIR"
            raise SqsteeError(f"{flag} is for a folder, and -O - is stdout", hint)


def _to_stdout(dest: Sequence[str], limits: Limits, visibility: int | None, shards: str, stop: Stop) -> int:
    """Records as NDJSON, each message deleted once its lines were written."""
    from sqstee.cli.sources import opened
    from sqstee.read.follower import Follower
    from sqstee.read.printer import Output, Printer, Style

    connections = 2 * limits.threads
    places = opened(dest, consume=True, peek=False, visibility=visibility, connections=connections, shards=shards)
    printer = Printer(Output(1), Output(2), Style("json"))
    follower = Follower(
        places.receivers,
        printer,
        stop,
        True,
        from_start=True,
        threads=limits.threads,
        wait=limits.wait,
        most=limits.most,
    )
    follower.drain(0.0 if all(one.follows for one in places.receivers) else limits.idle)
    return stop.status or _worst(follower.states())


def _worst(states: Collection[str]) -> int:
    """The exit status that runs in these states make."""
    return EXIT_MISSING if "missing" in states else EXIT_OPEN if "open" in states else 0


class _Draining:
    """One drain into a folder."""

    def __init__(
        self, dest: Sequence[str], limits: Limits, visibility: int | None, shards: str, processes: int, stop: Stop
    ) -> None:
        self._dest, self._limits, self._visibility, self._shards = dest, limits, visibility, shards
        self._processes, self._stop = processes, stop
        self._line = _Line(dest)
        self.statuses: set[str] = set()

    def into(self, folder: str, layout: str, packed: bool, as_json: bool) -> int:
        """Collect, assemble, tell the verdicts: the exit status."""
        from sqstee.drain.store import Store

        store = Store(os.path.abspath(folder), layout, packed)
        try:
            try:
                self._collect(store)
            except Exception:
                if store.journaled:
                    self._assemble(store, as_json)
                raise
            self._assemble(store, as_json)
        finally:
            store.close()
        if self._stop.signal:
            return self._stop.status
        return _worst(self.statuses)

    def _collect(self, store: Store) -> None:
        from sqstee.cli.sources import destinations
        from sqstee.drain.processes import collect

        queues = [one.text for one in destinations(self._dest) if one.kind == "sqs"]
        collect(
            store.hidden,
            lambda: self._open(self._dest, self._shards),
            self._limits,
            self._processes if queues else 1,  # each would be given all of what only a queue shares out
            self._stop,
            self._line.tell,
            self._line.remark,
            self._line.is_shown,
            lambda: self._open(queues),
        )
        self._line.end()

    def _open(self, dest: Sequence[str], shards: str = "") -> Sequence[Receiver]:
        from sqstee.cli.sources import opened

        connections = self._limits.threads + self._limits.deleters
        hidden = self._visibility
        places = opened(dest, consume=True, peek=False, visibility=hidden, connections=connections, shards=shards)
        return places.receivers

    def _assemble(self, store: Store, as_json: bool) -> None:
        report = _Report(as_json)

        def tell(verdict: Verdict) -> None:
            self.statuses.add(verdict.state)
            self._line.end()  # it may be the terminal's line where the verdict goes
            report.add(verdict)

        store.assemble(tell, self._line.assembled)
        self._line.end()
        report.end()


class _Line:
    """What is going on, as one line on a terminal's stderr; remarks on lines of their own."""

    def __init__(self, dest: Sequence[str]) -> None:
        self.is_shown = sys.stderr.isatty()
        self._name = ", ".join(dest)
        self._started = self._drawn = time.monotonic()
        self._samples: deque[tuple[float, int]] = deque()
        self._width = 0

    def tell(self, progress: Progress) -> None:
        """How far the collection is."""
        now = time.monotonic()
        self._samples.append((now, progress.received))
        while now - self._samples[0][0] > _RATE_SECONDS:
            self._samples.popleft()
        (then, before) = self._samples[0]
        rate = (progress.received - before) / (now - then) if now - then > 0.5 else 0.0
        left = time_left = ""
        if not rate and now - self._started > _RATE_SECONDS:
            left = "looking whether more comes"
        elif progress.waiting:
            left = f"about {progress.waiting:,} left"
            if rate >= 1:
                from sqstee.read.printer import duration

                time_left = duration(max(1, round(progress.waiting / rate)))
        size = f"{progress.bytes / 1048576:,.1f} MiB"
        self._draw(f"{progress.received:,} messages", size, f"{rate:,.0f}/s" if rate else "", left, time_left)

    def assembled(self, lines: int) -> None:
        """How far the files are."""
        self._draw(f"putting together   {count(lines, 'line')}")

    def remark(self, text: str) -> None:
        """A remark above the line."""
        from sqstee.read.printer import neutral

        self.end()
        _write(f"sqstee: {neutral(text)}\n".encode())

    def end(self) -> None:
        """Remove the line."""
        if self._width:
            _write(b"\r\x1b[K")
            self._width = 0

    def _draw(self, *parts: str) -> None:
        now = time.monotonic()
        if not self.is_shown or now - self._drawn < _REDRAW_SECONDS:
            return
        self._drawn = now
        from sqstee.cli.progress import fitted

        with suppress(OSError):  # the terminal is gone
            self._width = os.get_terminal_size(2).columns
        text = fitted([self._name, *parts], max(0, self._width - 1), _SPARE)
        _write(f"\r\x1b[K{text}".encode())


def _write(data: bytes) -> None:
    """To stderr, if it takes it: that nobody can be told ends no drain, nor the thread that has something to tell."""
    with suppress(OSError):
        os.write(2, data)


class _Report:
    """The verdicts: complete runs up to a number, all others always, and the sums."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._counts = {"complete": 0, "missing": 0, "open": 0}
        self._lines = 0
        self._colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ

    def add(self, verdict: Verdict) -> None:
        """Show a verdict."""
        self._counts[verdict.state] += 1
        self._lines += verdict.lines
        if self._as_json:
            import json

            typer.echo(json.dumps(verdict.fields))
        elif verdict.state != "complete" or self._counts["complete"] <= _MOST_SHOWN:
            typer.echo(self._text(verdict))

    def end(self) -> None:
        """Show the sums."""
        if self._as_json:
            return
        runs = sum(self._counts.values())
        more = self._counts["complete"] - _MOST_SHOWN
        if more > 0:
            typer.echo(f"… and {more:,} more complete")
        states = ", ".join(f"{count:,} {state}" for state, count in self._counts.items() if count)
        typer.echo(f"{count(runs, 'run')}{f': {states}' if runs else ''}; {count(self._lines, 'line')}")

    def _text(self, verdict: Verdict) -> str:
        from sqstee.read.printer import neutral

        name = f"{verdict.host} {verdict.job or verdict.run}"
        parts = [count(verdict.lines, "line")]
        if verdict.missing:
            ranges = ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in verdict.ranges[:5])
            more = ", …" if len(verdict.ranges) > 5 else ""
            parts.append(f"{verdict.missing:,} missing so far (seq {ranges}{more})")
        if verdict.gapped:
            parts.append(f"{verdict.gapped:,} dropped by the sender")
        if verdict.duplicates:
            parts.append(f"{verdict.duplicates:,} duplicates left out")
        if verdict.result:
            parts.append(verdict.result)
        elif not verdict.ended:
            parts.append("not ended")
        code = {"complete": "32", "missing": "31", "open": "33"}[verdict.state]
        state = f"{verdict.state:8}"
        state = f"\x1b[{code}m{state}\x1b[0m" if self._colour else state
        return f"{state} {neutral(name)}: {neutral(', '.join(parts))}"
