"""Received messages, decoded and printed, whatever is in them."""

from __future__ import annotations

import json
import os
import tempfile

from hypothesis import given
from support.odd_bodies import bodies

from sqstee.read.decode import duration_of, json_of, read
from sqstee.read.printer import FORMATS, BufferedOutput, Printer, Style
from sqstee.read.run_table import RunTable
from sqstee.transports.base import ReceivedMessage
from sqstee.wire import Event


@given(bodies)
def test_an_odd_body_is_shown(body: bytes) -> None:
    """In each format and on the board: no line stops a reader, whatever it is."""
    blocks, foreign = read(ReceivedMessage(body, {}, "handle", "id"))
    shown = [*(item for block in blocks for item in block), *foreign]
    for item in shown:
        assert isinstance(json.loads(json_of(item.fields)), dict)
        assert not isinstance(item, Event) or (duration_of(item) or 0) >= 0
    template = "{time} {job:>9} {level:>8} {host} {stream} {seq:,} {message!r} {labels[a]}"
    styles = [Style(form, safe=safe) for form in FORMATS for safe in (False, True)] + [Style(template=template)]
    with tempfile.TemporaryFile() as file, open(os.devnull, "wb") as null:
        for style in styles:
            printer = Printer(BufferedOutput(file.fileno()), BufferedOutput(null.fileno()), style)
            printer.items(shown)
            printer.flush()
    board = RunTable(lambda table: None)
    board.items(shown)
    board.flush()
    for run in board.runs(60.0):
        assert run.missing >= 0
