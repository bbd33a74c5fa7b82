"""The design of an experiment: the order of its blocks, their sizes, the names of their queues, and the bill. Pure."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

REQUEST_DOLLARS = 0.40e-6  # SQS pricing: a standard queue's request, beyond the free first million a month
ITEM_DOLLARS = 0.625e-6  # DynamoDB pricing: one write of up to 1 KB, on demand
BILLED_BYTES = 64 * 1024  # each started 64 KiB of payload is one request
_STEM = 40


def block_order(modes: Sequence[str], blocks: int, rng: random.Random) -> list[str]:
    """The modes of all blocks, `blocks` of each: ABBA or BAAB at random, so that a drift over time affects both alike.

    An odd last pair comes in random order.
    """
    order: list[str] = []
    while len(order) < blocks * len(modes):
        first = list(modes)
        rng.shuffle(first)
        order += first if len(order) == (blocks - 1) * len(modes) else first + first[::-1]
    return order


def block_sizes(messages: int, blocks: int) -> list[int]:
    """The messages of each block of a mode, as equal as possible."""
    return [messages // blocks + (at < messages % blocks) for at in range(blocks)]


def schedule(modes: Sequence[str], blocks: int, messages: int, rng: random.Random) -> list[tuple[str, int]]:
    """(mode, messages) of each block, in order."""
    sizes = {mode: block_sizes(messages, blocks) for mode in modes}
    return [(mode, sizes[mode].pop(0)) for mode in block_order(modes, blocks, rng)]


def queue_name(base: str, experiment: str, block: int | None = None, mode: str = "") -> str:
    """The name of a block's queue, or of the queue that exists as long as the experiment runs."""
    stem = f"{base[:_STEM]}-measure-{experiment}"
    return stem if block is None else f"{stem}-{block}-{mode}"


@dataclass(frozen=True, slots=True)
class Estimate:
    """The least (every request full) and the most that an experiment costs, in dollars, without empty receives."""

    low: float
    high: float

    def __str__(self) -> str:
        low, high = (f"${value:.2f}" if value >= 0.1 else f"${value:.4f}" for value in (self.low, self.high))
        return f"{low} to {high}, plus empty receives ($0.40 per million)"


def estimate(messages: int, arms: int, size: int, batch: int, dynamodb: bool) -> Estimate:
    """The cost of an experiment with `messages` for each arm, without empty receives."""
    units = -(-size * batch // BILLED_BYTES)
    sends = -(-messages // batch) * units
    full = -(-messages // 10)
    items = 2 * messages * ITEM_DOLLARS if dynamodb else 0.0
    low = (sends + full * -(-size * 10 // BILLED_BYTES) + full) * REQUEST_DOLLARS + items
    high = (sends + messages * -(-size // BILLED_BYTES) + messages) * REQUEST_DOLLARS + items
    return Estimate(arms * low, arms * high)
