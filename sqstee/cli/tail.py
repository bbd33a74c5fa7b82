"""`sqstee tail`: follow lines as they arrive."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

from sqstee.errors import SqsteeError

if TYPE_CHECKING:
    import re
    from collections.abc import Sequence

    from sqstee.read.filter import Filter
    from sqstee.read.follower import Rest
    from sqstee.read.printer import Style

_PEEK_VISIBILITY = 120  # seconds: a pass over many messages takes longer than the 30 s of most queues


def tail(
    dest: list[str] = typer.Argument(None, metavar="[DEST]…", help="Where to read (default: what --to would be)."),
    consume: bool = typer.Option(False, "--consume", help="Delete from the queue what was printed."),
    peek: bool = typer.Option(False, "--peek", help="One pass over the queue; everything is given back at the end."),
    follow: bool = typer.Option(True, "--follow/--no-follow", help="Wait for more, or stop at the end."),
    host: list[str] = typer.Option([], "--host", metavar="GLOB", help="Lines of these hosts only."),
    stream: list[str] = typer.Option([], "--stream", metavar="NAME", help="Of: stdout, stderr, output, event."),
    run: list[str] = typer.Option([], "--run", metavar="RUN", help="Runs that begin so only."),
    job: list[str] = typer.Option([], "--job", metavar="GLOB", help="Lines of these jobs only."),
    include: list[str] = typer.Option([], "-i", "--include", metavar="REGEX", help="Lines that contain it only."),
    exclude: list[str] = typer.Option([], "-e", "--exclude", metavar="REGEX", help="Not the lines that contain it."),
    highlight: list[str] = typer.Option([], "-H", "--highlight", metavar="REGEX", help="Point it out."),
    since: str = typer.Option("", "--since", metavar="TIME", help="Lines from then on: 10m, 2h, or RFC 3339."),
    shards: str = typer.Option("", "--shards", metavar="XX[-XX]", help="Of S3 this part of 00-ff only, as 00-7f."),
    output: str = typer.Option("default", "-o", "--output", metavar="default|raw|json", help="The form of a line."),
    template: str = typer.Option("", "--template", metavar="TEXT", help="The form as '{time} {host} {message}'."),
    window: str = typer.Option("2s", "--reorder-window", metavar="TIME", help="How long to wait for a missing line."),
    color: str = typer.Option("auto", "--color", metavar="auto|always|never", help="Colours."),
    delete_unmatched: bool = typer.Option(
        False, "--delete-unmatched", help="With --consume and a filter: delete also what the filter hides."
    ),
    rest: str = typer.Option(
        "", "--rest", metavar="FILE|DEST", help="With --consume and a filter: keep there what the filter hides."
    ),
) -> int:
    """Follow lines as they arrive: ordered, without duplicates, gaps reported.

    A queue has no way to read without taking: --consume deletes what was printed, --peek gives everything back.
    A status of 130 or 143 says that ^C or SIGTERM ended it, in good order.
    """
    from sqstee.cli.sources import color_of, failures, opened, seconds_of
    from sqstee.read.follower import Follower
    from sqstee.read.printer import Output, Printer
    from sqstee.read.stop_signal import Stop

    style = _style(output, template, _patterns("-H", highlight), color_of(color))
    wanted = _filter(host, stream, run, job, _patterns("-i", include), _patterns("-e", exclude), since)
    seconds = seconds_of(window, "--reorder-window")
    if not consume:
        _check_without_consume(delete_unmatched, rest)
    printer = Printer(Output(1), Output(2), style)
    with failures("tail"), Stop() as stop:
        hidden = _PEEK_VISIBILITY if peek else None
        places = opened(dest, consume=consume, peek=peek, visibility=hidden, shards=shards)
        if wanted.is_active and places.consumed:
            _check_filter(delete_unmatched, rest)
        once = peek or not follow
        follower = Follower(
            places.receivers,
            printer,
            stop,
            places.consumed,
            wanted=wanted,
            rest=_rest(rest) if rest else None,
            window=seconds,
            wait=1.0 if once else 2.0,
        )
        for cost in places.peeked:
            printer.remark(cost)
        if once:
            follower.drain()
        else:
            follower.follow()
        if places.peeked:
            printer.remark(f"{follower.returns.released} messages given back")
    return stop.status


def _style(output: str, template: str, highlight: Sequence[re.Pattern[str]], colour: bool) -> Style:
    from sqstee.read.printer import FORMATS, Style

    if output not in FORMATS:
        raise SqsteeError(f"{output!r} is not a form of output", f"the form is -o {'|'.join(FORMATS)}")
    if template and output != "default":
        raise SqsteeError("only one of --template and -o", "leave -o out, or --template")
    return Style(output, colour, sys.stdout.isatty(), template, highlight, colour and sys.stderr.isatty())


def _patterns(flag: str, texts: Sequence[str]) -> list[re.Pattern[str]]:
    import re

    found = []
    for text in texts:
        try:
            found.append(re.compile(text))
        except re.error as error:
            hint = f"the form is {flag} REGEX, as of Python's re; (?i) at its beginning ignores case"
            raise SqsteeError(f"{flag}: {text!r} is not a regular expression: {error}", hint) from None
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

    from sqstee.read.filter import Filter, earliest

    try:
        moment = earliest(since, time.time()) if since else ""
    except (ValueError, OverflowError):
        hint = "the form is --since 10m, 2h, 3d or 2026-11-21T19:30:00Z"
        raise SqsteeError(f"--since: {since!r} is not a time", hint) from None
    return Filter(hosts, streams, runs, jobs, include, exclude, moment)


def _check_filter(delete_unmatched: bool, rest: str) -> None:
    """One message mixes lines that match with lines that do not: a consumer must say what becomes of the latter."""
    if delete_unmatched == bool(rest):
        problem = "--consume with a filter would delete lines that it hides" if not rest else "only one of the two"
        hint = "choose --delete-unmatched (they are lost) or --rest FILE|DEST (they are kept there)"
        raise SqsteeError(problem, hint)


def _check_without_consume(delete_unmatched: bool, rest: str) -> None:
    """Nothing is deleted then: what a filter hides is still there, and would be copied by each reading."""
    if delete_unmatched or rest:
        flag = "--rest" if rest else "--delete-unmatched"
        raise SqsteeError(f"{flag} is for --consume, and nothing is consumed", f"leave {flag} out, or add --consume")


def _rest(text: str) -> Rest:
    """A destination where the text is one (also a queue's name), else a file."""
    from sqstee.cli.sources import local_path
    from sqstee.destination import parse
    from sqstee.read.unmatched import FileRest, SenderRest
    from sqstee.transports.factory import open_sender

    try:
        destination = parse(text)
    except SqsteeError:
        return FileRest(text)
    return SenderRest(open_sender(destination, local_path(), 1024**3))


__all__ = ["tail"]
