"""Credentials, signatures, and requests that no client library makes."""

from __future__ import annotations

import http.client
import json
import time
from typing import TYPE_CHECKING, Any

from fakes.sqs import ACCESS_KEY, FakeSqs

from .helpers import client_of, code_of

if TYPE_CHECKING:
    pass


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
    """No signature, a malformed one, no JSON, another content type, an unknown operation: each has its own error."""
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
