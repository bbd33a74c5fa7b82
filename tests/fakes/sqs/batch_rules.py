"""What makes SQS refuse a whole batch call, before it looks at the entries one by one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from .characters import size_of
from .errors import SqsError, invalid, missing
from .limits import MAX_ENTRIES, MAX_MESSAGE
from .message_rules import check_group_and_dedup
from .parameters import optional_text

_ENTRY_ID = re.compile(r"[A-Za-z0-9_-]{1,80}")


def raw_size(entry: Mapping[str, Any]) -> int:
    """Bytes of an entry before any check: body plus name, type and value of each attribute."""
    total = size_of(optional_text(entry, "MessageBody") or "")
    attributes = entry.get("MessageAttributes")
    for name, value in attributes.items() if isinstance(attributes, dict) else ():
        total += size_of(name)
        if isinstance(value, dict):
            total += size_of(str(value.get("DataType", ""))) + size_of(str(value.get("StringValue") or ""))
            binary = str(value.get("BinaryValue") or "")
            total += len(binary) * 3 // 4 - binary[-2:].count("=")
    return total


def check_entries(request: Mapping[str, Any], kind: str) -> list[dict[str, Any]]:
    """Check the batch itself: 1 to 10 entries, well-formed and distinct ids.

    `kind` is the entries' shape for the error's wording, such as SendMessageBatchRequestEntry.
    """
    entries = request.get("Entries") or []
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise SqsError("SerializationException", "Entries must be a list of structures")
    if not entries:
        raise SqsError("EmptyBatchRequest", f"There should be at least one {kind} in the request.")
    if len(entries) > MAX_ENTRIES:
        raise SqsError(
            "TooManyEntriesInBatchRequest",
            f"Maximum number of entries per request are {MAX_ENTRIES}. You have sent {len(entries)}.",
        )
    seen: set[str] = set()
    for entry in entries:
        key = optional_text(entry, "Id") or ""
        if not _ENTRY_ID.fullmatch(key):
            raise SqsError(
                "InvalidBatchEntryId",
                "A batch entry id can only contain alphanumeric characters, hyphens and underscores. It can "
                "be at most 80 letters long.",
            )
        if key in seen:
            raise SqsError("BatchEntryIdsNotDistinct", f"Id {key} repeated.")
        seen.add(key)
    return entries


def check_send_batch(request: Mapping[str, Any], *, fifo: bool, by_content: bool) -> list[dict[str, Any]]:
    """`check_entries`, then the rules of SendMessageBatch: bodies present, 1 MiB in all, both ids on FIFO.

    Recorded: a missing FIFO id fails the whole call. Assumed: an empty body fails it as well.
    """
    entries = check_entries(request, "SendMessageBatchRequestEntry")
    for number, entry in enumerate(entries, 1):
        if not optional_text(entry, "MessageBody"):
            missing(f"SendMessageBatchRequestEntry.{number}.MessageBody")
    total = sum(map(raw_size, entries))
    if total > MAX_MESSAGE:
        raise SqsError(
            "BatchRequestTooLong",
            f"Batch requests cannot be longer than {MAX_MESSAGE} bytes. You have sent {total} bytes.",
        )
    for entry in entries if fifo else ():
        if entry.get("MessageGroupId") is None:
            invalid("The request must contain the parameter MessageGroupId.")
        if entry.get("MessageDeduplicationId") is None and not by_content:
            check_group_and_dedup(entry, fifo, by_content)
    return entries
