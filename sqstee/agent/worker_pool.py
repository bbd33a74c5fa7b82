"""The agent's workers, one for each way to deliver runs, and the senders that they share."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from sqstee.agent.config import AgentConfig
from sqstee.agent.worker import ShippingWorker
from sqstee.destination import parse
from sqstee.ship.policy import DeliveryPolicy
from sqstee.spool.pinned_folder import PinnedFolder
from sqstee.transports.base import Sender
from sqstee.transports.fallback import shorten_waits

_IDLE_SECONDS = 600.0  # a worker without runs ends after this long
_JOIN_SECONDS = 0.01


class WorkerPool:
    """Starts and ends the workers of an agent of the spool folder `root`; for `report` see `ShippingWorker`.

    `requests` and `acknowledged`, the number of records that destinations have accepted, are for any thread.
    """

    def __init__(self, root: str, of_all_users: bool, report: Callable[[str], None]) -> None:
        self._root = root
        self._of_all_users = of_all_users
        self._report = report
        self._workers: dict[tuple[object, ...], ShippingWorker] = {}
        self._retiring: list[ShippingWorker] = []
        self._senders: dict[tuple[object, ...], Sender] = {}
        self._retired_requests = self._retired_records = 0

    def __iter__(self) -> Iterator[ShippingWorker]:
        return iter([*self._workers.values(), *self._retiring])

    @property
    def requests(self) -> int:
        """The number of requests, those of workers that have ended included."""
        return self._retired_requests + sum(worker.queue.requests for worker in self if worker.queue)

    @property
    def acknowledged(self) -> int:
        """The number of records that destinations have accepted."""
        return self._retired_records + sum(worker.queue.acknowledged for worker in self if worker.queue)

    def worker_for(self, root: PinnedFolder, policy: DeliveryPolicy, config: AgentConfig) -> ShippingWorker:
        """The worker that ships runs with this policy; `root` is the spool folder of the first one."""
        settings = config.settings
        if self._of_all_users:  # users choose the destination, the administrator how lines are sent
            policy = DeliveryPolicy(policy.to, settings)
        worker = self._workers.get(policy.key)
        if worker is None or worker.closing or not worker.alive:
            sender = self._senders.get(policy.sender_key)
            if sender is None:
                sender = self._senders[policy.sender_key] = policy.open_sender(root.path)
                root.keep_open = True
            # S3 objects, a collector's records and rows of a local queue are named after one run
            mixing = parse(policy.to).kind == "sqs" and not (sender.ordered or policy.options.via_s3)
            if worker:
                self._retiring.append(worker)
            worker = self._workers[policy.key] = ShippingWorker(
                policy, sender, mixing, settings.flush_timeout, self._root, self._report, config.in_flight
            )
        return worker

    def close_excluded(self, config: AgentConfig) -> None:
        """Have the workers end whose destinations the configuration lacks."""
        for worker in self._workers.values():
            if not config.accepts(worker.policy.to):
                worker.close()

    def retire(self, now: float) -> str:
        """Close idle workers, and remove workers that have ended; returns why one has failed, or ''."""
        failure = ""
        for key, worker in list(self._workers.items()):
            if now - worker.used_at > _IDLE_SECONDS:
                worker.close()
            if worker.closing or not worker.alive:
                self._retiring.append(self._workers.pop(key))
        for worker in [worker for worker in self._retiring if not worker.alive]:
            self._retiring.remove(worker)
            worker.join(_JOIN_SECONDS)
            failure = worker.failure or failure
            if worker.queue:
                self._retired_requests += worker.queue.requests
                self._retired_records += worker.queue.acknowledged
        return failure

    def shorten_waits(self, seconds: float) -> None:
        """Have the senders wait for no answer for longer than `seconds`."""
        for sender in self._senders.values():
            shorten_waits(sender, seconds)

    def drain(self, deadline: float, must_wait: Callable[[], object]) -> None:
        """Have all workers deliver the rest and end; wait for that, and for `must_wait`, until `deadline`."""
        waiting = list(self)
        while (waiting or must_wait()) and time.monotonic() < deadline:
            for worker in waiting:
                worker.close()
                worker.join(_JOIN_SECONDS)
            waiting = [worker for worker in waiting if worker.alive]

    def close(self) -> bool:
        """Close the senders, unless a worker that took too long still uses one; returns whether they are closed."""
        for worker in self:
            worker.join(_JOIN_SECONDS)
        if any(worker.alive for worker in self):
            return False
        for sender in self._senders.values():
            sender.close()
        self._senders.clear()
        return True
