"""Trends of a queue's counts: rates, the time until it is empty, and warnings. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from sqstee.transports.base import QueueState

_SAMPLES = 120
_RATE_SAMPLES = 10
_BARS = "▁▂▃▄▅▆▇█"
_SHORT_VISIBILITY = 10.0  # seconds: a consumer may need longer for a slow batch
_NEAR_LIMIT = 0.8  # share of a limit
_STEADY = 0.005  # messages/s: ignore slower rates, because SQS's counts are approximate


class QueueTrend:
    """Samples of one destination over time.

    `dead_letters` counts the messages in the dead-letter queue (None: not known).
    """

    def __init__(self) -> None:
        self._samples: deque[tuple[float, QueueState]] = deque(maxlen=_SAMPLES)
        self.dead_letters: int | None = None

    def add(self, now: float, state: QueueState) -> None:
        """Add a sample at `now` (monotonic seconds)."""
        self._samples.append((now, state))

    @property
    def state(self) -> QueueState:
        """The latest sample."""
        return self._samples[-1][1]

    @property
    def history(self) -> list[int]:
        """The number of messages in each sample, in whatever state."""
        return [_total(state) for _, state in self._samples]

    @property
    def rate(self) -> float | None:
        """Messages per second added (negative: removed) over the last ten samples; None with one sample."""
        if len(self._samples) < 2:
            return None
        (then, first), (now, last) = self._samples[-min(_RATE_SAMPLES, len(self._samples))], self._samples[-1]
        return (_total(last) - _total(first)) / (now - then) if now > then else None

    @property
    def seconds_to_empty(self) -> float | None:
        """Seconds until the queue is empty at this rate; None where it is not shrinking."""
        rate, total = self.rate, _total(self.state)
        return total / -rate if rate is not None and total and -rate > _STEADY else None

    @property
    def in_flight_share(self) -> float | None:
        """Messages in flight as a share of the queue's limit; None where no limit is known."""
        limit = self.state.in_flight_limit
        return self.state.in_flight / limit if limit else None

    def warnings(self) -> list[str]:
        """Conditions that need attention, one line each."""
        state, found = self.state, []
        if state.visibility_timeout is not None and state.visibility_timeout < _SHORT_VISIBILITY:
            seconds = f"{state.visibility_timeout:g} s"
            found.append(f"the visibility timeout of {seconds} is short: slow consumers get duplicates")
        if state.visibility_timeout is not None and state.dead_letter is None:
            found.append("no dead-letter queue: an unreadable message is redelivered until its retention ends")
        if self.dead_letters:
            name = (state.dead_letter or "").rpartition(":")[2]
            found.append(f"{self.dead_letters:,} in the dead-letter queue {name}")
        if (share := self.in_flight_share) is not None and share > _NEAR_LIMIT:
            found.append(f"{share:.0%} of the in-flight limit: at the limit SQS refuses every receiver")
        if state.retention and state.oldest is not None and state.oldest > _NEAR_LIMIT * state.retention:
            found.append("retention at risk: the oldest messages are about to expire")
        if state.retention and (left := self.seconds_to_empty) and left > state.retention:
            found.append("retention at risk: at this rate messages expire unread")
        return found


def sparkline(values: Iterable[int], width: int) -> str:
    """The last `width` values as bars between 0 and the largest."""
    shown = list(values)[-width:] if width > 0 else []
    top = max(shown, default=0)
    return "".join(_BARS[-(-value * (len(_BARS) - 1) // max(1, top))] for value in shown)


def _total(state: QueueState) -> int:
    return state.visible + state.in_flight + state.delayed
