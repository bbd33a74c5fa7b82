"""The fields of an agent's status file: the runs it serves, the lines that wait, the speed of shipping."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Collection

from sqstee import __version__
from sqstee.agent.claimed_run import ClaimedRun
from sqstee.agent.config import AgentConfig
from sqstee.agent.worker_pool import WorkerPool

_RATE_SECONDS = 10.0


class AgentStatus:
    """The status of an agent that has just started."""

    def __init__(self) -> None:
        self._started = time.time()
        self._rates: deque[tuple[float, int]] = deque()  # times, and the records accepted by then

    def fields(
        self, config: AgentConfig, claimed: Collection[ClaimedRun], pool: WorkerPool, error: str, now: float
    ) -> dict[str, object]:
        """The contents of the status file; `now` is by the monotonic clock, `error` the latest one."""
        workers = list(pool)
        records = pool.acknowledged
        self._rates.append((now, records))
        while now - self._rates[0][0] > _RATE_SECONDS:
            self._rates.popleft()
        seconds = now - self._rates[0][0]
        return {
            "pid": os.getpid(),
            "version": __version__,
            "time": time.time(),
            "started": self._started,
            "destinations": None if config.destinations is None else sorted(config.destinations),
            "shipping_to": sorted({worker.policy.to for worker in workers}),
            "runs": len(claimed),
            "waiting_bytes": sum(one.waiting_bytes for one in claimed),
            "waiting_records": sum(worker.queue.report()[1] for worker in workers if worker.queue),
            "records": records,
            "records_per_second": round((records - self._rates[0][1]) / seconds) if seconds else 0,
            "requests": pool.requests,
            "refusals": {worker.policy.to: worker.refusal for worker in workers if worker.refusal},
            "error": next((worker.reason for worker in workers if worker.reason), error),
        }
