"""The agent: one process that ships every run in a spool folder, or in all users' spool folders on the host."""

from __future__ import annotations

import math
import select
import threading
import time
from collections.abc import Callable, Container, Iterator
from queue import SimpleQueue

from sqstee.agent.advertisement import Advertisement, NoAdvertisement
from sqstee.agent.claimed_run import ClaimedRun
from sqstee.agent.claiming import RETRY_SECONDS, Claimer
from sqstee.agent.config import AgentConfig
from sqstee.agent.status import AgentStatus
from sqstee.agent.worker_pool import WorkerPool
from sqstee.errors import EXIT_FAILURE, SqsteeError
from sqstee.spool import agent_file
from sqstee.spool.agent_file import AWAITED
from sqstee.spool.pinned_folder import PinnedFolder
from sqstee.spool.waiting import ULID_LENGTH
from sqstee.trace import trace

SCAN_SECONDS = 0.2  # how often the sizes of the open segments are read
_NEXT_SCAN_SECONDS = 0.005  # at most so often for a new run: any user of a host can write to the FIFO
_FULL_CHECK_EVERY = 5  # scans between checks for a dead front, or for a segment begun before the last one was full
_STATUS_SECONDS = 1.0
_GRACE_SECONDS = 2.0  # on top of the flush timeout
_PATIENCE_SECONDS = 10.0  # for a dead run of others, before its lines are sent with this agent's credentials


class Agent:
    """Serves `folder`. Raises SqsteeError if another agent serves it, or it must not be served.

    `report` gets notices to the administrator, for the log. Without an `advertisement` it may work beside an agent:
    it ships the runs that no other process ships. With `runs` it claims no others.
    """

    def __init__(
        self,
        folder: str,
        config: AgentConfig,
        advertisement: Advertisement | None = None,
        report: Callable[[str], None] = lambda notice: None,
        runs: Container[str] | None = None,
    ) -> None:
        self.folder = folder
        self._of_all_users = agent_file.serves_all_users(folder)
        if self._of_all_users:
            config.check_for_all_users()
        self._config = config
        self._advertisement = advertisement or NoAdvertisement()
        self._woken = select.poll()
        if self._advertisement.wake_fd >= 0:
            self._woken.register(self._advertisement.wake_fd, select.POLLIN)
        self._claimed: dict[str, ClaimedRun] = {}
        self._workers = WorkerPool(folder, self._of_all_users, report)
        self._claimer = Claimer(folder, self._advertisement, self._workers, self._claimed, self._note_error, runs)
        self._to_close: SimpleQueue[ClaimedRun] = SimpleQueue()
        self._closing: set[str] = set()
        self._status = AgentStatus()
        self._error = ""
        self._status_at = self._sweep_at = 0.0
        self._awaited: set[str] = set()  # runs whose delivery somebody waits for
        self._scanned_at = 0.0
        self.delivered: dict[str, str] = {}  # runs, and the destinations that have them

    def _note_error(self, error: str) -> None:
        self._error = error

    def folders(self) -> Iterator[tuple[PinnedFolder, list[str]]]:
        """Every served spool folder, with the names of its runs."""
        return self._claimer.folders()

    @property
    def busy(self) -> list[str]:
        """The runs that another process ships."""
        return self._claimer.busy

    @property
    def keep_seconds(self) -> float:
        """How long a shared shipper waits for further runs, as the latest run asks."""
        return self._claimer.keep_seconds

    @property
    def acknowledged(self) -> int:
        """The number of records that destinations have accepted; for any thread."""
        return self._workers.acknowledged

    def serve(
        self,
        stop: Callable[[], bool],
        reload: Callable[[], AgentConfig | None] = lambda: None,
        must_go_on: Callable[[], bool] = lambda: False,
    ) -> None:
        """Ship until `stop`, then deliver the rest within the flush timeout.

        `reload` returns a new configuration or None. Both are called at every scan. `must_go_on` is asked once no run
        can begin to rely on this agent any more, and all that do are known.
        """
        self._claimer.others_patience = _PATIENCE_SECONDS
        threading.Thread(target=self._close_dead_runs, daemon=True).start()
        while True:
            self._advertisement.publish(self._config.destinations)
            while not stop():
                config = reload()
                if config:
                    self._reconfigure(config)
                try:
                    self.scan()
                except OSError as error:  # too many open files, a folder removed meanwhile: it may pass
                    self._error = str(error)
                if not self._advertisement.in_place:
                    hint = "start it again; until then runs ship by themselves"
                    raise SqsteeError(f"the agent's file in {self.folder} was removed", hint, EXIT_FAILURE)
                if any(worker.lacks_credentials for worker in self._workers):
                    self._withdraw()
                self._wait_for_words()
            self._advertisement.publish(())
            self.scan()  # a run that relies on this agent has written everything by now
            if not must_go_on():
                break
        self._withdraw()
        self.drain()

    def _withdraw(self) -> None:
        """A shared shipper that ends, or whose credentials are refused: later runs are to start another."""
        if self._advertisement.identity and not self._advertisement.withdrawn:
            self._advertisement.withdraw()

    def _wait_for_words(self) -> None:
        """Until the next scan is due, look at each run that has grown or is waited for as soon as it says so."""
        due = time.monotonic() + SCAN_SECONDS
        while (rest := due - time.monotonic()) > 0:
            if not self._woken.poll(rest * 1000):
                continue
            for word in dict.fromkeys(self._advertisement.read_words()):
                name, is_awaited = word[1:].decode(errors="replace"), word[:1] == AWAITED
                if is_awaited and len(name) == ULID_LENGTH and len(self._awaited) < self._claimer.max_runs:
                    self._awaited.add(name)
                if name in self._claimed:
                    self._check(name, self._claimed[name], time.monotonic())
                elif name:  # a new run
                    due = min(due, self._scanned_at + _NEXT_SCAN_SECONDS)

    def once(self, until: float = math.inf) -> dict[str, str]:
        """Ship the waiting runs; returns the runs that are not delivered, with the reasons. See also `delivered`.

        It ends at `until`, a time of the monotonic clock, or after the flush timeout.
        """
        if until < math.inf:
            self._config.settings.flush_timeout = max(0.0, until - time.monotonic())
        self._advertisement.publish(())
        self.scan(until)
        return self._claimer.problems() | self.drain()

    def scan(self, until: float = math.inf) -> None:
        """Claim new runs, pass on new data of the claimed ones, and release those that are delivered."""
        now = self._scanned_at = time.monotonic()
        self._claimer.claim_new(self._config, now, until)
        for name, claimed in list(self._claimed.items()):
            self._check(name, claimed, now)
        self._error = self._workers.retire(now) or self._error
        if now >= self._status_at:
            self._status_at = now + _STATUS_SECONDS
            self._error = self._advertisement.renew() or self._error
            self._advertisement.beat()
            status = self._status.fields(self._config, self._claimed.values(), self._workers, self._error, now)
            self._advertisement.write_status(status)
        if now >= self._sweep_at:
            self._sweep_at = now + RETRY_SECONDS
            self._awaited.clear()  # who waits still says so again
            self._advertisement.remove_stale()
            self._claimer.sweep(now)

    def drain(self) -> dict[str, str]:
        """Deliver the claimed runs within the flush timeout, and withdraw; returns the runs left, with the reasons."""
        seconds = self._config.settings.flush_timeout
        deadline = time.monotonic() + seconds + _GRACE_SECONDS
        self._workers.shorten_waits(seconds)
        for name, claimed in self._claimed.items():
            if not (claimed.run.ended or name in self._closing or claimed.has_writer()):
                claimed.close_if_dead()
        self._workers.drain(deadline, lambda: self._closing)
        left = {}
        for name, claimed in list(self._claimed.items()):
            flow, reason = claimed.run.flow, claimed.run.failure or claimed.worker.reason
            alive = not (claimed.run.ended or claimed.run.failure) and claimed.has_writer()
            if not (claimed.run.gone or (alive and flow is not None and flow.done)):
                left[name] = reason or f"not done within {seconds:.3g} s"
            if name in self._closing or claimed.worker.alive:  # its folder is in use: the locks end with the process
                continue
            if self._release(name, claimed):
                self.delivered[name] = claimed.worker.policy.to
                left.pop(name, None)
            elif claimed.run.gone:
                left[name] = reason
        self._advertisement.leave()
        return left

    def close(self) -> None:
        """Close the workers and the folders, unless a worker that took too long still uses them."""
        if self._workers.close():
            self._claimer.close()

    @property
    def occupied(self) -> bool:
        """Whether a run relies on this agent, or waits here for a destination that may accept it.

        Once it has withdrawn, waiting runs do not count: the next run's shipper can deliver them as well.
        """
        if self._advertisement.withdrawn:
            return any(claimed.has_writer() for claimed in self._claimed.values())
        claimer = self._claimer
        return bool(claimer.expected or claimer.over_limit or claimer.abandoned) or any(
            not (claimed.run.gone or claimed.worker.hopeless) or claimed.has_writer()
            for claimed in self._claimed.values()
        )

    def _check(self, name: str, claimed: ClaimedRun, now: float) -> None:
        """Pass on new data of a run, have it closed once its front has ended, release it once it is delivered."""
        try:
            self._check_claimed(name, claimed, now)
        except OSError as error:  # it concerns this run alone
            self._error = f"{name}: {error}"

    def _check_claimed(self, name: str, claimed: ClaimedRun, now: float) -> None:
        run = claimed.run
        if name in self._closing:
            return
        if run.gone or not claimed.worker.alive:
            claimed.report_trouble()
            problem = run.failure or claimed.worker.failure
            root = run.root
            if not self._release(name, claimed) and not claimed.worker.closing:
                self._claimer.postpone(root, name, problem or "its folder cannot be removed", now)
            return
        claimed.worker.used_at = now
        claimed.checks += 1
        if name in self._awaited:
            self._awaited.discard(name)
            claimed.await_delivery(now)
        claimed.report_trouble()
        is_awaited = run.awaited_at is not None
        full_check = is_awaited or claimed.checks % _FULL_CHECK_EVERY == 0
        has_grown = claimed.has_grown(full_check)
        if has_grown or claimed.held_back:
            claimed.held_back = not is_awaited and claimed.is_flooding()
            if not claimed.held_back:
                claimed.worker.enqueue(run)
        if full_check and (is_awaited or not has_grown) and not run.ended and not claimed.has_writer():
            trace("agent", f"{name}: its front has ended")
            if self._advertisement.withdrawn:  # its stand-by cannot say that it waits
                claimed.await_delivery(now)
            self._closing.add(name)
            self._to_close.put(claimed)

    def _close_dead_runs(self) -> None:
        """The body of a thread: closing a dead run reads its whole unacknowledged spool."""
        while True:
            claimed = self._to_close.get()
            claimed.close_if_dead()
            self._closing.discard(claimed.run.name)

    def _release(self, name: str, claimed: ClaimedRun) -> bool:
        del self._claimed[name]
        self._closing.discard(name)
        removed = claimed.release()
        problem = claimed.run.failure or claimed.worker.reason
        trace("agent", f"releases {name}: {'delivered' if removed else problem or 'not delivered'}")
        return removed

    def _reconfigure(self, config: AgentConfig) -> None:
        """Apply a new configuration: runs to a destination that it lacks are released, and ship by themselves."""
        if self._of_all_users:
            try:
                config.check_for_all_users()
            except SqsteeError as error:
                self._error = error.message
                return
        self._config = config
        self._advertisement.publish(config.destinations)
        self._claimer.forget_postponed()
        self._workers.close_excluded(config)
