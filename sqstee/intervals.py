"""Sets of integers, such as a run's seqs, kept as intervals. Pure."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from operator import itemgetter

Interval = tuple[int, int]  # first and last, both included

_FIRST = itemgetter(0)
_LAST = itemgetter(1)


class IntervalSet:
    """A set of integers as sorted, disjoint, non-adjacent intervals.

    `size` is the number of integers. Memory grows with the number of intervals, not with the size.
    """

    __slots__ = ("intervals", "size")

    def __init__(self) -> None:
        self.intervals: list[Interval] = []
        self.size = 0

    def add(self, first: int, last: int) -> None:
        """Add first..last; part of it may be in the set already."""
        low = bisect_left(self.intervals, first - 1, key=_LAST)
        high = bisect_right(self.intervals, last + 1, low, key=_FIRST)
        merged = self.intervals[low:high]
        if merged:
            first, last = min(first, merged[0][0]), max(last, merged[-1][1])
        self.intervals[low:high] = [(first, last)]
        self.size += last - first + 1 - _size(merged)

    def remove(self, first: int, last: int) -> list[Interval]:
        """Remove first..last; return those parts of it that were in the set."""
        low = bisect_left(self.intervals, first, key=_LAST)
        high = bisect_right(self.intervals, last, low, key=_FIRST)
        hit = self.intervals[low:high]
        if hit:
            left, right = (hit[0][0], first - 1), (last + 1, hit[-1][1])
            self.intervals[low:high] = [part for part in (left, right) if part[0] <= part[1]]
        removed = [(max(a, first), min(b, last)) for a, b in hit]
        self.size -= _size(removed)
        return removed

    def containing(self, number: int) -> Interval | None:
        """The interval that contains a number; None where the number is not in the set."""
        at = bisect_left(self.intervals, number, key=_LAST)
        found = self.intervals[at] if at < len(self.intervals) else None
        return found if found and found[0] <= number else None

    def holes(self, first: int, last: int) -> list[Interval]:
        """The parts of first..last that are not in the set."""
        low = bisect_left(self.intervals, first, key=_LAST)
        high = bisect_right(self.intervals, last, low, key=_FIRST)
        found = []
        for start, end in self.intervals[low:high]:
            if first < start:
                found.append((first, start - 1))
            first = end + 1
        return [*found, (first, last)] if first <= last else found

    def covers(self, first: int, last: int) -> bool:
        """Whether all of first..last is in the set."""
        found = self.containing(first)
        return found is not None and last <= found[1]


NOTHING = IntervalSet()  # shared by all who may never have a member: use `with_added` on it, never `add`


def with_added(members: IntervalSet, first: int, last: int) -> IntervalSet:
    """`members` after adding first..last to it, or to a new set in place of NOTHING."""
    if members is NOTHING:
        members = IntervalSet()
    members.add(first, last)
    return members


def _size(intervals: list[Interval]) -> int:
    return sum(last - first + 1 for first, last in intervals)
