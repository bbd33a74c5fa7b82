"""What a record of Python's logging says beyond its text: the fields that `sqstee.Handler` sends as `data`. Pure.

The names are those of the Elastic Common Schema (log.logger, error.type, error.message, error.stack_trace); what the
program gave as `extra`, and the keys of a message that is a dict, keep their own names.
"""

from __future__ import annotations

import logging

_OWN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_MOST_DEPTH = 8  # what is nested deeper is sent as text; a value that contains itself ends there
_LARGEST_NUMBER = 10**308  # of a double: many parsers refuse a larger one


def fields_of(record: logging.LogRecord) -> dict[str, object]:
    """The fields of a record; empty if it has none, as one of the root logger without extra and exception."""
    found: dict[str, object] = {}
    if isinstance(record.msg, dict):
        found = {str(key): _plain(value) for key, value in record.msg.items()}
    if not record.__dict__.keys() <= _OWN:
        found |= {key: _plain(value) for key, value in record.__dict__.items() if key not in _OWN}
    if record.name != "root":
        found["log"] = {"logger": record.name}
    if error := _error(record):
        found["error"] = error
    return found


def _error(record: logging.LogRecord) -> dict[str, object]:
    """The exception; its traceback is what a formatter has made of it."""
    kind, value, _ = record.exc_info or (None, None, None)
    found: dict[str, object] = {}
    if kind is not None:
        found = {"type": kind.__qualname__, "message": _text(value)}
    if record.exc_text:
        found["stack_trace"] = record.exc_text
    return found


def _plain(value: object, depth: int = _MOST_DEPTH) -> object:
    """A value as JSON has it: what JSON cannot hold, or common parsers refuse, as its text."""
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int | float):
        return value if -_LARGEST_NUMBER < value < _LARGEST_NUMBER else str(value)
    if depth and isinstance(value, dict):
        return {str(key): _plain(member, depth - 1) for key, member in value.items()}
    if depth and isinstance(value, list | tuple | set | frozenset):
        return [_plain(member, depth - 1) for member in value]
    return _text(value)


def _text(value: object) -> str:
    """A value's text, whatever its __str__ does."""
    try:
        return str(value)
    except Exception as error:
        return f"<{type(value).__qualname__}: {type(error).__name__}>"
