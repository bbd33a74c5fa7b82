"""When a partial request is due. Pure: time comes in as an argument."""

from __future__ import annotations

COLLECT_SECONDS = 0.03  # what one burst writes within this time leaves in one request


class Pace:
    """When a partial request leaves (a full one leaves at once). Seconds, monotonic.

    It leaves when nothing is in flight, 30 ms have passed since its first line, and no more have left than one for
    each `linger` and one in advance; or when its oldest line is three times `linger` old. So the first lines after
    silence leave at once, a burst gets full bodies, and a trickle costs one request per linger. The one in advance
    keeps lines that come once per linger from waiting for the rest of it each time.
    """

    def __init__(self, linger: float) -> None:
        self.linger = linger
        self._paid_until = -1e9  # one linger for each that has left, from when it was due
        self._since: float | None = None

    def waiting(self, now: float) -> None:
        """There is a line that has not been sent."""
        if self._since is None:
            self._since = now

    def full_left(self, now: float, waiting: bool) -> None:
        """A full request has left; `waiting` says whether lines are left over."""
        self._since = now if waiting else None

    def partial_left(self, now: float, waiting: bool) -> None:
        """A partial request has left."""
        self._paid_until = max(self._paid_until, now) + self.linger
        self._since = now if waiting else None

    def due(self, in_flight: int) -> float | None:
        """The time at which the partial request may leave; None while nothing waits."""
        if self._since is None:
            return None
        latest = max(self._since + 3 * self.linger, self._since + COLLECT_SECONDS)
        if in_flight:
            return latest
        return min(latest, max(self._since + COLLECT_SECONDS, self._paid_until - self.linger))
