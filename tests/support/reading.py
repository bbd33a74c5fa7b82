"""A queue in memory, and reading it in this process."""

from __future__ import annotations

import os
import time
from pathlib import Path

from sqstee.read.follower import Follower
from sqstee.read.printer import BufferedOutput, Printer, Style
from sqstee.read.stop_signal import StopSignal
from sqstee.transports.base import QueueState, ReceivedMessage
from sqstee.transports.errors import Failure


class Queue:
    """A receiver in memory that records the calls to it."""

    follows = False
    ordered = False
    name = "memory"

    def __init__(self, *answers: list[ReceivedMessage]) -> None:
        self.answers = list(answers)
        self.deleted: list[list[ReceivedMessage]] = []
        self.released: list[ReceivedMessage] = []
        self.failures: list[list[Failure]] = []
        self.limits: list[int] = []

    def receive(self, limit: int, wait: float) -> list[ReceivedMessage]:
        """The next answer."""
        self.limits.append(limit)
        if not self.answers:
            time.sleep(0.01)
        return self.answers.pop(0) if self.answers else []

    def delete(self, messages: object) -> list[Failure]:
        """Record the call; the next failures."""
        assert isinstance(messages, list)
        self.deleted.append(messages)
        return self.failures.pop(0) if self.failures else []

    def release(self, messages: object) -> None:
        """Record the messages."""
        assert isinstance(messages, list)
        self.released += messages

    def stat(self) -> QueueState:
        """An empty queue."""
        return QueueState(0)

    def close(self) -> None:
        """Do nothing."""


def printed(
    tmp_path: Path, queue: Queue, consume: bool = True, style: str = "raw", from_start: bool = False
) -> tuple[bytes, bytes]:
    """Read a queue in memory; the bytes on stdout and on stderr."""
    out, err = (os.open(tmp_path / name, os.O_RDWR | os.O_CREAT | os.O_TRUNC) for name in ("out", "err"))
    try:
        with StopSignal() as stop:
            printer = Printer(BufferedOutput(out), BufferedOutput(err), Style(style))
            Follower([queue], printer, stop, consume, window=60.0, from_start=from_start).drain()
    finally:
        os.close(out)
        os.close(err)
    return (tmp_path / "out").read_bytes(), (tmp_path / "err").read_bytes()
