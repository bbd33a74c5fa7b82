"""`sqstee tail`: follow lines as they arrive."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

from sqstee.errors import SqsteeError
from sqstee.text import count

if TYPE_CHECKING:
    import re
    from collections.abc import Sequence

    from sqstee.read.filter import Filter
    from sqstee.read.printer import Printer, Style
    from sqstee.read.stop_signal import StopSignal
    from sqstee.read.unmatched import UnmatchedStore

_PEEK_VISIBILITY = 120  # seconds: a pass over many messages takes longer than most queues' 30 s


def tail(
    dest: list[str] = typer.Argument(None, metavar="[DEST]…", help="Where to read (default: as --to of run)."),
    consume: bool = typer.Option(False, "--consume", help="Delete each message once its lines are printed."),
    peek: bool = typer.Option(False, "--peek", help="Read the queue once; release every message at the end."),
    follow: bool = typer.Option(True, "--follow/--no-follow", help="Wait for more lines, or stop at the end."),
    host: list[str] = typer.Option([], "--host", metavar="GLOB", help="Only lines of these hosts."),
    stream: list[str] = typer.Option(
        [], "--stream", metavar="NAME", help="Only this stream: stdout, stderr, output, event."
    ),
    run: list[str] = typer.Option([], "--run", metavar="RUN", help="Only runs whose id starts like this."),
    job: list[str] = typer.Option([], "--job", metavar="GLOB", help="Only lines of these jobs."),
    include: list[str] = typer.Option([], "-i", "--include", metavar="REGEX", help="Only lines that match."),
    exclude: list[str] = typer.Option([], "-e", "--exclude", metavar="REGEX", help="No lines that match."),
    highlight: list[str] = typer.Option([], "-H", "--highlight", metavar="REGEX", help="Highlight what matches."),
    since: str = typer.Option("", "--since", metavar="TIME", help="Only lines since then: 10m, 2h, or RFC 3339."),
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
        check_choice,
        open_sources,
        parse_seconds,
        payload_stores,
        reporting_errors,
        status_of,
        use_colour,
    )
    from sqstee.read.follower import Follower
    from sqstee.read.printer import BufferedOutput, Printer
    from sqstee.read.stop_signal import StopSignal
    from sqstee.record import STREAMS

    for name in stream:
        if not set(name) & set("*?["):  # a glob may mean another program's streams
            check_choice(name, "--stream", (*STREAMS, "event"), "tail")
    check_choice(color, "--color", ("auto", "always", "never"), "tail")
    style = _style(output, template, _patterns("-H", highlight), use_colour(color))
    wanted = _filter(host, stream, run, job, _patterns("-i", include), _patterns("-e", exclude), since)
    seconds = parse_seconds(window, "--reorder-window")
    start_timeout = parse_seconds(start, "--start-timeout")
    if not consume:
        _check_without_consume(delete_unmatched, keep_unmatched)
    printer = Printer(BufferedOutput(1), BufferedOutput(2), style)
    with reporting_errors("tail"), StopSignal() as stop:
        visibility = _PEEK_VISIBILITY if peek else None
        sources = open_sources(
            dest,
            consume=consume,
            peek=peek,
            visibility=visibility,
            shards=shards,
            stores=payload_stores(via_s3),
            stop=stop,
            start_timeout=start_timeout,
        )
        if wanted.is_active and sources.consumed:
            _check_filter(delete_unmatched, keep_unmatched)
        once = peek or not follow
        follower = Follower(
            sources.receivers,
            printer,
            stop,
            sources.consumed,
            wanted=wanted,
            unmatched=_unmatched_store(keep_unmatched, printer, stop, start_timeout) if keep_unmatched else None,
            window=seconds,
            wait=1.0 if once else 2.0,
            start_timeout=start_timeout,
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


def _style(output: str, template: str, highlight: Sequence[re.Pattern[str]], colour: bool) -> Style:
    from sqstee.cli.sources import check_choice
    from sqstee.read.printer import FORMATS, Style

    check_choice(output, "-o", FORMATS, "tail")
    if template and output != "default":
        raise SqsteeError("--template and -o exclude each other", "leave one of them out")
    return Style(output, colour, sys.stdout.isatty(), template, highlight, colour and sys.stderr.isatty())


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


def _filter(
    hosts: Sequence[str],
    streams: Sequence[str],
    runs: Sequence[str],
    jobs: Sequence[str],
    include: Sequence[re.Pattern[str]],
    exclude: Sequence[re.Pattern[str]],
    since: str,
) -> Filter:
    import time

    from sqstee.read.filter import Filter, parse_since

    try:
        moment = parse_since(since, time.time()) if since else ""
    except (ValueError, OverflowError):
        problem = f"invalid value {since!r} for --since (expected an age such as 10m, 2h, 3d, or a date and time)"
        raise SqsteeError(problem, "for example: --since 2026-11-21T19:30:00Z") from None
    return Filter(hosts, streams, runs, jobs, include, exclude, moment)


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
