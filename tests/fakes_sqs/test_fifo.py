"""FIFO queues: their ids, deduplication, groups, and handles that expire."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from fakes.sqs import FakeSqs

from .helpers import SENT, code_of, entries

if TYPE_CHECKING:
    from mypy_boto3_sqs.client import SQSClient


def test_fifo_needs_its_ids(sqs: FakeSqs, client: SQSClient, fifo: str) -> None:
    """Group and deduplication id are required; delays are refused."""
    assert code_of(client.send_message, QueueUrl=fifo, MessageBody="x") == ("MissingParameter", 400)
    long: Any = {**SENT, "MessageDeduplicationId": "d" * 129}
    for more in ({"MessageGroupId": "g"}, {**SENT, "DelaySeconds": 1}, long):
        assert code_of(client.send_message, QueueUrl=fifo, MessageBody="x", **more) == (
            "InvalidParameterValue",
            400,
        )
    assert code_of(client.send_message_batch, QueueUrl=fifo, Entries=entries("x"))[0] == ("InvalidParameterValue")
    assert sqs.sent(fifo) == []


def test_fifo_deduplicates_for_five_minutes(sqs: FakeSqs, client: SQSClient, fifo: str) -> None:
    """A second message of the same id gets the first one's MessageId and is not stored; after five minutes it is."""
    first = client.send_message(QueueUrl=fifo, MessageBody="x", **SENT)
    second = client.send_message(QueueUrl=fifo, MessageBody="y", **SENT)
    assert (first["MessageId"], first["SequenceNumber"]) == (second["MessageId"], second["SequenceNumber"])
    sqs.advance(301)
    third = client.send_message(QueueUrl=fifo, MessageBody="z", **SENT)
    assert int(third["SequenceNumber"]) > int(first["SequenceNumber"])
    assert [message.body for message in sqs.messages(fifo)] == ["x", "z"]


def test_fifo_content_based_deduplication(sqs: FakeSqs, client: SQSClient) -> None:
    """With ContentBasedDeduplication the body's hash stands for the id."""
    url = sqs.create_queue("content.fifo", ContentBasedDeduplication="true")
    client.send_message_batch(QueueUrl=url, Entries=entries("a", "a", "b", MessageGroupId="g"))
    assert [message.body for message in sqs.messages(url)] == ["a", "b"]
    assert sqs.messages(url)[0].dedup_id == hashlib.sha256(b"a").hexdigest()


def test_fifo_group_blocked_while_in_flight(sqs: FakeSqs, client: SQSClient, fifo: str) -> None:
    """While a message of a group is in flight the rest of the group waits, other groups do not."""
    for number, group in enumerate("aab"):
        client.send_message(
            QueueUrl=fifo,
            MessageBody=f"{group}{number}",
            MessageGroupId=group,
            MessageDeduplicationId=str(number),
        )
    names: Any = ["All"]
    (first,) = client.receive_message(QueueUrl=fifo, MessageSystemAttributeNames=names)["Messages"]
    assert first["Attributes"]["MessageGroupId"] == "a"
    assert {"SequenceNumber", "MessageDeduplicationId"} <= set(first["Attributes"])
    others = client.receive_message(QueueUrl=fifo, MaxNumberOfMessages=10)["Messages"]
    assert [m["Body"] for m in (first, *others)] == ["a0", "b2"]
    client.delete_message(QueueUrl=fifo, ReceiptHandle=first["ReceiptHandle"])
    assert client.receive_message(QueueUrl=fifo)["Messages"][0]["Body"] == "a1"


def test_fifo_refuses_an_expired_handle(sqs: FakeSqs, client: SQSClient, fifo: str) -> None:
    """On a FIFO queue a handle is valid during its visibility timeout only."""
    sqs.put(fifo, "x", **SENT)
    handle = client.receive_message(QueueUrl=fifo)["Messages"][0]["ReceiptHandle"]
    sqs.advance(31)
    assert code_of(client.delete_message, QueueUrl=fifo, ReceiptHandle=handle) == (
        "InvalidParameterValue",
        400,
    )
    again = client.receive_message(QueueUrl=fifo)["Messages"][0]["ReceiptHandle"]
    client.delete_message(QueueUrl=fifo, ReceiptHandle=again)
    assert sqs.messages(fifo) == []
