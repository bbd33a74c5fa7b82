"""Writing HTTP/1.1 responses."""

from __future__ import annotations

import uuid
from email.utils import formatdate
from http.client import responses

JSON = "application/x-amz-json-1.0"


def http_response(status: int, body: bytes, query_error: str = "", content_type: str = JSON) -> bytes:
    """A whole response as SQS writes it."""
    error = f"x-amzn-query-error: {query_error}\r\n" if query_error else ""
    head = (
        f"HTTP/1.1 {status} {responses.get(status, 'Unknown')}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\nx-amzn-RequestId: {uuid.uuid4()}\r\nDate: "
        f"{formatdate(usegmt=True)}\r\n{error}\r\n"
    )
    return head.encode("latin-1", "replace") + body
