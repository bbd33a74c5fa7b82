"""The queues of an experiment, and the optional DynamoDB table of its records."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

from sqstee.backoff import full_jitter
from sqstee.destination import Destination
from sqstee.transports.aws import refusal_of
from sqstee.transports.errors import OPEN, RETRY, TransportError
from sqstee.transports.sqs import LONG_POLL_SECONDS, client_for

if TYPE_CHECKING:
    from mypy_boto3_sqs.client import SQSClient

_READ_SLACK_SECONDS = 10
_WRITES = 8
_BACKOFF_SECONDS, _MOST_BACKOFF_SECONDS = 0.05, 5.0
# The attributes that a new queue copies from QUEUE; no policy, no dead-letter queue.
_COPIED = (
    "VisibilityTimeout",
    "MaximumMessageSize",
    "DelaySeconds",
    "KmsMasterKeyId",
    "KmsDataKeyReusePeriodSeconds",
    "SqsManagedSseEnabled",
)


class QueueMessage(NamedTuple):
    """A message of one answer; `first_received` is SQS's, in seconds since the epoch, 0 if it is missing."""

    message_id: str
    handle: str
    body: str
    receive_count: int
    first_received: float


class Queues:
    """The queues of one account and region; thread-safe. Every method raises TransportError if SQS refuses."""

    def __init__(self, destination: Destination, connections: int) -> None:
        self._destination = destination
        try:
            self._client: SQSClient = client_for(destination, connections, LONG_POLL_SECONDS + _READ_SLACK_SECONDS)
        except Exception as error:
            raise refusal_of(error) from error

    def _call(self, operation: str, **parameters: Any) -> Any:
        try:
            return getattr(self._client, operation)(**parameters)
        except Exception as error:
            raise refusal_of(error) from error

    def attributes(self) -> dict[str, str]:
        """The attributes that a new queue copies; none if the destination's queue does not exist."""
        url = self._destination.url or self.url(self._destination.name)
        if not url:
            return {}
        try:
            answer = self._call("get_queue_attributes", QueueUrl=url, AttributeNames=["All"])
        except TransportError as error:
            if is_missing(error):
                return {}
            raise
        found = answer.get("Attributes", {})
        if found.get("KmsMasterKeyId"):
            found.pop("SqsManagedSseEnabled", None)  # SQS refuses the two together
        return {name: found[name] for name in _COPIED if name in found}

    def url(self, name: str) -> str | None:
        """A queue's URL; None if the queue does not exist."""
        try:
            return str(self._call("get_queue_url", QueueName=name)["QueueUrl"])
        except TransportError as error:
            if is_missing(error):
                return None
            raise

    def urls(self, prefix: str) -> list[str]:
        """The URLs of the queues whose names begin with `prefix`."""
        found: list[str] = []
        token: dict[str, str] = {}
        while True:
            answer = self._call("list_queues", QueueNamePrefix=prefix, MaxResults=1000, **token)
            found += answer.get("QueueUrls", [])
            if "NextToken" not in answer:
                return found
            token = {"NextToken": answer["NextToken"]}

    def create(self, name: str, attributes: Mapping[str, str]) -> str:
        """Create a queue and return its URL."""
        return str(self._call("create_queue", QueueName=name, Attributes=dict(attributes))["QueueUrl"])

    def remove(self, url: str) -> None:
        """Delete a queue, if it exists."""
        try:
            self._call("delete_queue", QueueUrl=url)
        except TransportError as error:
            if not is_missing(error):
                raise

    def depth(self, url: str) -> int:
        """The approximate number of messages that are visible, in flight or delayed."""
        names = [f"ApproximateNumberOfMessages{kind}" for kind in ("", "NotVisible", "Delayed")]
        answer = self._call("get_queue_attributes", QueueUrl=url, AttributeNames=names)
        return sum(int(answer.get("Attributes", {}).get(name, 0)) for name in names)

    def send(self, url: str, bodies: Sequence[str]) -> list[str | None]:
        """One SendMessageBatch: the MessageIds, None for each message that the answer does not confirm."""
        entries = [{"Id": str(at), "MessageBody": body} for at, body in enumerate(bodies)]
        answer = self._call("send_message_batch", QueueUrl=url, Entries=entries)
        for failed in answer.get("Failed", []):
            if failed.get("SenderFault"):
                raise TransportError(OPEN, str(failed.get("Code", "")), str(failed.get("Message", "")))
        taken = {int(entry["Id"]): str(entry["MessageId"]) for entry in answer.get("Successful", [])}
        return [taken.get(at) for at in range(len(bodies))]

    def receive(self, url: str, wait: float) -> list[QueueMessage]:
        """One ReceiveMessage for up to ten messages; `wait` in whole seconds, 0 is short polling."""
        answer = self._call(
            "receive_message",
            QueueUrl=url,
            MaxNumberOfMessages=10,
            WaitTimeSeconds=round(wait),
            AttributeNames=["ApproximateReceiveCount", "ApproximateFirstReceiveTimestamp"],
        )
        return [_received(found) for found in answer.get("Messages", [])]

    def delete(self, url: str, handles: Sequence[str]) -> list[bool]:
        """One DeleteMessageBatch: whether each was deleted."""
        entries = [{"Id": str(at), "ReceiptHandle": handle} for at, handle in enumerate(handles)]
        answer = self._call("delete_message_batch", QueueUrl=url, Entries=entries)
        done = {entry["Id"] for entry in answer.get("Successful", [])}
        return [entry["Id"] in done for entry in entries]


def _received(found: Mapping[str, Any]) -> QueueMessage:
    attributes = found.get("Attributes", {})
    return QueueMessage(
        found["MessageId"],
        found["ReceiptHandle"],
        found["Body"],
        int(attributes.get("ApproximateReceiveCount", 0)),
        int(attributes.get("ApproximateFirstReceiveTimestamp", 0)) / 1000.0,
    )


def is_missing(error: TransportError) -> bool:
    """Whether an error means that the queue does not exist, yet or any longer."""
    return "NonExistentQueue" in error.code or "QueueDoesNotExist" in error.code


class RecordTable:
    """A DynamoDB table of records: partition key `experiment`, sort key `id`; thread-safe.

    It is created, billed per request, if it does not exist; it is never deleted, since it holds the results.
    """

    def __init__(self, name: str, region: str, experiment: str, writer: str) -> None:
        import threading

        self._name, self._experiment, self._writer = name, experiment, writer
        self._lock = threading.Lock()
        self._number = 0
        try:
            import boto3.session

            self._client: Any = boto3.session.Session().client("dynamodb", region_name=region or None)
            self._create_if_missing()
        except Exception as error:
            raise refusal_of(error) from error

    def _create_if_missing(self) -> None:
        keys = [("experiment", "HASH"), ("id", "RANGE")]
        try:
            self._client.describe_table(TableName=self._name)
        except self._client.exceptions.ResourceNotFoundException:
            self._client.create_table(
                TableName=self._name,
                KeySchema=[{"AttributeName": name, "KeyType": kind} for name, kind in keys],
                AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name, _ in keys],
                BillingMode="PAY_PER_REQUEST",
            )
            self._client.get_waiter("table_exists").wait(TableName=self._name)

    def put(self, items: Iterable[Mapping[str, Any]]) -> None:
        """Write records, 25 per call; unprocessed ones are written again after a pause. Raises TransportError."""
        requests = [{"PutRequest": {"Item": self._item(item)}} for item in items]
        try:
            for start in range(0, len(requests), 25):
                self._write(requests[start : start + 25])
        except TransportError:
            raise
        except Exception as error:
            raise refusal_of(error) from error

    def _item(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        from boto3.dynamodb.types import TypeSerializer

        with self._lock:
            self._number += 1
            number = self._number
        plain = json.loads(json.dumps(fields), parse_float=Decimal)
        whole = {**plain, "experiment": self._experiment, "id": f"{self._writer}:{number:012d}"}
        return {name: TypeSerializer().serialize(value) for name, value in whole.items()}

    def _write(self, requests: list[Any]) -> None:
        for attempt in range(_WRITES):
            answer = self._client.batch_write_item(RequestItems={self._name: requests})
            requests = answer.get("UnprocessedItems", {}).get(self._name, [])
            if not requests:
                return
            time.sleep(full_jitter(attempt, _BACKOFF_SECONDS, _MOST_BACKOFF_SECONDS))
        raise TransportError(RETRY, "UnprocessedItems", f"table {self._name} did not accept {len(requests)} records")
