"""sqstee.intervals against a plain set, and sqstee.backoff's bounds."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from sqstee.backoff import full_jitter
from sqstee.intervals import IntervalSet

RANGES = st.tuples(st.integers(0, 30), st.integers(0, 8)).map(lambda pair: (pair[0], pair[0] + pair[1]))


@given(st.lists(st.tuples(st.booleans(), RANGES)), RANGES)
def test_an_interval_set_is_a_set(steps: list[tuple[bool, tuple[int, int]]], asked: tuple[int, int]) -> None:
    """Whatever is added and removed: the same members, as few intervals as possible, in order."""
    found, model = IntervalSet(), set[int]()
    for adds, (first, last) in steps:
        numbers = {*range(first, last + 1)}
        if adds:
            found.add(first, last)
            model |= numbers
        else:
            removed = [number for a, b in found.remove(first, last) for number in range(a, b + 1)]
            assert removed == sorted(model & numbers)
            model -= numbers
        assert [number for a, b in found.intervals for number in range(a, b + 1)] == sorted(model)
        assert all(left[1] + 1 < right[0] for left, right in pairwise(found.intervals))
        assert found.size == len(model)
    holes = [number for a, b in found.holes(*asked) for number in range(a, b + 1)]
    assert holes == sorted({*range(asked[0], asked[1] + 1)} - model)
    assert found.covers(*asked) == (model >= {*range(asked[0], asked[1] + 1)})
    interval = found.containing(asked[0])
    assert (interval is not None) == (asked[0] in model)
    assert interval is None or interval in found.intervals


@given(st.integers(0, 10**6), st.floats(0.01, 10.0), st.floats(0.01, 100.0))
def test_full_jitter_doubles_up_to_its_limit(attempt: int, first: float, most: float) -> None:
    """Between 0 and first × 2^attempt, and never above the limit, however many attempts failed."""
    assert full_jitter(attempt, first, most, lambda low, high: low) == 0.0
    longest = full_jitter(attempt, first, most, lambda low, high: high)
    assert longest == min(most, first * 2.0 ** min(attempt, 30))
    assert 0.0 <= full_jitter(attempt, first, most) <= longest
