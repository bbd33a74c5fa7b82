"""How many requests are in flight, on a way of a given round trip and bandwidth."""

from __future__ import annotations

import pytest

from sqstee.ship.congestion_window import CongestionWindow
from sqstee.ship.sender_pool import IN_FLIGHT, MAX_IN_FLIGHT, SenderPool
from sqstee.transports.base import BatchLimits, ObjectLimits


def flood(window: CongestionWindow, round_trip: float, per_request: float, answers: int = 200) -> int:
    """A backlog, on a way that takes `per_request` seconds of each request; how many are in flight in the end."""
    window.answered(round_trip + per_request, 1, True)
    for _ in range(answers):
        window.answered(max(round_trip + per_request, window.size * per_request), window.size, False)
    return window.size


@pytest.mark.parametrize(
    ("round_trip", "per_request", "least", "most"),
    [
        pytest.param(0.0, 0.008, 4, 4, id="beside us"),
        pytest.param(0.02, 0.008, 4, 8, id="near"),
        pytest.param(0.1, 0.008, 14, 16, id="far"),
        pytest.param(0.3, 0.001, 16, 16, id="farther than memory allows"),
        pytest.param(0.1, 0.8, 4, 4, id="far, on a slow link"),
    ],
)
def test_bandwidth_times_delay_and_a_few(round_trip: float, per_request: float, least: int, most: int) -> None:
    """What fills the way is in flight; more would hold memory, and share a slow link until all of it times out."""
    assert least <= flood(CongestionWindow(IN_FLIGHT, MAX_IN_FLIGHT), round_trip, per_request) <= most


def test_a_slower_destination_gets_less() -> None:
    """The answers take longer, the round trip does not: those that wait there are not replaced."""
    window = CongestionWindow(IN_FLIGHT, MAX_IN_FLIGHT)
    assert flood(window, 0.1, 0.008) > 12
    for _ in range(200):
        window.answered(window.size * 0.1, window.size, False)
    assert window.size <= IN_FLIGHT + 1


def test_throttling_halves_it() -> None:
    """Never below the least: one at a time is the back-off's business."""
    window = CongestionWindow(IN_FLIGHT, MAX_IN_FLIGHT)
    assert flood(window, 0.3, 0.001) == 16
    sizes = []
    for _ in range(3):
        window.congested()
        sizes.append(window.size)
    assert sizes == [8, 4, 4]


def test_a_trickle_does_not_open_it() -> None:
    """Answers that were not all that might have been in flight say nothing of what more would do."""
    window = CongestionWindow(IN_FLIGHT, MAX_IN_FLIGHT)
    for _ in range(100):
        window.answered(0.1, 1, True)
    assert window.size == IN_FLIGHT


def test_a_new_route_is_noticed() -> None:
    """The shortest time of an earlier route would make all later ones look congested."""
    window = CongestionWindow(IN_FLIGHT, MAX_IN_FLIGHT)
    assert flood(window, 0.001, 0.008) == IN_FLIGHT
    assert flood(window, 0.1, 0.008) > 12


def test_an_answer_may_take_no_time() -> None:
    """Of a clock that does not advance."""
    window = CongestionWindow(IN_FLIGHT, MAX_IN_FLIGHT)
    window.answered(0.0, IN_FLIGHT, True)
    assert window.size == IN_FLIGHT


class Queue(BatchLimits):
    """A destination that is never called."""

    ordered = False


class Ordered(Queue):
    """A FIFO queue."""

    ordered = True


class Objects(ObjectLimits):
    """A bucket."""

    ordered = False


@pytest.mark.parametrize(("kind", "least", "most"), [(Queue, 4, 16), (Ordered, 1, 1), (Objects, 4, 4)])
def test_as_many_as_order_and_memory_allow(kind: type, least: int, most: int) -> None:
    """16 MiB, in requests of 1 MiB or objects of 4; where the order is kept, one at a time."""
    senders = SenderPool(kind())
    assert senders.window.size == least
    assert flood(senders.window, 0.3, 0.001) == most
    senders.close()
