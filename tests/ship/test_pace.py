"""When a partial request leaves, on a clock of its own."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sqstee.ship.pace import COLLECT_SECONDS, Pace

LINGER = 1.0


def departures(lines: list[float], round_trip: float = 0.02) -> list[float]:
    """When the partial requests leave for lines that come at these times."""
    pace, found, at, flying = Pace(LINGER), [], 0, 0.0
    now = lines[0]
    while at < len(lines) or pace.due(0) is not None:
        if at < len(lines) and lines[at] <= now:
            pace.waiting(now)
            at += 1
            continue
        due = pace.due(int(flying > now))
        if due is not None and due <= now:
            pace.partial_left(now, False)
            found.append(now)
            flying = now + round_trip
            continue
        now = min([time for time in (*lines[at : at + 1], due, flying) if time is not None and time > now])
    return found


def test_the_first_line_after_silence_leaves_at_once() -> None:
    """Nothing waits longer than a burst takes to be collected."""
    assert departures([5.0]) == [5.0 + COLLECT_SECONDS]
    assert departures([5.0, 50.0]) == [5.0 + COLLECT_SECONDS, 50.0 + COLLECT_SECONDS]


def test_what_can_wait_waits_for_others_and_leaves_with_lines() -> None:
    """The heartbeats of many runs share a request; a line that comes meanwhile is not held up."""
    pace = Pace(LINGER)
    for late in (0.0, 0.2, 0.9):
        pace.waiting(5.0 + late, can_wait=True)
    assert pace.due(0) == 5.0 + LINGER
    pace.waiting(5.95)
    pace.waiting(5.96, can_wait=True)
    assert pace.due(0) == 5.95 + COLLECT_SECONDS
    pace.partial_left(6.0, False)
    assert pace.due(0) is None


def test_the_rest_of_a_burst_leaves_at_once_too() -> None:
    """What comes while the first request is collected or on its way needs no linger."""
    found = departures([n / 1000 for n in range(60)])
    assert len(found) == 2
    assert found[-1] < 0.1


@given(st.floats(0.0, 0.9))
def test_a_line_per_linger_is_never_kept_waiting(late: float) -> None:
    """Also when the first was sent late: each line that comes once per linger leaves as it comes."""
    pace = Pace(LINGER)
    pace.waiting(0.0)
    pace.partial_left(late, False)
    for number in range(1, 50):
        pace.waiting(float(number))
        due = pace.due(0)
        assert due is not None
        assert due <= max(late, number) + COLLECT_SECONDS
        pace.partial_left(due, False)


@given(st.lists(st.floats(0.0, 30.0), min_size=1, max_size=300), st.floats(0.001, 0.5))
def test_a_trickle_costs_at_most_one_request_per_linger(times: list[float], round_trip: float) -> None:
    """In any stretch of time: one for each linger in it, and one in advance; and no line waits for ever."""
    found = departures(sorted(times), round_trip)
    for first, start in enumerate(found):
        for last, end in enumerate(found[first:], first):
            assert last - first + 1 <= (end - start) / LINGER + 2 + 1e-6
    assert found[-1] <= max(times) + 3 * LINGER
