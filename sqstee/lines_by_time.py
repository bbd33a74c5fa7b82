"""How many lines of a run came when, in few enough numbers to keep beside a run and to draw. Pure."""

from __future__ import annotations

MOST_COUNTS = 48
_MOST_NUMBER = 2**53  # JSON readers keep integers up to here exact
_MOST_TIME = 2**40  # in seconds since the epoch


class LinesByTime:
    """Counts of the lines that came in equal stretches of time, from the first to the last one.

    A stretch takes a second at first, and twice as long whenever they would be more than MOST_COUNTS: a run's whole
    life stays in sight. Stretches begin at multiples of their length since the epoch, so that the counts do not depend
    on the order in which lines are added. The first of `counts` is that of the stretch with the number `first`.
    """

    __slots__ = ("counts", "first", "seconds")

    def __init__(self) -> None:
        self.seconds = 1
        self.first = 0
        self.counts: list[int] = []

    @property
    def began(self) -> int:
        """When the first stretch began, in seconds since the epoch."""
        return self.first * self.seconds

    def add(self, at: float, number: int) -> None:
        """Add lines that came `at`, in seconds since the epoch."""
        place = int(min(max(at, 0.0), _MOST_TIME)) // self.seconds
        first, last = (self.first, self.first + len(self.counts) - 1) if self.counts else (place, place)
        first, last = min(first, place), max(last, place)
        while last - first >= MOST_COUNTS:
            self._double()
            place, first, last = place // 2, first // 2, last // 2
        if self.counts:
            self.counts[:0] = [0] * (self.first - first)
        self.counts += [0] * (last - first + 1 - len(self.counts))
        self.first = first
        self.counts[place - first] += number

    def merge(self, other: LinesByTime) -> None:
        """Add the counts of other lines."""
        while self.seconds < other.seconds:
            self._double()
        for at, number in enumerate(other.counts, other.first):
            if number:
                self.add(at * other.seconds, number)

    def dump(self) -> list[object]:
        """All of it as JSON, for load()."""
        return [self.seconds, self.first, self.counts]

    @classmethod
    def load(cls, found: object) -> LinesByTime:
        """The inverse of dump(). Raises ValueError or TypeError for a value that dump() cannot have made."""
        made = cls()
        made.seconds, made.first, made.counts = found  # type: ignore[misc]
        numbers = [made.seconds, made.first, *made.counts]
        if type(made.counts) is not list or len(numbers) > MOST_COUNTS + 2 or {*map(type, numbers)} != {int}:
            raise ValueError("not the counts of stretches")
        is_bounded = max(made.seconds, made.began) <= _MOST_TIME and max(numbers) <= _MOST_NUMBER
        if min(numbers) < 0 or made.seconds.bit_count() != 1 or not is_bounded:
            raise ValueError("impossible counts or times")
        return made

    def _double(self) -> None:
        """Make stretches that are twice as long, each from two."""
        if self.first % 2:
            self.counts.insert(0, 0)
        if len(self.counts) % 2:
            self.counts.append(0)
        self.counts = [one + other for one, other in zip(self.counts[::2], self.counts[1::2], strict=True)]
        self.first //= 2
        self.seconds *= 2
