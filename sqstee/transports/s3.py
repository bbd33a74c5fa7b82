"""Amazon S3 as a queue: one object per body, found by listing, through boto3.

A key is `prefix/<shard>/<run>/<first>-<last>.ndjson`, or `.ndjson.gz`. The numbers have 12 digits, so that a listing is
in the order of the run; the shard is the first two hex digits of the run's SHA-256, so that consumers can divide the
work. A lone gap event is `<first>-<last>-gap.ndjson`, so that it does not count as the records of its range.
"""

from __future__ import annotations

import binascii
import hashlib
import re
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import closing
from datetime import datetime
from typing import Any

from sqstee.destination import Destination
from sqstee.errors import SqsteeError
from sqstee.intervals import IntervalSet
from sqstee.record import CONTENT_TYPE, Body, gunzip
from sqstee.transports.aws import READ_SECONDS, RenewedClient, build_client, refusal_of
from sqstee.transports.base import ObjectLimits, QueueState, ReceivedMessage
from sqstee.transports.errors import POISON, Failure, TransportError, classify
from sqstee.wire import by_run

ALL_SHARDS = "00-ff"
_KEY = re.compile(
    r"(?P<shard>[0-9a-f]{2})/(?P<run>[^/]+)/(?P<first>\d{12})-(?P<last>\d{12})(?P<gap>-gap)?\.ndjson(?P<gz>\.gz)?"
)
MOST_OBJECT_BYTES = 16 * 1024 * 1024  # larger objects are not read: four times the largest that a sender stores
_RECEIVED_BYTES = 16 * 1024 * 1024  # of one `receive`, by the sizes in listings
_LIST_AGAIN_SECONDS = 1.0  # a listing costs as much as twelve receives, so an idle consumer lists less and less often
_LIST_AGAIN_MOST_SECONDS = 10.0
_LISTED_AT_ONCE = 1000  # S3 API reference, ListObjectsV2: the maximum
_DELETED_AT_ONCE = 1000  # S3 API reference, DeleteObjects: the maximum
_GONE = ("NoSuchKey", "404")  # another consumer has deleted the object


def shard(run: str) -> str:
    """The two hex digits in the keys of a run's objects."""
    return hashlib.sha256(run.encode()).hexdigest()[:2]


def key_of(prefix: str, body: Body) -> str:
    """The key of a body's object; `prefix` is empty or ends in a slash."""
    gap, suffix = "-gap" if body.is_gap else "", ".gz" if body.encoding else ""
    return f"{prefix}{shard(body.run)}/{body.run}/{body.first:012d}-{body.last:012d}{gap}.ndjson{suffix}"


def shard_range(text: str) -> tuple[str, str]:
    """The first and last shard of `--shards`, such as 3f or 00-7f; raises SqsteeError."""
    found = re.fullmatch(r"([0-9a-f]{2})(?:-([0-9a-f]{2}))?", (text or ALL_SHARDS).lower())
    if not found or (found[2] or found[1]) < found[1]:
        hint = "consumers that divide the work use, for example, --shards 00-7f and --shards 80-ff"
        raise SqsteeError(f"invalid value {text!r} for --shards (expected two hex digits or a range: 3f, 00-7f)", hint)
    return found[1], found[2] or found[1]


def clients(connections: int = 4) -> RenewedClient[Any]:
    """An S3 client, for any number of buckets."""
    return RenewedClient(lambda: build_client("s3", "", None, connections, READ_SECONDS))


class Bucket:
    """A bucket, the prefix in it, and `clients` to reach it."""

    def __init__(self, destination: Destination, clients: RenewedClient[Any]) -> None:
        self.name = destination.name
        prefix = destination.text[5:].partition("/")[2].strip("/")
        self.prefix = f"{prefix}/" if prefix else ""
        self._clients = clients
        self._conditional = True

    def call(self, operation: str, **parameters: object) -> Any:
        """One call on the bucket; raises TransportError."""
        with self._clients.calling() as client:
            return getattr(client, operation)(Bucket=self.name, **parameters)

    def store(self, body: Body) -> None:
        """Store a body of one run, unless it is stored already."""
        data = binascii.a2b_base64(body.data) if body.encoding else body.data
        self.put(key_of(self.prefix, body), data, CONTENT_TYPE)

    def put(self, key: str, data: bytes, content_type: str) -> None:
        """Store an object, unless one with its key exists, which has the same content. Raises TransportError."""
        parameters = {"Key": key, "Body": data, "ContentType": content_type}
        if not self._conditional:
            self.call("put_object", **parameters)
            return
        try:
            self.call("put_object", IfNoneMatch="*", **parameters)
        except TransportError as error:
            if error.code in ("NotImplemented", "501"):  # an emulator: overwriting with the same bytes does no harm
                self._conditional = False
                self.call("put_object", **parameters)
            elif error.code not in ("PreconditionFailed", "412"):
                raise

    def read(self, key: str) -> bytes | None:
        """An object's content; None if the object is gone. Raises TransportError, also if the object is too large."""
        try:
            answer = self.call("get_object", Key=key)
        except TransportError as error:
            if error.code in _GONE:
                return None
            raise
        try:
            with closing(answer["Body"]) as body:
                data: bytes = body.read(MOST_OBJECT_BYTES + 1)
        except Exception as error:
            raise refusal_of(error) from error
        if len(data) > MOST_OBJECT_BYTES:
            raise TransportError(POISON, "TooLarge", f"{key} has more than {MOST_OBJECT_BYTES:,} bytes")
        return data

    def delete(self, keys: Sequence[str]) -> list[Failure]:
        """Delete objects; the failures, one per object not deleted."""
        failures = []
        for start in range(0, len(keys), _DELETED_AT_ONCE):
            part = keys[start : start + _DELETED_AT_ONCE]
            answer = self.call("delete_objects", Delete={"Objects": [{"Key": key} for key in part], "Quiet": True})
            for entry in answer.get("Errors", ()):
                code, message = str(entry.get("Code", "")), str(entry.get("Message", ""))
                if code not in _GONE:
                    failures.append(Failure(keys.index(entry["Key"]), classify(code, message=message), code, message))
        return failures


class S3Sender(ObjectLimits):
    """Stores each body as an object; an existing object counts as stored, so that repeating does no harm."""

    ordered = False

    def __init__(self, destination: Destination, connections: int = 4) -> None:
        self._bucket = Bucket(destination, clients(connections))

    def open(self) -> int:
        """Make no request: a caller that may put objects need not have any other permission."""
        return self.max_request_bytes

    def send(self, bodies: Sequence[Body]) -> list[Failure]:
        """Make one PutObject per body; for a body with records of several runs, one per run."""
        for body in bodies:
            for part in [body] if body.run else by_run(body.plain().data):
                self._bucket.store(part.compressed() if body.encoding and not part.encoding else part)
        return []

    def close(self) -> None:
        """Do nothing: the connections close with the process."""


class ListedObject:
    """An object in a listing; `series` distinguishes the records of its run from the gap events."""

    __slots__ = ("compressed", "first", "key", "last", "modified", "run", "series", "size", "tag")

    def __init__(self, key: str, parts: re.Match[str], size: int, modified: datetime, tag: str) -> None:
        self.key = key
        self.run = parts["run"]
        self.series = _series(parts)
        self.first = int(parts["first"])
        self.last = int(parts["last"])
        self.compressed = bool(parts["gz"])
        self.size = size
        self.modified = modified.timestamp()
        self.tag = tag


class ListedRanges:
    """The ranges of each run that have been listed. Memory grows with the holes between them, not their number."""

    def __init__(self) -> None:
        self._runs: dict[str, IntervalSet] = {}

    def covers(self, run: str, first: int, last: int) -> bool:
        """Whether a range is covered as a whole."""
        return run in self._runs and self._runs[run].covers(first, last)

    def add(self, run: str, first: int, last: int) -> None:
        """Add a range."""
        self._runs.setdefault(run, IntervalSet()).add(first, last)

    def remove(self, run: str, first: int, last: int) -> None:
        """Remove a range, whether it was added as a whole or in parts."""
        if run in self._runs:
            self._runs[run].remove(first, last)

    def end(self, run: str, first: int) -> int:
        """The last seq of the range that covers `first`, which is `first` itself where none does."""
        found = self._runs[run].containing(first) if run in self._runs else None
        return found[1] if found else first


class Listing:
    """Lists the objects of a range of shards in the order of their keys, pass after pass."""

    def __init__(self, bucket: Bucket, shards: tuple[str, str]) -> None:
        self._bucket = bucket
        self._start = f"{bucket.prefix}{shards[0]}/"
        self._beyond = f"{bucket.prefix}{shards[1]}0"  # '0' is the character after '/'
        self._after = self._start
        self.at_start = True

    def page(self) -> list[ListedObject]:
        """The next objects; after the last one, a new pass begins."""
        answer = self._bucket.call(
            "list_objects_v2", Prefix=self._bucket.prefix, StartAfter=self._after, MaxKeys=_LISTED_AT_ONCE
        )
        entries = answer.get("Contents", ())
        found = []
        for entry in entries:
            key = entry["Key"]
            parts = _KEY.fullmatch(key, len(self._bucket.prefix))
            if self._start <= key < self._beyond and parts and entry["Size"] <= MOST_OBJECT_BYTES:
                found.append(ListedObject(key, parts, entry["Size"], entry["LastModified"], str(entry.get("ETag", ""))))
        if answer.get("IsTruncated") and entries and entries[-1]["Key"] < self._beyond:
            self._after, self.at_start = entries[-1]["Key"], False
        else:
            self._after, self.at_start = self._start, True
        return found

    def skip(self, found: ListedObject, last: int) -> None:
        """Continue after seq `last` of the run of `found`, since everything up to there has been listed."""
        key = f"{found.key[: -len(found.key.rpartition('/')[2])]}{last:012d}-~"
        if not self.at_start and key > self._after:
            self._after = key


class S3Receiver:
    """Returns each object once, whenever it appears; with `consume`, objects are deleted when they are done with."""

    ordered = False
    lists_all = True  # an empty answer means that everything was returned

    def __init__(
        self,
        destination: Destination,
        consume: bool = False,
        shards: str = "",
        connections: int = 4,
        bucket: Bucket | None = None,
    ) -> None:
        self.follows = not consume
        self.name = destination.text
        self._bucket = bucket or Bucket(destination, clients(connections))
        self._range = shard_range(shards)
        self._listing = Listing(self._bucket, self._range)
        self._listed = ListedRanges()
        self._pending: deque[ListedObject] = deque()
        self._lock = threading.Lock()
        self._listing_lock = threading.Lock()
        self._list_again_at = 0.0
        self._interval = _LIST_AGAIN_SECONDS

    def receive(self, limit: int, wait: float) -> list[ReceivedMessage]:
        """Objects not returned before, in the order of their keys; makes at least one listing if none is known."""
        deadline = time.monotonic() + wait
        while True:
            messages = self._read(self._take(limit))
            if messages:
                return messages
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

    def _forget(self, messages: Sequence[ReceivedMessage]) -> None:
        with self._lock:
            for message in messages:
                parts = _KEY.fullmatch(message.handle, len(self._bucket.prefix))
                if parts:
                    self._listed.remove(_series(parts), int(parts["first"]), int(parts["last"]))

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
        """Do nothing: the connections close with the process."""

    def _take(self, limit: int) -> list[ListedObject]:
        """The next known objects, within the bounds of one `receive`."""
        taken: list[ListedObject] = []
        with self._lock:
            while self._pending and len(taken) < limit:
                if taken and sum(one.size for one in taken) + self._pending[0].size > _RECEIVED_BYTES:
                    break
                taken.append(self._pending.popleft())
        return taken

    def _read(self, taken: list[ListedObject]) -> list[ReceivedMessage]:
        messages: list[ReceivedMessage] = []
        for at, found in enumerate(taken):
            try:
                data = self._bucket.read(found.key)
            except TransportError:
                with self._lock:  # the objects before this one have been read
                    self._pending.extendleft(reversed(taken[at:]))
                if messages:
                    break
                raise
            if data is not None:
                messages.append(_message(self._bucket.name, found, data))
        return messages

    def _list(self) -> bool:
        """List until there is a new object, or a whole pass has shown none; whether there is one."""
        with self._listing_lock:
            if self._pending:
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
            self._list_again_at = time.monotonic() + self._interval
            self._interval = min(_LIST_AGAIN_MOST_SECONDS, 2 * self._interval)
            return False

    def _note(self, page: list[ListedObject]) -> bool:
        """Note the new objects in a page; whether there are any."""
        with self._lock:
            fresh = [one for one in page if not self._listed.covers(one.series, one.first, one.last)]
            for one in fresh:
                self._listed.add(one.series, one.first, one.last)
            self._pending.extend(fresh)
            if page and not fresh and page[-1].series == page[-1].run:
                self._listing.skip(page[-1], self._listed.end(page[-1].series, page[-1].first))
        return bool(fresh)


def _series(parts: re.Match[str]) -> str:
    return parts["run"] + ("/gap" if parts["gap"] else "")  # a run's name in a key has no slash


def _message(bucket: str, found: ListedObject, data: bytes) -> ReceivedMessage:
    if found.compressed:
        try:
            data = gunzip(data)
        except ValueError:
            pass  # left as it is: the decoder reports that it is not NDJSON
    attributes = Body(b"", found.run, "", found.first, found.last).attributes
    # The same key can be in another bucket, or stored again, within the second that a listing tells times to.
    name = f"s3://{bucket}/{found.key}@{found.modified}{found.tag}"
    return ReceivedMessage(data, attributes, found.key, name, found.modified)
