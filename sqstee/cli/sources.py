"""Shared by the verbs that read: opening sources, converting options, reporting errors."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sqstee.errors import EXIT_FAILURE, SqsteeError, closest, invalid_value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqstee.destination import Destination
    from sqstee.read.follower import Follower
    from sqstee.read.stop_signal import StopSignal
    from sqstee.transports.base import Receiver

_VIA_S3_HINT = "the form is --via-s3 s3://BUCKET/PREFIX"
_FEW_RECEIVES = 3  # maxReceiveCount up to which --peek could send messages to the dead-letter queue


class Sources:
    """Destinations opened for reading.

    `consumed`: whether messages are deleted once they are read. `peek_costs`: the cost of --peek, one text per queue.
    """

    def __init__(self, destinations: Sequence[Destination], receivers: Sequence[Receiver]) -> None:
        self.destinations = destinations
        self.receivers = receivers
        self.consumed = False
        self.peek_costs: list[str] = []


def destinations(texts: Sequence[str] | None) -> list[Destination]:
    """The destinations of a command line; without any, the one that `--to` defaults to."""
    from sqstee.destination import parse_source
    from sqstee.settings import load_settings

    found = [parse_source(text) for text in (texts or [load_settings((), os.environ).to or "local"])]
    for destination in found:
        check_destination(destination)
    return found


def readable(texts: Sequence[str] | None) -> list[Destination]:
    """As `destinations`; the default local queue comes with those in the folders that stood in for the spool folder."""
    from sqstee.destination import Destination
    from sqstee.settings import load_settings
    from sqstee.spool.location import existing_roots, local_queue

    found = destinations(texts)
    if any(one.kind == "local" and not one.name for one in found):
        _, *others = existing_roots(load_settings((), os.environ).spool)
        paths = [path for path in map(local_queue, others) if os.path.exists(path)]
        found += [Destination("local", f"local:{path}", path) for path in paths]
    return found


def check_destination(destination: Destination) -> None:
    """Raise SqsteeError for a local queue in a folder that does not exist, or a folder with nothing of sqstee's."""
    if destination.kind == "folder":
        from sqstee.transports.folder import check_readable

        check_readable(destination.name, destination.text)
        return
    from sqstee.settings import load_settings
    from sqstee.spool.location import check_folder

    check_folder(destination, load_settings((), os.environ).spool)


def absent_stores(found: Sequence[Destination]) -> list[str]:
    """A notice for each named local queue that has no file: it is mistyped, or nothing has been stored there yet."""
    absent = [one for one in found if one.kind == "local" and one.name and not os.path.exists(one.name)]
    return [f"{one.text}: no such file, nothing has been stored there yet" for one in absent]


def payload_stores(texts: Sequence[str]) -> list[Destination]:
    """Where the bodies of messages may be; without any text, where `run` puts them. Raises SqsteeError."""
    from sqstee.destination import parse
    from sqstee.settings import load_settings

    configured = load_settings((), os.environ).via_s3
    found = [parse(text) for text in texts or ([configured] if configured else [])]
    if wrong := next((store.text for store in found if store.kind != "s3"), ""):
        raise SqsteeError(f"invalid value {wrong!r} for --via-s3 (expected s3://BUCKET/PREFIX)", _VIA_S3_HINT)
    return found


def local_path(write: bool = False) -> str:
    """The default path of the local queue, in the spool folder, which is created if the queue is to be written."""
    from sqstee.settings import load_settings
    from sqstee.spool.location import local_queue, open_root, root_path

    configured = load_settings((), os.environ).spool
    return local_queue(open_root(configured) if write else root_path(configured))


def check_shards(text: str, found: Sequence[Destination]) -> None:
    """Raise SqsteeError where --shards is no range, or no source is s3://."""
    if not text:
        return
    from sqstee.transports.s3 import shard_range

    shard_range(text)
    if not any(one.kind == "s3" for one in found):
        raise SqsteeError("--shards needs an s3:// source", "leave out --shards, or name s3://BUCKET/PREFIX")


def open_sources(
    texts: Sequence[str] | None,
    *,
    consume: bool,
    peek: bool,
    visibility: int | None = None,
    connections: int = 16,
    shards: str = "",
    stores: Sequence[Destination] = (),
    stop: StopSignal | None = None,
    start_timeout: float = 0.0,
) -> Sources:
    """Open the sources of a verb that has --consume and --peek; raises SqsteeError where a queue needs the choice.

    Messages may point to bodies in `stores`. A queue for --peek has `start_timeout` seconds to answer; `stop` ends the
    wait.
    """
    from sqstee.read.stop_signal import StopSignal
    from sqstee.transports.factory import open_receiver

    found = readable(texts)
    check_shards(shards, found)
    queues = [one for one in found if one.kind == "sqs"]
    if queues and consume == peek:
        needed = f"{queues[0].text}: reading a queue needs --consume or --peek"
        problem = "--consume and --peek exclude each other" if consume else needed
        hint = "--consume deletes each message once its lines are out; --peek reads once and releases every message"
        raise SqsteeError(problem, f"{folder_hint(queues[0].text)}{hint}")
    local = local_path()
    receivers = [
        open_receiver(one, local, connections, visibility, consume=consume, shards=shards, stores=stores)
        for one in found
    ]
    sources = Sources(found, receivers)
    sources.consumed = consume
    if peek and queues:
        for one, receiver in zip(found, sources.receivers, strict=True):
            if not receiver.follows:
                cost = _peek_cost(one, receiver, visibility, stop or StopSignal(), start_timeout)
                sources.peek_costs.append(f"{one.text}: {cost}" if len(queues) > 1 else cost)
    return sources


def folder_hint(source: str) -> str:
    """The beginning of a hint where a source, which is a queue, has the name of a folder; else empty."""
    is_name = "/" not in source and os.path.isdir(source)
    return f"to read the folder of this name write ./{source}; " if is_name else ""


def narrow_to_runs(receivers: Sequence[Receiver], runs: Sequence[str]) -> None:
    """Tell those stores that can find single runs which ones are read; a consumer gets all, to delete or keep them."""
    for receiver in receivers:
        if receiver.follows and (narrow := getattr(receiver, "narrow", None)):
            narrow(runs=runs)


def _peek_cost(
    destination: Destination, receiver: Receiver, visibility: int | None, stop: StopSignal, start_timeout: float
) -> str:
    """The cost of --peek; raises SqsteeError where it would do harm."""
    from sqstee.fds import write_stderr
    from sqstee.read.trouble import Trouble, persist
    from sqstee.transports.errors import OPEN, TransportError

    hint = "use --consume, which deletes each message once its lines are out"
    if destination.name.endswith(".fifo"):
        raise SqsteeError(f"{destination.text}: --peek would block the groups of a FIFO queue", hint)
    try:
        trouble = Trouble(f"{destination.text}: asking for the limits", lambda text: write_stderr(f"sqstee: {text}\n"))
        state = persist(receiver.stat, trouble, stop.pause, start_timeout)
    except TransportError as error:
        if error.kind != OPEN:
            error.args = (f"{destination.text}: {error}",)
            raise
        why = f"{folder_hint(destination.text)}--peek needs sqs:GetQueueAttributes, to check maxReceiveCount first"
        raise SqsteeError(f"{destination.text}: {error}", why, EXIT_FAILURE) from None
    if state.max_receives is not None and state.max_receives <= _FEW_RECEIVES:
        problem = f"{destination.text}: --peek could send messages to the dead-letter queue"
        raise SqsteeError(f"{problem} (maxReceiveCount is {state.max_receives})", hint)
    share = f" of the {state.max_receives} before the dead-letter queue" if state.max_receives else ""
    return (
        f"--peek receives each message once ({state.visible:,} now) and releases it at the end: this counts as one "
        f"receive{share}, and hides the message from other consumers for up to {visibility} s"
    )


@contextmanager
def reporting_errors(verb: str, hint: str = "messages are deleted only once their lines are written") -> Iterator[None]:
    """Turn errors while reading into one line and one hint: `hint` where a disk or the output failed."""
    from sqstee.transports.errors import TransportError

    try:
        yield
    except BrokenPipeError:
        raise  # the reader of our pipe left: that is no failure of ours
    except TransportError as error:
        where = f"sqstee check DEST looks for the cause; sqstee {verb} --help lists the options"
        source = str(error).partition(": ")[0]
        raise SqsteeError(str(error), f"{folder_hint(source)}{where}", EXIT_FAILURE) from None
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not error.filename:
            raise  # the working folder is gone
        text = f"{error.filename}: {error.strerror}" if error.filename else f"writing failed: {error.strerror}"
        raise SqsteeError(text, hint, EXIT_FAILURE) from None


def status_of(follower: Follower) -> int:
    """The exit status after reading: a failure where messages could not be read, deleted or released."""
    return EXIT_FAILURE if follower.ack_pool.failed or follower.unread else 0


def check_choice(value: str, flag: str, choices: Sequence[str], verb: str) -> None:
    """Raise SqsteeError where an option's value is not one of its choices."""
    if value not in choices:
        expected = f"{', '.join(choices[:-1])} or {choices[-1]}"
        raise invalid_value(value, flag, expected, f"sqstee {verb} --help", closest(value, choices))


def parse_moment(text: str, flag: str) -> str:
    """The timestamp that --since or --until names, RFC 3339 in UTC; empty for none."""
    import time

    from sqstee.read.filter import parse_since

    try:
        return parse_since(text, time.time()) if text else ""
    except (ValueError, OverflowError):
        expected = "an age such as 10m, 2h, 3d, a time such as 09:00, yesterday, or a date and time"
        problem = f"invalid value {text!r} for {flag} (expected {expected})"
        raise SqsteeError(problem, f"for example: {flag} 2h, {flag} yesterday, {flag} 2026-11-21T19:30:00Z") from None


def parse_labels(texts: Sequence[str]) -> list[tuple[str, str]]:
    """The names and globs of --label."""
    found = []
    for text in texts:
        name, separator, value = text.partition("=")
        if not name or not separator:
            problem = f"invalid value {text!r} for --label (expected NAME=GLOB)"
            raise SqsteeError(problem, "for example: --label env=prod")
        found.append((name, value))
    return found


def check_stream(name: str, verb: str) -> None:
    """Raise SqsteeError where --stream names no stream; a glob may mean another program's streams."""
    from sqstee.record import STREAMS

    if not set(name) & set("*?["):
        check_choice(name, "--stream", (*STREAMS, "event"), verb)


def use_colour(choice: str) -> bool:
    """Whether to colour: by --color auto|always|never, NO_COLOR, and whether stdout is a terminal."""
    return choice == "always" or (choice == "auto" and sys.stdout.isatty() and "NO_COLOR" not in os.environ)


def parse_seconds(text: str, flag: str) -> float:
    """The seconds of a TIME option."""
    from sqstee.option_values import seconds_of

    return seconds_of(text, flag)
