"""SIGINT, SIGTERM and SIGHUP as a flag, so that a reader stops in good order."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StoppedError(Exception):
    """Raised out of an `interruptible` block by the signal that asks to stop."""


class StopSignal:
    """A context in which the first signal sets `signal` (its number, else 0), and the second one kills.

    A StoppedError ends the context in silence.

    A signal that was ignored when the process started stays ignored.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._interruptible = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignal:
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> bool:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        return kind is StoppedError

    @property
    def status(self) -> int:
        """The exit status by the shell's convention: 128 + the signal's number; 0 without a signal."""
        return 128 + self.signal if self.signal else 0

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """A block that may wait for others, as a write to a pipe does: the signal raises StoppedError out of it."""
        if self.signal:
            raise StoppedError
        self._interruptible = True
        try:
            yield
        finally:
            self._interruptible = False

    def pause(self, seconds: float) -> None:
        """Sleep; a signal raises StoppedError."""
        before, self._interruptible = self._interruptible, True
        try:
            if self.signal:
                raise StoppedError
            time.sleep(seconds)
        finally:
            self._interruptible = before

    def _handle(self, number: int, frame: FrameType | None) -> None:
        for each in self._before:
            signal.signal(each, signal.SIG_DFL)  # a second signal kills at once
        self.signal = number
        if self._interruptible:
            raise StoppedError
