"""Receives from S3: objects are found by listing, and read several at a time in the order of their keys."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from sqstee.destination import Destination
from sqstee.record import Body, gunzip
from sqstee.transports.base import QueueState, ReceivedMessage
from sqstee.transports.errors import REFRESH, RETRY, Failure, TransportError, is_denied
from sqstee.transports.layouts import QUEUE_KEY
from sqstee.transports.read_ahead import ReadAhead
from sqstee.transports.s3 import DELETED_AT_ONCE, Bucket, clients, shard_range
from sqstee.transports.s3_listing import ListedObject, ListedRanges, Listing, series_of
from sqstee.transports.short_lines import ShortLines

_READ_AHEAD_BYTES = 16 * 1024 * 1024  # of objects that are being read, or wait for the reader, by the sizes in listings
_ROUNDS_AHEAD = 4  # reads of each reader that take about as long as a listing
_LIST_AGAIN_SECONDS = 1.0  # a listing costs as much as twelve receives, so an idle consumer lists less and less often
_LIST_AGAIN_MOST_SECONDS = 10.0  # of a pass of few requests; else that many seconds for each of them:
_SECONDS_PER_REQUEST = 2.0
_LIST_AGAIN_LIMIT_SECONDS = 60.0


class S3Receiver:
    """Returns each object once, whenever it appears; with `consume`, objects are deleted when they are done with.

    `connections` objects are read at a time; with `consume` half as many, since others delete meanwhile.
    """

    ordered = False
    lists_all = True  # an empty answer means that everything was returned
    max_delete = DELETED_AT_ONCE

    def __init__(
        self,
        destination: Destination,
        consume: bool = False,
        shards: str = "",
        connections: int = 16,
        bucket: Bucket | None = None,
    ) -> None:
        self.follows = not consume
        self.name = destination.text
        self._bucket = bucket or Bucket(destination, clients(connections))
        self._range = shard_range(shards)
        self._listed = ListedRanges()
        self._listing = Listing(self._bucket, self._range, None if consume else self._listed)
        readers = max(1, connections // 2) if consume else connections
        self._objects = ReadAhead(self._read, readers, _READ_AHEAD_BYTES)
        self._few = _ROUNDS_AHEAD * readers
        self._has_read = False
        self._lock = threading.Lock()
        self._listing_lock = threading.Lock()
        self._list_again_at = 0.0
        self._interval = _LIST_AGAIN_SECONDS

    def narrow(self, runs: Sequence[str]) -> None:
        """Read only the runs whose names begin so; a whole ULID is one run."""
        self._listing.narrow(runs)

    def receive(self, limit: int, wait: float) -> list[ReceivedMessage]:
        """Objects not returned before, in the order of their keys; makes at least one listing if none is known."""
        deadline = time.monotonic() + wait
        while True:
            self._list_ahead()
            while taken := self._objects.take(limit):
                found = [(one, data) for one, data in taken if data is not None]  # None: another consumer deleted it
                if found:
                    return [_message(self._bucket.name, one, data) for one, data in found]
            if wait:
                time.sleep(max(0.0, min(self._list_again_at, deadline) - time.monotonic()))
                if time.monotonic() < self._list_again_at:
                    return []
            if not self._list() and time.monotonic() >= deadline:
                return []

    def delete(self, messages: Sequence[ReceivedMessage]) -> list[Failure]:
        """Delete the objects; an object whose range another one covered is returned once that is deleted."""
        failures = self._bucket.delete([message.handle for message in messages])
        failed = {failure.index for failure in failures}
        self._forget([message for at, message in enumerate(messages) if at not in failed])
        return failures

    def release(self, messages: Sequence[ReceivedMessage]) -> None:
        """Return the objects again in this receiver; others see every object anyway."""
        self._forget(messages)

    def stat(self) -> QueueState:
        """Objects, bytes and the age of the oldest one, by listing all of them."""
        listing, found = Listing(self._bucket, self._range), QueueState(0)
        found.bytes, oldest = 0, None
        while True:
            for one in listing.page():
                found.visible += 1
                found.bytes += one.size
                oldest = one.modified if oldest is None else min(oldest, one.modified)
            if listing.at_start:
                break
        found.oldest = None if oldest is None else max(0.0, time.time() - oldest)
        return found

    def close(self) -> None:
        """Read no more objects; the connections close with the process."""
        self._objects.close()

    def _read(self, one: ListedObject) -> bytes | TransportError | None:
        """An object, or why this one cannot be read. For several threads."""
        try:
            data = self._bucket.read(one.key)
        except TransportError as error:
            if error.kind in (RETRY, REFRESH) or (is_denied(error) and not self._has_read):
                raise
            return error
        self._has_read = True
        return data

    def _forget(self, messages: Sequence[ReceivedMessage]) -> None:
        with self._lock:
            for message in messages:
                parts = QUEUE_KEY.fullmatch(message.handle, len(self._bucket.prefix))
                if parts:
                    self._listed.remove(series_of(parts), int(parts["first"]), int(parts["last"]))

    def _list_ahead(self) -> None:
        """List the next page of this pass while the last objects before it are being read."""
        if len(self._objects) >= self._few or self._listing.at_start or not self._listing_lock.acquire(blocking=False):
            return
        try:
            self._note(self._listing.page())
        except TransportError:
            pass  # it is met again, and told, once nothing is left to read
        finally:
            self._listing_lock.release()

    def _list(self) -> bool:
        """List until there is a new object, or a whole pass has shown none; whether there is one."""
        with self._listing_lock:
            if len(self._objects):
                return True  # another thread has listed meanwhile
            whole = self._listing.at_start
            while True:
                page = self._listing.page()
                if self._note(page):
                    self._interval = _LIST_AGAIN_SECONDS
                    return True
                if self._listing.at_start:
                    if whole:
                        break
                    whole = True
            most = max(_LIST_AGAIN_MOST_SECONDS, _SECONDS_PER_REQUEST * self._listing.requests)
            self._list_again_at = time.monotonic() + self._interval
            self._interval = min(2 * self._interval, most, _LIST_AGAIN_LIMIT_SECONDS)
            return False

    def _note(self, page: list[ListedObject]) -> bool:
        """Note the new objects in a page; whether there are any."""
        with self._lock:
            fresh = [one for one in page if not self._listed.covers(one.series, one.first, one.last)]
            for one in fresh:
                self._listed.add(one.series, one.first, one.last)
            if page and not fresh and page[-1].series == page[-1].run:
                self._listing.skip(page[-1], self._listed.end(page[-1].series, page[-1].first))
        self._objects.add((one, one.size) for one in fresh)
        return bool(fresh)


def _message(bucket: str, found: ListedObject, data: bytes | TransportError) -> ReceivedMessage:
    problem: Exception | None = None
    if isinstance(data, TransportError):
        problem, data = data, b""
    elif found.compressed:
        packed = len(data)
        try:
            data = gunzip(data)
        except ValueError:
            pass  # left as it is: the decoder reports that it is not NDJSON
        else:
            try:
                ShortLines().add(data, packed)
            except ValueError as error:
                problem, data = error, b""
    attributes = Body(b"", found.run, "", found.first, found.last).attributes
    # The same key can be in another bucket, or stored again, within the second that a listing tells times to.
    name = f"s3://{bucket}/{found.key}@{found.modified}{found.tag}"
    message = ReceivedMessage(data, attributes, found.key, name, found.modified)
    if problem:
        message.problem = f"s3://{bucket}/{found.key}: {problem}"
    return message
