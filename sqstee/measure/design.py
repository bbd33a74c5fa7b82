"""The design of an experiment: the order of its blocks, their sizes, the names of their queues, and the bill. Pure."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

REQUEST_DOLLARS = 0.40e-6  # SQS pricing: a standard queue's request, beyond the free first million a month
ITEM_DOLLARS = 0.625e-6  # DynamoDB pricing: one write of up to 1 KB, on demand
BILLED_BYTES = 64 * 1024  # each started 64 KiB of payload is one request
MOST_NAME = 80  # letters of a queue's name
_STEM = 40


def block_order(modes: Sequence[str], blocks: int, rng: random.Random) -> list[str]:
    """The modes of all blocks, `blocks` of each: ABBA or BAAB by a throw, so that a drift over time hits both alike.

    An odd last pair comes in an order by a throw.
    """
    order: list[str] = []
    while len(order) < blocks * len(modes):
        first = list(modes)
        rng.shuffle(first)
        order += first if len(order) == (blocks - 1) * len(modes) else first + first[::-1]
    return order


def block_sizes(messages: int, blocks: int) -> list[int]:
    """The messages of each of a mode's blocks, as equal as can be."""
    return [messages // blocks + (at < messages % blocks) for at in range(blocks)]


def schedule(modes: Sequence[str], blocks: int, messages: int, rng: random.Random) -> list[tuple[str, int]]:
    """(mode, messages) of each block, in order."""
    sizes = {mode: block_sizes(messages, blocks) for mode in modes}
    return [(mode, sizes[mode].pop(0)) for mode in block_order(modes, blocks, rng)]


def queue_name(base: str, experiment: str, block: int | None = None, mode: str = "") -> str:
    """The name of a block's queue, or of the queue that stands for the whole experiment while it goes on."""
    stem = f"{base[:_STEM]}-measure-{experiment}"
    return stem if block is None else f"{stem}-{block}-{mode}"


@dataclass(frozen=True, slots=True)
class Estimate:
    """Dollars: the least (every request full), and the most that the settings allow for before empty receives."""

    low: float
    high: float

    def __str__(self) -> str:
        low, high = (f"${value:.2f}" if value >= 0.1 else f"${value:.4f}" for value in (self.low, self.high))
        return f"{low} to {high}, and empty receives on top ($0.40 a million)"


def estimate(messages: int, arms: int, size: int, batch: int, dynamodb: bool) -> Estimate:
    """What an experiment costs, `messages` for each arm; empty receives come on top."""
    units = -(-size * batch // BILLED_BYTES)
    sends = -(-messages // batch) * units
    full = -(-messages // 10)
    items = 2 * messages * ITEM_DOLLARS if dynamodb else 0.0
    low = (sends + full * -(-size * 10 // BILLED_BYTES) + full) * REQUEST_DOLLARS + items
    high = (sends + messages * -(-size // BILLED_BYTES) + messages) * REQUEST_DOLLARS + items
    return Estimate(arms * low, arms * high)
