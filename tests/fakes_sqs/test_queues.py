"""Creating, finding, configuring and deleting queues."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from fakes.sqs import FakeSqs

from .helpers import client_of, code_of

if TYPE_CHECKING:
    from mypy_boto3_sqs.client import SQSClient

from fakes.sqs.limits import ACCOUNT


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
    assert shown["QueueArn"] == f"arn:aws:sqs:us-east-1:{ACCOUNT}:{queue.rpartition('/')[2]}"
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
