"""Testing the path to a queue step by step: credentials, network, permissions, limits, one message out and back.

Permissions are tested without side effects, by calls with invalid parameters: the error shows whether the caller or the
parameters were refused.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from sqstee.destination import Destination
from sqstee.record import Encoder
from sqstee.text import without_userinfo
from sqstee.transports.aws import refusal_of
from sqstee.transports.base import ReceivedMessage
from sqstee.transports.errors import OPEN, REFRESH, TIMEOUT, TransportError
from sqstee.transports.sqs import MAX_MESSAGE_BYTES, client_for, queue_state

OK, WARNING, FAILED = "ok", "warning", "failed"
ROLES = {
    "send": ("sqs:SendMessage",),
    "receive": ("sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility"),
}
_SECONDS = 5.0  # to connect
_READ_SECONDS = 30.0
_SKEW_WARNING, _SKEW_FATAL = 30.0, 300.0  # beyond five minutes AWS refuses signatures (IAM user guide)
_SHORT_VISIBILITY = 10.0
_ROUND_TRIP_SECONDS = 20.0
_HIDDEN_SECONDS = 30  # the visibility timeout of other messages, so that each is received only once meanwhile


class Step:
    """One test: its `state` (OK, WARNING or FAILED), the finding, and the one thing to do about it."""

    __slots__ = ("advice", "name", "state", "text")

    def __init__(self, name: str, state: str, text: str, advice: str = "") -> None:
        self.name = name
        self.state = state
        self.text = without_userinfo(text)
        self.advice = advice


class Probe:
    """Tests one queue; each step depends on those before it."""

    def __init__(self, destination: Destination, actions: tuple[str, ...]) -> None:
        self._destination = destination
        self._actions = actions
        self._client: Any = None
        self._url = destination.url
        self._arn = f"arn:aws:sqs:*:*:{destination.name}"

    def steps(self) -> Iterator[Step]:
        """Yield each step as it is done, up to the first that makes the rest impossible."""
        for part in (self._credentials, self._network, self._queue):
            failed = False
            for step in part():
                failed = failed or step.state == FAILED
                yield step
            if failed:
                return
        for action in self._actions:
            yield self._permission(action)
        yield from self._limits()

    def _credentials(self) -> Iterator[Step]:
        import boto3.session

        try:
            session = boto3.session.Session()
            found = session.get_credentials()
            frozen = found.get_frozen_credentials() if found else None
        except Exception as error:
            advice = "check AWS_PROFILE; for details run: aws sts get-caller-identity"
            yield Step("credentials", FAILED, refusal_of(error).message, advice)
            return
        if found is None or frozen is None or not frozen.access_key:
            advice = "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the instance a role"
            yield Step("credentials", FAILED, "not found", advice)
            return
        yield Step("credentials", OK, f"from {found.method}, key …{frozen.access_key[-4:]}")
        emulator = self._url if self._url and ".amazonaws." not in self._url else ""
        region = self._destination.region or session.region_name or ("us-east-1" if emulator else None)
        if not region:
            advice = "set AWS_DEFAULT_REGION, or name the queue by its URL or ARN"
            yield Step("region", FAILED, "not configured", advice)
            return
        source = "the destination" if self._destination.region else "the environment or profile"
        yield Step("region", OK, f"{region}, from {source}")
        try:
            self._client = client_for(self._destination, 1, _READ_SECONDS)
        except Exception as error:
            yield Step("endpoint", FAILED, refusal_of(error).message, "check AWS_ENDPOINT_URL_SQS and the profile")

    def _network(self) -> Iterator[Step]:
        endpoint = urlsplit(self._client.meta.endpoint_url)
        host, port = endpoint.hostname or "", endpoint.port or (443 if endpoint.scheme == "https" else 80)
        proxy = _proxy(endpoint.scheme, host)
        if proxy:
            yield Step("proxy", OK, f"{proxy.hostname}:{proxy.port} for {endpoint.scheme}")
            host, port = proxy.hostname or "", proxy.port or 80
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            advice = "check the endpoint's name, the resolver, and HTTPS_PROXY if the network needs a proxy"
            yield Step("DNS", FAILED, f"{host}: {error.strerror or error}", advice)
            return
        yield Step("DNS", OK, f"{host} is {found[0][4][0]}")
        try:
            with socket.create_connection((host, port), _SECONDS) as plain:
                if endpoint.scheme == "https" and not proxy:
                    yield self._tls(plain, host)
                else:
                    yield Step("connection", OK, f"{host}:{port}")
        except OSError as error:
            advice = f"open port {port} to {host}, set HTTPS_PROXY, or create a VPC endpoint for SQS"
            yield Step("connection", FAILED, f"{host}:{port}: {error.strerror or error}", advice)

    @staticmethod
    def _tls(plain: socket.socket, host: str) -> Step:
        context = ssl.create_default_context(cafile=os.environ.get("AWS_CA_BUNDLE") or None)
        try:
            with context.wrap_socket(plain, server_hostname=host) as wrapped:
                return Step("TLS", OK, f"{wrapped.version()} with {host}")
        except ssl.SSLError as error:
            advice = "set AWS_CA_BUNDLE to the certificate file of your network's authority"
            return Step("TLS", FAILED, f"{host}: {error.reason}", advice)

    def _queue(self) -> Iterator[Step]:
        """Test the queue's URL, and compare the clock with the server's."""
        before = time.time()
        try:
            if self._url:
                answer = self._client.get_queue_attributes(QueueUrl=self._url, AttributeNames=["QueueArn"])
            else:
                more = {"QueueOwnerAWSAccountId": self._destination.account} if self._destination.account else {}
                answer = self._client.get_queue_url(QueueName=self._destination.name, **more)
                self._url = answer["QueueUrl"]
        except Exception as error:
            action = "sqs:GetQueueAttributes" if self._url else "sqs:GetQueueUrl"
            refusal = refusal_of(error)
            usable = bool(self._url) and "AccessDenied" in refusal.code
            yield Step("queue", WARNING if usable else FAILED, str(refusal), self._advice(refusal, action))
            return
        yield Step("queue", OK, self._url)
        self._arn = answer.get("Attributes", {}).get("QueueArn", self._arn)
        date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
        if date:
            yield clock_step(parsedate_to_datetime(date).timestamp() - (before + time.time()) / 2)

    def _permission(self, action: str) -> Step:
        client: Any = self._client
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
        try:
            tests[action]()
        except Exception as error:
            refusal = refusal_of(error)
            if refusal.kind == REFRESH or "AccessDenied" in refusal.code or "Kms" in refusal.code:
                return Step(action, FAILED, str(refusal), self._advice(refusal, action))
            if refusal.code in ("Network", TIMEOUT, "QueueDoesNotExist") or "InternalError" in refusal.code:
                return Step(action, FAILED, str(refusal), self._advice(refusal, action))
        return Step(action, OK, "allowed")

    def _limits(self) -> Iterator[Step]:
        action = "sqs:GetQueueAttributes"
        try:
            attributes = self._client.get_queue_attributes(QueueUrl=self._url, AttributeNames=["All"])["Attributes"]
        except Exception as error:
            refusal = refusal_of(error)
            yield Step(action, WARNING, str(refusal), self._advice(refusal, action))
            return
        yield Step(action, OK, "allowed")
        state = queue_state(attributes)
        size = state.max_message or MAX_MESSAGE_BYTES
        text = f"{'FIFO' if state.fifo else 'standard'}, messages up to {size:,} bytes"
        text += f", visibility {state.visibility_timeout:g} s" if state.visibility_timeout is not None else ""
        text += f", encrypted with {state.encryption}" if state.encryption else ""
        yield Step("limits", OK, text)
        if state.visibility_timeout is not None and state.visibility_timeout < _SHORT_VISIBILITY:
            advice = "aws sqs set-queue-attributes --attributes VisibilityTimeout=30 --queue-url …"
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
        receiver = SqsReceiver(self._destination, visibility=_HIDDEN_SECONDS)
        others: list[ReceivedMessage] = []
        try:
            self._client.send_message(QueueUrl=self._url, MessageBody=body, **more)
            while time.monotonic() - started < _ROUND_TRIP_SECONDS:
                messages = receiver.receive(10, 2)
                own = [one for one in messages if mark.encode() in one.data]
                others += [ReceivedMessage(b"", {}, one.handle, one.id) for one in messages if one not in own]
                if own:
                    receiver.delete(own)
                    return Step("round trip", OK, f"{(time.monotonic() - started) * 1000:.0f} ms")
        except TransportError as error:
            return Step("round trip", FAILED, str(error), self._advice(error, "sqs:SendMessage"))
        except Exception as error:
            refusal = refusal_of(error)
            return Step("round trip", FAILED, str(refusal), self._advice(refusal, "sqs:SendMessage"))
        finally:
            with suppress(TransportError):  # otherwise they become visible a little later
                receiver.release(others)
        advice = "another consumer may have received it: stop the others, or use a quiet queue"
        return Step("round trip", FAILED, f"not received within {_ROUND_TRIP_SECONDS:g} s", advice)

    def _advice(self, refusal: TransportError, action: str) -> str:
        """The one thing to do about a refusal."""
        if "AccessDenied" in refusal.code or "AuthorizationError" in refusal.code:
            statement = {"Effect": "Allow", "Action": action, "Resource": self._arn}
            return f"add to the caller's IAM policy: {json.dumps(statement)}"
        if "Kms" in refusal.code:
            return "allow kms:GenerateDataKey (to send) and kms:Decrypt (to receive) for the queue's key"
        if "QueueDoesNotExist" in refusal.code or "NonExistentQueue" in refusal.code:
            return "check the name, region and account; for a queue just created or deleted, try again in a minute"
        if refusal.kind == REFRESH:
            return "log in again or renew the credentials; check this machine's clock"
        return "check the endpoint and the region" if refusal.kind == OPEN else "try again"


def clock_step(seconds: float) -> Step:
    """The step for a difference of the server's clock to ours, in seconds."""
    text = f"{abs(seconds):.0f} s {'behind' if seconds > 0 else 'ahead of'} the server's"
    if abs(seconds) < _SKEW_WARNING:
        return Step("clock", OK, "agrees with the server's")
    state = FAILED if abs(seconds) > _SKEW_FATAL else WARNING
    advice = "set the clock (timedatectl set-ntp true): signatures are refused after 5 minutes"
    return Step("clock", state, text, advice)


def _proxy(scheme: str, host: str) -> Any:
    """The proxy for a host by the environment's variables; None if there is none."""
    found = urllib.request.getproxies().get(scheme)
    if not found or urllib.request.proxy_bypass(host):
        return None
    return urlsplit(found if "://" in found else f"http://{found}")
