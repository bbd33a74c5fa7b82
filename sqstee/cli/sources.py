"""What the verbs that read share: destinations opened, options converted."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sqstee.errors import EXIT_FAILURE, SqsteeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqstee.destination import Destination
    from sqstee.transports.base import Receiver

_FEW_RECEIVES = 3  # maxReceiveCount up to which a look could send messages to the dead-letter queue


class Places:
    """Destinations opened for reading.

    `consumed`: what is read is deleted; `peeked`: what a look at each queue costs, empty where nothing is looked at so.
    """

    def __init__(self, destinations: Sequence[Destination], receivers: Sequence[Receiver]) -> None:
        self.destinations = destinations
        self.receivers = receivers
        self.consumed = False
        self.peeked: list[str] = []


def destinations(texts: Sequence[str] | None) -> list[Destination]:
    """The destinations of a command line; with none, what `--to` would be."""
    from sqstee import options
    from sqstee.destination import parse

    settings = options.load((), os.environ)
    return [parse(text) for text in (texts or [settings.to or "local"])]


def local_path() -> str:
    """Where the local queue lies by default: in the spool folder."""
    from sqstee import options
    from sqstee.destination import LOCAL_FILE_NAME
    from sqstee.spool.location import default_root

    settings = options.load((), os.environ)
    return f"{os.path.abspath(settings.spool or default_root())}/{LOCAL_FILE_NAME}"


def check_shards(text: str, found: Sequence[Destination]) -> None:
    """Raise SqsteeError where --shards is no range, or there is no S3 to read."""
    if not text:
        return
    from sqstee.transports.s3 import shard_range

    shard_range(text)
    if not any(one.kind == "s3" for one in found):
        raise SqsteeError("--shards divides s3:// destinations, and there is none", "leave --shards out")


def opened(
    texts: Sequence[str] | None,
    *,
    consume: bool,
    peek: bool,
    visibility: int | None = None,
    connections: int = 8,
    shards: str = "",
) -> Places:
    """Open destinations for a verb that has --consume and --peek; raises SqsteeError where neither is chosen."""
    from sqstee.transports.factory import open_receiver

    found = destinations(texts)
    check_shards(shards, found)
    queues = [one for one in found if one.kind == "sqs"]
    if queues and consume == peek:
        problem = "a queue has no way to read without taking" if not consume else "only one of --consume and --peek"
        hint = "choose --consume (delete what was printed) or --peek (one pass, given back)"
        raise SqsteeError(problem, hint)
    local = local_path()
    receivers = [open_receiver(one, local, connections, visibility, consume=consume, shards=shards) for one in found]
    places = Places(found, receivers)
    places.consumed = consume
    if peek and queues:
        for one, receiver in zip(found, places.receivers, strict=True):
            if not receiver.follows:
                cost = _cost_of_a_look(one, receiver, visibility)
                places.peeked.append(f"{one.text}: {cost}" if len(queues) > 1 else cost)
    return places


def _cost_of_a_look(destination: Destination, receiver: Receiver, visibility: int | None) -> str:
    """What --peek costs; raises SqsteeError where it would do harm."""
    from sqstee.transports.errors import TransportError

    hint = "choose --consume, or read the dead-letter queue's source another way"
    if destination.name.endswith(".fifo"):
        raise SqsteeError(f"{destination.text}: --peek would block the groups of a FIFO queue", hint)
    try:
        state = receiver.stat()
    except TransportError as error:
        why = "--peek must ask for maxReceiveCount first (sqs:GetQueueAttributes)"
        raise SqsteeError(f"{destination.text}: {error}", why, EXIT_FAILURE) from None
    if state.max_receives is not None and state.max_receives <= _FEW_RECEIVES:
        problem = f"{destination.text}: --peek could send messages to the dead-letter queue"
        raise SqsteeError(f"{problem} (maxReceiveCount is {state.max_receives})", hint)
    worth = f" of the {state.max_receives} before the dead-letter queue" if state.max_receives else ""
    return (
        f"--peek takes each message once ({state.visible:,} now) and gives it back at the end: that is one "
        f"receive{worth}, and others do not see it for up to {visibility} s"
    )


@contextmanager
def failures(verb: str, hint: str = "nothing is deleted that was not written") -> Iterator[None]:
    """What fails while reading, said in one line and one hint: `hint` where it is a disk or the output."""
    from sqstee.transports.errors import TransportError

    try:
        yield
    except BrokenPipeError:
        raise  # a reader that left our pipe is no failure of ours
    except TransportError as error:
        where = f"sqstee {verb} --help lists the options; sqstee check DEST looks for the cause"
        raise SqsteeError(str(error), where, EXIT_FAILURE) from None
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not error.filename:
            raise  # the working folder has gone
        what = f"{error.filename}: {error.strerror}" if error.filename else f"writing failed: {error.strerror}"
        raise SqsteeError(what, hint, EXIT_FAILURE) from None


def color_of(text: str) -> bool:
    """Whether to colour, by --color, NO_COLOR and what stdout is."""
    if text not in ("auto", "always", "never"):
        raise SqsteeError(f"{text!r} is not a choice of colours", "the form is --color auto|always|never")
    return text == "always" or (text == "auto" and sys.stdout.isatty() and "NO_COLOR" not in os.environ)


def seconds_of(text: str, flag: str) -> float:
    """A TIME option's seconds."""
    from sqstee import options

    return options.seconds_of(text, flag)
