"""sqstee.lines_by_time: the same counts in whatever order lines come, of bounded number."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sqstee.lines_by_time import MOST_COUNTS, LinesByTime

TIMES = st.lists(st.tuples(st.integers(0, 2**40) | st.integers(1000, 1200), st.integers(1, 9)), max_size=60)


def counted(additions: list[tuple[int, int]]) -> LinesByTime:
    """The counts after these additions."""
    found = LinesByTime()
    for at, number in additions:
        found.add(at, number)
    return found


@given(TIMES)
def test_the_order_makes_no_difference(additions: list[tuple[int, int]]) -> None:
    """Each line is in the stretch of its time, and there are as many stretches as are needed."""
    found = counted(additions)
    assert found.dump() == counted(sorted(additions)).dump() == counted(additions[::-1]).dump()
    places = [at // found.seconds for at, _ in additions]
    for place, number in enumerate(found.counts, found.first):
        assert number == sum(lines for at, lines in additions if at // found.seconds == place)
    assert len(found.counts) == (max(places) - min(places) + 1 if places else 0) <= MOST_COUNTS
    if found.seconds > 1:  # shorter ones would be too many
        halves = [at // (found.seconds // 2) for at, _ in additions]
        assert max(halves) - min(halves) >= MOST_COUNTS
    again = LinesByTime.load(json.loads(json.dumps(found.dump())))
    assert again.dump() == found.dump()


def test_a_run_of_a_day() -> None:
    """A line a minute: stretches of about half an hour."""
    found = counted([(1_790_000_000 + 60 * minute, 1) for minute in range(24 * 60)])
    assert (found.seconds, sum(found.counts)) == (2048, 1440)
    assert found.began <= 1_790_000_000 < found.began + found.seconds
    assert set(found.counts[1:-1]) <= {34, 35}


def test_counts_of_two_are_added() -> None:
    """A long run and a short one."""
    found, other = counted([(1000, 1), (1010, 2)]), counted([(990, 5), (9000, 3)])
    found.merge(other)
    assert (sum(found.counts), found.seconds) == (11, other.seconds)


@pytest.mark.parametrize(
    "value",
    [
        *(None, 7, "abc", {}, [], [1, 2], [1, 2, 3], [1, 2, [3], 4], [3, 0, []], [0, 0, []], [-1, 0, []], [1, -1, []]),
        *([1, 0, [-1]], [1, 0, [1.5]], [1, 0, ["1"]], [1, 0, [True]], [1, 0, [2**60]], [1, 0, [0] * 49]),
        *([2**50, 0, []], [2**39, 4, []], [1.0, 0, []], [1, 0, "12"], [1, 0, {"1": 2}], [float("nan"), 0, []]),
    ],
)
def test_what_somebody_else_wrote_is_refused(value: object) -> None:
    """A store may be anybody's file."""
    with pytest.raises((ValueError, TypeError)):
        LinesByTime.load(value)


@pytest.mark.parametrize("at", [-5.0, 0.0, 1e300, float("inf")])
def test_odd_times(at: float) -> None:
    """They are counted at the end of time that is nearest."""
    found = counted([(1_790_000_000, 1)])
    found.add(at, 2)
    assert sum(found.counts) == 3
    assert len(found.counts) <= MOST_COUNTS
    LinesByTime.load(found.dump())
