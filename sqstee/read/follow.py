"""Wires the read side: receive, order, show, then acknowledge."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from sqstee.read.order import Emission, Emit, Gap, Late, Missing, Order
from sqstee.read.receive import Item, blocks, is_gap
from sqstee.read.show import Printer
from sqstee.record import DecodeError, Event
from sqstee.transports.base import Message, Receiver

_BATCH = 10
_WAIT_SECONDS = 1.0


class Follower:
    """Reads a destination and prints its lines, ordered and without duplicates.

    Of a consumed queue a message is deleted once everything that came before or with it has been printed.
    """

    def __init__(self, receiver: Receiver, printer: Printer, consume: bool, from_start: bool = False) -> None:
        self._receiver = receiver
        self._printer = printer
        self._consume = consume
        self._order: Order[Item] = Order(from_start=from_start)
        self._held: list[Message] = []

    def follow(self) -> None:
        """Read for ever."""
        while True:
            self._step(_WAIT_SECONDS)

    def drain(self) -> None:
        """Read until the destination gives nothing more."""
        while self._step(0.0 if self._receiver.follows else _WAIT_SECONDS):
            pass
        self._emit(self._order.finish(time.monotonic()))
        self._acknowledge()

    def release(self) -> None:
        """Give back what was received and is not acknowledged."""
        if self._held:
            self._receiver.release(self._held)
            self._held = []

    def _step(self, wait: float) -> bool:
        """Receive once, print, acknowledge; whether there was anything."""
        deadline = self._order.deadline()
        if deadline is not None:
            wait = min(wait, max(0.0, deadline - time.monotonic()))
        messages = self._receiver.receive(_BATCH, wait)
        for message in messages:
            self._take(message)
        self._emit(self._order.tick(time.monotonic()))
        self._printer.flush()
        if self._order.pending == 0:
            self._acknowledge()
        return bool(messages)

    def _take(self, message: Message) -> None:
        try:
            found = list(blocks(message))
        except DecodeError as error:
            self._printer.remark(f"a message was left alone: {error}")
            return
        if not self._receiver.follows:
            self._held.append(message)
        now = time.monotonic()
        for block in found:
            self._emit(self._placed(block, now))

    def _placed(self, block: Sequence[Item], now: float) -> list[Emission[Item]]:
        first = block[0]
        if is_gap(first):
            assert isinstance(first, Event)
            return self._order.gap(first.run, first.seq, first.last, first, now)
        return self._order.block(first.run, first.seq, block, now)

    def _emit(self, emissions: Iterable[Emission[Item]]) -> None:
        for emission in emissions:
            if isinstance(emission, Emit):
                self._printer.items(emission.items)
            elif isinstance(emission, Late):
                self._printer.items(emission.items, late=True)
            elif isinstance(emission, Gap):
                self._printer.items((emission.item,), late=emission.is_late)
            else:
                self._missing(emission)

    def _missing(self, missing: Missing) -> None:
        count = f"{missing.count} line{'s' if missing.count > 1 else ''}"
        text = f"{count} missing so far of run {missing.run} (seq {missing.first}-{missing.last})"
        self._printer.remark(text, run=missing.run, first=missing.first, last=missing.last)

    def _acknowledge(self) -> None:
        if not self._consume or not self._held:
            return
        self._printer.flush()
        for failure in self._receiver.delete(self._held):
            self._printer.remark(f"a message could not be deleted: {failure}")
        self._held = []
