"""A line that is a JSON object: its text, which may stand in a record beside the message, and its level. Pure."""

from __future__ import annotations

import json
import re

_MOST_DEPTH = 32  # parsers differ in how deep they go: the least of the common ones 64, and the record is around it
_ESCAPED = tuple(chr(code).encode() for code in (0x85, 0x2028, 0x2029, 0xFFFE, 0xFFFF))  # by jsonbytes: see there
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_LARGEST_NUMBER = 10**308  # of a double
_NUMBER, _NESTED = (int, float), (dict, list)  # as constants: every line is checked
_NONE = (b"", "")

_LEVEL_NAMES = {
    **dict.fromkeys(("trace", "debug"), "DEBUG"),
    **dict.fromkeys(("info", "information", "informational", "notice"), "INFO"),
    **dict.fromkeys(("warn", "warning"), "WARNING"),
    **dict.fromkeys(("err", "error"), "ERROR"),
    **dict.fromkeys(("fatal", "critical", "crit", "panic", "alert", "emerg", "emergency"), "CRITICAL"),
}
_LEVEL_NUMBERS = ("", "DEBUG", "DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")  # tens, as bunyan and pino write them


def object_in(line: bytes, most_bytes: int) -> tuple[bytes, str]:
    """The JSON object that a line (without its newline) is, byte for byte, and its level; both empty otherwise.

    An object that some parser, or a queue, would refuse counts as text: a record's readers must be able to read it.
    """
    text = line.strip(b" \t\r")
    if text[:1] != b"{" or len(text) > most_bytes:
        return _NONE
    if b"\r" in text or not (text.isascii() or all(character not in text for character in _ESCAPED)):
        return _NONE
    try:
        value = _DECODER.decode(text.decode())
        if _SURROGATE.search(text):  # half a pair is no text
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return _NONE
    return (text, _level(value.get("level"))) if is_common(value) else _NONE


def _refuse(constant: str) -> object:
    raise ValueError(f"{constant} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse)


def is_common(value: dict[str, object] | list[object], depth: int = _MOST_DEPTH) -> bool:
    """Whether common parsers can read it: nested no deeper than `depth`, without numbers that exceed a double."""
    for member in value.values() if isinstance(value, dict) else value:
        if isinstance(member, _NUMBER):
            if not -_LARGEST_NUMBER < member < _LARGEST_NUMBER:
                return False
        elif isinstance(member, _NESTED) and not (depth > 1 and is_common(member, depth - 1)):
            return False
    return True


def _level(value: object) -> str:
    """One of record.LEVELS for a `level` as loggers write it; empty for anything else."""
    if isinstance(value, str):
        return _LEVEL_NAMES.get(value.lower(), "")
    if isinstance(value, int) and not isinstance(value, bool) and 10 <= value <= 60:
        return _LEVEL_NUMBERS[value // 10]
    return ""
