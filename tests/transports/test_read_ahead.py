"""Reading ahead: in order whatever comes first, within a bound, and a failure is told in its place."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from support import wait_for

from sqstee.transports.read_ahead import ReadAhead


class Reader:
    """Reads numbers: each read begins when it is asked for, and ends when it is let go."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.failing: set[int] = set()
        self._gates: dict[int, threading.Event] = {}
        self._lock = threading.Lock()

    def __call__(self, number: int) -> bytes:
        """Read a number."""
        with self._lock:
            self.begun.append(number)
        assert self.gate(number).wait(20)
        if number in self.failing:
            raise OSError(number)
        return b"%d" % number

    def gate(self, number: int) -> threading.Event:
        """What a read waits for."""
        with self._lock:
            return self._gates.setdefault(number, threading.Event())

    def let_go(self, *numbers: int) -> None:
        """Let reads end."""
        for number in numbers:
            self.gate(number).set()


@pytest.fixture
def reader() -> Iterator[Reader]:
    """A reader, none of whose reads is left waiting."""
    found = Reader()
    yield found
    found.let_go(*range(100))


def taken(ahead: ReadAhead[int, bytes], limit: int = 10) -> list[int]:
    """The numbers that can be taken."""
    return [int(data or b"") for _, data in ahead.take(limit)]


def test_the_order_is_that_of_the_items(reader: Reader) -> None:
    """Whichever read ends first; several run at a time, and no more than there are threads."""
    ahead = ReadAhead(reader, 3, 100)
    ahead.add((number, 1) for number in range(5))
    wait_for(lambda: len(reader.begun) == 3, "three reads")
    reader.let_go(2, 1)
    wait_for(lambda: len(reader.begun) == 5, "all reads")
    assert sorted(reader.begun) == [0, 1, 2, 3, 4]
    reader.let_go(0)
    assert taken(ahead, 1) == [0]
    assert taken(ahead, 2) == [1, 2]
    reader.let_go(4, 3)
    assert taken(ahead, 1) + taken(ahead, 1) == [3, 4]
    assert ahead.take(10) == []


def test_what_waits_to_be_taken_is_bounded(reader: Reader) -> None:
    """By its bytes; an item above the bound is read all the same, once it is the next one."""
    reader.let_go(*range(10))
    ahead = ReadAhead(reader, 4, 100)
    ahead.add([(0, 40), (1, 40), (2, 40), (3, 500), (4, 40)])
    wait_for(lambda: len(reader.begun) == 2, "two reads")
    assert taken(ahead, 1) == [0]
    wait_for(lambda: len(reader.begun) == 3, "a third read")
    assert taken(ahead, 1) + taken(ahead, 1) == [1, 2]
    assert taken(ahead) == [3]
    assert taken(ahead) == [4]
    assert reader.begun == [0, 1, 2, 3, 4]


def test_a_failure_is_told_where_its_item_would_have_been(reader: Reader) -> None:
    """After it nothing more is read until somebody takes again: who was told may wait first."""
    reader.failing = {1, 2}
    ahead = ReadAhead(reader, 3, 100)
    ahead.add((number, 1) for number in range(6))
    wait_for(lambda: len(reader.begun) == 3, "three reads")
    reader.let_go(2, 1)
    wait_for(lambda: ahead._has_failed, "a failure")
    reader.let_go(0)
    assert taken(ahead) == [0]
    for _ in range(2):
        with pytest.raises(OSError, match="1"):
            ahead.take(10)
    assert set(reader.begun) == {0, 1, 2}
    reader.failing = set()
    reader.let_go(3, 4, 5)
    assert [number for _ in range(5) for number in taken(ahead, 1)] == [1, 2, 3, 4, 5]


def test_what_is_gone_takes_its_turn(reader: Reader) -> None:
    """None is an answer."""
    ahead = ReadAhead[int, bytes | None](lambda number: None if number else b"0", 2, 100)
    ahead.add([(0, 1), (1, 1)])
    assert [one for _ in range(2) for one in ahead.take(1)] == [(0, b"0"), (1, None)]


def test_it_ends_when_it_is_closed(reader: Reader) -> None:
    """Threads that have nothing to do as well; whoever waits for an item is told that there is none."""
    before = threading.active_count()
    ahead = ReadAhead(reader, 3, 100)
    ahead.add((number, 1) for number in range(2))
    found: list[list[int]] = []
    taker = threading.Thread(target=lambda: found.append(taken(ahead)))
    taker.start()
    wait_for(lambda: len(reader.begun) == 2, "reads")
    ahead.close()
    taker.join()
    assert found == [[]]
    reader.let_go(0, 1)
    wait_for(lambda: threading.active_count() == before, "the end of the threads")
