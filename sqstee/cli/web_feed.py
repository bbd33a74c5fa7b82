"""The store that a board shows: one that exists, or one that is filled from another source meanwhile."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from sqstee.errors import SqsteeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqstee.destination import Destination
    from sqstee.read.store_pump import StorePump
    from sqstee.transports.local import LocalSender
    from sqstee.transports.retention import Retention

_THREADS = 8  # that receive
_CONSUME_HINT = "sqstee web QUEUE --consume --store local:/var/lib/sqstee.db"


class StoreFeed:
    """Fills a store from a source, with the `pump`."""

    def __init__(self, pump: StorePump, store: LocalSender) -> None:
        self.pump = pump
        self._store = store

    def begin(self) -> None:
        """Begin to fill the store."""
        from sqstee.transports.retention import tidy_regularly

        self.pump.start()
        if self._store.retention:
            tidy_regularly(self._store.tidy)

    def end(self) -> None:
        """Store the messages that have come, and end. Raises the error that ended it before."""
        self.pump.stop()
        if self.pump.failure:
            raise self.pump.failure


@contextmanager
def shown_store(
    source: str,
    consume: bool,
    store: str,
    retention: Retention | None,
    is_limited: bool,
    via_s3: Sequence[str],
) -> Iterator[tuple[str, StoreFeed | None]]:
    """The path of the store to show, and the feed that fills it, or None if the store is shown as it is.

    `is_limited`: the retention was asked for on the command line, which makes no sense for a store that is only read.
    """
    from sqstee.cli.sources import destinations, local_path, payload_stores
    from sqstee.cli.temporary_store import temporary_store
    from sqstee.settings import load_settings
    from sqstee.transports.retention import Retention as StoreRetention

    (destination,) = destinations([source] if source else None)
    _check(destination, consume, store)
    if is_limited and destination.kind == "local" and not consume:
        problem = "a store that is only shown keeps its runs: --store-max and --store-days are for whoever fills it"
        raise SqsteeError(problem, "sqstee serve --store-max 50G, or sqstee web QUEUE --consume")
    payloads = payload_stores(via_s3)
    if destination.kind == "local" and not consume:
        yield os.path.abspath(destination.name or local_path()), None
        return
    limit = load_settings((), os.environ).local_max
    if not consume:
        retention = retention or StoreRetention(limit)
    with ExitStack() as stack:
        path = _store_of(store, destination) if consume else stack.enter_context(temporary_store())
        feed = _feed(destination, consume, path, limit, retention, payloads)
        stack.callback(feed.end)
        yield path, feed


def _check(destination: Destination, consume: bool, store: str) -> None:
    """Raise SqsteeError for a source and options that do not go together."""
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


def _feed(
    source: Destination,
    consume: bool,
    path: str,
    limit: int,
    retention: Retention | None,
    payloads: Sequence[Destination],
) -> StoreFeed:
    """Open both sides."""
    import signal
    import threading

    from sqstee.cli.sources import open_sources
    from sqstee.collector import open_store
    from sqstee.fds import write_stderr
    from sqstee.read.store_pump import StorePump
    from sqstee.text import one_line

    opened = open_store(f"local:{path}", "", limit, retention)
    sources = open_sources([source.text], consume=consume, peek=False, connections=_THREADS, stores=payloads)
    main = threading.main_thread().ident or 0
    pump = StorePump(
        sources.receivers,
        opened,
        lambda text: write_stderr(f"sqstee: {one_line(text)}\n"),
        lambda: signal.pthread_kill(main, signal.SIGTERM),
        _THREADS,
    )
    return StoreFeed(pump, opened)
