"""Bodies in S3 and pointers to them in SQS, as the AWS Extended Client Library writes and reads them (SQS.md).

A pointer is the message body `["software.amazon.payloadoffloading.PayloadS3Pointer",{"s3BucketName":…,"s3Key":…}]`, and
the Number attribute ExtendedPayloadSize is the size of the real body. That library reads objects as UTF-8, so they are
never compressed. Their keys are UUIDs, as that library's are, and nothing like those of `--to s3://`: a reader deletes
the object that a message points to, and must never delete logs that are stored for themselves.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import uuid
from collections.abc import Mapping, Sequence

from sqstee.destination import Destination
from sqstee.record import CONTENT_TYPE, Body
from sqstee.text import one_line
from sqstee.transports.base import ObjectLimits, QueueState, ReceivedMessage
from sqstee.transports.errors import OPEN, Failure, TransportError
from sqstee.transports.s3 import Bucket, clients
from sqstee.transports.sqs import SqsReceiver, SqsSender

POINTER_CLASS = "software.amazon.payloadoffloading.PayloadS3Pointer"
SIZE_ATTRIBUTE = "ExtendedPayloadSize"
_LEGACY = ("com.amazon.sqs.javamessaging.MessageS3Pointer", "SQSLargePayloadSize")
# The keys that these libraries and sqstee write: a message cannot make its reader delete any other object.
_PAYLOAD_KEY = re.compile(r"(?:.*/)?[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", re.DOTALL)


class Pointer:
    """The bucket and key of a body."""

    __slots__ = ("bucket", "key")

    def __init__(self, bucket: str, key: str) -> None:
        self.bucket = bucket
        self.key = key

    def __str__(self) -> str:
        return one_line(f"s3://{self.bucket}/{self.key}")


def pointer_in(data: bytes | str, attributes: Mapping[str, str]) -> Pointer | None:
    """The pointer in a message body; None if it is not a pointer."""
    if SIZE_ATTRIBUTE not in attributes and _LEGACY[1] not in attributes:
        return None
    try:
        name, where = json.loads(data)
        if name in (POINTER_CLASS, _LEGACY[0]) and where["s3BucketName"] and where["s3Key"]:
            return Pointer(str(where["s3BucketName"]), str(where["s3Key"]))
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    return None


class Payloads:
    """The bodies behind pointers into `stores`.

    Every other pointer is refused: whoever may send a message could otherwise read, and delete, any object that its
    reader may.
    """

    def __init__(self, stores: Sequence[Destination], connections: int = 4) -> None:
        shared = clients(connections)
        self._buckets = [Bucket(store, shared) for store in stores]

    def read(self, pointer: Pointer) -> bytes | None:
        """The body; None if the object is gone: it was deleted with an earlier delivery of its message.

        Raises TransportError, also for a pointer into none of the stores.
        """
        return self._bucket(pointer).read(pointer.key)

    def delete(self, pointer: Pointer) -> None:
        """Delete the object of a message that is done with, unless no such library writes such a key.

        Raises TransportError.
        """
        if _PAYLOAD_KEY.fullmatch(pointer.key):
            self._bucket(pointer).call("delete_object", Key=pointer.key)

    def _bucket(self, pointer: Pointer) -> Bucket:
        is_plain = not {".", ".."} & set(pointer.key.split("/"))  # a proxy may resolve these
        for bucket in self._buckets:
            if is_plain and bucket.name == pointer.bucket and pointer.key.startswith(bucket.prefix):
                return bucket
        given = "--via-s3, or SQSTEE_LAMBDA_VIA_S3, names where bodies may be"
        raise TransportError(OPEN, "PointerRefused", f"{pointer} is in none of the places given ({given})")


class _PointerBody(Body):
    """A pointer in place of a body: with the same run and range, and an attribute for the real size."""

    __slots__ = ("_payload_is_gap", "_payload_size")

    def __init__(self, body: Body, pointer: Pointer) -> None:
        where = {"s3BucketName": pointer.bucket, "s3Key": pointer.key}
        data = json.dumps([POINTER_CLASS, where], separators=(",", ":")).encode()
        super().__init__(data, body.run, body.host, body.first, body.last)
        self._payload_size = len(body.data)
        self._payload_is_gap = body.is_gap

    @property
    def is_gap(self) -> bool:
        """Whether the real body is a gap event."""
        return self._payload_is_gap

    @property
    def attributes(self) -> dict[str, str]:
        """The attributes of the real body, and its size."""
        return {**super().attributes, SIZE_ATTRIBUTE: str(self._payload_size)}


class OffloadingSender(ObjectLimits):
    """Stores each body in S3, then sends a pointer to it."""

    def __init__(self, queue: SqsSender, store: Destination) -> None:
        self._queue = queue
        self._bucket = Bucket(store, clients())
        self._at = store.text
        self.ordered = queue.ordered

    def open(self) -> int:
        """Find the queue; its size limit does not apply to the bodies, which are in S3."""
        self._queue.open()
        return self.max_request_bytes

    def send(self, bodies: Sequence[Body]) -> list[Failure]:
        """Make one PutObject per body, then one SendMessageBatch with the pointers."""
        plain = [body.plain() for body in bodies]
        return self._queue.send([_PointerBody(body, self._store(body)) for body in plain])

    def close(self) -> None:
        """Close the connections."""
        self._queue.close()

    def _store(self, body: Body) -> Pointer:
        """Store a body; its key comes from its content, so that repeating does no harm."""
        key = f"{self._bucket.prefix}{uuid.UUID(bytes=hashlib.sha256(body.data).digest()[:16])}"
        try:
            self._bucket.put(key, body.data, CONTENT_TYPE)
        except TransportError as error:
            error.blame(self._at)
            raise
        return Pointer(self._bucket.name, key)


class FetchingReceiver:
    """A queue's receiver that replaces pointers into `stores` by their bodies, and deletes a body with its message.

    If a body cannot be read its message keeps the pointer and says why, and the reader must not delete the message. If
    a body is gone, deleted with an earlier delivery, the message becomes empty.
    """

    follows = False

    def __init__(self, queue: SqsReceiver, stores: Sequence[Destination] = (), connections: int = 4) -> None:
        self._queue = queue
        self.name, self.ordered = queue.name, queue.ordered
        self._payloads = Payloads(stores, connections)
        self._lock = threading.Lock()
        self._fetched: dict[str, Pointer] = {}  # of messages neither deleted nor released, by their ids

    def receive(self, limit: int, wait: float) -> list[ReceivedMessage]:
        """Make one ReceiveMessage, and one GetObject per pointer."""
        messages = self._queue.receive(limit, wait)
        for message in messages:
            if pointer := pointer_in(message.data, message.attributes):
                self._fetch(message, pointer)
        return messages

    def delete(self, messages: Sequence[ReceivedMessage]) -> list[Failure]:
        """Delete messages, then the bodies of those that were deleted; a body that stays behind does no harm."""
        failures = self._queue.delete(messages)
        failed = {failure.index for failure in failures}
        for at, message in enumerate(messages):
            if at not in failed and (pointer := self._forget(message)):
                try:
                    self._payloads.delete(pointer)
                except TransportError:
                    pass  # a lifecycle rule of the bucket can delete the objects that stay behind
        return failures

    def release(self, messages: Sequence[ReceivedMessage]) -> None:
        """Release the messages; their bodies stay."""
        for message in messages:
            self._forget(message)
        self._queue.release(messages)

    def stat(self) -> QueueState:
        """The state of the queue."""
        return self._queue.stat()

    def close(self) -> None:
        """Close the connections."""
        self._queue.close()

    def _fetch(self, message: ReceivedMessage, pointer: Pointer) -> None:
        try:
            data = self._payloads.read(pointer)
        except TransportError as error:
            message.problem = f"its body in S3 cannot be read: {error}"
            return
        message.data = data or b""
        with self._lock:
            self._fetched[message.id or message.handle] = pointer

    def _forget(self, message: ReceivedMessage) -> Pointer | None:
        with self._lock:
            return self._fetched.pop(message.id or message.handle, None)
