"""The agent: one process that ships every run in a spool folder, or in all users' spool folders on the host."""

from __future__ import annotations

import math
import os
import resource
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Container, Iterator
from queue import SimpleQueue

from sqstee import __version__
from sqstee.agent.advertisement import Advertisement, NoAdvertisement
from sqstee.agent.claimed_run import ClaimedRun, checked_meta
from sqstee.agent.flow import ServedRun
from sqstee.agent.worker import LAST_TRY_SECONDS, ShippingWorker
from sqstee.destination import parse
from sqstee.errors import EXIT_FAILURE, SqsteeError
from sqstee.options import Settings
from sqstee.ship.policy import DeliveryPolicy
from sqstee.ship.sender_pool import MAX_IN_FLIGHT
from sqstee.spool import agent_file
from sqstee.spool.agent_file import AWAITED
from sqstee.spool.checkpoint import Checkpoint
from sqstee.spool.pinned_folder import PinnedFolder
from sqstee.spool.run_folder import DeliveryTrouble, holds_nothing, lock, probe_lock, remove_empty
from sqstee.spool.waiting import ULID_LENGTH, remove_half_made
from sqstee.trace import trace
from sqstee.transports.base import Sender
from sqstee.transports.errors import TransportError
from sqstee.transports.fallback import shorten_waits

SCAN_SECONDS = 0.2  # how often the sizes of the open segments are read
_NEXT_SCAN_SECONDS = 0.005  # at most so often for a new run: any user of a host can write to the FIFO
_FULL_CHECK_EVERY = 5  # scans between checks for a dead front, or for a segment begun before the last one was full
_STATUS_SECONDS = 1.0
_RATE_SECONDS = 10.0
_RETRY_SECONDS = 30.0
_IDLE_SECONDS = 600.0  # a worker without runs ends after this long
_JOIN_SECONDS = 0.01
_AWAIT_SECONDS = 0.1  # between two looks at a run that another process ships
_GRACE_SECONDS = 2.0  # on top of the flush timeout
_KEEP_SECONDS = 10.0
_LONGEST_KEEP_SECONDS = 30 * 86400.0  # any user can write what he likes in the META frame of his run
_PATIENCE_SECONDS = 10.0  # for a dead run of others, before its lines are sent with this agent's credentials
_SPARE_FDS = 256
_FDS_OF_A_RUN = 6


class AgentConfig:
    """An agent's destinations (None: whatever runs ask for), the `run` options, and requests in flight to each."""

    def __init__(self, destinations: frozenset[str] | None, settings: Settings, in_flight: int = MAX_IN_FLIGHT) -> None:
        self.destinations = destinations
        self.settings = settings
        self.in_flight = in_flight

    def accepts(self, destination: str) -> bool:
        """Whether the agent ships to this destination."""
        return self.destinations is None or destination in self.destinations


class Agent:
    """Serves `folder`. Raises SqsteeError if another agent serves it, or it must not be served.

    `report` gets notices to the administrator, for the log. Without an `advertisement` it may work beside an agent: it
    ships what no other process does. With `runs` it claims no others.
    """

    def __init__(
        self,
        folder: str,
        config: AgentConfig,
        advertisement: Advertisement | None = None,
        report: Callable[[str], None] = lambda notice: None,
        runs: Container[str] | None = None,
    ) -> None:
        self._report = report
        self._runs = runs
        self.folder = folder
        self.of_all_users = agent_file.serves_all_users(folder)
        if self.of_all_users:
            _check_host_wide(config)
        self._config = config
        self._advertisement = advertisement or NoAdvertisement()
        self._woken = select.poll()
        if self._advertisement.wake_fd >= 0:
            self._woken.register(self._advertisement.wake_fd, select.POLLIN)
        self._max_runs = max(1, (_raise_fd_limit() - _SPARE_FDS) // _FDS_OF_A_RUN)
        self._roots: dict[int, PinnedFolder] = {}
        self._claimed: dict[str, ClaimedRun] = {}
        self._postponed: dict[tuple[str, str], tuple[float, str]] = {}  # (folder, run): until when, and why
        self._workers: dict[tuple[object, ...], ShippingWorker] = {}
        self._retiring: list[ShippingWorker] = []
        self._senders: dict[tuple[object, ...], Sender] = {}
        self._to_close: SimpleQueue[ClaimedRun] = SimpleQueue()
        self._closing: set[str] = set()
        self._error = ""
        self._retired_totals = [0, 0]  # requests and records of workers that have ended
        self._rates: deque[tuple[float, int]] = deque()
        self._status_at = self._sweep_at = 0.0
        self._started = time.time()
        self.delivered: dict[str, str] = {}  # runs, and the destinations that have them
        self.busy: list[str] = []
        self._unclaimed: list[str] = []  # by the last scan, for want of time
        self.over_limit: list[str] = []  # runs that the limit on open files leaves out for now
        self._skipped: dict[str, str] = {}  # runs that are not claimed, and why, as last traced
        self._abandoned_since: dict[str, float] = {}  # by the last scan: dead runs of others that no process ships
        self._abandoned_before: dict[str, float] = {}
        self._others_patience = 0.0
        self._awaited: set[str] = set()  # runs whose delivery somebody waits for
        self._scanned_at = 0.0
        self.expected: list[str] = []  # runs that rely on this agent, and whose ship lock is not free yet
        self.keep_seconds = _KEEP_SECONDS  # how long a shared shipper waits for further runs, as the latest run asks

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
        self._others_patience = _PATIENCE_SECONDS
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
                if any(worker.lacks_credentials for worker in self._workers.values()):
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
                if is_awaited and len(name) == ULID_LENGTH and len(self._awaited) < self._max_runs:
                    self._awaited.add(name)
                if name in self._claimed:
                    self._check(name, self._claimed[name], time.monotonic())
                elif name:  # a new run
                    due = min(due, self._scanned_at + _NEXT_SCAN_SECONDS)

    def once(self, until: float = math.inf) -> dict[str, str]:
        """Ship what is there; returns the runs that are not delivered, with the reasons. See also `delivered`.

        No run is claimed after `until`, a time of the monotonic clock.
        """
        self._advertisement.publish(())
        self.scan(until)
        left = {name: problem for (_, name), (_, problem) in self._postponed.items() if problem}
        left |= dict.fromkeys(self._unclaimed, "not done within --timeout")
        left |= dict.fromkeys(self.over_limit, "more runs than the limit on open files allows at once: run it again")
        return left | self.drain()

    def ship_all(self, seconds: float) -> dict[str, str]:
        """As `once`, again and again while that helps, for at most `seconds`.

        It helps where there were too many runs for the limit on open files, where the disk was too full to close a run
        before shipping freed some of it, or where another process held a run's lock for a moment, to look at it. An
        agent that holds runs of dead fronts is woken, and waited for.
        """
        deadline = time.monotonic() + seconds
        progress: tuple[int, int] | None = None
        while True:
            self._config.settings.flush_timeout = max(0.0, deadline - time.monotonic())
            left = self.once(deadline)
            self._await_others(deadline)
            before, progress = progress, (len(self.delivered), self._saved(left))
            if not (left or self.busy) or progress == before or time.monotonic() >= deadline:
                break
        self._close()
        return left

    def _close(self) -> None:
        """Close what is open, unless a worker that took too long still uses it."""
        workers = [*self._workers.values(), *self._retiring]
        for worker in workers:
            worker.join(_JOIN_SECONDS)
        if not any(worker.alive for worker in workers):
            for sender in self._senders.values():
                sender.close()
            for root in self._roots.values():
                root.close()
            self._senders.clear()
            self._roots.clear()
            self._postponed.clear()

    def _await_others(self, deadline: float) -> None:
        """Wait for what agents and shared shippers can deliver of the runs that they hold and that have ended."""
        final_at = time.monotonic() + 3 * LAST_TRY_SECONDS  # by then it has been tried once more
        waiting = {name for name in self.busy if _is_held_by_shipper_alone(f"{self.folder}/{name}")}
        while waiting and time.monotonic() < deadline:
            agents = [path for path in agent_file.files(self.folder) if agent_file.published(path)]
            if not agents:
                return
            for name in waiting:
                for path in agents:
                    agent_file.wake(path, AWAITED, name)
            time.sleep(_AWAIT_SECONDS)
            now = time.monotonic()
            for name in list(waiting):
                folder = f"{self.folder}/{name}"
                if (now >= final_at and DeliveryTrouble.read(folder).is_final) or not _is_held_by_shipper_alone(folder):
                    waiting.discard(name)

    def _saved(self, left: Container[str]) -> int:
        """How far the runs that are `left` are acknowledged by their checkpoints, in sum.

        What a destination has accepted does not count where the disk refuses the checkpoint: it is sent again.
        """
        saved = 0
        for root, names in self._folders():
            for name in names:
                if name in left:
                    try:
                        saved += Checkpoint(f"{root.path}/{name}").next
                    except (OSError, ValueError):  # delivered meanwhile, or of a newer version
                        pass
        return saved

    def scan(self, until: float = math.inf) -> None:
        """Claim new runs, pass on what the others have written, and release those that are delivered."""
        now = self._scanned_at = time.monotonic()
        self._abandoned_before, self._abandoned_since = self._abandoned_since, {}
        self.busy.clear()
        self.expected.clear()
        self.over_limit.clear()
        self._unclaimed.clear()
        for root, names in self._folders():
            for name in names:
                is_postponed = self._postponed.get((root.path, name), (0.0, ""))[0] > now
                if self._advertisement.withdrawn or name in self._claimed or is_postponed:
                    continue
                if time.monotonic() < until:
                    self._advertisement.beat()  # there may be thousands
                    self._claim(root, name, now)
                else:
                    self._unclaimed.append(name)
        for name, claimed in list(self._claimed.items()):
            self._check(name, claimed, now)
        self._retire(now)
        if now >= self._status_at:
            self._status_at = now + _STATUS_SECONDS
            self._error = self._advertisement.renew() or self._error
            self._advertisement.beat()
            self._advertisement.write_status(self.status(now))
        if now >= self._sweep_at:
            self._sweep_at = now + _RETRY_SECONDS
            self._postponed = {key: value for key, value in self._postponed.items() if value[0] > now}
            self._awaited.clear()  # who waits still says so again
            self._sweep()

    def drain(self) -> dict[str, str]:
        """Deliver what is there within the flush timeout, and withdraw; returns the runs left, with the reasons."""
        deadline = time.monotonic() + self._config.settings.flush_timeout + _GRACE_SECONDS
        for sender in self._senders.values():
            shorten_waits(sender, self._config.settings.flush_timeout)
        for name, claimed in self._claimed.items():
            if not (claimed.run.ended or name in self._closing or claimed.has_writer()):
                claimed.close_if_dead()
        waiting = [*self._workers.values(), *self._retiring]
        while (waiting or self._closing) and time.monotonic() < deadline:
            for worker in waiting:
                worker.close()
                worker.join(_JOIN_SECONDS)
            waiting = [worker for worker in waiting if worker.alive]
        left = {}
        for name, claimed in list(self._claimed.items()):
            flow, reason = claimed.run.flow, claimed.run.failure or claimed.worker.reason
            alive = not (claimed.run.ended or claimed.run.failure) and claimed.has_writer()
            if not (claimed.run.gone or (alive and flow is not None and flow.done)):
                left[name] = reason or f"not done within {self._config.settings.flush_timeout:.3g} s"
            if name in self._closing or claimed.worker.alive:  # its folder is in use: the locks end with the process
                continue
            if self._release(name, claimed):
                self.delivered[name] = claimed.worker.policy.to
                left.pop(name, None)
            elif claimed.run.gone:
                left[name] = reason
        self._advertisement.leave()
        return left

    @property
    def acknowledged(self) -> int:
        """The number of records that destinations have accepted; for any thread."""
        queues = [worker.queue for worker in [*self._workers.values(), *self._retiring]]
        return self._retired_totals[1] + sum(queue.acknowledged for queue in queues if queue)

    @property
    def occupied(self) -> bool:
        """Whether a run relies on this agent, or waits here for a destination that may accept it.

        What waits here once it has withdrawn, the next run's shipper can deliver as well.
        """
        if self._advertisement.withdrawn:
            return any(claimed.has_writer() for claimed in self._claimed.values())
        return bool(self.expected or self.over_limit or self._abandoned_since) or any(
            not (claimed.run.gone or claimed.worker.hopeless) or claimed.has_writer()
            for claimed in self._claimed.values()
        )

    def status(self, now: float) -> dict[str, object]:
        """The contents of the status file."""
        workers = [*self._workers.values(), *self._retiring]
        queues = [worker.queue for worker in workers if worker.queue]
        records = self.acknowledged
        self._rates.append((now, records))
        while now - self._rates[0][0] > _RATE_SECONDS:
            self._rates.popleft()
        seconds = now - self._rates[0][0]
        return {
            "pid": os.getpid(),
            "version": __version__,
            "time": time.time(),
            "started": self._started,
            "destinations": None if self._config.destinations is None else sorted(self._config.destinations),
            "shipping_to": sorted({worker.policy.to for worker in workers}),
            "runs": len(self._claimed),
            "waiting_bytes": sum(claimed.waiting_bytes for claimed in self._claimed.values()),
            "waiting_records": sum(queue.report()[1] for queue in queues),
            "records": records,
            "records_per_second": round((records - self._rates[0][1]) / seconds) if seconds else 0,
            "requests": self._retired_totals[0] + sum(queue.requests for queue in queues),
            "refusals": {worker.policy.to: worker.refusal for worker in workers if worker.refusal},
            "error": next((worker.reason for worker in workers if worker.reason), self._error),
        }

    def _folders(self) -> Iterator[tuple[PinnedFolder, list[str]]]:
        """Every served spool folder, with the names of its runs."""
        if not self.of_all_users:
            if not self._roots:
                self._roots[os.getuid()] = PinnedFolder(self.folder, os.stat(self.folder).st_uid)
        else:
            self._open_users_folders()
        for root in self._roots.values():
            try:
                names = sorted(name for name in os.listdir(root.path) if len(name) == ULID_LENGTH)
                yield root, names if self._runs is None else [name for name in names if name in self._runs]
            except OSError as error:
                self._error = str(error)

    def _open_users_folders(self) -> None:
        # a path /proc/self/fd/N in use must not come to mean another folder
        used = {claimed.run.root for claimed in self._claimed.values()}
        for owner in [owner for owner, root in self._roots.items() if root.gone and root.path not in used]:
            root = self._roots.pop(owner)
            if not root.keep_open:
                root.close()
        for name in os.listdir(self.folder):
            if name.isascii() and name.isdigit() and str(int(name)) == name and int(name) not in self._roots:
                try:
                    self._roots[int(name)] = PinnedFolder(f"{self.folder}/{name}", int(name))
                except OSError:  # a link, a file, another user's folder: no spool
                    continue

    def _claim(self, root: PinnedFolder, name: str, now: float) -> None:
        """Claim a run, unless another process ships it or the configuration excludes its destination."""
        folder: PinnedFolder | None = None
        shipping: int | None = None
        try:
            folder = PinnedFolder(f"{root.path}/{name}", root.owner)
            if holds_nothing(folder.path):
                shipping = lock(folder.path, "ship")
                if shipping is not None:
                    remove_empty(folder.path, f"{root.path}/{name}")
                return
            meta = checked_meta(folder.path, name)
            is_own = self._advertisement.recognises(meta)
            if not is_own and not self._is_abandoned(folder.path, name, now):
                self.busy.append(name)
                self._trace_skipped(name, "it relies on another agent")
                return
            policy = DeliveryPolicy.from_meta(meta)
            if not self._config.accepts(policy.to):
                self._postponed[root.path, name] = now + _RETRY_SECONDS, ""
                self._trace_skipped(name, f"not configured to ship to {policy.to}")
                return
            if len(self._claimed) >= self._max_runs:
                self.over_limit.append(name)
                self._trace_skipped(name, f"the limit on open files allows {self._max_runs} runs")
                return
            shipping = lock(folder.path, "ship")
            if shipping is None:
                self.busy.append(name)
                if self._advertisement.identity and meta.get("identity") == self._advertisement.identity:
                    self.expected.append(name)
                self._trace_skipped(name, "another process holds its ship lock")
                return
            run = ServedRun(name, folder.path, root.path)
            claimed = ClaimedRun(folder, shipping, run, self._worker_for(root, policy), meta)
            folder = shipping = None
        except FileNotFoundError:  # delivered meanwhile
            return
        except (OSError, ValueError, SqsteeError, TransportError) as error:
            self._postpone(root.path, name, str(error), now)
            return
        finally:
            if shipping is not None:
                os.close(shipping)
            if folder is not None:
                folder.close()
        self._claimed[name] = claimed
        self._skipped.pop(name, None)
        keep = meta.get("keep_shipper")
        if is_own and isinstance(keep, int | float) and 0 <= keep <= _LONGEST_KEEP_SECONDS:
            self.keep_seconds = keep
        trace("agent", f"claims {name} to {policy.to}; {len(self._claimed)} runs now")

    def _is_abandoned(self, folder: str, name: str, now: float) -> bool:
        """Whether a run that relies on another agent has neither a front nor a shipper, for long enough."""
        for lock_name in ("writer", "ship"):
            held = probe_lock(folder, lock_name)
            if held is None:
                return False
            os.close(held)
        since = self._abandoned_since[name] = self._abandoned_before.get(name, now)
        return now - since >= self._others_patience

    def _trace_skipped(self, name: str, why: str) -> None:
        """Trace why a run is not claimed, once for each reason and sweep."""
        if self._skipped.get(name) != why:
            self._skipped[name] = why
            trace("agent", f"does not claim {name}: {why}")

    def _postpone(self, root: str, name: str, problem: str, now: float) -> None:
        self._error = f"{name}: {problem}"
        self._trace_skipped(name, problem)
        self._postponed[root, name] = now + _RETRY_SECONDS, problem

    def _worker_for(self, root: PinnedFolder, policy: DeliveryPolicy) -> ShippingWorker:
        settings = self._config.settings
        if self.of_all_users:  # users choose the destination, the administrator how lines are sent
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
                policy, sender, mixing, settings.flush_timeout, self.folder, self._report, self._config.in_flight
            )
        return worker

    def _check(self, name: str, claimed: ClaimedRun, now: float) -> None:
        """Pass on what a run has written, have it closed once its front has ended, release it once it is delivered."""
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
                self._postpone(root, name, problem or "its folder cannot be removed", now)
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
        if self.of_all_users:
            try:
                _check_host_wide(config)
            except SqsteeError as error:
                self._error = error.message
                return
        self._config = config
        self._advertisement.publish(config.destinations)
        self._postponed.clear()
        for worker in self._workers.values():
            if not config.accepts(worker.policy.to):
                worker.close()

    def _retire(self, now: float) -> None:
        """Close idle workers, and remove workers that have ended."""
        for key, worker in list(self._workers.items()):
            if now - worker.used_at > _IDLE_SECONDS:
                worker.close()
            if worker.closing or not worker.alive:
                self._retiring.append(self._workers.pop(key))
        for worker in [worker for worker in self._retiring if not worker.alive]:
            self._retiring.remove(worker)
            worker.join(_JOIN_SECONDS)
            self._error = worker.failure or self._error
            if worker.queue:
                self._retired_totals[0] += worker.queue.requests
                self._retired_totals[1] += worker.queue.acknowledged

    def _sweep(self) -> None:
        self._skipped.clear()
        self._advertisement.remove_stale()
        for root in self._roots.values():
            try:
                remove_half_made(root.path)
            except OSError as error:
                self._error = str(error)


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


def _check_host_wide(config: AgentConfig) -> None:
    if os.geteuid():
        hint = "run it as root, or serve a folder of your own: sqstee agent --spool DIR"
        raise SqsteeError("only root can serve all users' spool folders", hint)
    if not config.destinations:
        hint = 'run: sqstee agent --to DEST, or set to = ["DEST"] under [agent] in /etc/sqstee.toml'
        raise SqsteeError("an agent for all users needs a list of destinations", hint)
    if any(parse(name).kind == "local" and not parse(name).name for name in config.destinations):
        raise SqsteeError("an agent for all users has no local queue of its own", "run: sqstee agent --to local:PATH")
    try:
        with open("/proc/sys/fs/protected_hardlinks") as file:
            protected = file.read().strip() == "1"
    except OSError:
        protected = False
    if not protected:
        hint = "run: sysctl fs.protected_hardlinks=1"
        raise SqsteeError("an agent for all users needs protected hard links in the kernel", hint)


def _raise_fd_limit() -> int:
    """Raise the limit on open files, for the files and locks of hundreds of runs; returns the limit in force."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return most
