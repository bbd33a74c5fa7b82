"""Ships the waiting runs, again and again while that helps: for `sqstee flush`, and for runs that ship earlier ones."""

from __future__ import annotations

import os
import time
from collections.abc import Container

from sqstee.agent.agent import Agent
from sqstee.agent.worker import LAST_TRY_SECONDS
from sqstee.spool import agent_file
from sqstee.spool.agent_file import AWAITED
from sqstee.spool.checkpoint import Checkpoint
from sqstee.spool.run_folder import DeliveryTrouble, probe_lock

_AWAIT_SECONDS = 0.1  # between two looks at a run that another process ships


def ship_all(agent: Agent, seconds: float) -> dict[str, str]:
    """As `Agent.once`, again and again while that helps, for at most `seconds`.

    It helps where there were too many runs for the limit on open files, where the disk was too full to close a run
    before shipping freed some of it, or where another process held a run's lock for a moment, to look at it. An agent
    that holds runs of dead fronts is woken, and waited for.
    """
    deadline = time.monotonic() + seconds
    progress: tuple[int, int] | None = None
    while True:
        left = agent.once(deadline)
        _await_others(agent, deadline)
        before, progress = progress, (len(agent.delivered), _saved(agent, left))
        if not (left or agent.busy) or progress == before or time.monotonic() >= deadline:
            break
    agent.close()
    return left


def _await_others(agent: Agent, deadline: float) -> None:
    """Wait while agents and shared shippers deliver ended runs that they hold, as far as they can."""
    final_at = time.monotonic() + 3 * LAST_TRY_SECONDS  # by then it has been tried once more
    waiting = {name for name in agent.busy if _is_held_by_shipper_alone(f"{agent.folder}/{name}")}
    while waiting and time.monotonic() < deadline:
        agents = [path for path in agent_file.files(agent.folder) if agent_file.published(path)]
        if not agents:
            return
        for name in waiting:
            for path in agents:
                agent_file.wake(path, AWAITED, name)
        time.sleep(_AWAIT_SECONDS)
        now = time.monotonic()
        for name in list(waiting):
            folder = f"{agent.folder}/{name}"
            if (now >= final_at and DeliveryTrouble.read(folder).is_final) or not _is_held_by_shipper_alone(folder):
                waiting.discard(name)


def _saved(agent: Agent, left: Container[str]) -> int:
    """How far the runs that are `left` are acknowledged by their checkpoints, in sum.

    Accepted lines do not count where the disk refuses the checkpoint, since they are sent again.
    """
    saved = 0
    for root, names in agent.folders():
        for name in names:
            if name in left:
                try:
                    saved += Checkpoint(f"{root.path}/{name}").next
                except (OSError, ValueError):  # delivered meanwhile, or of a newer version
                    pass
    return saved


def _is_held_by_shipper_alone(folder: str) -> bool:
    """Whether another process ships a run whose front has ended."""
    try:
        writing, shipping = probe_lock(folder, "writer"), probe_lock(folder, "ship")
    except OSError:  # delivered meanwhile
        return False
    for held in (writing, shipping):
        if held is not None:
            os.close(held)
    return writing is not None and shipping is None
