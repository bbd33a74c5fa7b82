"""What SQS accepts and refuses as a message, as pure functions of values.

A function returns the checked value or raises `SqsError`. Sources: the API reference of SendMessage, botocore's service
model of SQS (names of shapes), and recorded answers of AWS (LocalStack's `aws.validated` tests of 2024-2026). A comment
says "assumed" where none of them is explicit.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .attributes import Attribute, check_attributes, md5_of_attributes
from .characters import encode, first_forbidden, size_of
from .errors import SqsError, invalid, missing
from .limits import MAX_DELAY
from .parameters import integer, optional_text, text

_GROUP_ID = re.compile(r"[0-9A-Za-z!\"#$%&'()*+,./:;<=>?@\[\\\]^_`{|}~-]{1,128}")


@dataclass(frozen=True, slots=True)
class Draft:
    """A checked message, not stored yet; `size` in bytes with attributes, `delay` in seconds."""

    body: bytes
    md5: str
    attributes: dict[str, Attribute]
    md5_attributes: str
    size: int
    delay: int | None
    group: str | None
    dedup: str | None
    trace: str | None


def _trace_header(raw: object) -> str | None:
    """MessageSystemAttributes: AWSTraceHeader of type String is the only one that senders may set."""
    if raw is None:
        return None
    attributes = check_attributes(raw)
    for name, attribute in attributes.items():
        if name != "AWSTraceHeader" or attribute.type != "String":
            invalid(f"Message system attribute name '{name}' is invalid.")
        return str(attribute.value)
    return None


def check_group_and_dedup(entry: Mapping[str, Any], fifo: bool, by_content: bool) -> tuple[str | None, str | None]:
    """Group and deduplication id: a FIFO queue needs both; a standard queue accepts a group id only (fair queues)."""
    group, dedup = optional_text(entry, "MessageGroupId"), optional_text(entry, "MessageDeduplicationId")
    for name, value in (("MessageGroupId", group), ("MessageDeduplicationId", dedup)):
        if value is not None and not _GROUP_ID.fullmatch(value):
            invalid(
                f"Value {value} for parameter {name} is invalid. Reason: {name} can only include "
                "alphanumeric and punctuation characters. 1 to 128 in length."
            )
    if not fifo and dedup is not None:
        # In a Failed entry of a batch AWS omits the first sentence; the codes are the same.
        invalid(
            f"Value {dedup} for parameter MessageDeduplicationId is invalid. Reason: The request include "
            "parameter that is not valid for this queue type."
        )
    if fifo and group is None:
        missing("MessageGroupId")
    if fifo and dedup is None and not by_content:
        invalid(
            "The queue should either have ContentBasedDeduplication enabled or MessageDeduplicationId "
            "provided explicitly"
        )
    return group, dedup


def _delay(entry: Mapping[str, Any], fifo: bool) -> int | None:
    """DelaySeconds: 0 to 900; on a FIFO queue 0 only."""
    delay = integer(entry, "DelaySeconds", 0, MAX_DELAY, f"Must be between 0 and {MAX_DELAY}, if provided.")
    if fifo and delay:
        invalid(
            f"Value {delay} for parameter DelaySeconds is invalid. Reason: The request include parameter "
            "that is not valid for this queue type."
        )
    return delay


def check_message(
    entry: Mapping[str, Any], *, limit: int, fifo: bool, by_content: bool, in_batch: bool = False
) -> Draft:
    """Check one message (a SendMessage request or an entry of a batch) against the queue's size `limit`."""
    body = text(entry, "MessageBody")
    group, dedup = check_group_and_dedup(entry, fifo, by_content)
    delay = _delay(entry, fifo)
    attributes = check_attributes(entry.get("MessageAttributes"))
    trace = _trace_header(entry.get("MessageSystemAttributes"))
    data = encode(body)
    size = size_of(body) if data is None else len(data)
    size += sum(len(name) + value.size() for name, value in attributes.items())
    if size > limit:
        which = "cannot be validated" if in_batch else "are invalid"
        invalid(f"One or more parameters {which}. Reason: Message must be shorter than {limit} bytes.")
    if data is None:
        raise SqsError(
            "InvalidMessageContents",
            f"Invalid binary character '#x{first_forbidden(body):X}' was found in the message "
            "body, the set of allowed characters is #x9 | #xA | #xD | [#x20-#xD7FF] | [#xE000-#xFFFD] | "
            "[#x10000-#x10FFFF]",
        )
    if fifo and dedup is None:
        dedup = hashlib.sha256(data).hexdigest()
    md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
    md5_attributes = md5_of_attributes(attributes) if attributes else ""
    return Draft(data, md5, attributes, md5_attributes, size, delay, group, dedup, trace)
