"""The runs that failed, by their exit events."""

from __future__ import annotations

from collections.abc import Sequence

from sqstee.read.decode import ForeignLine, Item, is_failure
from sqstee.read.filter import Filter
from sqstee.read.raw_lines import RawLines
from sqstee.wire import Event


class FailedRuns:
    """Notes each run that `wanted` selects and whose exit event, not older than `since`, tells of a failure."""

    def __init__(self, wanted: Filter, since: str = "") -> None:
        self._wanted, self._since = wanted, since
        self.runs: set[str] = set()

    def items(self, items: Sequence[Item | ForeignLine], late: bool = False) -> None:
        """Look at the events among items."""
        if not isinstance(items, RawLines):
            self.runs.update(item.run for item in items if isinstance(item, Event) and self._is_noted(item))

    def _is_noted(self, event: Event) -> bool:
        return is_failure(event) and event.timestamp >= self._since and self._wanted.wants_run(event)

    def notice(self, text: str, **fields: object) -> None:
        """Pass over a notice: whoever reads the runs' lines gets it."""

    def flush(self) -> None:
        """Do nothing."""
