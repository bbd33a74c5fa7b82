"""`sqstee tail`: follow lines as they arrive."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import typer

from sqstee.errors import SqsteeError
from sqstee.text import count

if TYPE_CHECKING:
    import re
    from collections.abc import Sequence

    from sqstee.cli.sources import Sources
    from sqstee.read.context import Context
    from sqstee.read.filter import Filter
    from sqstee.read.multiline import Multiline
    from sqstee.read.printer import Printer, Style
    from sqstee.read.stop_signal import StopSignal
    from sqstee.read.unmatched import UnmatchedStore

_MOST_CONTEXT = 1000
_LINES = 10  # to begin with, as tail and journalctl do
_DIGITS = 10
_NO_LAST = "leave out -n, or read a store: local, local:PATH or s3://BUCKET/PREFIX"
_PEEK_VISIBILITY = 120  # seconds: a pass over many messages takes longer than most queues' 30 s


def tail(
    dest: list[str] = typer.Argument(None, metavar="[DEST]…", help="Where to read (default: as --to of run)."),
    consume: bool = typer.Option(False, "--consume", help="Delete each message once its lines are printed."),
    peek: bool = typer.Option(False, "--peek", help="Read the queue once; release every message at the end."),
    follow: bool | None = typer.Option(
        None,
        "-f",
        "--follow/--no-follow",
        help="Wait for more lines (the default without --until), or stop at the end.",
    ),
    host: list[str] = typer.Option([], "--host", metavar="GLOB", help="Only lines of these hosts."),
    stream: list[str] = typer.Option(
        [], "--stream", metavar="NAME", help="Only this stream: stdout, stderr, output, stdin, event."
    ),
    run: list[str] = typer.Option([], "--run", metavar="RUN", help="Only runs whose id starts with this."),
    job: list[str] = typer.Option([], "--job", metavar="GLOB", help="Only lines of these jobs or commands."),
    include: list[str] = typer.Option([], "-i", "--include", metavar="REGEX", help="Only lines that match."),
    exclude: list[str] = typer.Option([], "-e", "--exclude", metavar="REGEX", help="No lines that match."),
    highlight: list[str] = typer.Option([], "-H", "--highlight", metavar="REGEX", help="Highlight matching text."),
    since: str = typer.Option(
        "", "--since", metavar="TIME", help="Only lines since then: 2h, 09:00, yesterday, or RFC 3339."
    ),
    until: str = typer.Option("", "--until", metavar="TIME", help="Only lines before then."),
    label: list[str] = typer.Option([], "--label", metavar="NAME=GLOB", help="Only runs with this label."),
    level: str = typer.Option(
        "",
        "-p",
        "--level",
        metavar="debug|info|warning|error|critical",
        help="Only lines of this level and above; none without a level.",
    ),
    failed: bool = typer.Option(False, "--failed", help="Only lines of runs that failed; does not follow a store."),
    after: int = typer.Option(
        0, "-A", "--after-context", metavar="N", help="Show N lines of the same run after each match."
    ),
    before: int = typer.Option(
        0, "-B", "--before-context", metavar="N", help="Show N lines of the same run before each match."
    ),
    around: int = typer.Option(
        0, "-C", "--context", metavar="N", help="Show N lines of the same run around each match."
    ),
    multiline: str = typer.Option(
        "",
        "--multiline",
        metavar="indented|REGEX",
        help="Treat lines that are indented, or do not match REGEX, as part of the one before them.",
    ),
    lines: str = typer.Option(
        "", "-n", "--lines", metavar="N|all", help="Begin with the last N lines (default: 10; with --no-follow: all)."
    ),
    times: bool = typer.Option(False, "-t", "--times", help="Print the local time before each line."),
    utc: bool = typer.Option(False, "--utc", help="Print the time before each line, in UTC."),
    shards: str = typer.Option(
        "", "--shards", metavar="XX[-XX]", help="With s3://: read only these of the shards 00-ff."
    ),
    via_s3: list[str] = typer.Option(
        [], "--via-s3", metavar="s3://BUCKET/PREFIX", help="Follow pointers there only (default: as --via-s3 of run)."
    ),
    start: str = typer.Option("30s", "--start-timeout", metavar="TIME", help="Give up if nothing answers this long."),
    output: str = typer.Option("default", "-o", "--output", metavar="default|raw|json", help="The format of a line."),
    template: str = typer.Option("", "--template", metavar="TEXT", help="A format such as '{time} {host} {message}'."),
    window: str = typer.Option("2s", "--reorder-window", metavar="TIME", help="How long to wait for a missing line."),
    color: str = typer.Option("auto", "--color", metavar="auto|always|never", help="When to use colours."),
    delete_unmatched: bool = typer.Option(
        False, "--delete-unmatched", help="With --consume and a filter: delete hidden lines, too."
    ),
    keep_unmatched: str = typer.Option(
        "", "--keep-unmatched", metavar="FILE|DEST", help="With --consume and a filter: store hidden lines there."
    ),
) -> int:
    """Follow lines as they arrive: ordered, without duplicates, gaps reported.

    SQS cannot be read without receiving messages: --consume deletes them once they are printed, --peek releases them.
    After ^C or SIGTERM it leaves nothing in flight and exits with status 130 or 143.
    """
    from sqstee.cli.sources import (
        absent_stores,
        check_choice,
        check_stream,
        open_sources,
        parse_labels,
        parse_moment,
        parse_seconds,
        payload_stores,
        reporting_errors,
        status_of,
        use_colour,
    )
    from sqstee.read.backlog import Backlog
    from sqstee.read.filter import Filter
    from sqstee.read.follower import Follower
    from sqstee.read.printer import BufferedOutput, Printer
    from sqstee.read.stop_signal import StopSignal

    for name in stream:
        check_stream(name, "tail")
    check_choice(color, "--color", ("auto", "always", "never"), "tail")
    zone = "utc" if utc else "local" if times else ""
    context = _context(before or around, after or around)
    style = _style(
        output,
        template,
        _patterns("-H", highlight),
        use_colour(color),
        times=zone,
        alive="event" in stream,
        separators=context is not None,
    )
    earliest, latest = parse_moment(since, "--since"), parse_moment(until, "--until")
    wanted = Filter(
        host,
        stream,
        run,
        job,
        _patterns("-i", include),
        _patterns("-e", exclude),
        earliest,
        latest,
        parse_labels(label),
        _level(level),
    )
    groups = _multiline(multiline)
    for flag, value in (("-A, -B and -C", context), ("--multiline", groups)):
        if value and not wanted.is_active:
            raise SqsteeError(f"{flag}: there is no filter whose lines to add to", "add a filter such as -i ERROR")
    seconds = parse_seconds(window, "--reorder-window")
    start_timeout = parse_seconds(start, "--start-timeout")
    if not consume:
        _check_without_consume(delete_unmatched, keep_unmatched)
    printer = Printer(BufferedOutput(1), BufferedOutput(2), style)
    with reporting_errors("tail"), StopSignal() as stop:
        visibility = _PEEK_VISIBILITY if peek else None

        def opened() -> Sources:
            return open_sources(
                dest,
                consume=consume,
                peek=peek,
                visibility=visibility,
                shards=shards,
                stores=payload_stores(via_s3),
                stop=stop,
                start_timeout=start_timeout,
            )

        sources = opened()
        for notice in absent_stores(sources.destinations):
            printer.notice(notice)
        if job:
            _name_runs(sources, wanted)
        if failed:
            run = _failed_runs(sources, wanted, run, earliest, stop, start_timeout)
            if stop.status or not run:
                return stop.status
            wanted, follow = wanted.with_runs(run), False
            sources = opened()
        if wanted.is_active and sources.consumed:
            _check_filter(delete_unmatched, keep_unmatched)
        once = peek or not (follow if follow is not None else not latest)
        most = _most_lines(lines, once, sources)
        stored = all(one.follows for one in sources.receivers)
        is_held = stored and (most is not None or len(sources.receivers) > 1)
        backlog = Backlog(printer, most, output != "raw") if is_held else None
        _narrow(sources, wanted, run, earliest, most, output != "raw")
        follower = Follower(
            sources.receivers,
            backlog or printer,
            stop,
            sources.consumed,
            wanted=wanted,
            unmatched=_unmatched_store(keep_unmatched, printer, stop, start_timeout) if keep_unmatched else None,
            window=seconds,
            wait=1.0 if once else 2.0,
            start_timeout=start_timeout,
            on_backlog=backlog.end if backlog else (lambda: None) if stored else None,
            context=context,
            multiline=groups,
        )
        for cost in sources.peek_costs:
            printer.notice(cost)
        if once:
            follower.drain()
        else:
            follower.follow()
        if sources.peek_costs:
            printer.notice(f"{count(follower.ack_pool.released, 'message')} released")
    return stop.status or status_of(follower)


def _style(
    output: str,
    template: str,
    highlight: Sequence[re.Pattern[str]],
    colour: bool,
    times: str,
    alive: bool,
    separators: bool,
) -> Style:
    from sqstee.cli.sources import check_choice
    from sqstee.read.printer import FORMATS, Style

    check_choice(output, "-o", FORMATS, "tail")
    if template and output != "default":
        raise SqsteeError("--template and -o exclude each other", "leave one of them out")
    if times and (template or output != "default"):
        hint = "a template has {timestamp}; raw shows the bytes alone, and json every field"
        raise SqsteeError("--times and --utc belong to the default format", hint)
    safe, notices = sys.stdout.isatty(), colour and sys.stderr.isatty()
    return Style(output, colour, safe, template, highlight, notices, times=times, alive=alive, separators=separators)


def _patterns(flag: str, texts: Sequence[str]) -> list[re.Pattern[str]]:
    import re

    found = []
    for text in texts:
        try:
            found.append(re.compile(text))
        except re.error as error:
            hint = f"for example: {flag} '(?i)error|warning', in the syntax of Python's re"
            raise SqsteeError(f"invalid value {text!r} for {flag} ({error})", hint) from None
    return found


def _context(before: int, after: int) -> Context | None:
    from sqstee.read.context import Context

    if min(before, after) < 0 or max(before, after) > _MOST_CONTEXT:
        raise SqsteeError(f"-A, -B and -C take a number from 0 to {_MOST_CONTEXT:,}", "for example: -i ERROR -C 3")
    return Context(before, after) if before or after else None


def _multiline(text: str) -> Multiline | None:
    from sqstee.read.multiline import INDENTED, Multiline

    if text and text != INDENTED:
        _patterns("--multiline", [text])
    return Multiline(text) if text else None


def _name_runs(sources: Sources, wanted: Filter) -> None:
    """Tell a filter by job the names of the runs in local stores: reading may begin behind their start events."""
    from sqstee.cli.sources import local_path
    from sqstee.transports.errors import TransportError
    from sqstee.transports.local_store import LocalStore

    for destination, receiver in zip(sources.destinations, sources.receivers, strict=True):
        if destination.kind == "local" and receiver.follows:
            with suppress(TransportError):  # reading the lines will meet it, and report it
                found = LocalStore(destination.name or local_path()).runs()
                wanted.name_runs((run.run, run.name) for run in found if run.name and not run.job)


def _failed_runs(
    sources: Sources, wanted: Filter, runs: Sequence[str], since: str, stop: StopSignal, start_timeout: float
) -> list[str]:
    """The wanted runs whose exit events tell of a failure, by a first reading of stores."""
    from sqstee.read.failed_runs import FailedRuns
    from sqstee.read.follower import Follower

    if not all(one.follows for one in sources.receivers):
        hint = "read a store: local, local:PATH or s3://BUCKET/PREFIX"
        raise SqsteeError("--failed needs a store, which can be read twice", hint)
    _narrow(sources, wanted, runs, since)
    found = FailedRuns(wanted, since)
    Follower(sources.receivers, found, stop, False, window=0.0, start_timeout=start_timeout).drain()
    return sorted(found.runs)


def _level(text: str) -> str:
    from sqstee.record import LEVELS

    if not text:
        return ""
    found = [level for level in LEVELS if level.startswith(text.upper())]
    if len(found) != 1:
        expected = f"{', '.join(LEVELS[1:-1])} or {LEVELS[-1]}".lower()
        raise SqsteeError(f"invalid value {text!r} for --level (expected {expected})", "for example: --level warning")
    return found[0]


def _most_lines(text: str, once: bool, sources: Sources) -> int | None:
    """How many lines to begin with; None for all. A queue cannot be asked for its last lines."""
    number = int(text) if text.isascii() and text.isdigit() and len(text) < _DIGITS else None
    if text and text != "all" and number is None:
        raise SqsteeError(f"invalid value {text!r} for -n (expected a number or all)", "for example: -n 100")
    if any(not one.follows for one in sources.receivers):
        if number is not None:
            raise SqsteeError("-n N cannot be used while messages are received: each shows once, as it comes", _NO_LAST)
        return None
    return number if text or once else _LINES


def _narrow(
    sources: Sources, wanted: Filter, runs: Sequence[str], since: str, most: int | None = None, with_events: bool = True
) -> None:
    """Tell local stores which rows are needed, and buckets which runs."""
    from sqstee.cli.sources import narrow_to_runs
    from sqstee.read.backlog import is_counted
    from sqstee.read.decode import read
    from sqstee.transports.base import ReceivedMessage

    def lines_in(message: ReceivedMessage) -> int:
        blocks, foreign = read(message)
        found = [item for block in (*blocks, foreign) for item in wanted.select(block)]
        return sum(1 for item in found if item.eol and is_counted(item, with_events))

    seconds = 0.0
    if since:
        from datetime import datetime

        seconds = datetime.fromisoformat(since).timestamp()
    prefixes = [] if any(set(run) & set("*?[") for run in runs) else runs
    for destination, receiver in zip(sources.destinations, sources.receivers, strict=True):
        if destination.kind == "local" and receiver.follows:
            from sqstee.transports.local_receiver import LocalReceiver

            assert isinstance(receiver, LocalReceiver)
            receiver.narrow(prefixes, seconds, most, lines_in)
        elif destination.kind == "s3" and prefixes:
            narrow_to_runs([receiver], prefixes)


def _check_filter(delete_unmatched: bool, keep_unmatched: str) -> None:
    """A message may have both lines that match and lines that do not: a consumer must choose the fate of the latter."""
    if delete_unmatched and keep_unmatched:
        raise SqsteeError("--delete-unmatched and --keep-unmatched exclude each other", "leave one of them out")
    if not delete_unmatched and not keep_unmatched:
        problem = "--consume with a filter would delete the lines that the filter hides"
        hint = "add --keep-unmatched FILE|DEST to store them, or --delete-unmatched to lose them"
        raise SqsteeError(problem, hint)


def _check_without_consume(delete_unmatched: bool, keep_unmatched: str) -> None:
    """Without --consume nothing is deleted: hidden lines stay where they are, and each reading would copy them."""
    if delete_unmatched or keep_unmatched:
        flag = "--keep-unmatched" if keep_unmatched else "--delete-unmatched"
        raise SqsteeError(f"{flag} needs --consume", f"add --consume, or leave out {flag}")


def _unmatched_store(text: str, printer: Printer, stop: StopSignal, start_timeout: float) -> UnmatchedStore:
    """A destination where the text is one (a plain name is a queue), else a file."""
    from sqstee.cli.sources import check_destination, local_path
    from sqstee.destination import parse
    from sqstee.read.unmatched import UnmatchedFile, UnmatchedSender
    from sqstee.transports.factory import open_sender

    try:
        destination = parse(text)
    except SqsteeError:
        return UnmatchedFile(text)
    check_destination(destination)
    is_default = destination.kind == "local" and not destination.name
    sender = open_sender(destination, local_path(write=is_default), 1024**3)
    return UnmatchedSender(sender, printer.notice, stop.pause, start_timeout)


__all__ = ["tail"]
