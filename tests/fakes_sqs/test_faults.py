"""Each fault that can be injected."""

from __future__ import annotations

import contextlib
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    EndpointConnectionError,
    ReadTimeoutError,
)
from fakes.sqs import FakeSqs

from .helpers import client_of, code_of, entries, in_thread, until

if TYPE_CHECKING:
    from mypy_boto3_sqs.client import SQSClient


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
    """Errors strike the named operation, after `after` calls and `times` times; they are no rejections."""
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
    """Entries fail by a text in their body or by count; `stored` ones are stored all the same."""
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
    """DeleteMessageBatch can have Failed entries as well."""
    sqs.faults(failed_entries=[{"operation": "DeleteMessageBatch", "times": 1}])
    sqs.put(queue, "a", "b")
    got = client.receive_message(QueueUrl=queue, MaxNumberOfMessages=2)["Messages"]
    batch: Any = [{"Id": str(n), "ReceiptHandle": m["ReceiptHandle"]} for n, m in enumerate(got)]
    answer = client.delete_message_batch(QueueUrl=queue, Entries=batch)
    assert [i["Id"] for i in answer["Failed"]] == ["0"]
    assert [message.body for message in sqs.messages(queue)] == ["a"]


def test_dropped_answer_is_stored(sqs: FakeSqs, client: SQSClient, queue: str) -> None:
    """A request whose answer is dropped was executed, and the next connection works."""
    sqs.faults(dropped={"times": 1})
    with pytest.raises(ConnectionClosedError):
        client.send_message(QueueUrl=queue, MessageBody="dropped")
    client.send_message(QueueUrl=queue, MessageBody="good")
    assert [message.body for message in sqs.messages(queue)] == ["dropped", "good"]


@pytest.mark.parametrize("fault", ["truncated", "garbage"])
def test_unreadable_answer_is_stored(sqs: FakeSqs, client: SQSClient, queue: str, fault: str) -> None:
    """boto3 turns an answer that is no JSON into one without any field; it raises no exception."""
    spec: Any = {fault: {"operation": "SendMessageBatch", "times": 1}}
    sqs.faults(**spec)
    answer = client.send_message_batch(QueueUrl=queue, Entries=entries("x"))
    assert answer.keys() == {"ResponseMetadata"}
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 200
    assert client.send_message_batch(QueueUrl=queue, Entries=entries("y"))["Successful"]
    assert [message.body for message in sqs.messages(queue)] == ["x", "y"]


def test_countdown_survives_other_faults(sqs: FakeSqs, client: SQSClient, queue: str) -> None:
    """Setting one fault does not reset the countdown of another."""
    sqs.faults(errors=[{"times": 1}], dropped={"times": 1, "after": 1})
    assert code_of(client.send_message, QueueUrl=queue, MessageBody="x") == ("InternalError", 500)
    sqs.faults(latency_ms=1)
    with pytest.raises(ConnectionClosedError):
        client.send_message(QueueUrl=queue, MessageBody="x")
    sqs.faults(latency_ms=0)
    client.send_message(QueueUrl=queue, MessageBody="x")


def test_slow_answer(sqs: FakeSqs, client: SQSClient, queue: str) -> None:
    """A slow answer trickles for its whole time."""
    sqs.faults(slow={"times": 1, "seconds": 0.5})
    started = time.monotonic()
    client.send_message(QueueUrl=queue, MessageBody="x")
    assert time.monotonic() - started >= 0.4


def test_reset_is_not_stored(sqs: FakeSqs, client: SQSClient, queue: str) -> None:
    """The request of a reset connection is not executed, and the next connection works."""
    sqs.faults(reset={"times": 1})
    with pytest.raises(ConnectionClosedError):
        client.send_message(QueueUrl=queue, MessageBody="x" * 100_000)
    client.send_message(QueueUrl=queue, MessageBody="y")
    assert [message.body for message in sqs.messages(queue)] == ["y"]
    assert sqs.counters().injected == {"reset": 1}


def test_refused_connections(sqs: FakeSqs, client: SQSClient, queue: str) -> None:
    """While connections are refused, only the control channel works; afterwards everything does."""
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
    """Held requests are executed at the release (or were before) and answered; new ones pass."""
    sqs.faults(black_hole=kind)
    with in_thread(lambda: client.send_message(QueueUrl=queue, MessageBody="x")) as results:
        until(lambda: sqs.counters().injected.get("black_hole") == 1)
        assert [message.body for message in sqs.messages(queue)] == stored
        sqs.release()
    assert results[0]["MessageId"] == sqs.messages(queue)[0].id
    client.send_message(QueueUrl=queue, MessageBody="y")


def test_black_hole_forgets_who_left(sqs: FakeSqs, queue: str) -> None:
    """A request whose client timed out is not executed at the release."""
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
    """Emulators write codes in other ways."""
    sqs.faults(emulator=dialects)
    twice: Any = [{"Id": "a", "MessageBody": "x"}] * 2
    assert code_of(client.send_message_batch, QueueUrl=queue, Entries=twice)[0] == code


def test_dialects_of_failures(sqs: FakeSqs, client: SQSClient, queue: str) -> None:
    """Emulators omit SenderFault, prefix every code, or answer 500 to a character that SQS refuses."""
    sqs.faults(emulator=["no-sender-fault", "prefixed-codes"])
    (failed,) = client.send_message_batch(QueueUrl=queue, Entries=entries("\x00"))["Failed"]
    assert failed["Code"] == "AWS.SimpleQueueService.InvalidMessageContents"
    assert "SenderFault" not in failed
    sqs.faults(emulator=["characters-500"])
    batch = entries("good", "\ufffe")
    assert code_of(client.send_message_batch, QueueUrl=queue, Entries=batch) == ("InternalError", 500)
    assert sqs.sent(queue) == []


def test_unknown_faults_refused(sqs: FakeSqs) -> None:
    """A misspelt fault is an error: otherwise a test would pass without any fault."""
    with pytest.raises(ValueError, match="latencyms"):
        sqs._call("faults", latencyms=1)
    with pytest.raises(ValueError, match="oftn"):
        sqs.faults(errors=[{"oftn": 1}])
    with pytest.raises(ValueError, match="unknown black hole"):
        sqs.faults(black_hole="deep")
