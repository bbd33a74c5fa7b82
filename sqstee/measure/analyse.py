"""From the records of blocks to the figures of each mode. Pure.

A duplicate is any delivery of a MessageId after the first one. A message that the sender sent twice has two MessageIds:
such producer duplicates are counted apart, since the queue does not cause them.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from sqstee.measure.records import BlockRecords, DeliveryRecord

SAME_BATCH, CONCURRENT = "same batch", "concurrent"
AFTER_DELETE, EXPIRY = "after delete", "visibility expiry"
CLASSES = (SAME_BATCH, CONCURRENT, AFTER_DELETE, EXPIRY)


def classify(before: Sequence[DeliveryRecord], again: DeliveryRecord, visibility_timeout: float | None) -> str:
    """The class of a duplicate, given all earlier deliveries of the message in the order of their answers.

    Same batch: twice in one answer. After delete: the answer left the queue after the deletion of an earlier delivery
    had been acknowledged. An answer is assumed to leave no earlier than one round trip before it arrives (a long poll
    may have begun long before); the duration of the deletion serves as the round trip. Visibility expiry: at least
    one visibility timeout has passed since the previous delivery. Concurrent, the rest: two receivers got the message
    at about the same time.
    """
    if any(one.call == again.call for one in before):
        return SAME_BATCH
    for one in before:
        if one.deleted_t0 is not None and one.deleted_t1 is not None:
            left = max(again.t0, again.t1 - (one.deleted_t1 - one.deleted_t0))
            if one.deleted_t1 <= left:
                return AFTER_DELETE
    if visibility_timeout is not None and again.t1 - before[-1].t0 >= visibility_timeout:
        return EXPIRY
    return CONCURRENT


@dataclass(slots=True)
class Arm:
    """All blocks of one mode. Times in seconds.

    `messages` counts distinct messages received, `lost` those sent but not received before their block ended. A gap is
    the time from the answer with a message to the answer with its duplicate, a delay the time from the start of the
    request that sent a message to the answer that first delivered it. `at` has, for each duplicate, how many distinct
    messages the mode had received by then. `recounted` counts the duplicates that SQS itself reports as redelivered.
    """

    mode: str
    messages: int = 0
    sent: int = 0
    lost: int = 0
    duplicates: int = 0
    producer: int = 0
    recounted: int = 0
    classes: Counter[str] = field(default_factory=Counter)
    gaps: list[float] = field(default_factory=list)
    delays: array[float] = field(default_factory=lambda: array("d"))
    at: list[int] = field(default_factory=list)
    sends: int = 0
    receives: int = 0
    empty: int = 0
    deletes: int = 0
    errors: int = 0
    incomplete: int = 0
    blocks: list[tuple[int, int]] = field(default_factory=list)

    def add(self, records: BlockRecords) -> None:
        """Add one block."""
        received, duplicates = self._deliveries(records)
        self.blocks.append((received, duplicates))
        sent = {one.message_id for one in records.sent}
        self.sent += len(sent)
        self.lost += len(sent.difference(one.message_id for one in records.deliveries))
        for calls in records.calls:
            self.sends += calls.sends
            self.receives += calls.receives
            self.empty += calls.empty
            self.deletes += calls.deletes
            self.errors += calls.errors
        self.incomplete += not (records.calls and all(calls.complete for calls in records.calls))

    def _deliveries(self, records: BlockRecords) -> tuple[int, int]:
        """Count the deliveries in the order of their answers: distinct messages, duplicates."""
        begun = {one.message_id: one.t0 for one in records.sent}
        first: dict[str, DeliveryRecord | list[DeliveryRecord]] = {}
        duplicates = 0
        for one in sorted(records.deliveries, key=lambda one: one.t1):
            known = first.get(one.message_id)
            if known is None:
                first[one.message_id] = one
                self.messages += 1
                if one.message_id in begun:
                    self.delays.append(one.t1 - begun[one.message_id])
                continue
            before = known if isinstance(known, list) else [known]
            first[one.message_id] = [*before, one]
            duplicates += 1
            self._duplicate(before, one, records.block.visibility_timeout)
        self.producer += len(first) - len({one.seq for one in records.deliveries})
        return len(first), duplicates

    def _duplicate(
        self, before: Sequence[DeliveryRecord], again: DeliveryRecord, visibility_timeout: float | None
    ) -> None:
        self.duplicates += 1
        self.classes[classify(before, again, visibility_timeout)] += 1
        self.gaps.append(again.t1 - before[-1].t1)
        self.at.append(self.messages)
        self.recounted += again.receive_count > 1

    def until(self, messages: int) -> int:
        """The number of duplicates by the time `messages` distinct messages had been received."""
        return sum(at <= messages for at in self.at)


def analyse(blocks: Iterable[BlockRecords]) -> list[Arm]:
    """The figures of each mode, short before long."""
    arms: dict[str, Arm] = {}
    for records in blocks:
        arms.setdefault(records.block.mode, Arm(records.block.mode)).add(records)
    return [arms[mode] for mode in ("short", "long") if mode in arms]
