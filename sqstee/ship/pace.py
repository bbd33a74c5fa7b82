"""When a partial request is due. Pure: time comes in as an argument."""

from __future__ import annotations

COLLECT_SECONDS = 0.03  # lines that a burst writes within this time leave in one request


class Pace:
    """When a partial request leaves; a full one leaves at once. Times are seconds of the monotonic clock.

    A partial request leaves when no request is in flight, 30 ms have passed since its first line, and the rate stays
    within one partial request per `linger` plus one in advance. It leaves in any case when its oldest line is three
    times `linger` old.

    So the first lines after silence leave at once, a burst fills bodies, and a trickle costs one request per linger.
    Without the one in advance, lines that come once per linger would each wait for the end of theirs.

    Lines that can wait, such as heartbeats, wait one linger for other lines, and leave with any that come meanwhile.
    """

    def __init__(self, linger: float) -> None:
        self.linger = linger
        self._paid_until = -1e9  # each partial request that leaves adds one linger
        self._since: float | None = None
        self._can_wait = False

    def waiting(self, now: float, can_wait: bool = False) -> None:
        """Note that a line waits to be sent, or with `can_wait` something that is not pressing."""
        if self._since is None or (self._can_wait and not can_wait):
            self._since, self._can_wait = now, can_wait

    def full_left(self, now: float, waiting: bool) -> None:
        """Note that a full request has left; `waiting` says whether lines remain."""
        self._since = now if waiting else None

    def partial_left(self, now: float, waiting: bool) -> None:
        """Note that a partial request has left; `waiting` says whether lines remain."""
        self._paid_until = max(self._paid_until, now) + self.linger
        self._since = now if waiting else None

    def due(self, in_flight: int) -> float | None:
        """The time at which the partial request may leave; None while no line waits."""
        if self._since is None:
            return None
        collected = self._since + max(COLLECT_SECONDS, self.linger if self._can_wait else 0.0)
        latest = max(self._since + 3 * self.linger, collected)
        if in_flight:
            return latest
        return min(latest, max(collected, self._paid_until - self.linger))
