"""`sqstee drain`: empty destinations fast, into files."""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

import typer

from sqstee.errors import EXIT_FAILED_RUN, EXIT_FAILURE, EXIT_MISSING, EXIT_OPEN, SqsteeError
from sqstee.text import count, one_line, short_name

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from sqstee.destination import Destination
    from sqstee.drain.journaling import DrainLimits, DrainProgress
    from sqstee.drain.store import Store
    from sqstee.drain.verdict import Verdict
    from sqstee.read.decode import ForeignLine, Item
    from sqstee.read.notices import ItemSink
    from sqstee.read.stop_signal import StopSignal
    from sqstee.transports.base import Receiver

_REDRAW_SECONDS = 0.2
_DISK_HINT = "free disk space, then drain again: received messages are in the folder, all others in the queue"
_FAIL_ON = {"missing": EXIT_MISSING, "failed": EXIT_FAILED_RUN, "open": EXIT_OPEN}  # the worst first
_SPARE = ((2,), (2, 3), (0, 2, 3))  # parts to leave out where the line is too long: size, then rate, then name
_RATE_SECONDS = 3.0  # the time over which the rate is measured
_MAX_SHOWN = 40  # complete runs that are listed one by one


def drain(
    context: typer.Context,
    dest: list[str] = typer.Argument(..., metavar="DEST…", help="The destinations to empty; several are merged."),
    output: str = typer.Option(..., "-O", "--output-dir", metavar="DIR|-", help="The folder, or - for stdout."),
    layout: str = typer.Option(
        "streams",
        "--layout",
        metavar="streams|ndjson|parquet",
        help="One file per stream, one of records per run, or tables.",
    ),
    packed: bool = typer.Option(False, "--gzip", help="Compress the files."),
    form: str = typer.Option("default", "-o", "--output", metavar="default|json", help="The format of the verdicts."),
    fail_on: list[str] = typer.Option(
        ["missing,open"],
        "--fail-on",
        metavar="failed|missing|open",
        help="Problems that make the exit status nonzero, as a comma-separated list (default: missing,open).",
    ),
    concurrency: int = typer.Option(16, "--concurrency", min=1, max=256, help="Parallel receivers per process."),
    processes: int = typer.Option(1, "--processes", min=1, max=64, help="Processes, about 3,000 messages/s each."),
    max_messages: int = typer.Option(0, "--max-messages", min=0, help="Stop after this many (default: all)."),
    visibility: str = typer.Option(
        "", "--visibility-timeout", metavar="TIME", help="Hide received messages this long (default: the queue's)."
    ),
    shards: str = typer.Option(
        "", "--shards", metavar="XX[-XX]", help="With s3://: read only these of the shards 00-ff."
    ),
    via_s3: list[str] = typer.Option(
        [], "--via-s3", metavar="s3://BUCKET/PREFIX", help="Follow pointers there only (default: as --via-s3 of run)."
    ),
    start: str = typer.Option("30s", "--start-timeout", metavar="TIME", help="Give up if nothing answers this long."),
    wait: str = typer.Option("1s", "--wait-time", metavar="TIME", help="The length of one long poll, 1s to 20s."),
    idle: str = typer.Option("5s", "--idle-timeout", metavar="TIME", help="Stop after this long without a message."),
) -> int:
    """Empty destinations fast: each message is on disk before it is deleted; files are assembled at the end.

    The folder gets HOST/RUN.stdout and .stderr, byte for byte as the commands wrote, or HOST/RUN.ndjson, or Parquet
    files below lines/ for DuckDB, Spark, Athena and pandas. A killed drain continues when it is run again; a later
    drain into the same folder fills in missing lines.

    Exit status: 0 every run is complete; 3 lines are missing; 4 nothing is missing, but a run has not ended; 1 failure,
    also where messages could not be read or deleted. With --fail-on only the named ones count; `failed` gives 5 where
    a command did not succeed. If several apply, the first of 1, 3, 5, 4 is the status.
    """
    from sqstee.cli.sources import (
        check_choice,
        check_shards,
        destinations,
        parse_seconds,
        payload_stores,
        reporting_errors,
    )
    from sqstee.drain.files import LAYOUTS, check_layout
    from sqstee.drain.journaling import DrainLimits
    from sqstee.read.stop_signal import StopSignal

    check_choice(layout, "--layout", LAYOUTS, "drain")
    check_layout(layout, packed)  # before anything is received
    check_choice(form, "-o", ("default", "json"), "drain")
    if not output:
        raise SqsteeError("invalid value '' for -O (expected a folder, or - for stdout)", "for example: -O logs")
    hidden = round(parse_seconds(visibility, "--visibility-timeout")) if visibility else None
    if hidden is not None and not 1 <= hidden <= 43200:
        problem = f"invalid value {visibility!r} for --visibility-timeout (expected 1s to 12h)"
        raise SqsteeError(problem, "for example: --visibility-timeout 5m")
    reasons = _reasons(fail_on)
    sources = destinations(dest)
    check_shards(shards, sources)  # before a folder is made
    if any(one.kind == "folder" and os.path.realpath(one.name) == os.path.realpath(output) for one in sources):
        raise SqsteeError(f"{output} cannot be drained into itself", "choose another folder: -O DIR")
    limits = DrainLimits(
        concurrency, max(1.0, parse_seconds(wait, "--wait-time")), parse_seconds(idle, "--idle-timeout")
    )
    if not _is_given(context, "idle") and all(one.kind != "sqs" for one in sources):
        limits.idle = limits.wait = 0.0  # where these have nothing, they say so at once
    limits.max_messages = max_messages or None
    limits.start_timeout = parse_seconds(start, "--start-timeout")
    stores = payload_stores(via_s3)
    if output == "-":
        _check_stdout(context)
        with reporting_errors("drain"), StopSignal() as stop:
            return _to_stdout(dest, limits, hidden, shards, stores, stop, reasons)
    with reporting_errors("drain", _DISK_HINT), StopSignal() as stop:
        return _DrainJob(dest, limits, hidden, shards, stores, processes, stop, reasons).run(
            output, layout, packed, form == "json"
        )
    return stop.status


def _is_given(context: typer.Context, name: str) -> bool:
    """Whether the user gave an option, even with its default value."""
    source = context.get_parameter_source(name)
    return bool(source and source.name != "DEFAULT")


def _check_stdout(context: typer.Context) -> None:
    """Refuse the options for files: stdout gets plain records from one process."""
    for name, flag in (("layout", "--layout"), ("packed", "--gzip"), ("processes", "--processes")):
        if _is_given(context, name):
            hint = f"leave out {flag}, or name a folder: -O DIR"
            raise SqsteeError(f"{flag} needs a folder, but -O - writes to stdout", hint)


def _to_stdout(
    dest: Sequence[str],
    limits: DrainLimits,
    visibility: int | None,
    shards: str,
    stores: Sequence[Destination],
    stop: StopSignal,
    reasons: Collection[str],
) -> int:
    """Write records as NDJSON; delete each message once its lines are written."""
    from sqstee.cli.sources import open_sources, status_of
    from sqstee.read.follower import Follower
    from sqstee.read.printer import BufferedOutput, Printer, Style

    connections = 2 * limits.threads
    sources = open_sources(
        dest,
        consume=True,
        peek=False,
        visibility=visibility,
        connections=connections,
        shards=shards,
        stores=stores,
    )
    printer = Printer(BufferedOutput(1), BufferedOutput(2), Style("json"))
    watch = _FailureWatch(printer) if "failed" in reasons else None
    follower = Follower(
        sources.receivers,
        watch or printer,
        stop,
        True,
        from_start=True,
        threads=limits.threads,
        wait=limits.wait,
        max_messages=limits.max_messages,
        start_timeout=limits.start_timeout,
    )
    follower.drain(0.0 if all(one.follows for one in sources.receivers) else limits.idle)
    states = follower.states() | ({"failed"} if watch and watch.has_failed else set())
    return stop.status or status_of(follower) or _exit_status(states, reasons)


class _FailureWatch:
    """Passes items on to a sink, and notes whether a command failed."""

    def __init__(self, sink: ItemSink) -> None:
        self._sink = sink
        self.notice, self.flush = sink.notice, sink.flush
        self.has_failed = False

    def items(self, items: Sequence[Item | ForeignLine], late: bool = False) -> None:
        """Pass items on."""
        from sqstee.wire import Event, is_failure

        self.has_failed |= any(isinstance(item, Event) and is_failure(item) for item in items)
        self._sink.items(items, late)


def _reasons(texts: Sequence[str]) -> set[str]:
    """The values of --fail-on."""
    from sqstee.cli.sources import check_choice

    found = {word.strip() for text in texts for word in text.split(",")}
    for word in sorted(found):
        check_choice(word, "--fail-on", tuple(_FAIL_ON), "drain")
    return found


def _exit_status(states: Collection[str], reasons: Collection[str]) -> int:
    """The exit status for runs in these states: that of the worst which is a reason to fail."""
    return next((status for name, status in _FAIL_ON.items() if name in states and name in reasons), 0)


class _DrainJob:
    """One drain into a folder."""

    def __init__(
        self,
        dest: Sequence[str],
        limits: DrainLimits,
        visibility: int | None,
        shards: str,
        stores: Sequence[Destination],
        processes: int,
        stop: StopSignal,
        reasons: Collection[str],
    ) -> None:
        self._dest, self._limits, self._visibility, self._shards = dest, limits, visibility, shards
        self._stores = stores
        self._processes, self._stop, self._reasons = processes, stop, reasons
        self._line = _ProgressLine(dest)
        self._states: set[str] = set()
        self._undeleted = 0  # messages that could not be deleted, or not be read

    def run(self, folder: str, layout: str, packed: bool, as_json: bool) -> int:
        """Receive, assemble, print the verdicts; the exit status."""
        from sqstee.drain.store import Store

        store = Store(os.path.abspath(folder), layout, packed)
        try:
            try:
                self._collect(store)
            except Exception:
                if store.has_journal:
                    self._assemble(store, as_json)
                raise
            self._assemble(store, as_json)
        finally:
            store.close()
        if self._stop.signal:
            return self._stop.status
        return EXIT_FAILURE if self._undeleted else _exit_status(self._states, self._reasons)

    def _collect(self, store: Store) -> None:
        from sqstee.cli.sources import destinations
        from sqstee.drain.processes import collect

        queues = [one.text for one in destinations(self._dest) if one.kind == "sqs"]
        progress = collect(
            store.hidden,
            lambda: self._open(self._dest, self._shards),
            self._limits,
            self._processes if queues else 1,  # only a queue divides its messages between processes
            self._stop,
            self._line.show_progress,
            self._line.notice,
            self._line.is_shown,
            lambda: self._open(queues),
        )
        self._undeleted = progress.undeleted
        self._line.clear()

    def _open(self, dest: Sequence[str], shards: str = "") -> Sequence[Receiver]:
        from sqstee.cli.sources import open_sources

        connections = self._limits.threads + self._limits.deleters
        hidden = self._visibility
        sources = open_sources(
            dest,
            consume=True,
            peek=False,
            visibility=hidden,
            connections=connections,
            shards=shards,
            stores=self._stores,
        )
        return sources.receivers

    def _assemble(self, store: Store, as_json: bool) -> None:
        report = _VerdictReport(as_json)

        def show(verdict: Verdict) -> None:
            self._states |= {verdict.outcome} | ({"failed"} if verdict.is_failed else set())
            self._line.clear()  # it may be on the terminal's line that the verdict needs
            report.add(verdict)

        store.assemble(show, self._line.show_assembly)
        self._line.clear()
        report.end()
        if store.foreign:
            from sqstee.transports.folder import FOREIGN_NAME

            self._line.notice(
                f"{count(store.foreign, 'line')} not written by sqstee: see {FOREIGN_NAME}/ in the folder"
            )


class _ProgressLine:
    """The progress, as one line on a terminal's stderr; notices have lines of their own."""

    def __init__(self, dest: Sequence[str]) -> None:
        self.is_shown = sys.stderr.isatty()
        self._name = ", ".join(dest)
        self._started = self._drawn = time.monotonic()
        self._samples: deque[tuple[float, int]] = deque()
        self._width = 0

    def show_progress(self, progress: DrainProgress) -> None:
        """Show how much was received."""
        now = time.monotonic()
        self._samples.append((now, progress.received))
        while now - self._samples[0][0] > _RATE_SECONDS:
            self._samples.popleft()
        (then, before) = self._samples[0]
        rate = (progress.received - before) / (now - then) if now - then > 0.5 else 0.0
        left = time_left = ""
        if not rate and now - self._started > _RATE_SECONDS:
            left = "waiting for more"
        elif progress.waiting:
            left = f"about {progress.waiting:,} left"
            if rate >= 1:
                from sqstee.read.printer import format_duration

                time_left = format_duration(max(1, round(progress.waiting / rate)))
        size = f"{progress.bytes / 1048576:,.1f} MiB"
        self._draw(f"{progress.received:,} messages", size, f"{rate:,.0f}/s" if rate else "", left, time_left)

    def show_assembly(self, lines: int) -> None:
        """Show how much was written into files."""
        self._draw(f"assembling   {count(lines, 'line')}")

    def notice(self, text: str) -> None:
        """Write a notice above the line."""
        from sqstee.read.printer import neutral

        self.clear()
        _write(f"sqstee: {neutral(text)}\n".encode())

    def clear(self) -> None:
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
    """Write to stderr, if possible: a full log must not end the drain, nor the thread that reports trouble."""
    with suppress(OSError):
        os.write(2, data)


class _VerdictReport:
    """Prints verdicts: the first complete runs, all that failed or are not complete, and totals."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._counts = {"complete": 0, "missing": 0, "open": 0}
        self._failed = self._hidden = self._lines = self._missing = 0
        self._colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ

    def add(self, verdict: Verdict) -> None:
        """Print a verdict."""
        self._counts[verdict.outcome] += 1
        self._lines += verdict.lines
        self._missing += verdict.missing
        self._failed += verdict.is_failed
        if self._as_json:
            import json

            typer.echo(json.dumps(verdict.fields))
        elif verdict.outcome != "complete" or verdict.is_failed or self._counts["complete"] <= _MAX_SHOWN:
            typer.echo(self._text(verdict))
        else:
            self._hidden += 1

    def end(self) -> None:
        """Print the totals."""
        if self._as_json:
            return
        runs = sum(self._counts.values())
        if self._hidden:
            typer.echo(f"… and {self._hidden:,} more complete")
        states = ", ".join(f"{count:,} {state}" for state, count in self._counts.items() if count)
        failed = f"; {self._failed:,} failed" if self._failed else ""
        if self._missing:
            from sqstee.read.notices import ANOTHER_READER

            typer.echo(ANOTHER_READER)
        typer.echo(f"{count(runs, 'run')}{f': {states}' if runs else ''}{failed}; {count(self._lines, 'line')}")

    def _text(self, verdict: Verdict) -> str:
        fields = verdict.fields
        name = f"{short_name(fields['host'])} {short_name(fields['job'] or fields['name'] or verdict.run)}"
        parts = [count(verdict.lines, "line")]
        if verdict.missing:
            found = fields["missing_ranges"]
            ranges = ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in found[:5])
            more = ", …" if len(found) > 5 else ""
            parts.append(f"{verdict.missing:,} missing so far (seq {ranges}{more})")
        for at, lines in fields["fallbacks"].items():
            parts.append(f"{lines:,} went to {at} (drain that as well)")
        if dropped := fields["dropped"]:
            parts.append(f"{dropped:,} dropped by the sender")
        if verdict.duplicates:
            parts.append(f"{count(verdict.duplicates, 'duplicate')} skipped")
        if verdict.result:
            parts.append(one_line(verdict.result))
        elif verdict.outcome != "complete" and not fields["ended"]:
            parts.append("not ended")
        code = {"complete": "32", "missing": "31", "open": "33"}[verdict.outcome]
        state = f"{verdict.outcome:8}"
        state = f"\x1b[{code}m{state}\x1b[0m" if self._colour else state
        return f"{state} {name}: {', '.join(parts)}"
