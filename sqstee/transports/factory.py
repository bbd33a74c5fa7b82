"""Makes the sender or receiver of a destination; each transport is imported only when it is used."""

from __future__ import annotations

import os
from collections.abc import Sequence

from sqstee.destination import Destination, parse
from sqstee.transports.base import Receiver, Sender
from sqstee.transports.errors import OPEN, TransportError

_FALLBACK_SECONDS = 30.0


def open_sender(
    destination: Destination,
    local_path: str,
    local_max: int,
    *,
    token_file: str = "",
    via_s3: str = "",
    group: str = "",
    fallback: Sequence[str] = (),
    fallback_after: float | str = "",
    standing_by: bool = False,
) -> Sender:
    """The sender for a destination, not yet connected.

    `local_path` is the default file of the local queue, in the spool folder. `token_file` holds the bearer token for a
    collector. With `via_s3` a queue gets pointers to objects there; `group` is the message group on a standard queue.
    `fallback` has the destinations, in order, for bodies that this one refuses, or cannot accept for `fallback_after`
    seconds; `standing_by` as of FallbackSender.
    """
    if fallback:
        from sqstee.transports.fallback import FallbackSender
        from sqstee.transports.fallback_ledger import FallbackLedger

        primary = open_sender(destination, local_path, local_max, token_file=token_file, via_s3=via_s3, group=group)
        first, *further = fallback
        second = open_sender(
            parse(first),
            local_path,
            local_max,
            token_file=token_file,
            fallback=further,
            fallback_after=fallback_after,
            standing_by=True,
        )
        pair = {
            "to": destination.text,
            "fallback": first,
            "token_file": token_file,
            "via_s3": via_s3,
            "group": group,
        }
        ledger = FallbackLedger(os.path.dirname(local_path) if destination.kind != "local" else "", pair)
        return FallbackSender(
            primary,
            second,
            first,
            _FALLBACK_SECONDS if fallback_after == "" else float(fallback_after),
            ledger=ledger,
            standing_by=standing_by,
        )
    if destination.kind == "http":
        from sqstee.transports.http import HttpSender

        return HttpSender(destination, token_file)
    if destination.kind == "s3":
        from sqstee.transports.s3 import S3Sender

        return S3Sender(destination)
    if destination.kind == "sqs":
        from sqstee.transports.sqs import SqsSender

        queue = SqsSender(destination, group=group)
        if not via_s3:
            return queue
        from sqstee.transports.sqs_extended import OffloadingSender

        return OffloadingSender(queue, parse(via_s3))
    if destination.kind == "local":
        from sqstee.transports.local import LocalSender

        return LocalSender(destination.name or local_path, local_max)
    raise ValueError(destination.kind)


def load(destination: Destination) -> None:
    """Import every module that a sender needs later on, for its first request or to explain a refusal.

    A fork is safe from here on: where another thread imports meanwhile, the child waits for that import for ever.
    """
    if destination.kind != "local":
        import encodings.idna  # noqa: F401  # for getaddrinfo
    if destination.kind in ("sqs", "s3"):
        from sqstee.transports.aws import load as load_client

        load_client(destination.kind)
    elif destination.kind == "local":
        from sqstee.transports import local  # noqa: F401


def open_receiver(
    destination: Destination,
    local_path: str,
    connections: int = 4,
    visibility: int | None = None,
    *,
    consume: bool = False,
    shards: str = "",
    stores: Sequence[Destination] = (),
) -> Receiver:
    """The receiver for a destination, not yet connected.

    `connections` is the number of parallel calls; `visibility` the number of seconds that a received message is hidden
    from others (default: the queue's own). On S3 only the objects in `shards` are read (such as 00-7f; default: all).
    With `consume`, messages from S3 and the local queue are deleted once they are done with, as on SQS. Pointers of a
    queue are followed into `stores` only.
    """
    if destination.kind == "s3":
        from sqstee.transports.s3_source import BucketReceiver

        return BucketReceiver(destination, consume, shards, connections)
    if destination.kind == "sqs":
        from sqstee.transports.sqs import SqsReceiver
        from sqstee.transports.sqs_extended import FetchingReceiver

        return FetchingReceiver(SqsReceiver(destination, connections, visibility), stores, connections)
    if destination.kind == "local":
        from sqstee.transports.local_receiver import LocalReceiver

        return LocalReceiver(destination.name or local_path, destination.text, consume)
    if destination.kind == "folder":
        from sqstee.transports.folder import open_folder

        return open_folder(destination.name, destination.text)
    raise TransportError(OPEN, "Configuration", "a collector cannot be read: read the queue that it stores into")
