"""`sqstee tail`: follow lines as they arrive."""

from __future__ import annotations

import os
import sys

import typer

from sqstee.errors import EXIT_FAILURE, SqsteeError


def tail(
    dest: str = typer.Argument("", metavar="[DEST]", help="Where to read (default: what --to would be)."),
    consume: bool = typer.Option(False, "--consume", help="Delete from the queue what was printed."),
    peek: bool = typer.Option(False, "--peek", help="One pass over the queue; everything is given back at the end."),
    follow: bool = typer.Option(True, "--follow/--no-follow", help="Wait for more, or stop at the end."),
    output: str = typer.Option("default", "-o", "--output", metavar="default|raw|json", help="The form of a line."),
    color: str = typer.Option("auto", "--color", metavar="auto|always|never", help="Colours."),
) -> int:
    """Follow lines as they arrive: ordered, without duplicates, gaps reported."""
    from sqstee import options
    from sqstee.read.follow import Follower
    from sqstee.read.show import FORMATS, Printer
    from sqstee.run.spool import default_root
    from sqstee.transports.base import TransportError, open_receiver
    from sqstee.transports.destination import LOCAL_FILE_NAME, parse

    settings = options.load((), os.environ)
    destination = parse(dest or settings.to or "local")
    if output not in FORMATS:
        raise SqsteeError(f"{output!r} is not a form of output", f"the form is -o {'|'.join(FORMATS)}")
    if color not in ("auto", "always", "never"):
        raise SqsteeError(f"{color!r} is not a choice of colours", "the form is --color auto|always|never")
    if destination.kind == "sqs" and consume == peek:
        problem = "a queue has no way to read without taking" if not consume else "only one of --consume and --peek"
        hint = "choose --consume (delete what was printed) or --peek (one pass, given back)"
        raise SqsteeError(problem, hint)
    local = f"{os.path.abspath(settings.spool or default_root())}/{LOCAL_FILE_NAME}"
    coloured = color == "always" or (color == "auto" and sys.stdout.isatty() and "NO_COLOR" not in os.environ)
    try:
        receiver = open_receiver(destination, local)
        printer = Printer(sys.stdout.buffer, sys.stderr.buffer, output, coloured)
        follower = Follower(receiver, printer, consume)
        try:
            if follow and not peek:
                follower.follow()
            else:
                follower.drain()
        except KeyboardInterrupt:
            return 130
        finally:
            follower.release()
    except TransportError as error:
        hint = "sqstee tail --help lists the options; AWS_* variables and profiles work as for boto3"
        raise SqsteeError(f"{destination.text}: {error}", hint, EXIT_FAILURE) from None
    return 0
