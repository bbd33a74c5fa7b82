"""The lines that are there before a reader follows: the latest of them, in the order of their times."""

from __future__ import annotations

from collections.abc import Sequence

from sqstee.read.decode import ForeignLine, Item
from sqstee.read.filter import written_at
from sqstee.read.notices import ItemSink
from sqstee.read.raw_lines import RawLines
from sqstee.wire import Event

_SLACK = 1000  # lines that are held beyond those wanted, so that they are seldom sorted


class Backlog:
    """Holds lines until end(), then passes the latest `most` of them on, merged by time; later lines pass at once.

    Lines of one run keep their order, whatever the clock of their host did.
    """

    def __init__(self, sink: ItemSink, most: int) -> None:
        self._sink = sink
        self._most = most
        self._held: list[tuple[str, Item | ForeignLine]] = []
        self._latest: dict[str, str] = {}  # by run
        self._is_over = False

    def items(self, items: Sequence[Item | ForeignLine], late: bool = False) -> None:
        """Accept items, late ones at their place in time."""
        if self._is_over:
            self._sink.items(items, late)
            return
        if isinstance(items, RawLines) and len(items) > self._most:
            items = items[len(items) - self._most :]
        for item in items:
            if isinstance(item, Event) and item.event == "alive":
                continue
            written = written_at(item)
            if item.run and not late:
                written = self._latest[item.run] = max(written, self._latest.get(item.run, ""))
            self._held.append((written, item))
        if len(self._held) > self._most + _SLACK:
            self._trim()

    def end(self) -> None:
        """Pass on what is held: the backlog is over."""
        if self._is_over:
            return
        self._trim()
        self._is_over = True
        held, self._held, self._latest = self._held, [], {}
        if held:
            self._sink.items([item for _, item in held])
            self._sink.flush()

    def notice(self, text: str, **fields: object) -> None:
        """Pass a notice on."""
        self._sink.notice(text, **fields)

    def flush(self) -> None:
        """Write what was passed on."""
        self._sink.flush()

    def _trim(self) -> None:
        self._held.sort(key=lambda pair: pair[0])
        del self._held[: max(0, len(self._held) - self._most)]
