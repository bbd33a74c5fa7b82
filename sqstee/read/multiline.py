"""Several lines as one: a first line and those that continue it, such as a traceback. Pure."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence

from sqstee.read.decode import ForeignLine, Item
from sqstee.wire import Event, Record

INDENTED = "indented"
_TRACEBACK = "Traceback (most recent call last):"
_WAIT_SECONDS = 0.5  # for the next line of a group
_MOST_LINES = 1000
_MOST_RUNS = 1000  # of which lines are held

Line = Item | ForeignLine


class LineGroup(Record):
    """Lines of one run and stream that a filter looks at as one; `lines` are the lines themselves."""

    __slots__ = ("lines",)

    def __init__(self, lines: Sequence[Record]) -> None:
        super().__init__(lines[0].fields)
        self.lines = lines
        self.message = "\n".join([line.message for line in lines])


class Multiline:
    """Groups the lines of each stream of each run.

    `first` tells a line that begins a group; INDENTED: each line that does not begin with a blank does, but for the
    last line of a Python traceback, which names the exception. A group is over where the next one begins, where its
    run ends, and where no line of it has come for half a second.
    """

    def __init__(self, first: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._is_first = re.compile(r"\A[^ \t]" if first == INDENTED else first).search
        self._is_by_indent = first == INDENTED
        self._clock = clock
        self._runs: dict[str, dict[str, tuple[float, list[Record]]]] = {}  # by run and stream: until when, the lines

    def add(self, items: Sequence[Line]) -> list[Line]:
        """The next items of one run, in order; the groups that are over now, and every item that is no line."""
        found: list[Line] = []
        for item in items:
            if isinstance(item, Record):
                self._add(item, found)
            else:
                if isinstance(item, Event) and item.event in ("exit", "end"):
                    found += self.flush(item.run)
                found.append(item)
        while len(self._runs) > _MOST_RUNS:
            found += self.flush(next(iter(self._runs)))
        return found

    def flush(self, run: str) -> list[Line]:
        """The unfinished groups of a run."""
        return [_joined(lines) for _, lines in self._runs.pop(run, {}).values()]

    def overdue(self, at_end: bool = False) -> Iterable[tuple[str, list[Line]]]:
        """The groups that nothing was added to in time (`at_end`: all), by run."""
        now = self._clock() if self._runs else 0.0
        for run in list(self._runs):
            if at_end or all(until <= now for until, _ in self._runs[run].values()):
                yield run, self.flush(run)

    def border(self, run: str, border: int) -> int:
        """The seq below which everything has passed, where everything below `border` has come."""
        groups = self._runs.get(run, {})
        return min([border, *(lines[0].seq for _, lines in groups.values())])

    def _add(self, line: Record, found: list[Line]) -> None:
        groups = self._runs.setdefault(line.run, {})
        _, lines = groups.get(line.stream, (0.0, []))
        if lines and (len(lines) >= _MOST_LINES or self._begins_group(line, lines)):
            found.append(_joined(lines))
            lines = []
        lines.append(line)
        groups[line.stream] = self._clock() + _WAIT_SECONDS, lines

    def _begins_group(self, line: Record, before: Sequence[Record]) -> bool:
        if not self._is_first(line.message):
            return False
        ends_traceback = before[0].message.startswith(_TRACEBACK) and before[-1].message.startswith((" ", "\t"))
        return not (self._is_by_indent and ends_traceback)


def lines_of(item: Line) -> Sequence[Record]:
    """The lines of a group; none of any other item."""
    return item.lines if isinstance(item, LineGroup) else ()


def _joined(lines: list[Record]) -> Record:
    return lines[0] if len(lines) == 1 else LineGroup(lines)


def separate(items: Iterable[Line]) -> list[Line]:
    """Items with the lines of each group in its place."""
    found: list[Line] = []
    for item in items:
        if isinstance(item, LineGroup):
            found += item.lines
        else:
            found.append(item)
    return found
