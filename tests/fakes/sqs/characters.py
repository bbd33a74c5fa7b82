"""Which characters a message may contain, and how many bytes a string counts."""

from __future__ import annotations

import re

# Allowed: #x9 #xA #xD #x20-#xD7FF #xE000-#xFFFD #x10000-#x10FFFF (API reference of SendMessage).
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_CONTROL = bytes(sorted(set(range(0x20)) - {0x09, 0x0A, 0x0D}))


def encode(value: str) -> bytes | None:
    """The UTF-8 bytes, or None if SQS refuses one of the characters; translate() keeps 1 MiB fast."""
    if "\ufffe" in value or "\uffff" in value:
        return None
    try:
        data = value.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return None
    return data if len(data.translate(None, _CONTROL)) == len(data) else None


def size_of(value: str) -> int:
    """UTF-8 bytes of any string, a lone surrogate counted as three."""
    return len(value) if value.isascii() else len(value.encode("utf-8", "surrogatepass"))


def first_forbidden(value: str) -> int:
    """The code point of the first character that SQS refuses; 0 if there is none."""
    found = _FORBIDDEN.search(value)
    return ord(found.group()) if found else 0
