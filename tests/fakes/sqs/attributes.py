"""Message attributes: their rules, their digest, and which of them a receiver asked for."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .characters import encode, size_of
from .errors import SqsError, invalid
from .limits import MAX_ATTRIBUTES
from .parameters import optional_text

_ATTRIBUTE_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_DATA_TYPE = re.compile(r"(String|Number|Binary)(\.[A-Za-z0-9_.-]+)?")
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")


@dataclass(frozen=True, slots=True)
class Attribute:
    """A message attribute: its data type, and its value as text or as bytes."""

    type: str
    value: str | bytes

    def wire(self) -> dict[str, str]:
        """The MessageAttributeValue of the JSON protocol; binary values travel in base64."""
        if isinstance(self.value, bytes):
            return {"DataType": self.type, "BinaryValue": base64.b64encode(self.value).decode()}
        return {"DataType": self.type, "StringValue": self.value}

    def size(self) -> int:
        """Bytes of type and value, which count towards the message's size."""
        return len(self.type) + (len(self.value) if isinstance(self.value, bytes) else size_of(self.value))


def md5_of_attributes(attributes: Mapping[str, Attribute]) -> str:
    """MD5OfMessageAttributes: by name, length-prefixed name, type, kind byte, value (developer guide)."""
    digest = hashlib.md5(usedforsecurity=False)

    def field(data: bytes) -> None:
        digest.update(struct.pack("!I", len(data)))
        digest.update(data)

    for name in sorted(attributes):
        attribute = attributes[name]
        field(name.encode())
        field(attribute.type.encode())
        binary = isinstance(attribute.value, bytes)
        digest.update(b"\x02" if binary else b"\x01")
        field(attribute.value if isinstance(attribute.value, bytes) else attribute.value.encode())
    return digest.hexdigest()


def _check_name(name: str) -> None:
    """Check a name: up to 256 of A-Z a-z 0-9 _ - . with no outer or double dot, and no prefix AWS. or Amazon."""
    if len(name) > 256:
        invalid("Length of message attribute name must be less than 256 bytes.")
    if not _ATTRIBUTE_NAME.fullmatch(name) or name.lower().startswith(("aws.", "amazon.")):
        invalid(f"The message attribute name '{name}' is invalid or reserved.")


def _check_attribute(name: str, raw: object) -> Attribute:
    """Check one MessageAttributeValue."""
    _check_name(name)
    if not isinstance(raw, dict):
        raise SqsError("SerializationException", "Expected a MessageAttributeValue")
    kind = optional_text(raw, "DataType")
    if not kind:
        invalid(f"The message attribute '{name}' must contain a non-empty DataType.")
    matched = _DATA_TYPE.fullmatch(kind) if len(kind) <= 256 else None
    if matched is None:
        invalid(
            f"The type of message (user) attribute '{name}' is invalid. You must use only the following "
            "supported type prefixes: Binary, Number, String."
        )
    if raw.get("StringListValues") or raw.get("BinaryListValues"):
        raise SqsError("UnsupportedOperation", "Message attribute list values are not supported.")
    if matched.group(1) == "Binary":
        return Attribute(kind, _binary_value(name, kind, raw))
    return Attribute(kind, _string_value(name, kind, matched.group(1), raw))


def _binary_value(name: str, kind: str, raw: Mapping[str, Any]) -> bytes:
    """The decoded BinaryValue of a Binary attribute; a StringValue beside it is refused."""
    try:
        value = base64.b64decode(optional_text(raw, "BinaryValue") or "", validate=True)
    except (binascii.Error, ValueError):
        raise SqsError("SerializationException", f"The BinaryValue of '{name}' is not base64.") from None
    if not value or raw.get("StringValue") is not None:
        invalid(f"Message (user) attribute '{name}' must contain a non-empty value of type '{kind}'.")
    return value


def _string_value(name: str, kind: str, base: str, raw: Mapping[str, Any]) -> str:
    """The StringValue of a String or Number: not empty, allowed characters, numeric for a Number."""
    value = optional_text(raw, "StringValue")
    if not value or raw.get("BinaryValue") is not None:
        invalid(f"Message (user) attribute '{name}' must contain a non-empty value of type '{kind}'.")
    if encode(value) is None:
        invalid(f"Invalid binary character in the value of message (user) attribute '{name}'.")
    if base == "Number" and not _NUMBER.fullmatch(value):
        invalid(f"Can't cast the value of message (user) attribute '{name}' to a number.")
    return value


def check_attributes(raw: object) -> dict[str, Attribute]:
    """Check a MessageAttributes map: at most ten."""
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise SqsError("SerializationException", "MessageAttributes must be a map")
    if len(raw) > MAX_ATTRIBUTES:
        invalid(f"Number of message attributes [{len(raw)}] exceeds the allowed maximum [{MAX_ATTRIBUTES}].")
    return {name: _check_attribute(name, value) for name, value in raw.items()}


def wanted(attributes: Mapping[str, Attribute], patterns: Iterable[str]) -> dict[str, Attribute]:
    """The attributes that ReceiveMessage's MessageAttributeNames select: All, .*, prefix.* or exact names."""
    chosen = set(patterns)
    if chosen & {"All", ".*"}:
        return dict(attributes)
    prefixes = tuple(pattern[:-2] for pattern in chosen if pattern.endswith(".*"))
    return {n: a for n, a in attributes.items() if n in chosen or (prefixes and n.startswith(prefixes))}
