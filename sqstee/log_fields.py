"""The fields of a record of Python's logging, beyond its text, that `sqstee.Handler` sends as `data`. Pure.

The names are those of the Elastic Common Schema (log.logger, error.type, error.message, error.stack_trace). The
program's `extra` fields, and the keys of a message that is a dict, keep their own names. Where the program uses `log`
or `error` itself, ours are written with a dot (`log.logger`).

Whatever the values are, nothing here raises, and the time is bounded: a line of the log must not depend on its extra.
"""

from __future__ import annotations

import json
import logging
import reprlib
from collections.abc import Iterator

from sqstee.jsonbytes import encode_object

_OWN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_OURS = ("log", "error")  # what comes before the first dot of our names
_MOST_DEPTH = 8  # what is nested deeper is sent as text; a value that contains itself ends there
_MOST_LOGGERS = 1000  # whose fields are kept
_MOST_MEMBERS = 10_000  # of one value: more would not fit into a line
_SHORT_TEXT, _SHORT_LIST = 200, 20  # characters and members that are left where a record is too long
_LARGEST_NUMBER = 10**308  # of a double: many parsers refuse a larger one
_BRIEF = reprlib.Repr()
_BRIEF.maxlevel = 1
_dumps = json.JSONEncoder(ensure_ascii=False, check_circular=False, allow_nan=False, separators=(",", ":")).encode
_ESCAPED = [(chr(code), f"\\u{code:04x}") for code in (0x85, 0x2028, 0x2029, 0xFFFE, 0xFFFF)]  # see jsonbytes


class LoggerFields(dict[str, object]):
    """The fields of a record that has nothing but its logger's name, and their JSON: most records are such ones."""

    def __init__(self, name: str) -> None:
        super().__init__(log={"logger": _text(name)})
        self.json = _dumps(self)


_known: dict[str, LoggerFields] = {}  # by the logger's name


def fields_of(record: logging.LogRecord) -> dict[str, object]:
    """The fields of a record; empty if it has none, as one of the root logger without extra and exception."""
    name = record.name
    if _OWN.issuperset(record.__dict__) and not (record.exc_info or record.exc_text or isinstance(record.msg, dict)):
        return {} if name == "root" else _known.get(name) or _of_logger(name)
    found: dict[str, object] = {}
    if isinstance(record.msg, dict):
        found = {_text(key): _value(value) for key, value in dict.items(record.msg)}
    if not _OWN.issuperset(record.__dict__):
        found |= {_text(key): _value(value) for key, value in record.__dict__.items() if key not in _OWN}
    if name != "root":
        _put(found, "log", {"logger": _text(name)})
    if (record.exc_info or record.exc_text) and (error := _error(record)):
        _put(found, "error", error)
    return found


def shortened(line: dict[str, object]) -> Iterator[dict[str, object]]:
    """Lines with such fields in place of one that is too long, each shorter than the last: its message is kept."""
    if isinstance(line.get("data"), dict):
        data = _shortened(line["data"])
        yield line | {"data": data}
        assert isinstance(data, dict)
        yield line | {"data": {key: data[key] for key in data if key.partition(".")[0] in _OURS}}


def _shortened(value: object) -> object:
    """Fields with long texts cut, and without the traceback, for a record that is too long: its message has that."""
    if isinstance(value, str):
        return value if len(value) <= _SHORT_TEXT else f"{value[:_SHORT_TEXT]}…"
    if isinstance(value, dict):
        return {_shortened(key): _shortened(member) for key, member in value.items() if key != "stack_trace"}
    return [_shortened(member) for member in value[:_SHORT_LIST]] if isinstance(value, list) else value


def encode(line: dict[str, object]) -> bytes:
    """A line with such fields as jsonbytes.encode_object has it, in a quarter of the time."""
    data = line.get("data")
    if isinstance(data, LoggerFields):
        head = f'{{"stream":"{line["stream"]}","level":"{line["level"]}","message":'
        text = f'{head}{_dumps(line["message"])},"data":{data.json}}}'
    else:
        text = _dumps(line)
    if not text.isascii():
        for character, escaped in _ESCAPED:
            text = text.replace(character, escaped)
    try:
        return text.encode()
    except UnicodeEncodeError:  # half a pair
        return encode_object(line)


def _of_logger(name: str) -> LoggerFields:
    if len(_known) >= _MOST_LOGGERS:  # a program that names a logger after each request, for example
        _known.clear()
    return _known.setdefault(name, LoggerFields(name))


def _put(found: dict[str, object], name: str, fields: dict[str, object]) -> None:
    """Add fields of ours under `name`, unless the program uses that itself: then each has a name of its own."""
    if name in found:
        found |= {f"{name}.{key}": value for key, value in fields.items()}
    else:
        found[name] = fields


def _error(record: logging.LogRecord) -> dict[str, object]:
    """The exception, with its traceback as a formatter has rendered it, if one has."""
    found: dict[str, object] = {}
    if isinstance(record.exc_info, tuple) and record.exc_info:
        if record.exc_info[0] is None:  # exc_info=True where none is handled
            return found
        if isinstance(record.exc_info[0], type):
            found = {"type": record.exc_info[0].__qualname__, "message": _text(record.exc_info[1])}
    if record.exc_text and (trace := _text(record.exc_text).strip("\n")):  # loguru sets a line's end
        found["stack_trace"] = trace
    return found


class _Room:
    """How many members of a value may still be sent."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = _MOST_MEMBERS


def _value(value: object) -> object:
    """A value as JSON has it; values that JSON cannot hold, or common parsers refuse, as their text."""
    try:
        return _plain(value, _Room(), _MOST_DEPTH)
    except Exception as error:
        return _failed(value, error)


def _plain(value: object, room: _Room, depth: int) -> object:
    if value is None or value is True or value is False:
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int | float):  # without what a subclass makes of it, as numpy's float64 does
        number: int | float = int.__int__(value) if isinstance(value, int) else float.__float__(value)
        return number if -_LARGEST_NUMBER < number < _LARGEST_NUMBER else _text(number)
    if not isinstance(value, dict | list | tuple | set | frozenset):
        return _text(value)
    room.left -= len(value)
    if not depth or room.left < 0:
        return _BRIEF.repr(value)
    if isinstance(value, dict):
        return {_text(key): _plain(member, room, depth - 1) for key, member in value.items()}
    return [_plain(member, room, depth - 1) for member in value]


def _text(value: object) -> str:
    """A value's text, whatever its __str__ does."""
    if isinstance(value, str):
        return str.__str__(value)
    try:
        return str.__str__(str(value))
    except Exception as error:
        return _failed(value, error)


def _failed(value: object, error: Exception) -> str:
    return f"<{type(value).__qualname__}: {type(error).__name__}>"
