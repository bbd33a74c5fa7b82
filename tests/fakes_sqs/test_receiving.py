"""Receiving, visibility timeouts, long polls, deleting and redrive."""

from __future__ import annotations

import contextlib
import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ReadTimeoutError
from fakes.sqs import FakeSqs

from .helpers import client_of, code_of, in_thread, until

if TYPE_CHECKING:
    from mypy_boto3_sqs.client import SQSClient

from fakes.sqs.limits import ACCOUNT


def test_receive_up_to_ten_in_order_once(sqs: FakeSqs, client: SQSClient, queue: str) -> None:
    """Messages come in order, at most ten a call, each to one receiver while its timeout runs."""
    sqs.put(queue, *map(str, range(12)))
    first = client.receive_message(QueueUrl=queue, MaxNumberOfMessages=10)["Messages"]
    second = client.receive_message(QueueUrl=queue, MaxNumberOfMessages=10)["Messages"]
    assert [m["Body"] for m in first + second] == [str(n) for n in range(12)]
    assert "Attributes" not in first[0]
    assert client.receive_message(QueueUrl=queue).get("Messages") is None
    shown = client.get_queue_attributes(QueueUrl=queue, AttributeNames=["All"])["Attributes"]
    assert (shown["ApproximateNumberOfMessages"], shown["ApproximateNumberOfMessagesNotVisible"]) == (
        "0",
        "12",
    )
    assert {message.state for message in sqs.messages(queue)} == {"in flight"}
    assert len(sqs.deliveries(queue)) == 12


def test_one_receiver_each_when_many_receive(sqs: FakeSqs, client: SQSClient, queue: str) -> None:
    """Parallel receivers never get the same message."""
    sqs.put(queue, *map(str, range(100)))
    got: list[str] = []

    def receive() -> None:
        while messages := client.receive_message(QueueUrl=queue, MaxNumberOfMessages=5).get("Messages"):
            got.extend(m["Body"] for m in messages)

    with contextlib.ExitStack() as threads:
        for _ in range(4):
            threads.enter_context(in_thread(receive))
    assert sorted(got, key=int) == [str(n) for n in range(100)]


@pytest.mark.parametrize(
    "parameters",
    [
        {"MaxNumberOfMessages": 11},
        {"MaxNumberOfMessages": 0},
        {"WaitTimeSeconds": 21},
        {"WaitTimeSeconds": -1},
        {"VisibilityTimeout": 43_201},
    ],
)
def test_receive_parameter_refused(sqs: FakeSqs, client: SQSClient, queue: str, parameters: Any) -> None:
    """Parameters of ReceiveMessage out of range are refused."""
    assert code_of(client.receive_message, QueueUrl=queue, **parameters) == (
        "InvalidParameterValue",
        400,
    )


def test_visibility_timeout_expires(sqs: FakeSqs, client: SQSClient, queue: str) -> None:
    """After the timeout, by the real clock, a message comes again, counted, under a new handle."""
    sqs.put(queue, "x")
    names: Any = {"MessageSystemAttributeNames": ["All"]}
    before = time.time()
    (first,) = client.receive_message(QueueUrl=queue, VisibilityTimeout=1, **names)["Messages"]
    (again,) = client.receive_message(QueueUrl=queue, WaitTimeSeconds=20, **names)["Messages"]
    assert 0.9 < time.time() - before < 15
    assert first["ReceiptHandle"] != again["ReceiptHandle"]
    assert [m["Attributes"]["ApproximateReceiveCount"] for m in (first, again)] == ["1", "2"]
    stamps = [m["Attributes"]["ApproximateFirstReceiveTimestamp"] for m in (first, again)]
    assert stamps[0] == stamps[1]
    assert int(first["Attributes"]["SentTimestamp"]) <= int(stamps[0])
    client.delete_message(QueueUrl=queue, ReceiptHandle=first["ReceiptHandle"])
    assert sqs.messages(queue) == []
    assert sqs.sent(queue)[0].deleted


def test_visibility_of_zero_leaves_the_message_visible(sqs: FakeSqs, client: SQSClient, queue: str) -> None:
    """Receiving with a timeout of 0 hides nothing."""
    sqs.put(queue, "x")
    for count in (1, 2):
        assert len(client.receive_message(QueueUrl=queue, VisibilityTimeout=0)["Messages"]) == 1
        assert sqs.messages(queue)[0].receives == count
        assert sqs.messages(queue)[0].state == "ready"


def test_change_visibility(sqs: FakeSqs, client: SQSClient, queue: str) -> None:
    """A visibility timeout can be lengthened and ended, but only of a message in flight."""
    sqs.put(queue, "x")
    handle = client.receive_message(QueueUrl=queue)["Messages"][0]["ReceiptHandle"]
    client.change_message_visibility(QueueUrl=queue, ReceiptHandle=handle, VisibilityTimeout=100)
    sqs.advance(60)
    assert client.receive_message(QueueUrl=queue).get("Messages") is None
    batch: Any = [{"Id": "a", "ReceiptHandle": handle, "VisibilityTimeout": 0}]
    answer = client.change_message_visibility_batch(QueueUrl=queue, Entries=batch)
    assert answer["Successful"] == [{"Id": "a"}]
    assert sqs.messages(queue)[0].state == "ready"
    change: Any = {"QueueUrl": queue, "ReceiptHandle": handle, "VisibilityTimeout": 0}
    assert code_of(client.change_message_visibility, **change) == (
        "AWS.SimpleQueueService.MessageNotInflight",
        400,
    )
    client.delete_message(QueueUrl=queue, ReceiptHandle=handle)
    assert code_of(client.change_message_visibility, **change) == ("InvalidParameterValue", 400)


def test_long_poll_returns_when_a_message_arrives(sqs: FakeSqs, client: SQSClient, queue: str) -> None:
    """A long poll answers as soon as there is a message, long before its time is over."""
    started = time.monotonic()
    with in_thread(lambda: client.receive_message(QueueUrl=queue, WaitTimeSeconds=20)) as got:
        until(lambda: sqs.counters().active == 1)
        sqs.put(queue, "late")
    assert got[0]["Messages"][0]["Body"] == "late"
    assert time.monotonic() - started < 15


def test_long_poll_ends_empty(sqs: FakeSqs, client: SQSClient, queue: str) -> None:
    """Without a message a long poll takes its whole time."""
    started = time.monotonic()
    assert client.receive_message(QueueUrl=queue, WaitTimeSeconds=1).get("Messages") is None
    assert time.monotonic() - started > 0.95


def test_long_poll_of_a_client_that_left_takes_nothing(sqs: FakeSqs, queue: str) -> None:
    """A message that arrives after the receiver hung up stays visible."""
    impatient = client_of(sqs, timeout=0.1)
    with pytest.raises(ReadTimeoutError):
        impatient.receive_message(QueueUrl=queue, WaitTimeSeconds=20)
    impatient.close()
    until(lambda: sqs.counters().connections == 1)
    sqs.put(queue, "x")
    until(lambda: sqs.counters().active == 0)
    assert sqs.messages(queue)[0].state == "ready"


def test_delete_is_idempotent_and_refuses_unknown_handles(sqs: FakeSqs, client: SQSClient, queue: str) -> None:
    """A handle works twice; an invented one, or one of another queue, is ReceiptHandleIsInvalid."""
    other = sqs.create_queue("other-queue")
    sqs.put(queue, "x")
    handle = client.receive_message(QueueUrl=queue)["Messages"][0]["ReceiptHandle"]
    invalid = ("ReceiptHandleIsInvalid", 404)
    assert code_of(client.delete_message, QueueUrl=other, ReceiptHandle=handle) == invalid
    assert code_of(client.delete_message, QueueUrl=queue, ReceiptHandle="abc") == invalid
    batch: Any = [{"Id": "a", "ReceiptHandle": handle}, {"Id": "b", "ReceiptHandle": handle[:-2]}]
    for _ in range(2):
        answer = client.delete_message_batch(QueueUrl=queue, Entries=batch)
        assert answer["Successful"] == [{"Id": "a"}]
        assert [(i["Id"], i["Code"], i["SenderFault"]) for i in answer["Failed"]] == [
            ("b", "ReceiptHandleIsInvalid", True)
        ]
    assert sqs.messages(queue) == []


def test_over_limit(sqs: FakeSqs, client: SQSClient, queue: str) -> None:
    """At the limit of messages in flight ReceiveMessage is OverLimit."""
    sqs.faults(in_flight_limit=2)
    sqs.put(queue, "a", "b", "c")
    client.receive_message(QueueUrl=queue, MaxNumberOfMessages=2)
    assert code_of(client.receive_message, QueueUrl=queue) == ("OverLimit", 403)
    assert sqs.counters().max_messages_in_flight[queue.rpartition("/")[2]] == 2


def test_redrive(sqs: FakeSqs, client: SQSClient) -> None:
    """A message received maxReceiveCount times goes to the dead-letter queue, which names its source."""
    dead = sqs.create_queue("dead")
    arn = f"arn:aws:sqs:us-east-1:{ACCOUNT}:dead"
    policy = {"deadLetterTargetArn": arn, "maxReceiveCount": 2}
    queue = sqs.create_queue("redriven", RedrivePolicy=policy, VisibilityTimeout=0)
    (key,) = sqs.put(queue, "x")
    for _ in range(2):
        assert len(client.receive_message(QueueUrl=queue)["Messages"]) == 1
    assert client.receive_message(QueueUrl=queue).get("Messages") is None
    assert sqs.messages(queue) == []
    (moved,) = client.receive_message(QueueUrl=dead, MessageSystemAttributeNames=["All"])["Messages"]
    assert moved["MessageId"] == key
    assert moved["Attributes"]["DeadLetterQueueSourceArn"].endswith(":redriven")
    shown = client.get_queue_attributes(QueueUrl=queue, AttributeNames=["RedrivePolicy"])["Attributes"]
    assert json.loads(shown["RedrivePolicy"]) == policy
