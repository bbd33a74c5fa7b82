"""How many requests may be in flight: bandwidth times delay, found as TCP Vegas finds it. Pure."""

from __future__ import annotations

_FEW = 2  # while fewer requests wait on the way, one more in flight delivers more (alpha of TCP Vegas)
_MANY = 4  # while more wait, one less in flight delivers as much (beta of TCP Vegas)


class CongestionWindow:
    """The number of requests that may be in flight, `size`: from `least` to `most`.

    A request whose answer takes longer than the shortest so far has waited for the rest of that time: for the link, the
    destination or the processor. The window grows while all of it is in use and few of its requests wait, so that a
    long round trip is filled and a slow link is not. It shrinks while many wait, and is halved when the destination
    throttles or does not answer.
    """

    def __init__(self, least: int, most: int) -> None:
        self.size = self._least = least
        self._most = most
        self._shortest = float("inf")  # seconds

    def answered(self, seconds: float, in_flight: int, alone: bool) -> None:
        """A request was answered after `seconds`, one of `in_flight` at that moment.

        If it left `alone` it did not wait for others, and sets the shortest time anew: routes change.
        """
        self._shortest = seconds if alone else min(self._shortest, seconds)
        if in_flight < self.size:
            return
        waiting_seconds = self.size * (seconds - self._shortest)  # `seconds` may be zero: no division
        if waiting_seconds < _FEW * seconds:
            self.size = min(self._most, self.size + 1)
        elif waiting_seconds > _MANY * seconds:
            self.size = max(self._least, self.size - 1)

    def congested(self) -> None:
        """The destination throttles, or does not answer in time."""
        self.size = max(self._least, self.size // 2)
