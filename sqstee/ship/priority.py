"""The priority of processes that ship: behind the command where both want the processor, and never starved by it."""

from __future__ import annotations

import os

# Chosen by tests/bench/priority.py: with one and two busy loops a core, delivery takes at most half as long again as
# from a process that is not niced.
NICENESS = 2


def lower() -> None:
    """Give this process the priority of a shipper."""
    os.nice(NICENESS)
