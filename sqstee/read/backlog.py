"""The lines that are there before a reader follows: all or the latest of them, in the order of their times."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter

from sqstee.read.decode import ForeignLine, Item
from sqstee.read.filter import written_at
from sqstee.read.notices import ItemSink
from sqstee.read.raw_lines import RawLines
from sqstee.wire import Event

_TIME = itemgetter(0)
_SLACK = 1000  # lines that are held beyond those wanted, so that they are seldom sorted
_MERGED = 50_000  # lines that are held to be merged by time, where all are wanted


class Backlog:
    """Holds lines until end(), then passes the latest `most` of them on, merged by time; later lines pass at once.

    Without `most`, all are passed on, and merged as far as they come within tens of thousands of lines. Lines of one
    run keep their order, whatever the clock of their host did. `with_events`: the sink shows events as well.
    """

    def __init__(self, sink: ItemSink, most: int | None, with_events: bool = True) -> None:
        self._sink = sink
        self._most = most
        self._with_events = with_events
        self._held: list[tuple[str, Item | ForeignLine]] = []
        self._latest: dict[str, str] = {}  # by run
        self._is_over = False

    def items(self, items: Sequence[Item | ForeignLine], late: bool = False) -> None:
        """Accept items, late ones at their place in time."""
        if self._is_over:
            self._sink.items(items, late)
            return
        if isinstance(items, RawLines) and self._most is not None and len(items) > self._most:
            items = items[len(items) - self._most :]
        for item in items:
            if not is_counted(item, self._with_events):
                continue
            written = written_at(item)
            if item.run and not late:
                written = self._latest[item.run] = max(written, self._latest.get(item.run, ""))
            self._held.append((written, item))
        if self._most is None:
            if len(self._held) > _MERGED:
                self._pass_on(len(self._held) // 2)
        elif len(self._held) > self._most + _SLACK:
            self._trim(self._most)

    def end(self) -> None:
        """Pass on the held lines: the backlog is over."""
        if self._is_over:
            return
        if self._most is not None:
            self._trim(self._most)
        self._pass_on(len(self._held))
        self._is_over = True
        self._latest = {}

    def notice(self, text: str, **fields: object) -> None:
        """Pass a notice on."""
        self._sink.notice(text, **fields)

    def flush(self) -> None:
        """Write the lines that were passed on."""
        self._sink.flush()

    def _trim(self, most: int) -> None:
        self._held.sort(key=_TIME)
        del self._held[: max(0, len(self._held) - most)]

    def _pass_on(self, number: int) -> None:
        """Pass the oldest lines on."""
        self._held.sort(key=_TIME)
        passed, self._held = self._held[:number], self._held[number:]
        if passed:
            self._sink.items([item for _, item in passed])
            self._sink.flush()


def is_counted(item: Item | ForeignLine, with_events: bool) -> bool:
    """Whether an item is one of the lines to begin with: a sign of life is none."""
    return not isinstance(item, Event) or (with_events and item.event != "alive")
