"""Writes lines for people or programs: host and stream before each line, the bytes alone, JSON, or a template."""

from __future__ import annotations

import errno
import json
import os
import re
import select
import string
import zlib
from collections.abc import Callable, Iterable, Sequence

from sqstee.errors import SqsteeError
from sqstee.read.decode import ForeignLine, Item, duration_of, is_failure, json_of, stream_of
from sqstee.read.raw_lines import RawLines, Stretch
from sqstee.record import MAX_SEQ
from sqstee.text import count, short_name
from sqstee.transports.base import ReceivedMessage
from sqstee.wire import Event, Record, is_gap

FORMATS = ("default", "raw", "json")
TEMPLATE_FIELDS = ("timestamp", "time", "host", "stream", "level", "run", "job", "labels", "seq", "message", "late")
_OWN_LENGTH = len("2026-11-21T19:30:00.123456Z")
_MOST_MINUTES = 1000
_MOST_FRAMES = 1000
_HOST_WIDTHS = (6, 24)  # characters: hosts are aligned to the longest of them, within these bounds, and cut to the last
_HOST_COLOURS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)  # ANSI foregrounds; red is reserved for stderr

_LEVEL_COLOURS = {"DEBUG": "2", "WARNING": "33", "ERROR": "31", "CRITICAL": "31"}
_SGR = re.compile(r"(\x1b\[[0-9;:]{0,32}m)")  # Select Graphic Rendition: colours, bold and the like

# Characters that a terminal obeys: C0 and C1 controls (CSI as a single character is one of these), and those that
# change the direction of text.
_C0 = [code for code in range(0x20) if code != 0x09] + [0x7F]
_OTHERS = [*range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
_NEUTRAL = {code: chr(0x2400 + code) for code in range(0x20) if code != 0x09} | {0x7F: "\u2421"}
_NEUTRAL |= dict.fromkeys(_OTHERS, "\ufffd")
_NEUTRAL_JSON = {code: f"\\u{code:04x}" for code in (0x7F, *_OTHERS)}
_NEUTRAL_RAW = {code: text for code, text in _NEUTRAL.items() if code != 0x0A}

Shown = Item | ForeignLine


def neutral(text: str) -> str:
    """`text` with every control character made visible, so that a terminal does not obey it; a tab stays."""
    return text if text.isprintable() else text.translate(_NEUTRAL)


def check_reader(fd: int) -> None:
    """Raise BrokenPipeError where nobody reads from a pipe any more: a reader with nothing to write would never end."""
    watch = select.poll()
    watch.register(fd, 0)  # errors are reported all the same
    if any(event & (select.POLLERR | select.POLLHUP) for _, event in watch.poll(0)):
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


class BufferedOutput:
    """Collects bytes for a descriptor, which may be non-blocking, until flush()."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Add bytes to the next flush."""
        self._parts.append(data)

    def flush(self) -> None:
        """Write everything. Raises OSError where that fails, or would: then nothing may be acknowledged."""
        data, self._parts = memoryview(b"".join(self._parts)), []
        if not data:
            check_reader(self.fd)
        while data:
            try:
                data = data[os.write(self.fd, data) :]
            except BlockingIOError:  # another process made the shared terminal or pipe non-blocking
                select.select([], [self.fd], [])


class Style:
    """How lines look.

    `form`: one of FORMATS; `template` replaces it. `safe`, for a terminal: control characters of remote hosts are made
    visible, and hosts are aligned. `highlight`: expressions whose matches are shown in reverse.
    `coloured_notices`: notices go to a terminal, too. `times`: "local" or "utc" puts the time before each line.
    `alive`: show the events by which a silent run says that it lives. `separators`: a line with `--`, as grep's, where
    lines were left out; raw and json have none. `bare`: lines alone, without host, stream and events, which the lines
    of one run do not need.
    """

    def __init__(
        self,
        form: str = "default",
        colour: bool = False,
        safe: bool = False,
        template: str = "",
        highlight: Sequence[re.Pattern[str]] = (),
        coloured_notices: bool = False,
        times: str = "",
        alive: bool = False,
        bare: bool = False,
        separators: bool = False,
    ) -> None:
        self.form = form
        self.bare = bare
        self.colour = colour
        self.safe = safe or (colour and form == "default")  # bytes and JSON in a pipe are for programs
        self.template = template
        self.highlight = highlight if colour else ()
        self.coloured_notices = coloured_notices
        self.times = times
        self.alive = alive
        self.separators = separators and form == "default"
        if template:
            check_template(template)


class Printer:
    """Writes items to `out` and notices to `notices`."""

    def __init__(self, out: BufferedOutput, notices: BufferedOutput, style: Style) -> None:
        self._out = out
        self._notices = notices
        self._style = style
        self._next: tuple[str, int] | None = None  # the run and seq of the line that follows the one shown last
        self._frames: dict[tuple[str, str, str], tuple[str, str]] = {}  # by host, stream and level of lines
        self._clock = _Clock(style.times)
        self._width = _HOST_WIDTHS[0] if style.safe else 0  # of the longest host so far
        renders: dict[str, Callable[[Shown, bool], bytes]] = {
            "default": self._line,
            "raw": self._raw,
            "json": self._json,
        }
        self._render = self._templated if style.template else renders[style.form]

    def items(self, items: Iterable[Shown], late: bool = False) -> None:
        """Write lines and events in their order; `late` ones belong further up."""
        block = self._block(items) if isinstance(items, RawLines) and not late else None
        render = self._separated if self._style.separators else self._render
        self._out.write(b"".join([render(item, late) for item in items]) if block is None else block)

    def notice(self, text: str, **fields: object) -> None:
        """Write a notice of sqstee's own; as JSON where the lines are JSON."""
        line = json.dumps({"notice": text, **fields}) if self._style.form == "json" else f"sqstee: {neutral(text)}"
        if self._style.coloured_notices and self._style.form != "json":
            line = f"\033[33m{line}\033[0m"
        self._notices.write(line.encode("utf-8", "replace") + b"\n")
        self._notices.flush()

    def flush(self) -> None:
        """Write everything. Raises OSError where that fails: then nothing may be acknowledged."""
        self._out.flush()

    def _block(self, lines: RawLines) -> bytes | None:
        """Lines together, as one by one; None where each must be looked at."""
        style = self._style
        if style.template or style.highlight or style.separators:
            return None
        if style.form == "json":
            is_plain = not style.safe or (lines.data.isascii() and b"\x7f" not in lines.data)
            return lines.data if is_plain else None
        stretches = lines.stretches()
        if stretches is None:
            return None
        if style.form == "raw":
            text = "".join([f"{message}\n" for one in stretches for message in one.messages])
            return (text.translate(_NEUTRAL_RAW) if style.safe else text).encode("utf-8", "surrogatepass")
        return "".join(map(self._stretch, stretches)).encode("utf-8", "replace")

    def _stretch(self, lines: Stretch) -> str:
        messages = lines.messages
        if not all(map(str.isprintable, messages)):
            messages = list(map(self._shown, messages))
        key = lines.host, lines.stream, lines.level
        if key not in self._frames:
            if len(self._frames) > _MOST_FRAMES:
                self._frames.clear()
            self._frames[key] = self._frame(lines.host, lines.stream, _line_colour(lines.stream, lines.level))
        before, after = self._frames[key]
        before = f"{self._time(lines.timestamp)}{before}"
        return f"{before}{f'{after}{before}'.join(messages)}{after}"

    def _separated(self, item: Shown, late: bool) -> bytes:
        """An item, after a line with `--` where it does not follow the one before."""
        data = self._render(item, late)
        if not data or isinstance(item, ForeignLine):
            return data
        before, self._next = self._next, (item.run, getattr(item, "last", item.seq) + 1)
        return data if before in (None, (item.run, item.seq)) else b"--\n" + data

    def _line(self, item: Shown, late: bool) -> bytes:
        if (_is_alive(item) and not self._style.alive) or (self._style.bare and isinstance(item, Event)):
            return b""
        message = self._shown(describe(item) if isinstance(item, Event) else item.message)
        mark = "late " if late else ""
        before, after = self._frame(item.host, stream_of(item), _colour_code(item), mark)
        if self._style.highlight:
            message = f"{_highlighted(message, self._style.highlight)}\033[0m"
        return f"{self._time(item.timestamp)}{before}{message}{after}".encode("utf-8", "replace")

    def _frame(self, host: str, stream: str, code: str, mark: str = "") -> tuple[str, str]:
        """The text before and after a message."""
        name = short_name(host) or "-"
        if self._style.safe and len(name) > _HOST_WIDTHS[1]:  # a whole domain would leave a line no room
            name = f"{name[: _HOST_WIDTHS[1] - 1]}…"
        if self._style.safe and self._width < min(len(name), _HOST_WIDTHS[1]):
            self._width = min(len(name), _HOST_WIDTHS[1])
            self._frames.clear()
        prefix = mark if self._style.bare else f"{name.ljust(self._width)} {short_name(stream) or '-':6} {mark}"
        if not self._style.colour:
            return prefix, "\n"
        if self._style.bare:
            return (f"{mark}\033[{code}m", "\033[0m\n") if code else (mark, "\n")
        of_host = _HOST_COLOURS[zlib.crc32(host.encode("utf-8", "replace")) % len(_HOST_COLOURS)]
        prefix = f"\033[{of_host}m{prefix}\033[0m"
        return (f"{prefix}\033[{code}m", "\033[0m\n") if code else (prefix, "\n")

    def _time(self, timestamp: str) -> str:
        """When a line was written, where times are asked for."""
        if not self._style.times:
            return ""
        text = self._clock.show(timestamp)
        return f"\033[2m{text}\033[0m " if self._style.colour else f"{text} "

    def _shown(self, message: str) -> str:
        """A message as people see it: its last state where it was overwritten, its colours, no other escape."""
        if message.isprintable():
            return message
        return self._without_escapes(last_state(message))

    def _without_escapes(self, text: str) -> str:
        style = self._style
        if "\x1b[" in text:
            if style.colour and not style.highlight:  # a match may go across a change of colour
                parts = _SGR.split(text)
                if len(parts) > 1:
                    parts[::2] = map(neutral, parts[::2])
                    return f"{''.join(parts)}\033[0m"
            else:
                text = _SGR.sub("", text)
        return neutral(text) if style.safe else text

    def _raw(self, item: Shown, late: bool) -> bytes:
        if isinstance(item, Event):
            return b""
        data = item.data if isinstance(item, Record) else item.data + b"\n"
        if not self._style.safe:
            return data
        return data.decode("utf-8", "replace").translate(_NEUTRAL_RAW).encode()

    def _json(self, item: Shown, late: bool) -> bytes:
        fields = {**item.fields, "late": True} if late else item.fields
        text = json_of(fields, ascii_only=False)
        if self._style.safe:
            text = text.translate(_NEUTRAL_JSON)
        return text.encode("utf-8", "replace") + b"\n"

    def _templated(self, item: Shown, late: bool) -> bytes:
        if _is_alive(item) and not self._style.alive:
            return b""
        text = self._without_escapes(self._style.template.format_map(_Fields(item, late)))
        return text.encode("utf-8", "replace") + b"\n"


class _Clock:
    """Shows timestamps to the millisecond, in local time or UTC."""

    def __init__(self, zone: str) -> None:
        self._zone = zone
        self._minutes: dict[str, str] = {}  # of sqstee's own timestamps, the latest ones, as they are shown

    def show(self, timestamp: str) -> str:
        """A timestamp for people; another program's, which may have any form, as it is."""
        if len(timestamp) != _OWN_LENGTH or not timestamp.endswith("Z"):
            return short_name(timestamp)
        if self._zone == "utc":
            return short_name(f"{timestamp[:10]} {timestamp[11:23]}Z")
        minute = timestamp[:16]
        shown = self._minutes.get(minute)
        if shown is None:
            if len(self._minutes) > _MOST_MINUTES:
                self._minutes.clear()
            shown = self._minutes[minute] = _local_minute(minute)
        return short_name(f"{shown}{timestamp[16:23]}")


def _local_minute(text: str) -> str:
    from datetime import datetime

    try:
        return f"{datetime.fromisoformat(f'{text}+00:00').astimezone():%Y-%m-%d %H:%M}"
    except (ValueError, OverflowError):
        return text


class _Fields(dict[str, object]):
    """The fields of a template, each computed when the template names it."""

    def __init__(self, item: Shown, late: bool) -> None:
        super().__init__()
        self._item = item
        self._late = late

    def __missing__(self, name: str) -> object:
        if name == "stream":
            return stream_of(self._item)
        if name == "late":
            return "late" if self._late else ""
        if name == "time":
            return self._item.timestamp[11:19]
        if name == "labels":
            return _Labels(getattr(self._item, "labels", {}))
        if name not in TEMPLATE_FIELDS:
            raise KeyError(name)
        if name == "message":
            return describe(self._item) if isinstance(self._item, Event) else last_state(self._item.message)
        return getattr(self._item, name, _NO_NUMBER)


class _NoNumber(str):
    """The seq of a line without one: empty, also when it is formatted as a number."""

    __slots__ = ()

    def __format__(self, form: str) -> str:
        try:
            return super().__format__(form)
        except ValueError:
            return ""


_NO_NUMBER = _NoNumber()


class _Labels(dict[str, str]):
    def __missing__(self, name: str) -> str:
        return ""


def check_template(template: str) -> None:
    """Raise SqsteeError where a template cannot be filled in."""
    fields: dict[str, object] = dict.fromkeys(("timestamp", "host", "stream", "run", "message"), "")
    items: list[Shown] = [Record({**fields, "seq": seq}) for seq in (0, MAX_SEQ)]
    items.append(ForeignLine(b"", ReceivedMessage(b"", {}, "", "")))
    try:
        if any("{" in (form or "") for _, _, form, _ in string.Formatter().parse(template)):
            raise ValueError("a format cannot contain another field")
        for item in items:
            template.format_map(_Fields(item, False))
    except (ValueError, KeyError, IndexError, AttributeError, TypeError, OverflowError) as error:
        hint = f"sqstee tail --template '{{host}} {{message}}'; the fields are {', '.join(TEMPLATE_FIELDS)}"
        raise SqsteeError(f"invalid value {template!r} for --template ({error})", hint) from None


def last_state(message: str) -> str:
    """The text that a terminal shows of a line: the part after its last carriage return, but for those at its end."""
    return message.rstrip("\r").rpartition("\r")[2] if "\r" in message else message


def cell_text(message: str) -> str:
    """A line as one cell of a table: its last state, without colours and tabs, control characters made visible."""
    return neutral(_SGR.sub("", last_state(message))).replace("\t", " ")


def _highlighted(message: str, patterns: Sequence[re.Pattern[str]]) -> str:
    """A message with every match of the patterns in reverse video; overlapping matches become one."""
    parts: list[str] = []
    at = 0  # the end of the part of the message that is in `parts`
    for start, end in sorted(found.span() for pattern in patterns for found in pattern.finditer(message)):
        if end > max(at, start):
            parts += (message[at:start], "\033[7m", message[max(at, start) : end], "\033[27m")
            at = end
    return "".join((*parts, message[at:]))


def describe(event: Event) -> str:
    """An event for people: the job or run, the message, and how long it took."""
    name = event.job or str(event.fields.get("name") or "") or event.run
    message = event.message.removeprefix(f"{name} ")
    text = f"{short_name(name)}{':' if message == event.message else ''} {message}"
    seconds = duration_of(event)
    if seconds is not None:
        text += f" after {format_duration(seconds)}"
    lines = event.fields.get("lines")
    if isinstance(lines, int):
        text += f", {count(lines, 'line')}"
    return text


def format_duration(seconds: float) -> str:
    """Seconds for people: 0.25 s, 12 s, 4m05s, 2h03m, 3d04h."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02d}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours < 24 else f"{hours // 24}d{hours % 24:02d}h"


def _colour_code(item: Shown) -> str:
    """ANSI: red for failures, yellow for gaps, dim for other events; a line's by its level or stream."""
    if isinstance(item, Event):
        return "31" if is_failure(item) else "33" if is_gap(item) else "2"
    return _line_colour(item.stream, item.level if isinstance(item, Record) else "")


def _line_colour(stream: str, level: str) -> str:
    """ANSI: by the level of a line that has one; red for other lines of stderr."""
    return _LEVEL_COLOURS.get(level, "") if level else "31" if stream == "stderr" else ""


def _is_alive(item: Shown) -> bool:
    return isinstance(item, Event) and item.event == "alive"
