"""Testing the path to a queue step by step: its permissions and limits, one message out and back."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from sqstee.destination import Destination
from sqstee.record import Encoder
from sqstee.transports.aws import refusal_of
from sqstee.transports.base import ReceivedMessage
from sqstee.transports.errors import TransportError
from sqstee.transports.probe import FAILED, OK, READ_SECONDS, WARNING, AwsProbe, Step, clock_steps
from sqstee.transports.sqs import MAX_MESSAGE_BYTES, client_for, queue_state

ROLES = {
    "send": ("sqs:SendMessage",),
    "receive": ("sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility"),
}
ROLES["both"] = ROLES["send"] + ROLES["receive"]
_SHORT_VISIBILITY = 10.0
_ROUND_TRIP_SECONDS = 20.0
_HIDDEN_SECONDS = 30  # the visibility timeout of other messages, so that each is received only once meanwhile


class QueueProbe(AwsProbe):
    """Tests one queue for some of the actions above."""

    service = "sqs"

    def __init__(self, destination: Destination, actions: tuple[str, ...]) -> None:
        super().__init__(destination)
        self._actions = actions
        self._url = destination.url
        self._arn = destination.text if destination.text.startswith("arn:") else ""

    def needs_region(self) -> bool:
        """Whether this is no emulator's queue."""
        return not self._url or ".amazonaws." in self._url

    def make_client(self) -> Any:
        """The client that senders and receivers use."""
        return client_for(self.destination, 1, READ_SECONDS)

    def resource(self, action: str) -> str:
        """The queue's ARN; without an answer of the queue the account may be unknown."""
        account = self.destination.account or "*"
        return self._arn or f"arn:{self.partition()}:sqs:{self.region or '*'}:{account}:{self.destination.name}"

    def target(self) -> Iterator[Step]:
        """Test the queue's URL, and compare the clock with the server's."""
        before, action = time.time(), "sqs:GetQueueAttributes" if self._url else "sqs:GetQueueUrl"
        try:
            if self._url:
                answer = self.client.get_queue_attributes(QueueUrl=self._url, AttributeNames=["QueueArn"])
            else:
                more = {"QueueOwnerAWSAccountId": self.destination.account} if self.destination.account else {}
                answer = self.client.get_queue_url(QueueName=self.destination.name, **more)
                self._url = answer["QueueUrl"]
        except Exception as error:
            refusal = refusal_of(error)
            yield from clock_steps(getattr(error, "response", None), before)
            usable = bool(self._url) and "AccessDenied" in refusal.code
            yield self.failed("queue", refusal, action, WARNING if usable else FAILED)
            return
        yield Step("queue", OK, self._url)
        self._arn = answer.get("Attributes", {}).get("QueueArn", self._arn)
        yield from clock_steps(answer, before)

    def permissions(self) -> Iterator[Step]:
        """Test each action; then the limits."""
        client: Any = self.client
        tests: dict[str, Callable[[], Any]] = {
            "sqs:SendMessage": lambda: client.send_message(QueueUrl=self._url, MessageBody="\0", DelaySeconds=901),
            "sqs:ReceiveMessage": lambda: client.receive_message(
                QueueUrl=self._url, MaxNumberOfMessages=0, VisibilityTimeout=0
            ),
            "sqs:DeleteMessage": lambda: client.delete_message(QueueUrl=self._url, ReceiptHandle="sqstee-check"),
            "sqs:ChangeMessageVisibility": lambda: client.change_message_visibility(
                QueueUrl=self._url, ReceiptHandle="sqstee-check", VisibilityTimeout=0
            ),
        }
        for action in self._actions:
            yield self.tried(action, tests[action])
        yield from self._limits()

    def _limits(self) -> Iterator[Step]:
        action = "sqs:GetQueueAttributes"
        try:
            attributes = self.client.get_queue_attributes(QueueUrl=self._url, AttributeNames=["All"])["Attributes"]
        except Exception as error:
            yield self.failed(action, refusal_of(error), action, WARNING)
            return
        yield Step(action, OK, "allowed")
        state = queue_state(attributes)
        size = state.max_message or MAX_MESSAGE_BYTES
        text = f"{'FIFO' if state.fifo else 'standard'}, messages up to {size:,} bytes"
        text += f", visibility {state.visibility_timeout:g} s" if state.visibility_timeout is not None else ""
        text += f", encrypted with {state.encryption}" if state.encryption else ""
        yield Step("limits", OK, text)
        if state.visibility_timeout is not None and state.visibility_timeout < _SHORT_VISIBILITY:
            advice = f"aws sqs set-queue-attributes --attributes VisibilityTimeout=30 --queue-url {self._url}"
            yield Step("visibility", WARNING, "too short: a slow consumer will receive duplicates", advice)
        if not state.dead_letter:
            advice = "give the queue a RedrivePolicy with a maxReceiveCount of 5 or more"
            yield Step("dead letters", WARNING, "no dead-letter queue", advice)

    def round_trip(self) -> Step:
        """Send one message and receive it; other messages that are received are released at the end.

        Released at once, they would be received again and again, and each time counts towards the dead-letter queue.
        """
        from sqstee.transports.sqs import SqsReceiver

        mark = f"check-{os.getpid()}-{time.time_ns()}"
        event = json.dumps({"event": "check", "message": "sqstee check"}).encode()
        body = Encoder(mark, socket.gethostname()).event(event, time.time_ns(), 0).decode()
        more = {"MessageGroupId": mark, "MessageDeduplicationId": mark} if self._url.endswith(".fifo") else {}
        started = time.monotonic()
        receiver = SqsReceiver(self.destination, visibility=_HIDDEN_SECONDS)
        others: list[ReceivedMessage] = []
        try:
            self.client.send_message(QueueUrl=self._url, MessageBody=body, **more)
            while time.monotonic() - started < _ROUND_TRIP_SECONDS:
                messages = receiver.receive(10, 2)
                own = [one for one in messages if mark.encode() in one.data]
                others += [ReceivedMessage(b"", {}, one.handle, one.id) for one in messages if one not in own]
                if own:
                    receiver.delete(own)
                    return Step("round trip", OK, f"{(time.monotonic() - started) * 1000:.0f} ms")
        except Exception as error:
            return self.failed("round trip", refusal_of(error), "sqs:SendMessage")
        finally:
            with suppress(TransportError):  # otherwise they become visible a little later
                receiver.release(others)
        advice = "another consumer may have received it: stop the others, or use a quiet queue"
        return Step("round trip", FAILED, f"not received within {_ROUND_TRIP_SECONDS:g} s", advice)
