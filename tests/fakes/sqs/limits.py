"""The limits of SQS (quota pages of the developer guide), and the bill."""

from __future__ import annotations

ACCOUNT = "123456789012"
"""The only account of the fake: the first part of every queue URL's path."""

KIB = 1024
MAX_MESSAGE = 1_048_576
"""Bytes of one message with its attributes, and of a whole SendMessageBatch (quota since August 2025)."""
MAX_ENTRIES = 10
MAX_ATTRIBUTES = 10
MAX_WAIT = 20
MAX_VISIBILITY = 43_200
MAX_DELAY = 900
DEDUPLICATION_WINDOW = 300.0
"""Seconds within which a FIFO queue drops a second message of the same deduplication id."""
BILLED_CHUNK = 64 * KIB
"""Every started 64 KiB of a request's payload is billed as one request (SQS pricing)."""


def billed(payload: int) -> int:
    """Requests billed for a call with `payload` bytes: one for each started 64 KiB, at least one."""
    return max(1, -(-payload // BILLED_CHUNK))
