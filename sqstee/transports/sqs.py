"""Amazon SQS: sends with SendMessageBatch, receives by long polling, deletes in batches."""

from __future__ import annotations

import io
import json
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sqstee.destination import Destination
from sqstee.record import Body
from sqstee.transports.aws import READ_SECONDS, RenewedClient, build_client
from sqstee.transports.base import BatchLimits, QueueState, ReceivedMessage
from sqstee.transports.errors import RETRY, Failure, TransportError, classify

if TYPE_CHECKING:
    from mypy_boto3_sqs.client import SQSClient

MAX_MESSAGE_BYTES = 1024 * 1024  # SQS developer guide, quotas: since August 2025; older queues may have a lower limit
LONG_POLL_SECONDS = 20  # the largest WaitTimeSeconds
BATCH = 10  # the most entries per call
IN_FLIGHT_LIMIT = 120_000  # SQS developer guide, quotas: beyond it ReceiveMessage answers OverLimit
_READ_SLACK_SECONDS = 10
_DATA_TYPES = {"ExtendedPayloadSize": b"Number"}  # the attributes whose type is not String
_CACHED_BYTES = 32 * 1024  # escaped at a time, so that the copies stay in the processor's cache
_PLACEHOLDER = {"Id": "0", "MessageBody": "-"}  # boto3 validates and serialises it in place of the real entries


class _QueueClient:
    """One queue and a client for it."""

    def __init__(self, destination: Destination, connections: int, read_seconds: float) -> None:
        self._destination = destination
        self._clients: RenewedClient[SQSClient] = RenewedClient(
            lambda: client_for(destination, connections, read_seconds)
        )
        self._lock = threading.Lock()
        self._url = destination.url

    @contextmanager
    def calling(self) -> Iterator[tuple[SQSClient, str]]:
        """The client and the queue's URL, looked up by name the first time; every error becomes a TransportError."""
        with self._clients.calling() as client:
            with self._lock:
                if not self._url:
                    self._url = self._look_up(client)
            yield client, self._url

    def _look_up(self, client: SQSClient) -> str:
        if self._destination.account:
            answer = client.get_queue_url(
                QueueName=self._destination.name, QueueOwnerAWSAccountId=self._destination.account
            )
        else:
            answer = client.get_queue_url(QueueName=self._destination.name)
        return answer["QueueUrl"]


def client_for(destination: Destination, connections: int, read_seconds: float) -> SQSClient:
    """A client for a queue, in its region."""
    endpoint = _endpoint(destination)
    client: SQSClient = build_client("sqs", destination.region, endpoint, connections, read_seconds)
    return client


def _endpoint(destination: Destination) -> str | None:
    """The endpoint in the URL of an emulator's queue, or of one behind a VPC endpoint (maybe the only way out).

    None for a public URL of Amazon's: boto3's settings choose the endpoint.
    """
    if not destination.url or (".amazonaws." in destination.url and ".vpce." not in destination.url):
        return None
    scheme, _, rest = destination.url.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}"


class SqsSender(BatchLimits):
    """Sends bodies with SendMessageBatch, one call per request."""

    def __init__(self, destination: Destination, connections: int = 64, group: str = "") -> None:
        # 64 connections: the shippers of an agent share a client
        self._queue = _QueueClient(destination, connections, READ_SECONDS)
        self._group = group
        self.ordered = destination.name.endswith(".fifo")
        if self.ordered:  # a request has one body of each run: let that be as large as a request may be
            self.body_bytes = MAX_MESSAGE_BYTES
        self._request = threading.local()
        self._buffers: list[io.BytesIO] = []  # hold no request: each thread's own would be a megabyte of its heap
        self._hooked: object = None

    def open(self) -> int:
        """Find the queue; its MaximumMessageSize, or SQS's own limit if the caller may not ask for it."""
        try:
            with self._queue.calling() as (client, url):
                answer = client.get_queue_attributes(QueueUrl=url, AttributeNames=["MaximumMessageSize"])
                found = int(answer.get("Attributes", {}).get("MaximumMessageSize", MAX_MESSAGE_BYTES))
        except TransportError as refusal:
            if "AccessDenied" in refusal.code and "GetQueueUrl" not in refusal.message:
                return MAX_MESSAGE_BYTES
            raise
        return min(MAX_MESSAGE_BYTES, found)

    def send(self, bodies: Sequence[Body]) -> list[Failure]:
        """Make one SendMessageBatch; the entries that failed."""
        try:
            with self._queue.calling() as (client, url):
                self._hook(client)
                self._request.parts = request_json(url, bodies, fifo=self.ordered, group=self._group)
                answer = client.send_message_batch(QueueUrl=url, Entries=[_PLACEHOLDER])  # type: ignore[list-item]
        finally:
            self._request.parts = self._request.buffer = None
        return _failures(answer, len(bodies))

    def close(self) -> None:
        """Do nothing: the connections close with the process."""

    def _hook(self, client: SQSClient) -> None:
        """Make boto3 send our bytes in place of its own: its json.dumps takes 5 of the 7 ms of a 1 MiB call."""
        if self._hooked is not client:
            events = client.meta.events
            events.register_last("before-call.sqs.SendMessageBatch", self._insert, unique_id="sqstee-insert")
            events.register_last("before-send.sqs.SendMessageBatch", self._send_once, unique_id="sqstee-once")
            self._hooked = client

    def _insert(self, params: dict[str, Any], **_: object) -> None:
        """Encode the request into a buffer, so that it can be signed."""
        try:
            buffer = self._buffers.pop()
        except IndexError:
            buffer = io.BytesIO()
        buffer.seek(0)
        buffer.writelines(self._request.parts)
        self._request.buffer = buffer
        params["body"] = buffer.getbuffer()[: buffer.tell()]

    def _send_once(self, request: Any, **_: object) -> None:
        request.body = self._lend(self._request.buffer, request.body)

    def _lend(self, buffer: io.BytesIO, data: memoryview) -> Iterator[memoryview]:
        """Yield a signed request's bytes; once they are sent the buffer is free for another, a round trip earlier."""
        yield data
        data.release()
        self._buffers.append(buffer)


class SqsReceiver:
    """Receives by long polling and deletes in batches."""

    follows = False

    def __init__(self, destination: Destination, connections: int = 4, visibility: int | None = None) -> None:
        self.name = destination.text
        self.ordered = destination.name.endswith(".fifo")
        self._queue = _QueueClient(destination, connections, LONG_POLL_SECONDS + _READ_SLACK_SECONDS)
        self._options: dict[str, int] = {} if visibility is None else {"VisibilityTimeout": visibility}

    def receive(self, limit: int, wait: float) -> list[ReceivedMessage]:
        """Make one ReceiveMessage."""
        with self._queue.calling() as (client, url):
            answer = client.receive_message(
                QueueUrl=url,
                MaxNumberOfMessages=min(limit, BATCH),
                WaitTimeSeconds=min(LONG_POLL_SECONDS, math.ceil(wait)),
                MessageAttributeNames=["All"],
                MessageSystemAttributeNames=["SentTimestamp"],
                **self._options,  # type: ignore[arg-type]
            )
        return [_message(found) for found in answer.get("Messages", [])]

    def delete(self, messages: Sequence[ReceivedMessage]) -> list[Failure]:
        """Make one DeleteMessageBatch per ten messages; entry ids are indexes, since a message may occur twice."""
        failures = []
        with self._queue.calling() as (client, url):
            for start in range(0, len(messages), BATCH):
                part = messages[start : start + BATCH]
                entries = [{"Id": str(at), "ReceiptHandle": message.handle} for at, message in enumerate(part)]
                answer = client.delete_message_batch(QueueUrl=url, Entries=entries)  # type: ignore[arg-type]
                failures += _failures(answer, len(part), start)
        return failures

    def release(self, messages: Sequence[ReceivedMessage]) -> None:
        """Make messages visible again at once; a message whose handle has expired is visible already."""
        with self._queue.calling() as (client, url):
            for start in range(0, len(messages), BATCH):
                part = messages[start : start + BATCH]
                answer = client.change_message_visibility_batch(
                    QueueUrl=url,
                    Entries=[
                        {"Id": str(at), "ReceiptHandle": message.handle, "VisibilityTimeout": 0}
                        for at, message in enumerate(part)
                    ],
                )
                passing = [failure for failure in _failures(answer, len(part)) if failure.kind == RETRY]
                if passing:  # the caller releases all of them again, which does no harm
                    raise TransportError(RETRY, passing[0].code, passing[0].message)

    def stat(self) -> QueueState:
        """Make one GetQueueAttributes, for All: a standard queue refuses the names of a FIFO queue's attributes."""
        with self._queue.calling() as (client, url):
            answer = client.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])
        return queue_state(answer.get("Attributes", {}))

    def close(self) -> None:
        """Do nothing: the connections close with the process."""


def queue_state(attributes: Mapping[Any, str]) -> QueueState:
    """The state in a queue's attributes (all strings); a field that an emulator leaves out is None."""

    def number(name: str) -> int | None:
        text = attributes.get(name, "")
        return int(text) if text.isdigit() else None

    counts = ("", "NotVisible", "Delayed")
    found = QueueState(*(number(f"ApproximateNumberOfMessages{kind}") or 0 for kind in counts))
    found.visibility_timeout = number("VisibilityTimeout")
    found.retention = number("MessageRetentionPeriod")
    found.max_message = number("MaximumMessageSize")
    found.in_flight_limit = IN_FLIGHT_LIMIT
    found.fifo = attributes.get("FifoQueue") == "true"
    managed = "SSE-SQS" if attributes.get("SqsManagedSseEnabled") == "true" else ""
    found.encryption = attributes.get("KmsMasterKeyId") or managed
    try:
        policy = json.loads(attributes.get("RedrivePolicy") or "{}")
        found.dead_letter = policy.get("deadLetterTargetArn")
        found.max_receives = int(policy["maxReceiveCount"]) if "maxReceiveCount" in policy else None
    except (ValueError, TypeError, AttributeError):
        pass
    return found


def request_json(url: str, bodies: Sequence[Body], fifo: bool, group: str = "") -> Iterator[bytes]:
    """The JSON of a SendMessageBatch request in pieces, as boto3 would serialise it; bodies stay UTF-8 bytes.

    `group` is the message group on a standard queue (fair queues); on a FIFO queue the message group is the run.
    """
    yield b'{"QueueUrl": "%s", "Entries": [' % _escaped(url.encode())
    for at, body in enumerate(bodies):
        yield b'%s{"Id": "%d", "MessageBody": "' % (b", " if at else b"", at)
        for start in range(0, len(body.data), _CACHED_BYTES):
            yield _escaped(body.data[start : start + _CACHED_BYTES])
        yield b'", %s}' % _entry_rest(body, fifo, group)
    yield b"]}"


def _entry_rest(body: Body, fifo: bool, group: str) -> bytes:
    """The fields after the body in an entry."""
    attributes = b", ".join(
        b'"%s": {"StringValue": "%s", "DataType": "%s"}'
        % (_escaped(name.encode()), _escaped(value.encode()), _DATA_TYPES.get(name, b"String"))
        for name, value in body.attributes.items()
    )
    rest = b'"MessageAttributes": {%s}' % attributes
    if fifo:
        run = body.run.encode()
        span = f"{body.first}-{body.last}{':gap' if body.is_gap else ''}".encode()
        rest += b', "MessageDeduplicationId": "%s:%s", "MessageGroupId": "%s"' % (run, span, run)
    elif group:
        rest += b', "MessageGroupId": "%s"' % _escaped(group.encode())
    return rest


def _escaped(data: bytes) -> bytes:
    """Escape UTF-8 for a JSON string; newlines are its only control characters (records escape all others)."""
    return data.replace(b"\\", b"\\\\").replace(b'"', b'\\"').replace(b"\n", b"\\n")


def _failures(answer: Any, count: int, start: int = 0) -> list[Failure]:
    """The entries that an answer lists as Failed, or does not list at all; indexes count from `start`.

    boto3 raises no error for an HTTP 200 that a proxy cut short or made up: such an answer lists no entries.
    """
    found = {int(entry["Id"]): entry for entry in answer.get("Failed", [])}
    taken = {int(entry["Id"]) for entry in answer.get("Successful", [])}
    return [_failure(start + at, found.get(at)) for at in range(count) if at not in taken]


def _failure(index: int, entry: Any) -> Failure:
    if entry is None:
        return Failure(index, RETRY, "NoAnswer", "the answer does not mention the message")
    code = str(entry.get("Code", ""))
    message = str(entry.get("Message", ""))
    kind = classify(code, sender_fault=bool(entry.get("SenderFault")), message=message)
    return Failure(index, kind, code, message)


def _message(found: Any) -> ReceivedMessage:
    attributes = {
        name: str(value["StringValue"])
        for name, value in found.get("MessageAttributes", {}).items()
        if "StringValue" in value
    }
    sent = found.get("Attributes", {}).get("SentTimestamp", "0")
    data = found["Body"].encode("utf-8", "surrogatepass")  # an emulator may let half a surrogate pair pass
    return ReceivedMessage(data, attributes, found["ReceiptHandle"], found.get("MessageId", ""), int(sent) / 1000)
