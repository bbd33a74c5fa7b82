"""What is accepted and refused when a message is sent."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import pytest
from fakes.sqs import FakeSqs

from .helpers import code_of, entries

if TYPE_CHECKING:
    from mypy_boto3_sqs.client import SQSClient

from fakes.sqs.limits import MAX_MESSAGE


def test_message_stored_with_attributes_and_digests(sqs: FakeSqs, client: SQSClient, queue: str) -> None:
    """A sent message is stored, with the MD5 sums of body and attributes that AWS computes (recorded answers)."""
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
    body = "é" * ((MAX_MESSAGE - 4 - 6 - 2) // 2)
    client.send_message(QueueUrl=queue, MessageBody=body, MessageAttributes=attributes)
    assert code_of(client.send_message, QueueUrl=queue, MessageBody=body + "x", MessageAttributes=attributes) == (
        "InvalidParameterValue",
        400,
    )
    assert sqs.counters().payload_bytes == MAX_MESSAGE
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
    half = MAX_MESSAGE // 2 - len("aStringb")
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
    """A group id of up to 128 characters is accepted (fair queues), a deduplication id is refused."""
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
    """A delayed message is counted as delayed and cannot be received before its time; 901 s are refused."""
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
