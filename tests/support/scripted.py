"""A destination in this process, scripted by a function."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqstee.record import Body
from sqstee.settings import Settings
from sqstee.ship.request import MAX_REQUEST_BYTES
from sqstee.transports.base import BatchLimits
from sqstee.transports.errors import Failure

Answer = Callable[[Sequence[Body]], list[Failure]]


def settings(**values: object) -> Settings:
    """The default settings, but for these, whatever the machine's configuration files say."""
    found = Settings()
    for name, value in values.items():
        setattr(found, name, value)
    return found


class Scripted(BatchLimits):
    """A destination that answers as a function says; what it took is kept."""

    ordered = False

    def __init__(self, answer: Answer = lambda bodies: []) -> None:
        self.answer = answer
        self.taken: list[Body] = []
        self.sizes: list[list[int]] = []

    def open(self) -> int:
        return MAX_REQUEST_BYTES

    def send(self, bodies: Sequence[Body]) -> list[Failure]:
        self.sizes.append([body.size for body in bodies])
        failures = self.answer(bodies)
        failed = {failure.index for failure in failures}
        self.taken += [body for at, body in enumerate(bodies) if at not in failed]
        return failures

    def close(self) -> None:
        pass
