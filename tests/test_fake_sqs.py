"""The fake SQS against boto3: each rule at its limit and one above, each fault, and what the counters say."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import boto3
import fake_sqs_rules as rules
import pytest
from botocore.config import Config
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    EndpointConnectionError,
    ReadTimeoutError,
)
from fake_sqs import ACCESS_KEY, REGION, SECRET_KEY, FakeSqs

if TYPE_CHECKING:
    from mypy_boto3_sqs.client import SQSClient

MIB = rules.MAX_MESSAGE
SENT: Any = {"MessageGroupId": "g", "MessageDeduplicationId": "d"}


def client_of(server: FakeSqs, *, timeout: float = 10.0, key: str = ACCESS_KEY, region: str = REGION) -> SQSClient:
    """A boto3 client without retries of its own."""
    return boto3.session.Session().client(
        "sqs",
        region_name=region,
        endpoint_url=server.endpoint,
        aws_access_key_id=key,
        aws_secret_access_key=SECRET_KEY,
        config=Config(
            retries={"total_max_attempts": 1},
            read_timeout=timeout,
            connect_timeout=5,
            max_pool_connections=20,
        ),
    )


@pytest.fixture(scope="module")
def server() -> Iterator[FakeSqs]:
    """One server for the file: each test has a queue of its own."""
    with FakeSqs() as running:
        yield running


@pytest.fixture(scope="module")
def shared_client(server: FakeSqs) -> SQSClient:
    """A client costs 50 ms to build: one for the file."""
    return client_of(server)


@pytest.fixture
def sqs(server: FakeSqs) -> Iterator[FakeSqs]:
    """The server with no faults and all counters at 0."""
    server.clear_faults()
    until(lambda: server.counters().active == 0)  # what has its answer may still be counted
    server.reset_counters()
    yield server
    server.clear_faults()


@pytest.fixture
def client(sqs: FakeSqs, shared_client: SQSClient) -> SQSClient:
    """The client, for use with the clean server."""
    return shared_client


@pytest.fixture
def queue(sqs: FakeSqs, request: pytest.FixtureRequest) -> str:
    """The URL of a fresh standard queue."""
    return sqs.create_queue(name_of(request.node.name))


@pytest.fixture
def fifo(sqs: FakeSqs, request: pytest.FixtureRequest) -> str:
    """The URL of a fresh FIFO queue."""
    return sqs.create_queue(name_of(request.node.name) + ".fifo")


def name_of(test: str) -> str:
    """A queue name for a test."""
    return "q-" + hashlib.sha256(test.encode()).hexdigest()[:20]


def entries(*bodies: str, **more: Any) -> list[Any]:
    """Batch entries with the ids 0, 1, …"""
    return [{"Id": str(n), "MessageBody": body, **more} for n, body in enumerate(bodies)]


def code_of(call: Callable[..., Any], /, *arguments: Any, **parameters: Any) -> tuple[str, int]:
    """(error code, HTTP status) with which boto3 reports that a call failed."""
    with pytest.raises(ClientError) as caught:
        call(*arguments, **parameters)
    response: Any = caught.value.response
    return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Poll till a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "condition not met in time"
        time.sleep(0.005)


@contextlib.contextmanager
def in_thread(action: Callable[[], Any]) -> Iterator[list[Any]]:
    """Run an action beside the block; the list holds its result (or exception) after the block."""
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(action())
        except Exception as error:
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield results
    finally:
        thread.join(10)
    assert not thread.is_alive()


# -- sending


def test_message_stored_with_attributes_and_digests(sqs: FakeSqs, client: SQSClient, queue: str) -> None:
    """What is sent is stored, with the MD5 sums of body and attributes (as AWS was seen to compute)."""
    attributes: Any = {
        "General": {"DataType": "String", "StringValue": "Kenobi"},
        "Hello": {"DataType": "String", "StringValue": "There"},
        "Help.Me": {"DataType": "String", "StringValue": "Me"},
    }
    answer = client.send_message(QueueUrl=queue, MessageBody="msg", MessageAttributes=attributes)
    assert answer["MD5OfMessageBody"] == hashlib.md5(b"msg").hexdigest() == "6e2baaf3b97dbeef01c0043275f9a0e7"
    assert answer["MD5OfMessageAttributes"] == "4c360f3fdafd970e05fae2f149d997f5"
    (stored,) = sqs.messages(queue)
    assert (stored.body, stored.id, stored.state) == ("msg", answer["MessageId"], "ready")
    assert stored.attributes == {"General": "Kenobi", "Hello": "There", "Help.Me": "Me"}
    received = client.receive_message(QueueUrl=queue, MessageAttributeNames=["Hel.*", "Gone"])
    assert received["Messages"][0]["MessageAttributes"].keys() == {"Hello", "Help.Me"}
    assert received["Messages"][0]["MD5OfMessageAttributes"] == "83fee93c1bcd8b9a5a923ffacdc636c7"
    client.change_message_visibility(
        QueueUrl=queue, ReceiptHandle=received["Messages"][0]["ReceiptHandle"], VisibilityTimeout=0
    )
    received = client.receive_message(QueueUrl=queue, MessageAttributeNames=["All"])
    assert received["Messages"][0]["MessageAttributes"] == attributes
    assert received["Messages"][0]["MD5OfMessageAttributes"] == answer["MD5OfMessageAttributes"]


def test_binary_and_number_attributes(sqs: FakeSqs, client: SQSClient, queue: str) -> None:
    """Binary values travel in base64 and come back as bytes; numbers stay text."""
    attributes: Any = {
        "b": {"DataType": "Binary.png", "BinaryValue": b"\x00\xff"},
        "n": {"DataType": "Number.int", "StringValue": "-1.5e3"},
    }
    client.send_message(QueueUrl=queue, MessageBody="x", MessageAttributes=attributes)
    assert sqs.messages(queue)[0].attributes == {"b": "AP8=", "n": "-1.5e3"}
    (got,) = client.receive_message(QueueUrl=queue, MessageAttributeNames=["All"])["Messages"]
    assert got["MessageAttributes"] == attributes


def test_message_size_limit(sqs: FakeSqs, client: SQSClient, queue: str) -> None:
    """1 MiB of UTF-8 bytes with attributes is accepted, one byte more refused."""
    attributes: Any = {"name": {"DataType": "String", "StringValue": "é"}}
    body = "é" * ((MIB - 4 - 6 - 2) // 2)
    client.send_message(QueueUrl=queue, MessageBody=body, MessageAttributes=attributes)
    assert code_of(client.send_message, QueueUrl=queue, MessageBody=body + "x", MessageAttributes=attributes) == (
        "InvalidParameterValue",
        400,
    )
    assert sqs.counters().payload_bytes == MIB
    assert sqs.counters().rejections[0]["message"].endswith("must be shorter than 1048576 bytes.")


def test_queue_size_limit_is_per_entry_in_a_batch(sqs: FakeSqs, client: SQSClient, queue: str) -> None:
    """MaximumMessageSize fails the entry that exceeds it, not the call; it does not bound the batch."""
    client.set_queue_attributes(QueueUrl=queue, Attributes={"MaximumMessageSize": "1024"})
    answer = client.send_message_batch(QueueUrl=queue, Entries=entries("x" * 1024, "x" * 1025, "y" * 1024))
    assert [item["Id"] for item in answer["Successful"]] == ["0", "2"]
    assert [(i["Id"], i["Code"], i["SenderFault"]) for i in answer["Failed"]] == [("1", "InvalidParameterValue", True)]


def test_batch_size_limit(sqs: FakeSqs, client: SQSClient, queue: str) -> None:
    """A batch of 1 MiB with attributes is accepted, one byte more fails the call and stores nothing."""
    more: Any = {"MessageAttributes": {"a": {"DataType": "String", "StringValue": "b"}}}
    half = MIB // 2 - len("aStringb")
    client.send_message_batch(QueueUrl=queue, Entries=entries("x" * half, "y" * half, **more))
    assert code_of(
        client.send_message_batch, QueueUrl=queue, Entries=entries("x" * half, "y" * (half + 1), **more)
    ) == ("AWS.SimpleQueueService.BatchRequestTooLong", 400)
    assert len(sqs.sent(queue)) == 2
    assert "You have sent 1048577 bytes" in sqs.counters().rejections[0]["message"]


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ([], "EmptyBatchRequest"),
        (entries(*"abcdefghijk"), "TooManyEntriesInBatchRequest"),
        ([{"Id": "a", "MessageBody": "x"}] * 2, "BatchEntryIdsNotDistinct"),
        ([{"Id": "a:b", "MessageBody": "x"}], "InvalidBatchEntryId"),
        ([{"Id": "a" * 81, "MessageBody": "x"}], "InvalidBatchEntryId"),
        ([{"Id": "", "MessageBody": "x"}], "InvalidBatchEntryId"),
    ],
)
def test_batch_refused_as_a_whole(sqs: FakeSqs, client: SQSClient, queue: str, given: list[Any], code: str) -> None:
    """Violations of the batch itself are errors of the call, with AWS's prefix, and store nothing."""
    with pytest.raises(getattr(client.exceptions, code)) as caught:
        client.send_message_batch(QueueUrl=queue, Entries=given)
    response: Any = caught.value.response
    assert response["Error"]["Code"] == f"AWS.SimpleQueueService.{code}"
    assert response["Error"]["QueryErrorCode"] == code
    assert response["ResponseMetadata"]["HTTPStatusCode"] == 400
    assert response["Error"]["Type"] == "Sender"
    assert sqs.sent(queue) == []
    assert sqs.counters().rejected == 1


def test_batch_at_its_limits(sqs: FakeSqs, client: SQSClient, queue: str) -> None:
    """Ten entries with ids of 80 allowed characters are accepted."""
    given: Any = [{"Id": f"{n:_>79}-", "MessageBody": str(n)} for n in range(10)]
    answer = client.send_message_batch(QueueUrl=queue, Entries=given)
    assert [item["Id"] for item in answer["Successful"]] == [item["Id"] for item in given]
    assert [message.body for message in sqs.messages(queue)] == list("0123456789")


def test_empty_body_refused(sqs: FakeSqs, client: SQSClient, queue: str) -> None:
    """A message has at least one character."""
    assert code_of(client.send_message, QueueUrl=queue, MessageBody="") == ("MissingParameter", 400)
    assert code_of(client.send_message_batch, QueueUrl=queue, Entries=entries("x", "")) == (
        "MissingParameter",
        400,
    )
    client.send_message(QueueUrl=queue, MessageBody=" ")


def test_every_allowed_character_is_accepted(sqs: FakeSqs, client: SQSClient, queue: str) -> None:
    """The whole set of the API reference, C1 controls included, comes back unchanged."""
    allowed = [
        0x9,
        0xA,
        0xD,
        *range(0x20, 0xD800),
        *range(0xE000, 0xFFFE),
        0x10000,
        0x1FFFE,
        0x1FFFF,
        0x10FFFF,
    ]
    body = "".join(map(chr, allowed))
    client.send_message(QueueUrl=queue, MessageBody=body)
    assert client.receive_message(QueueUrl=queue)["Messages"][0]["Body"] == body
    assert sqs.messages(queue)[0].body == body


def test_every_other_character_is_refused(sqs: FakeSqs, client: SQSClient, queue: str) -> None:
    """Controls, U+FFFE, U+FFFF and lone surrogates are InvalidMessageContents: per entry in a batch."""
    refused = [*sorted(set(range(0x20)) - {0x9, 0xA, 0xD}), 0xFFFE, 0xFFFF, 0xD800, 0xDBFF, 0xDC00, 0xDFFF]
    for start in range(0, len(refused), 9):
        bodies = [f"before{chr(c)}after" for c in refused[start : start + 9]]
        answer = client.send_message_batch(QueueUrl=queue, Entries=entries(*bodies, "good"))
        assert [i["Id"] for i in answer["Successful"]] == [str(len(bodies))]
        assert {(i["Code"], i["SenderFault"]) for i in answer["Failed"]} == {("InvalidMessageContents", True)}
        assert len(answer["Failed"]) == len(bodies)
    assert code_of(client.send_message, QueueUrl=queue, MessageBody="\x00") == (
        "InvalidMessageContents",
        400,
    )
    assert {message.body for message in sqs.sent(queue)} == {"good"}
    assert sqs.counters().rejected == len(refused) + 1


@pytest.mark.parametrize("name", ["", ".a", "a.", "a..b", "AWS.x", "aws.x", "Amazon.x", "a b", "é", "a:b", "n" * 257])
def test_attribute_name_refused(sqs: FakeSqs, client: SQSClient, queue: str, name: str) -> None:
    """Names that break the rules are refused, as a Failed entry in a batch."""
    attributes: Any = {name: {"DataType": "String", "StringValue": "x"}}
    assert code_of(client.send_message, QueueUrl=queue, MessageBody="x", MessageAttributes=attributes) == (
        "InvalidParameterValue",
        400,
    )
    answer = client.send_message_batch(QueueUrl=queue, Entries=entries("x", MessageAttributes=attributes))
    assert (answer["Failed"][0]["Code"], answer["Failed"][0]["SenderFault"]) == (
        "InvalidParameterValue",
        True,
    )


@pytest.mark.parametrize(
    "value",
    [
        {"DataType": "String", "StringValue": ""},
        {"DataType": "String"},
        {"DataType": "", "StringValue": "x"},
        {"DataType": "Text", "StringValue": "x"},
        {"DataType": "Strings", "StringValue": "x"},
        {"DataType": "String." + "x" * 250, "StringValue": "x"},
        {"DataType": "String", "StringValue": "\x01"},
        {"DataType": "String", "BinaryValue": b"x"},
        {"DataType": "Number", "StringValue": "ten"},
        {"DataType": "Binary", "BinaryValue": b""},
        {"DataType": "Binary", "StringValue": "x"},
    ],
)
def test_attribute_value_refused(sqs: FakeSqs, client: SQSClient, queue: str, value: Any) -> None:
    """Empty values, unknown types and values of another type are refused."""
    assert code_of(client.send_message, QueueUrl=queue, MessageBody="x", MessageAttributes={"a": value}) == (
        "InvalidParameterValue",
        400,
    )
    assert sqs.messages(queue) == []


def test_ten_attributes_at_most(sqs: FakeSqs, client: SQSClient, queue: str) -> None:
    """Ten attributes with names of 256 characters are accepted, eleven refused."""
    value: Any = {"DataType": "String", "StringValue": "x"}
    names = {"n" * 255 + chr(97 + n): value for n in range(10)}
    client.send_message(QueueUrl=queue, MessageBody="x", MessageAttributes=names)
    assert code_of(client.send_message, QueueUrl=queue, MessageBody="x", MessageAttributes=names | {"l": value}) == (
        "InvalidParameterValue",
        400,
    )


def test_group_and_dedup_id_on_a_standard_queue(sqs: FakeSqs, client: SQSClient, queue: str) -> None:
    """A group id of up to 128 characters is welcome (fair queues), a deduplication id is not."""
    client.send_message(QueueUrl=queue, MessageBody="x", MessageGroupId="g" * 128)
    assert sqs.messages(queue)[0].group == "g" * 128
    bad: Any = [{"MessageGroupId": "g" * 129}, {"MessageGroupId": "a b"}, {"MessageDeduplicationId": "d"}]
    for more in bad:
        assert code_of(client.send_message, QueueUrl=queue, MessageBody="x", **more) == (
            "InvalidParameterValue",
            400,
        )
    answer = client.send_message_batch(QueueUrl=queue, Entries=entries("x", MessageDeduplicationId="d"))
    assert (answer["Failed"][0]["Code"], answer["Failed"][0]["SenderFault"]) == (
        "InvalidParameterValue",
        True,
    )


def test_delay(sqs: FakeSqs, client: SQSClient, queue: str) -> None:
    """A delayed message is counted as such and cannot be received before its time; 901 s are refused."""
    client.send_message(QueueUrl=queue, MessageBody="x", DelaySeconds=900)
    assert client.receive_message(QueueUrl=queue).get("Messages") is None
    names: Any = ["ApproximateNumberOfMessagesDelayed", "ApproximateNumberOfMessages"]
    shown = client.get_queue_attributes(QueueUrl=queue, AttributeNames=names)["Attributes"]
    assert shown == {names[0]: "1", names[1]: "0"}
    sqs.advance(901)
    assert len(client.receive_message(QueueUrl=queue)["Messages"]) == 1
    assert code_of(client.send_message, QueueUrl=queue, MessageBody="x", DelaySeconds=901) == (
        "InvalidParameterValue",
        400,
    )


# -- queues


def test_queue_life(sqs: FakeSqs, client: SQSClient) -> None:
    """Create, find, list, purge (once a minute) and delete a queue."""
    url = client.create_queue(QueueName="life", Attributes={"DelaySeconds": "0"})["QueueUrl"]
    assert client.create_queue(QueueName="life")["QueueUrl"] == url == sqs.url("life")
    assert client.get_queue_url(QueueName="life")["QueueUrl"] == url
    assert client.list_queues(QueueNamePrefix="lif")["QueueUrls"] == [url]
    sqs.put("life", "a", "b")
    client.purge_queue(QueueUrl=url)
    assert sqs.messages("life") == []
    assert code_of(client.purge_queue, QueueUrl=url) == (
        "AWS.SimpleQueueService.PurgeQueueInProgress",
        403,
    )
    assert code_of(client.create_queue, QueueName="life", Attributes={"DelaySeconds": "1"}) == (
        "QueueAlreadyExists",
        400,
    )
    client.delete_queue(QueueUrl=url)
    missing = ("AWS.SimpleQueueService.NonExistentQueue", 400)
    assert code_of(client.get_queue_url, QueueName="life") == missing
    assert code_of(client.send_message, QueueUrl=url, MessageBody="x") == missing
    with pytest.raises(client.exceptions.QueueDoesNotExist):
        client.receive_message(QueueUrl=url)


def test_queue_is_of_its_region(sqs: FakeSqs, queue: str) -> None:
    """A request signed for another region does not find the queue, as requests go to the client's region."""
    elsewhere = client_of(sqs, region="eu-west-1")
    assert code_of(elsewhere.send_message, QueueUrl=queue, MessageBody="x")[0] == (
        "AWS.SimpleQueueService.NonExistentQueue"
    )
    assert sqs.counters().regions == {"eu-west-1": 1}
    assert code_of(elsewhere.send_message, QueueUrl="nonsense", MessageBody="x") == (
        "InvalidAddress",
        404,
    )


@pytest.mark.parametrize(
    ("attributes", "code"),
    [
        ({"VisibilityTimeout": "43201"}, "InvalidAttributeValue"),
        ({"MaximumMessageSize": "1048577"}, "InvalidAttributeValue"),
        ({"MaximumMessageSize": "1023"}, "InvalidAttributeValue"),
        ({"FifoQueue": "true"}, "InvalidAttributeName"),
        ({"Colour": "red"}, "InvalidAttributeName"),
        ({"RedrivePolicy": "{}"}, "InvalidParameterValue"),
    ],
)
def test_queue_attribute_refused(sqs: FakeSqs, client: SQSClient, queue: str, attributes: Any, code: str) -> None:
    """Attributes out of range, unknown, or for FIFO queues only are refused."""
    assert code_of(client.set_queue_attributes, QueueUrl=queue, Attributes=attributes)[0] == code


def test_queue_attributes(sqs: FakeSqs, client: SQSClient, queue: str) -> None:
    """All shows everything that is set; FifoQueue by name on a standard queue is InvalidAttributeName."""
    shown = client.get_queue_attributes(QueueUrl=queue, AttributeNames=["All"])["Attributes"]
    assert shown["MaximumMessageSize"] == "1048576"
    assert shown["VisibilityTimeout"] == "30"
    assert shown["QueueArn"] == f"arn:aws:sqs:us-east-1:{rules.ACCOUNT}:{queue.rpartition('/')[2]}"
    assert "FifoQueue" not in shown
    assert "RedrivePolicy" not in shown
    assert code_of(client.get_queue_attributes, QueueUrl=queue, AttributeNames=["FifoQueue"]) == (
        "InvalidAttributeName",
        400,
    )
    assert client.get_queue_attributes(QueueUrl=queue).get("Attributes") is None


@pytest.mark.parametrize("name", ["a b", "a" * 81, "x.fifo", ""])
def test_queue_name_refused(sqs: FakeSqs, client: SQSClient, name: str) -> None:
    """Queue names follow their rules; .fifo needs FifoQueue."""
    assert code_of(client.create_queue, QueueName=name)[1] == 400


# -- receiving


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
    """Lengthen, and end, a visibility timeout; of what is not in flight it cannot be changed."""
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
    """A long poll waits and answers as soon as there is something, far before its time is over."""
    started = time.monotonic()
    with in_thread(lambda: client.receive_message(QueueUrl=queue, WaitTimeSeconds=20)) as got:
        until(lambda: sqs.counters().active == 1)
        sqs.put(queue, "late")
    assert got[0]["Messages"][0]["Body"] == "late"
    assert time.monotonic() - started < 15


def test_long_poll_ends_empty(sqs: FakeSqs, client: SQSClient, queue: str) -> None:
    """With nothing to receive a long poll takes its whole time."""
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
    """A handle works twice; one that SQS never gave, or of another queue, is ReceiptHandleIsInvalid."""
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
    """A message received maxReceiveCount times goes to the dead-letter queue, which can tell where from."""
    dead = sqs.create_queue("dead")
    arn = f"arn:aws:sqs:us-east-1:{rules.ACCOUNT}:dead"
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


# -- FIFO


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
    """A second message of the same id answers the first one's MessageId and is not stored; later it is."""
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
    """On a FIFO queue a handle is good for its visibility timeout only."""
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


# -- signatures


def test_credentials(sqs: FakeSqs, queue: str) -> None:
    """Unknown keys, expired keys, a wrong clock and a wrong secret have their codes, all with status 403."""
    sqs.faults(known_keys=[ACCESS_KEY, "AKIAOLD"], expired_keys=["AKIAOLD"])
    for key, code in (("AKIAUNKNOWN", "InvalidClientTokenId"), ("AKIAOLD", "ExpiredToken")):
        stranger = client_of(sqs, key=key)
        assert code_of(stranger.send_message, QueueUrl=queue, MessageBody="x") == (code, 403)
    known = client_of(sqs)
    known.send_message(QueueUrl=queue, MessageBody="x")
    sqs.faults(clock_skew_s=16 * 60)
    assert code_of(known.send_message, QueueUrl=queue, MessageBody="x") == ("SignatureDoesNotMatch", 403)
    sqs.faults(clock_skew_s=-14 * 60)
    known.send_message(QueueUrl=queue, MessageBody="x")
    assert [r["code"] for r in sqs.counters().rejections] == [
        "InvalidClientTokenId",
        "ExpiredToken",
        "SignatureDoesNotMatch",
    ]


def test_body_is_signed(sqs: FakeSqs, queue: str) -> None:
    """A body that was changed after the signing does not match the signature."""
    tampering = client_of(sqs)

    def tamper(request: Any, **_: Any) -> None:
        request.body = request.body.replace(b"right", b"wrong")

    tampering.meta.events.register("before-send.sqs.SendMessage", tamper)
    tampering.send_message(QueueUrl=queue, MessageBody="x")
    assert code_of(tampering.send_message, QueueUrl=queue, MessageBody="right") == (
        "SignatureDoesNotMatch",
        403,
    )


def raw(server: FakeSqs, body: bytes = b"{}", **headers: str) -> tuple[int, str]:
    """(status, `__type`) of a request without boto3."""
    connection = http.client.HTTPConnection(server.endpoint.removeprefix("http://"), timeout=60)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("POST", "/", body, {"X-Amz-Target": "AmazonSQS.ListQueues", **named})
        response = connection.getresponse()
        return response.status, json.loads(response.read())["__type"].rpartition("#")[2]
    finally:
        connection.close()


def test_request_without_boto3(sqs: FakeSqs) -> None:
    """No signature, a broken one, no JSON, another content type, an unknown operation: each has its error."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    scope = f"AKIAANY/{stamp[:8]}/us-east-1/sqs/aws4_request"
    signed = f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host;x-amz-date, Signature={'0' * 64}"
    good: dict[str, Any] = {
        "Authorization": signed,
        "X_Amz_Date": stamp,
        "Content_Type": "application/x-amz-json-1.0",
    }
    assert raw(sqs) == (403, "MissingAuthenticationTokenException")
    assert raw(sqs, **good | {"Authorization": "Basic x"}) == (403, "IncompleteSignatureException")
    assert raw(sqs, **good | {"X_Amz_Date": "today"}) == (403, "IncompleteSignatureException")
    assert raw(sqs, b"{", **good) == (400, "SerializationException")
    assert raw(sqs, b"[]", **good) == (400, "SerializationException")
    assert raw(sqs, b'"\xff"', **good) == (400, "SerializationException")
    assert raw(sqs, **good | {"Content_Type": "text/plain"}) == (400, "SerializationException")
    assert raw(sqs, **good | {"X_Amz_Target": "AmazonSQS.Nonsense"}) == (404, "UnknownOperationException")


# -- faults


def test_latency_is_parallel(sqs: FakeSqs, client: SQSClient, queue: str) -> None:
    """Latency delays every call, and calls on several connections at the same time."""
    sqs.faults(latency_ms=500, black_hole=True)
    with contextlib.ExitStack() as threads:
        for _ in range(6):
            threads.enter_context(in_thread(lambda: client.send_message(QueueUrl=queue, MessageBody="x")))
        until(lambda: sqs.counters().injected.get("black_hole") == 6)
        started = time.monotonic()
        sqs.release()
    assert time.monotonic() - started >= 0.5
    assert sqs.counters().max_in_flight == 6


def test_errors_injected(sqs: FakeSqs, client: SQSClient, queue: str) -> None:
    """Errors strike the operation named, after as many and as often as told, and are no rejections."""
    sqs.faults(
        errors=[
            {"operation": "SendMessage", "code": "ServiceUnavailable", "times": 1, "after": 1},
            {"operation": "SendMessageBatch", "code": "AccessDenied", "message": "not you"},
            {"operation": "PurgeQueue", "code": "KmsThrottled"},
            {"operation": "ListQueues", "code": "SlowDown", "status": 503},
        ]
    )
    client.send_message(QueueUrl=queue, MessageBody="a")
    assert code_of(client.send_message, QueueUrl=queue, MessageBody="b") == ("ServiceUnavailable", 503)
    client.send_message(QueueUrl=queue, MessageBody="c")
    assert code_of(client.send_message_batch, QueueUrl=queue, Entries=entries("x")) == ("AccessDenied", 403)
    assert code_of(client.purge_queue, QueueUrl=queue) == ("KMS.ThrottlingException", 400)
    assert code_of(client.list_queues) == ("SlowDown", 503)
    assert [message.body for message in sqs.messages(queue)] == ["a", "c"]
    counters = sqs.counters()
    assert (counters.rejected, counters.injected) == (0, {"errors": 4})


def test_probabilities_are_seeded(sqs: FakeSqs, client: SQSClient, queue: str) -> None:
    """The same seed gives the same faults."""

    def outcome() -> str:
        try:
            client.send_message(QueueUrl=queue, MessageBody="x")
        except ClientError as error:
            return error.response["Error"]["Code"]
        return "."

    def outcomes() -> list[str]:
        sqs.faults(seed=7, errors=[{"operation": "SendMessage", "probability": 0.5}])
        return [outcome() for _ in range(20)]

    first = outcomes()
    assert first == outcomes()
    assert set(first) == {".", "InternalError"}


def test_failed_entries(sqs: FakeSqs, client: SQSClient, queue: str) -> None:
    """Entries fail by a text in their body or by turn; `stored` ones are there all the same."""
    sqs.faults(
        failed_entries=[
            {"contains": "poison", "code": "InvalidMessageContents", "sender_fault": True},
            {"times": 1, "stored": True},
        ]
    )
    answer = client.send_message_batch(QueueUrl=queue, Entries=entries("a", "some poison", "b"))
    assert [(i["Id"], i["Code"], i["SenderFault"]) for i in answer["Failed"]] == [
        ("0", "InternalError", False),
        ("1", "InvalidMessageContents", True),
    ]
    assert [i["Id"] for i in answer["Successful"]] == ["2"]
    assert [message.body for message in sqs.messages(queue)] == ["a", "b"]
    assert sqs.counters().rejected == 0


def test_failed_deletes(sqs: FakeSqs, client: SQSClient, queue: str) -> None:
    """DeleteMessageBatch can have Failed entries, too."""
    sqs.faults(failed_entries=[{"operation": "DeleteMessageBatch", "times": 1}])
    sqs.put(queue, "a", "b")
    got = client.receive_message(QueueUrl=queue, MaxNumberOfMessages=2)["Messages"]
    batch: Any = [{"Id": str(n), "ReceiptHandle": m["ReceiptHandle"]} for n, m in enumerate(got)]
    answer = client.delete_message_batch(QueueUrl=queue, Entries=batch)
    assert [i["Id"] for i in answer["Failed"]] == ["0"]
    assert [message.body for message in sqs.messages(queue)] == ["a"]


def test_dropped_answer_is_stored(sqs: FakeSqs, client: SQSClient, queue: str) -> None:
    """A request whose answer is dropped was carried out, and the next connection works."""
    sqs.faults(dropped={"times": 1})
    with pytest.raises(ConnectionClosedError):
        client.send_message(QueueUrl=queue, MessageBody="dropped")
    client.send_message(QueueUrl=queue, MessageBody="good")
    assert [message.body for message in sqs.messages(queue)] == ["dropped", "good"]


@pytest.mark.parametrize("fault", ["truncated", "garbage"])
def test_unreadable_answer_is_stored(sqs: FakeSqs, client: SQSClient, queue: str, fault: str) -> None:
    """Of an answer that is no JSON boto3 makes one without any field, where one might expect an exception."""
    spec: Any = {fault: {"operation": "SendMessageBatch", "times": 1}}
    sqs.faults(**spec)
    answer = client.send_message_batch(QueueUrl=queue, Entries=entries("x"))
    assert answer.keys() == {"ResponseMetadata"}
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 200
    assert client.send_message_batch(QueueUrl=queue, Entries=entries("y"))["Successful"]
    assert [message.body for message in sqs.messages(queue)] == ["x", "y"]


def test_countdown_survives_other_faults(sqs: FakeSqs, client: SQSClient, queue: str) -> None:
    """Setting one fault does not arm another one anew."""
    sqs.faults(errors=[{"times": 1}], dropped={"times": 1, "after": 1})
    assert code_of(client.send_message, QueueUrl=queue, MessageBody="x") == ("InternalError", 500)
    sqs.faults(latency_ms=1)
    with pytest.raises(ConnectionClosedError):
        client.send_message(QueueUrl=queue, MessageBody="x")
    sqs.faults(latency_ms=0)
    client.send_message(QueueUrl=queue, MessageBody="x")


def test_slow_answer(sqs: FakeSqs, client: SQSClient, queue: str) -> None:
    """A slow answer dribbles for its time."""
    sqs.faults(slow={"times": 1, "seconds": 0.5})
    started = time.monotonic()
    client.send_message(QueueUrl=queue, MessageBody="x")
    assert time.monotonic() - started >= 0.4


def test_reset_is_not_stored(sqs: FakeSqs, client: SQSClient, queue: str) -> None:
    """A reset connection carries nothing out, and the next one works."""
    sqs.faults(reset={"times": 1})
    with pytest.raises(ConnectionClosedError):
        client.send_message(QueueUrl=queue, MessageBody="x" * 100_000)
    client.send_message(QueueUrl=queue, MessageBody="y")
    assert [message.body for message in sqs.messages(queue)] == ["y"]
    assert sqs.counters().injected == {"reset": 1}


def test_refused_connections(sqs: FakeSqs, client: SQSClient, queue: str) -> None:
    """While connections are refused nothing works but the control channel; afterwards everything does."""
    client.send_message(QueueUrl=queue, MessageBody="before")
    sqs.faults(refuse=True)
    with pytest.raises(EndpointConnectionError):
        client.send_message(QueueUrl=queue, MessageBody="x")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(sqs.endpoint.rpartition(":")[2])), 5)
    sqs.faults(refuse=False)
    client.send_message(QueueUrl=queue, MessageBody="after")
    assert [message.body for message in sqs.messages(queue)] == ["before", "after"]


def test_throttling(sqs: FakeSqs, client: SQSClient, queue: str) -> None:
    """Above a rate, or at random, calls are RequestThrottled with status 403."""
    for rate, taken in ((0.01, 1), (5, 5)):  # a second's worth passes at once, one call at least
        sqs.faults(throttle={"rate": rate, "operation": "SendMessage"})
        for _ in range(taken):
            client.send_message(QueueUrl=queue, MessageBody="x")
        if rate < 1:  # the next one passes in minutes
            assert code_of(client.send_message, QueueUrl=queue, MessageBody="x") == ("RequestThrottled", 403)
    client.list_queues()
    sqs.faults(throttle=1.0)
    assert code_of(client.list_queues) == ("RequestThrottled", 403)
    assert sqs.counters().rejected == 0


@pytest.mark.parametrize(("kind", "stored"), [("before", []), ("after", ["x"]), ("unread", [])])
def test_black_hole(sqs: FakeSqs, client: SQSClient, queue: str, kind: str, stored: list[str]) -> None:
    """Held requests are carried out at the release (or already were) and answered; new ones pass."""
    sqs.faults(black_hole=kind)
    with in_thread(lambda: client.send_message(QueueUrl=queue, MessageBody="x")) as results:
        until(lambda: sqs.counters().injected.get("black_hole") == 1)
        assert [message.body for message in sqs.messages(queue)] == stored
        sqs.release()
    assert results[0]["MessageId"] == sqs.messages(queue)[0].id
    client.send_message(QueueUrl=queue, MessageBody="y")


def test_black_hole_forgets_who_left(sqs: FakeSqs, queue: str) -> None:
    """A request whose client timed out is not carried out at the release."""
    sqs.faults(black_hole=True)
    impatient = client_of(sqs, timeout=0.1)
    with pytest.raises(ReadTimeoutError):
        impatient.send_message(QueueUrl=queue, MessageBody="x")
    impatient.close()
    until(lambda: sqs.counters().injected.get("black_hole") == 1)
    sqs.release()
    until(lambda: sqs.counters().active == 0)
    assert sqs.sent(queue) == []


def test_duplicate_deliveries(sqs: FakeSqs, client: SQSClient, queue: str) -> None:
    """At rate 1 every message is delivered twice under one MessageId, even when deleted in between."""
    sqs.faults(duplicates=1.0, seed=1)
    keys = sqs.put(queue, *map(str, range(10)))
    got: list[str] = []
    while len(got) < 20:
        messages = client.receive_message(QueueUrl=queue, MaxNumberOfMessages=4, WaitTimeSeconds=2)["Messages"]
        got += [m["MessageId"] for m in messages]
        batch: Any = [{"Id": str(n), "ReceiptHandle": m["ReceiptHandle"]} for n, m in enumerate(messages)]
        assert not client.delete_message_batch(QueueUrl=queue, Entries=batch).get("Failed")
    assert sorted(got) == sorted(keys * 2)
    assert sqs.messages(queue) == []
    assert sum(delivery.injected for delivery in sqs.deliveries(queue)) == 10
    assert len(sqs.sent(queue)) == 10


@pytest.mark.parametrize(
    ("dialects", "code"),
    [
        (["short-codes"], "BatchEntryIdsNotDistinct"),
        (["short-codes", "exception-suffix"], "BatchEntryIdsNotDistinctException"),
        (["exception-suffix"], "AWS.SimpleQueueService.BatchEntryIdsNotDistinctException"),
    ],
)
def test_dialects_of_codes(sqs: FakeSqs, client: SQSClient, queue: str, dialects: list[str], code: str) -> None:
    """Emulators spell codes in other ways."""
    sqs.faults(emulator=dialects)
    twice: Any = [{"Id": "a", "MessageBody": "x"}] * 2
    assert code_of(client.send_message_batch, QueueUrl=queue, Entries=twice)[0] == code


def test_dialects_of_failures(sqs: FakeSqs, client: SQSClient, queue: str) -> None:
    """Emulators leave SenderFault out, prefix every code, or answer 500 to a character they cannot take."""
    sqs.faults(emulator=["no-sender-fault", "prefixed-codes"])
    (failed,) = client.send_message_batch(QueueUrl=queue, Entries=entries("\x00"))["Failed"]
    assert failed["Code"] == "AWS.SimpleQueueService.InvalidMessageContents"
    assert "SenderFault" not in failed
    sqs.faults(emulator=["characters-500"])
    batch = entries("good", "\ufffe")
    assert code_of(client.send_message_batch, QueueUrl=queue, Entries=batch) == ("InternalError", 500)
    assert sqs.sent(queue) == []


def test_unknown_faults_refused(sqs: FakeSqs) -> None:
    """A misspelt fault is an error, not a test that passes for nothing."""
    with pytest.raises(ValueError, match="latencyms"):
        sqs._call("faults", latencyms=1)
    with pytest.raises(ValueError, match="oftn"):
        sqs.faults(errors=[{"oftn": 1}])
    with pytest.raises(ValueError, match="unknown black hole"):
        sqs.faults(black_hole="deep")


# -- counters, process


def test_counters(sqs: FakeSqs, queue: str) -> None:
    """Calls, connections, bytes and the bill: one request for each started 64 KiB."""
    own = client_of(sqs)
    own.send_message_batch(QueueUrl=queue, Entries=entries("x" * 65536, "y"))
    own.send_message(QueueUrl=queue, MessageBody="z" * 65536)
    own.receive_message(QueueUrl=queue, MaxNumberOfMessages=3)
    own.receive_message(QueueUrl=queue)
    with pytest.raises(ClientError):
        own.send_message_batch(QueueUrl=queue, Entries=[])
    counters = sqs.counters()
    assert counters.calls == {"SendMessageBatch": 2, "SendMessage": 1, "ReceiveMessage": 2}
    assert counters.billed == 2 + 1 + 3 + 1 + 1
    assert (counters.connections, counters.open_connections >= 1, counters.max_in_flight) == (1, True, 1)
    assert counters.payload_bytes == 2 * (2 * 65536 + 1)
    assert min(counters.bytes_in, counters.bytes_out) > 2 * 65536
    assert counters.stored[queue.rpartition("/")[2]] == 3
    assert [r["code"] for r in counters.rejections] == ["AWS.SimpleQueueService.EmptyBatchRequest"]
    sends = sqs.requests("SendMessageBatch")
    assert [(r.entries, r.status, r.code.rpartition(".")[2]) for r in sends] == [
        (2, 200, ""),
        (0, 400, "EmptyBatchRequest"),
    ]
    assert abs(sends[0].at - time.time()) < 60


def test_sink_answers_every_id(sqs: FakeSqs) -> None:
    """The sink accepts what nobody checks and answers each id, not what looks like one inside a body."""
    with FakeSqs("q", sink=True) as sink:
        answer = client_of(sink).send_message_batch(
            QueueUrl=sink.url("q"), Entries=entries('{"Id": "no"}', '\\"Id": "no"', "\x00")
        )
        assert [item["Id"] for item in answer["Successful"]] == ["0", "1", "2"]
        assert sink.requests("SendMessageBatch")[0].entries == 3
        assert sink.messages("q") == []


def test_discard_keeps_ranges(sqs: FakeSqs) -> None:
    """With discard the rules hold, and of a message only the attributes run and seq are kept."""
    with FakeSqs("q=MaximumMessageSize:1024,DelaySeconds:0", discard=True) as server:
        more: Any = {
            "MessageAttributes": {
                "run": {"DataType": "String", "StringValue": "r1"},
                "seq": {"DataType": "String", "StringValue": "0-9"},
            }
        }
        given = [*entries("x", "y" * 1025, **more), {"Id": "plain", "MessageBody": "z"}]
        answer = client_of(server).send_message_batch(QueueUrl=server.url("q"), Entries=given)
        assert [item["Id"] for item in answer["Failed"]] == ["1"]
        assert server.ranges("q") == [("r1", "0-9"), ("", "")]
        assert server.counters().stored == {"q": 2}
        assert server.messages("q") == server.sent("q") == []


def test_environment_leads_boto3_to_the_server(sqs: FakeSqs, queue: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client with nothing but the environment variables arrives, whatever proxy the environment names."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in sqs.environ().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    boto3.session.Session().client("sqs").send_message(QueueUrl=queue, MessageBody="x")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert len(sqs.messages(queue)) == 1


def start() -> tuple[subprocess.Popen[bytes], str]:
    """The process form, as a shell would start it, and its endpoint."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "fake_sqs.py")
    command = [
        sys.executable,
        path,
        "--queue",
        "a.fifo",
        "--queue",
        "b=VisibilityTimeout:5",
        "--latency-ms",
        "1",
    ]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    ready = json.loads(process.stdout.readline())
    assert ready["pid"] == process.pid
    return process, ready["endpoint"]


@pytest.mark.parametrize("how", ["eof", "term"])
def test_process_ends(how: str) -> None:
    """The process serves 127.0.0.1 and ends, with status 0, at EOF on its stdin or by SIGTERM."""
    process, endpoint = start()
    with process:
        assert endpoint.startswith("http://127.0.0.1:")
        connection = http.client.HTTPConnection(endpoint.removeprefix("http://"), timeout=60)
        connection.request("POST", "/_control/counters", "{}")
        assert set(json.loads(connection.getresponse().read())["stored"]) == {"a.fifo", "b"}
        connection.close()
        assert process.stdin is not None
        if how == "eof":
            process.stdin.close()
        else:
            process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def test_stop_twice() -> None:
    """Stopping is prompt, also with requests held in the black hole, and harmless when repeated."""
    server = FakeSqs("q", faults={"black_hole": True})
    with in_thread(lambda: client_of(server).send_message(QueueUrl=server.url("q"), MessageBody="x")) as results:
        until(lambda: server.counters().active == 1)
        server.stop()
    assert isinstance(results[0], ConnectionClosedError)
    server.stop()
    assert server.process.returncode == 0
