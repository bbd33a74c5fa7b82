"""A destination in this process, scripted by a function."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqstee.record import Body
from sqstee.ship.request import MAX_REQUEST_BYTES
from sqstee.transports.base import Batches
from sqstee.transports.errors import Failure

Answer = Callable[[Sequence[Body]], list[Failure]]


class Scripted(Batches):
    """A destination whose answers a function determines; it keeps the accepted bodies."""

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
