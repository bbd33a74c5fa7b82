"""Exponential back-off with full jitter. Pure: chance comes in as an argument."""

from __future__ import annotations

import random
from collections.abc import Callable

_LARGEST_POWER = 30  # 2 to this power already exceeds every limit in use: keeps the number small


def full_jitter(
    attempt: int, first: float, most: float, jitter: Callable[[float, float], float] = random.uniform
) -> float:
    """Seconds to wait before the next attempt: random between 0 and `first` × 2^`attempt`, never above `most`.

    `attempt` counts the failures so far; `jitter(low, high)` picks a number between its arguments.
    """
    return jitter(0.0, min(most, first * 2.0 ** min(attempt, _LARGEST_POWER)))
