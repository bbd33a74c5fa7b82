"""Amazon S3 as a queue: one object per body, found by listing, through boto3.

A key is `prefix/<shard>/<run>/<first>-<last>.ndjson`, or `.ndjson.gz`. The numbers have 12 digits, so that a listing is
in the order of the run; the shard is the first two hex digits of the run's SHA-256, so that consumers can divide the
work. A lone gap event is `<first>-<last>-gap.ndjson`, so that it does not count as the records of its range.
"""

from __future__ import annotations

import binascii
import hashlib
import re
from collections.abc import Sequence
from contextlib import closing
from typing import Any

from sqstee.destination import Destination
from sqstee.errors import SqsteeError
from sqstee.record import CONTENT_TYPE, Body
from sqstee.transports.aws import READ_SECONDS, RenewedClient, build_client, refusal_of
from sqstee.transports.base import ObjectLimits
from sqstee.transports.errors import POISON, Failure, TransportError, classify
from sqstee.wire import by_run

ALL_SHARDS = "00-ff"
MOST_OBJECT_BYTES = 16 * 1024 * 1024  # larger objects are not read: four times the largest that a sender stores
DELETED_AT_ONCE = 1000  # S3 API reference, DeleteObjects: the maximum
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
        for start in range(0, len(keys), DELETED_AT_ONCE):
            part = keys[start : start + DELETED_AT_ONCE]
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
