"""How long to wait before the next try. Pure."""

from __future__ import annotations

import random
from collections.abc import Callable


def full_jitter(
    attempt: int, first: float, most: float, jitter: Callable[[float, float], float] = random.uniform
) -> float:
    """Seconds to wait after failed try `attempt`, counted from 0: uniform in 0..min(most, first * 2**attempt).

    "Full jitter" as in the AWS Architecture Blog, "Exponential Backoff And Jitter".
    """
    return jitter(0.0, min(most, first * 2.0 ** min(attempt, 1000)))  # 2.0**1024 raises OverflowError
