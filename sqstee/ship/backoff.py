"""Whether a destination takes anything, and when to try it again. Pure: time and chance come in as arguments."""

from __future__ import annotations

import random
from collections.abc import Callable

from sqstee.transports.errors import REFRESH, RETRY

_BACKOFF_FIRST_SECONDS = 0.2
_BACKOFF_MOST_SECONDS = 30.0
_HURRIED_SECONDS = 1.0
_ASKED_MOST_SECONDS = 300.0  # of a Retry-After: a proxy's mistake must not stop a node for a day


class Backoff:
    """Whether the destination takes anything, and when to try again: full jitter, never a give-up."""

    def __init__(self, jitter: Callable[[float, float], float] = random.uniform) -> None:
        self._jitter = jitter
        self._failures = 0
        self._last_kind = ""
        self._most = _BACKOFF_MOST_SECONDS
        self._asked_until = 0.0
        self._refused_at = 0.0
        self.not_before = 0.0
        self.reason = ""
        self.permanent = False

    @property
    def well(self) -> bool:
        """Whether the last answer was a success (or there was none yet)."""
        return not self._failures

    def success(self) -> None:
        """Something was taken."""
        self._failures = 0
        self._last_kind = ""
        self.not_before = 0.0
        self.reason = ""
        self.permanent = False

    def failure(self, kind: str, reason: str, now: float, after: float = 0.0) -> None:
        """Something was refused; the destination asks to be left alone for `after` seconds."""
        self._failures += 1
        self._refused_at = now
        self.reason = reason
        # credentials may have just expired: only a new session that fails as well is final
        self.permanent = kind not in (RETRY, REFRESH) or (kind == REFRESH and self._last_kind == REFRESH)
        self._last_kind = kind
        most = min(self._most, _BACKOFF_FIRST_SECONDS * 2 ** min(self._failures, 12))
        wait = _BACKOFF_MOST_SECONDS if kind not in (RETRY, REFRESH) else self._jitter(0.0, most)
        self._asked_until = now + min(after, _ASKED_MOST_SECONDS)
        self.not_before = max(now + wait, self._asked_until)

    def end(self, now: float) -> None:
        """Nothing will be sent after this: what was refused for good, and not just now, is tried once more."""
        if self.permanent and now - self._refused_at >= _HURRIED_SECONDS:
            self.not_before = max(now, self._asked_until)

    def shorten(self, now: float) -> None:
        """The end is near: from here on passing trouble is waited out in steps of at most a second."""
        self._most = _HURRIED_SECONDS
        if not self.permanent:
            self.not_before = max(min(self.not_before, now + _HURRIED_SECONDS), self._asked_until)
