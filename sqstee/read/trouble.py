"""Transient trouble with a destination: how long it is tolerated, and how it is reported."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from math import ceil, inf
from typing import TypeVar

from sqstee.backoff import full_jitter
from sqstee.transports.errors import NOT_RETRIEVED, OPEN, POISON, REFRESH, SIZE, TransportError

T = TypeVar("T")

START_SECONDS = 30.0
BACKOFF_FIRST_SECONDS = 0.2
BACKOFF_MOST_SECONDS = 30.0
_CALM_SECONDS = 5.0  # trouble is over after working for so long: until then it is one and the same
_REFUSED_SECONDS = 30.0  # a reader that ends before reports what was refused at its end, in one line with the number
_REFUSED_CREDENTIALS = 2  # attempts with credentials that are missing or refused: the second one looks for new ones


class Trouble:
    """Reports trouble once when it begins, at its second failure, and once when it is over.

    A refusal for good is reported once, half a minute later.
    """

    def __init__(self, what: str, notice: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._what, self._notice, self._clock = what, notice, clock
        self._lock = threading.Lock()
        self._failures = 0
        self._since = 0.0
        self._works_since: float | None = None  # None: the last call has failed
        self._refusal: tuple[str, float] | None = None  # the first one, and when it came
        self._is_told = False  # of that refusal

    @property
    def is_failing(self) -> bool:
        """Whether the last call has failed, or one was refused for good."""
        return self._refusal is not None or (self._failures > 0 and self._works_since is None)

    def failed(self, reason: object, left: float = inf) -> None:
        """A call has failed, and is tried again for at most `left` seconds."""
        with self._lock:
            self._since = self._since if self._failures else self._clock()
            self._failures += 1
            self._works_since = None
            if self._failures == 2:
                limit = "" if left == inf else f" for up to {ceil(left)} s"
                self._notice(f"{self._what} fails, and is tried again{limit}: {reason}")

    def refused(self, reason: object) -> None:
        """A call was refused for good, and so will each further one."""
        with self._lock:
            self._refusal = self._refusal or (str(reason), self._clock())

    def succeeded(self) -> None:
        """A call has succeeded."""
        if not self._failures:
            return
        with self._lock:
            if self._works_since is None:
                self._works_since = self._clock()
        self.check()

    def check(self) -> None:
        """Report the end of the trouble, if it is over, and a refusal half a minute after it."""
        with self._lock:
            if self._refusal and not self._is_told and self._clock() - self._refusal[1] >= _REFUSED_SECONDS:
                self._is_told = True
                self._notice(f"{self._what} is refused: {self._refusal[0]}")
            if not self._failures or self._works_since is None or self._clock() - self._works_since < _CALM_SECONDS:
                return
            if self._failures > 1:
                self._notice(f"{self._what} works again, after {self._works_since - self._since:.0f} s of trouble")
            self._failures = 0


def is_final(error: TransportError, attempt: int, at_start: bool) -> bool:
    """Whether an error names a mistake, which no retry can fix; `attempt` counts the failures in a row.

    Credentials that are missing or refused are a mistake at the start; later they are renewed sooner or later.
    """
    if error.kind != REFRESH:
        return error.kind in (OPEN, POISON, SIZE)
    return at_start and attempt >= _REFUSED_CREDENTIALS and error.code != NOT_RETRIEVED


def pause_after(attempt: int, left: float = inf) -> float:
    """Seconds to wait after `attempt` failures in a row, with `left` seconds for all further attempts."""
    return min(full_jitter(attempt, BACKOFF_FIRST_SECONDS, BACKOFF_MOST_SECONDS), max(0.0, left))


def persist(call: Callable[[], T], trouble: Trouble, pause: Callable[[float], None], seconds: float = inf) -> T:
    """The result of a call, which is repeated while its trouble may pass, but for no more than `seconds`.

    Raises TransportError.
    """
    started, attempt = time.monotonic(), 0
    while True:
        try:
            found = call()
        except TransportError as error:
            attempt += 1
            left = seconds - (time.monotonic() - started)
            if left <= 0 or is_final(error, attempt, at_start=seconds != inf):
                raise
            trouble.failed(error, left)
            pause(pause_after(attempt, left))
        else:
            trouble.succeeded()
            return found
