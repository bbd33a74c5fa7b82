"""The streams and events of a run, rebuilt from the bodies that were shipped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sqstee.wire import Event, Record, decode


class Rebuilt:
    """Both streams and the events of one run, rebuilt from the bodies that were shipped.

    Duplicates are dropped by seq, as readers do, and counted.
    """

    def __init__(self, bodies: Iterable[tuple[str | bytes, Mapping[str, str]]]) -> None:
        self._fill(item for data, attributes in bodies for item in decode(data, dict(attributes)))

    @classmethod
    def of_many(cls, bodies: Iterable[tuple[str | bytes, Mapping[str, str]]]) -> dict[str, Rebuilt]:
        """One for each run, from bodies that hold the lines of several runs."""
        items: dict[str, list[Record | Event]] = {}
        for data, attributes in bodies:
            for item in decode(data, dict(attributes)):
                items.setdefault(item.run, []).append(item)
        rebuilt = {run: cls([]) for run in items}
        for run, one in rebuilt.items():
            one._fill(items[run])
        return rebuilt

    def _fill(self, items: Iterable[Record | Event]) -> None:
        found: dict[int, Record | Event] = {}
        self.duplicates = 0
        for item in items:
            self.duplicates += item.seq in found
            if isinstance(found.setdefault(item.seq, item), Event) and isinstance(item, Record):
                found[item.seq] = item  # a record beats the gap event in its place
        self.items = [found[seq] for seq in sorted(found)]
        self.events = [item for item in self.items if isinstance(item, Event)]
        self.records = [item for item in self.items if isinstance(item, Record)]

    def stream(self, name: str) -> bytes:
        """The bytes of one stream."""
        return b"".join(record.data for record in self.records if record.stream == name)

    @property
    def stdout(self) -> bytes:
        """The bytes of stdout."""
        return self.stream("stdout")

    @property
    def stderr(self) -> bytes:
        """The bytes of stderr."""
        return self.stream("stderr")

    def assert_whole(self) -> None:
        """It is one run without a missing seq, from its start to its exit event; a slow one may send heartbeats."""
        self.assert_without_holes()
        assert [event.event for event in self.events if event.event not in ("gap", "alive")] == ["start", "exit"]
        assert isinstance(self.items[-1], Event)

    def assert_without_holes(self) -> None:
        """It is one run, and a record or an event covers every seq from 0 on."""
        assert len({item.run for item in self.items}) == 1
        expected = 0
        for item in self.items:
            assert item.seq == expected
            expected = (item.last if isinstance(item, Event) else item.seq) + 1
