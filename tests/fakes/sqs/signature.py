"""The credentials of the fake, and Signature Version 4 (AWS reference: "Create a signed AWS API request")."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from .errors import SqsError

ACCESS_KEY = "AKIAFAKESQSFAKESQS00"
SECRET_KEY = "fake/secret/of/the/fake/sqs/server/00000"
REGION = "us-east-1"


_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(?P<key>[^/,\s]+)/(?P<date>\d{8})/(?P<region>[a-z0-9-]+)"
    r"/(?P<service>[a-z0-9-]+)/aws4_request,\s*SignedHeaders=(?P<signed>[a-z0-9;-]+),\s*Signature=(?P<signature>[0-9a-f]{64})"
)
CLOCK_TOLERANCE = timedelta(minutes=15)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who signed a request: the access key and the region of the credential scope."""

    key: str
    region: str


def authenticate(
    headers: Mapping[str, str],
    path: str,
    body: bytes | bytearray,
    now: float,
    secrets: Mapping[str, str],
    known: Sequence[str] | None = None,
    expired: Sequence[str] = (),
) -> Caller:
    """Check a Signature Version 4 `Authorization` header.

    `headers` has lower-case names. `known` limits the access keys; `expired` are keys of an expired session.
    If `secrets` holds the key's secret, the signature is computed and compared, body included.
    """
    header = headers.get("authorization")
    if header is None:
        raise SqsError("MissingAuthenticationTokenException", "Request is missing Authentication Token")
    found = _AUTHORIZATION.fullmatch(header)
    if found is None:
        raise SqsError("IncompleteSignatureException", "Authorization header requires 'Credential' parameter.")
    key = found["key"]
    if known is not None and key not in known:
        raise SqsError("UnrecognizedClientException", "The security token included in the request is invalid.")
    if key in expired:
        raise SqsError("ExpiredTokenException", "The security token included in the request is expired")
    if found["service"] != "sqs":
        raise SqsError("InvalidSignatureException", "Credential should be scoped to correct service: 'sqs'.")
    stamp = headers.get("x-amz-date", "")
    _check_date(stamp, found["date"], now)
    if key in secrets and _signature(secrets[key], found, stamp, headers, path, body) != found["signature"]:
        raise SqsError(
            "InvalidSignatureException",
            "The request signature we calculated does not match the signature you provided. Check your AWS "
            "Secret Access Key and signing method. Consult the service documentation for details.",
        )
    return Caller(key, found["region"])


def _check_date(stamp: str, scope_date: str, now: float) -> None:
    """Check X-Amz-Date: on the scope's day and within 15 minutes of the server's clock."""
    try:
        when = datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise SqsError("IncompleteSignatureException", "Date must be in ISO-8601 'basic format'.") from None
    here = datetime.fromtimestamp(now, UTC)
    if abs(here - when) > CLOCK_TOLERANCE:
        past = when < here
        words = (
            "Signature expired: {} is now earlier than {}" if past else "Signature not yet current: {} is later than {}"
        )
        edge = here - CLOCK_TOLERANCE if past else here + CLOCK_TOLERANCE
        raise SqsError("InvalidSignatureException", words.format(stamp, edge.strftime("%Y%m%dT%H%M%SZ")))
    if not stamp.startswith(scope_date):
        raise SqsError("InvalidSignatureException", "Date in Credential scope does not match YYYYMMDD from ISO-8601")


def _signature(
    secret: str,
    found: re.Match[str],
    stamp: str,
    headers: Mapping[str, str],
    path: str,
    body: bytes | bytearray,
) -> str:
    """The hexadecimal signature of the request as this server received it."""
    uri, _, query = path.partition("?")
    signed = found["signed"].split(";")
    canonical = "\n".join(
        [
            "POST",
            uri,
            query,
            *(f"{name}:{' '.join(headers.get(name, '').split())}" for name in signed),
            "",
            found["signed"],
            hashlib.sha256(body).hexdigest(),
        ]
    )
    scope = f"{found['date']}/{found['region']}/sqs/aws4_request"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    key = b"AWS4" + secret.encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.digest(key, f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}".encode(), "sha256").hex()
