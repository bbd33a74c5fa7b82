"""Fixtures: the real command with a spool of its own, and an SQS to speak to."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_sqs import FakeSqs
from support import Sqstee


@pytest.fixture
def sqstee(tmp_path: Path) -> Sqstee:
    """The installed command, with its spool in the test's own folder and nothing configured."""
    return Sqstee(tmp_path)


@pytest.fixture
def fake_sqs() -> Iterator[FakeSqs]:
    """A strict SQS in a process of its own, with a queue `q`."""
    with FakeSqs() as server:
        server.create_queue("q")
        yield server


@pytest.fixture(autouse=True)
def _bounded() -> Iterator[None]:
    """No test may hang: after two minutes it fails."""

    def fail(number: int, frame: object) -> None:
        raise TimeoutError("the test takes more than two minutes")

    signal.signal(signal.SIGALRM, fail)
    signal.alarm(120)
    yield
    signal.alarm(0)
