"""Exponential back-off with full jitter. Time and chance come in as arguments."""

from __future__ import annotations

import random
from collections.abc import Callable

from sqstee.backoff import full_jitter
from sqstee.trace import trace
from sqstee.transports.errors import REFRESH, RETRY

_FIRST_SECONDS = 0.2
_MAX_SECONDS = 30.0
_SHORTENED_SECONDS = 1.0
_MAX_RETRY_AFTER_SECONDS = 300.0  # obeyed of a Retry-After: a proxy's mistake must not stop a node for a day


class Backoff:
    """When to try a destination again after refusals; it never gives up.

    `permanent` says that the last refusal will not pass by itself, `reason` is its text, `at` as in TransportError.
    `retry_after_until` is the time before which the destination does not want to be asked again.
    """

    def __init__(self, jitter: Callable[[float, float], float] = random.uniform) -> None:
        self._jitter = jitter
        self._failures = 0
        self._last_kind = ""
        self._max_wait = _MAX_SECONDS
        self.retry_after_until = 0.0
        self.refused_at = 0.0
        self.not_before = 0.0
        self.reason = self.at = ""
        self.permanent = False

    @property
    def healthy(self) -> bool:
        """Whether the last answer was a success, or there was none yet."""
        return not self._failures

    @property
    def lacks_credentials(self) -> bool:
        """Whether the last refusal was about credentials, and new ones were refused too."""
        return self.permanent and self._last_kind == REFRESH

    def success(self) -> None:
        """The destination accepted a body or a connection."""
        if self._failures:
            trace("shipper", f"accepted again after {self._failures} refusals")
        self._failures = 0
        self._last_kind = ""
        self.not_before = self.retry_after_until = 0.0
        self.reason = self.at = ""
        self.permanent = False

    def failure(
        self, kind: str, reason: str, now: float, after: float = 0.0, answered: bool = False, at: str = ""
    ) -> None:
        """The destination refused, with an error of class `kind`, and asks to wait for `after` seconds.

        If it `answered`, and refused only some of the bodies with an error that passes, the next try is due at once; it
        waits only if that fails as well.
        """
        self._failures += 1
        self.refused_at = now
        self.at = at
        self.reason = f"{reason} (it asks to wait for {after:.0f} s)" if after else reason
        # credentials may just have expired: the refusal is permanent only if new ones are refused too
        self.permanent = kind not in (RETRY, REFRESH) or (kind == REFRESH and self._last_kind == REFRESH)
        self._last_kind = kind
        passing = kind in (RETRY, REFRESH)
        wait = full_jitter(self._failures, _FIRST_SECONDS, self._max_wait, self._jitter) if passing else _MAX_SECONDS
        if answered and kind == RETRY and self._failures == 1:
            wait = 0.0
        self.retry_after_until = now + min(after, _MAX_RETRY_AFTER_SECONDS)
        self.not_before = max(now + wait, self.retry_after_until)
        trace("shipper", f"refused ({kind}), next attempt in {self.not_before - now:.1f} s: {reason}")

    def allow_last_try(self, now: float) -> None:
        """A run has ended: allow a last attempt, though not within a second of a permanent refusal."""
        if not self.permanent:
            self.not_before = max(min(self.not_before, now + _SHORTENED_SECONDS), self.retry_after_until)
        elif now - self.refused_at >= _SHORTENED_SECONDS:
            self.not_before = max(now, self.retry_after_until)

    def shorten(self, now: float) -> None:
        """From now on wait at most one second after a refusal that may pass."""
        self._max_wait = _SHORTENED_SECONDS
        if not self.permanent:
            self.allow_last_try(now)
