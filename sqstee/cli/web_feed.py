"""The store that a board shows: one that exists, or one that is filled from another source meanwhile."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from sqstee.errors import SqsteeError

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqstee.destination import Destination
    from sqstee.transports.retention import Retention

_THREADS = 8  # that receive
_CONSUME_HINT = "sqstee web QUEUE --consume --store local:/var/lib/sqstee.db"


@contextmanager
def shown_store(
    source: str, consume: bool, store: str, retention: Retention | None, is_limited: bool
) -> Iterator[tuple[str, Callable[[], None]]]:
    """The path of the store to show, and what begins to fill it, until the end of the context.

    `is_limited`: the retention was asked for on the command line, which makes no sense for a store that is only read.
    """
    from sqstee import options
    from sqstee.cli.sources import destinations, local_path
    from sqstee.transports.retention import Retention as StoreRetention

    (destination,) = destinations([source] if source else None)
    _check(destination, consume, store)
    if is_limited and destination.kind == "local" and not consume:
        problem = "a store that is only shown keeps its runs: --store-max and --store-days are for whoever fills it"
        raise SqsteeError(problem, "sqstee serve --store-max 50G, or sqstee web QUEUE --consume")
    if destination.kind == "local" and not consume:
        yield os.path.abspath(destination.name or local_path()), lambda: None
        return
    limit = options.load((), os.environ).local_max
    if not consume:
        retention = retention or StoreRetention(limit)
    with ExitStack() as stack:
        if consume:
            path = _store_of(store, destination)
        else:
            path = os.path.join(stack.enter_context(_temporary_folder()), "store.db")
        yield path, _begin(destination, consume, path, limit, retention, stack)


def _check(destination: Destination, consume: bool, store: str) -> None:
    """Raise SqsteeError for what does not go together."""
    kind, text = destination.kind, destination.text
    if kind == "http":
        raise SqsteeError(f"a collector cannot be read: {text}", "show its store: sqstee serve --web")
    if kind == "sqs" and not consume:
        raise SqsteeError(f"{text}: a queue has one reader, which empties it: --consume", _CONSUME_HINT)
    if kind == "folder" and consume:
        raise SqsteeError(f"{text}: a drained folder is not consumed", f"sqstee web {text}")
    if consume and not store:
        raise SqsteeError("--consume needs a store", _CONSUME_HINT)
    if store and not consume:
        raise SqsteeError("--store needs --consume", f"to show a store: sqstee web {store}")


def _store_of(store: str, source: Destination) -> str:
    """The path of --store, which is another file than the source."""
    from sqstee.cli.sources import local_path
    from sqstee.destination import parse

    destination = parse(store)
    if destination.kind != "local":
        raise SqsteeError(f"invalid value {store!r} for --store (expected local:PATH)", _CONSUME_HINT)
    path = os.path.abspath(destination.name or local_path(write=True))
    if source.kind == "local" and os.path.realpath(source.name or local_path()) == os.path.realpath(path):
        raise SqsteeError("the store is the source", f"to show it: sqstee web {source.text}")
    return path


def _begin(
    source: Destination, consume: bool, path: str, limit: int, retention: Retention | None, stack: ExitStack
) -> Callable[[], None]:
    """Open both sides; the result begins to fill the store, which ends with the `stack`."""
    import signal
    import threading

    from sqstee.cli.sources import open_sources, payload_stores
    from sqstee.collector import open_store
    from sqstee.fds import write_stderr
    from sqstee.read.store_pump import StorePump
    from sqstee.text import one_line
    from sqstee.transports.retention import tidy_regularly

    opened = open_store(f"local:{path}", "", limit, retention)
    stores = payload_stores([]) if source.kind == "sqs" else []
    sources = open_sources([source.text], consume=consume, peek=False, connections=_THREADS, stores=stores)
    main = threading.main_thread().ident or 0
    pump = StorePump(
        sources.receivers,
        opened,
        lambda text: write_stderr(f"sqstee: {one_line(text)}\n"),
        lambda: signal.pthread_kill(main, signal.SIGTERM),
        _THREADS,
    )

    def end() -> None:
        pump.stop()
        if pump.failure:
            raise pump.failure

    def begin() -> None:
        stack.callback(end)
        pump.start()
        if retention:
            tidy_regularly(opened.tidy)

    return begin


@contextmanager
def _temporary_folder() -> Iterator[str]:
    import tempfile

    with tempfile.TemporaryDirectory(prefix="sqstee-web-", ignore_cleanup_errors=True) as folder:
        yield folder
