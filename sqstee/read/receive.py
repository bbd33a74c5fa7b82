"""Messages off a transport, decoded, in blocks of consecutive seqs."""

from __future__ import annotations

from collections.abc import Iterator

from sqstee.record import Event, Record, decode
from sqstee.transports.base import Message

Item = Record | Event


def blocks(message: Message) -> Iterator[list[Item]]:
    """The items of a message, split where the run changes or the seqs do not follow on; a gap event stands alone.

    Raises DecodeError where the message is not in the wire format.
    """
    block: list[Item] = []
    for item in decode(message.data, message.attributes):
        if block and (is_gap(item) or is_gap(block[-1]) or not _follows(item, block[-1])):
            yield block
            block = []
        block.append(item)
    if block:
        yield block


def is_gap(item: Item) -> bool:
    """Whether an item covers a range of seqs that were dropped."""
    return isinstance(item, Event) and item.event == "gap"


def _follows(item: Item, before: Item) -> bool:
    return item.run == before.run and item.seq == before.seq + 1
