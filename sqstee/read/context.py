"""Lines around those that a filter selects, of the same run. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from sqstee.read.decode import ForeignLine, Item
from sqstee.read.filter import Filter
from sqstee.read.raw_lines import RawLines

_MOST_RUNS = 10_000  # of which lines are remembered; a run that is forgotten shows fewer lines


class Context:
    """Adds up to `before` and `after` lines of its run to each line that a filter selects."""

    def __init__(self, before: int, after: int) -> None:
        self._before, self._after = before, after
        self._past: dict[str, deque[Item | ForeignLine]] = {}  # by run: the latest lines that were not shown
        self._due: dict[str, int] = {}  # by run: the lines to show whatever they are

    def select(self, items: Sequence[Item | ForeignLine], wanted: Filter) -> list[Item | ForeignLine]:
        """The wanted items, and those around them, in order."""
        if isinstance(items, RawLines) and items.run not in self._due and not wanted.select(items):
            self._remember(items.run, items[max(0, len(items) - self._before) :] if self._before else ())
            return []
        shown: list[Item | ForeignLine] = []
        for item in items:
            run = item.run
            if wanted(item):
                shown += self._past.pop(run, ())
                shown.append(item)
                if self._after:
                    self._due[run] = self._after
            elif run in self._due:
                shown.append(item)
                self._due[run] -= 1
                if not self._due[run]:
                    del self._due[run]
            else:
                self._remember(run, (item,))
        while len(self._due) > _MOST_RUNS:
            del self._due[next(iter(self._due))]
        return shown

    def _remember(self, run: str, items: Sequence[Item | ForeignLine]) -> None:
        if not self._before:
            return
        past = self._past.pop(run, None) or deque(maxlen=self._before)
        past.extend(items)
        self._past[run] = past
        if len(self._past) > _MOST_RUNS:
            del self._past[next(iter(self._past))]
