"""The last stderr lines of runs, read in one pass."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from sqstee.read.decode import ForeignLine, Item
from sqstee.read.raw_lines import RawLines
from sqstee.wire import Record

_STDERR = b'"stream":"stderr"'


class LastLines:
    """Accepts a follower's items, and keeps the last `number` stderr lines of each of the `runs`, by their ids."""

    def __init__(self, runs: Iterable[str], number: int) -> None:
        self.lines: dict[str, deque[str]] = {run: deque(maxlen=number) for run in runs}

    def items(self, items: Sequence[Item | ForeignLine], late: bool = False) -> None:
        """Keep lines; late ones are left out, since they are not the last."""
        if late or (isinstance(items, RawLines) and (items.run not in self.lines or _STDERR not in items.data)):
            return
        for item in items:
            if isinstance(item, Record) and item.stream == "stderr" and item.run in self.lines:
                self.lines[item.run].append(item.message)

    def notice(self, text: str, **fields: object) -> None:
        """Ignore it: the list of runs shows missing lines."""

    def flush(self) -> None:
        """Do nothing: the lines are shown at the end."""
