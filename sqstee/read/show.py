"""Lines as a person or a program wants them: host and stream before each, the bytes alone, or JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import BinaryIO

from sqstee.read.receive import Item
from sqstee.record import Event, Record

FORMATS = ("default", "raw", "json")
_HOST_COLOURS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)  # ANSI foregrounds; red is left to stderr
_NEUTRAL = {code: chr(0x2400 + code) for code in range(0x20) if code != 0x09} | {0x7F: "\u2421"}
_NEUTRAL |= dict.fromkeys(range(128, 160), "�")  # C1 controls: CSI as one character among them


class Printer:
    """Writes items to `out` and remarks about them to `remarks`.

    `colour` is for a terminal: colours, and control characters of remote hosts made visible instead of obeyed.
    """

    def __init__(self, out: BinaryIO, remarks: BinaryIO, form: str, colour: bool) -> None:
        self._out = out
        self._remarks = remarks
        self._form = form
        self._colour = colour

    def items(self, items: Iterable[Item], late: bool = False) -> None:
        """Lines and events in their order; `late` ones belong further up."""
        render = {"default": self._line, "raw": self._raw, "json": self._json}[self._form]
        self._out.write(b"".join(render(item, late) for item in items))

    def remark(self, text: str, **fields: object) -> None:
        """A remark of our own, beside the lines."""
        line = json.dumps({"remark": text, **fields}) if self._form == "json" else f"sqstee: {text}"
        self._remarks.write(line.encode() + b"\n")
        self._remarks.flush()

    def flush(self) -> None:
        """Have everything written; raises OSError where that fails (nothing may be acknowledged then)."""
        self._out.flush()

    def _line(self, item: Item, late: bool) -> bytes:
        mark = "late " if late else ""
        if isinstance(item, Event):
            name = item.job or item.run
            return self._painted(f"{item.host} {'event':6} {mark}", f"{name}: {item.message}", item, "2")
        text = f"{item.host} {item.stream:6} {mark}"
        return self._painted(text, item.message, item, "31" if item.stream == "stderr" else "")

    def _painted(self, prefix: str, message: str, item: Item, code: str) -> bytes:
        if not self._colour:
            return f"{prefix}{message}\n".encode()
        host = _HOST_COLOURS[sum(item.host.encode()) % len(_HOST_COLOURS)]
        message = message.translate(_NEUTRAL)
        body = f"\033[{code}m{message}\033[0m" if code else message
        return f"\033[{host}m{prefix.translate(_NEUTRAL)}\033[0m{body}\n".encode()

    @staticmethod
    def _raw(item: Item, late: bool) -> bytes:
        return item.data if isinstance(item, Record) else b""

    @staticmethod
    def _json(item: Item, late: bool) -> bytes:
        fields = {**item.fields, "late": True} if late else item.fields
        return json.dumps(fields, ensure_ascii=False).encode() + b"\n"
