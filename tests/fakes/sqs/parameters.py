"""Reading typed parameters from a request's JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from .errors import SqsError, invalid, missing
from .limits import ACCOUNT


def text(request: Mapping[str, Any], name: str) -> str:
    """A required string parameter; an empty one counts as missing."""
    value = optional_text(request, name)
    return value if value else missing(name)


def optional_text(request: Mapping[str, Any], name: str) -> str | None:
    """A string parameter or None; another JSON type is a SerializationException."""
    value = request.get(name)
    if value is not None and not isinstance(value, str):
        raise SqsError("SerializationException", f"{type(value).__name__} can not be converted to a String")
    return value


def integer(request: Mapping[str, Any], name: str, low: int, high: int, reason: str) -> int | None:
    """An integer parameter between low and high, or None."""
    value = request.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise SqsError("SerializationException", f"{type(value).__name__} can not be converted to an Integer")
    if not low <= value <= high:
        invalid(f"Value {value} for parameter {name} is invalid. Reason: {reason}")
    return value


def names(request: Mapping[str, Any], *parameters: str) -> list[str]:
    """The union of several list-of-string parameters (some have an old and a new name, such as AttributeNames)."""
    found: list[str] = []
    for parameter in parameters:
        value = request.get(parameter) or []
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise SqsError("SerializationException", f"{parameter} must be a list of strings")
        found += value
    return found


def queue_of_url(url: str) -> str:
    """The queue's name in a queue URL `scheme://host/<account>/<name>`."""
    parts = urlsplit(url).path.strip("/").split("/")
    if len(parts) != 2 or not parts[1]:
        raise SqsError("InvalidAddress", f"The address {url} is not valid for this endpoint.")
    if parts[0] != ACCOUNT:
        raise SqsError("QueueDoesNotExist", "The specified queue does not exist.")
    return parts[1]
