"""The agent: one process that ships every run of a spool folder, or of all users' spool folders on the host."""

from __future__ import annotations

import os
import resource
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from queue import SimpleQueue

from sqstee import __version__
from sqstee.agent.advertisement import Advertisement
from sqstee.agent.claimed_run import ClaimedRun, read_policy
from sqstee.agent.flow import ServedRun
from sqstee.agent.worker import ShippingWorker
from sqstee.destination import parse
from sqstee.errors import EXIT_FAILURE, SqsteeError
from sqstee.options import Settings
from sqstee.ship.policy import DeliveryPolicy
from sqstee.spool import agent_file
from sqstee.spool.pinned_folder import PinnedFolder
from sqstee.spool.run_folder import holds_nothing, lock, remove
from sqstee.spool.waiting import ULID_LENGTH, remove_half_made
from sqstee.transports.base import Sender
from sqstee.transports.errors import TransportError
from sqstee.transports.fallback import shorten_waits

LOOK_SECONDS = 0.2  # how often the segments' sizes are looked at
_CLOSELY = 5  # every so many looks: whether the front lives, and a segment was begun early
_STATUS_SECONDS = 1.0
_RATE_SECONDS = 10.0
_TRY_AGAIN_SECONDS = 30.0
_IDLE_SECONDS = 600.0  # how long a worker without runs is kept
_JOIN_SECONDS = 0.01
_GRACE_SECONDS = 2.0  # over the flush timeout
_NICENESS = 15
_SPARE_FDS = 256
_FDS_OF_A_RUN = 6


class AgentConfig:
    """What an agent is configured with: its destinations (None: whatever runs ask for), and the `run` options."""

    def __init__(self, destinations: frozenset[str] | None, settings: Settings) -> None:
        self.destinations = destinations
        self.settings = settings

    def takes(self, destination: str) -> bool:
        """Whether it ships to this one."""
        return self.destinations is None or destination in self.destinations


class Agent:
    """Serves `folder`. Raises SqsteeError where another one does, or it must not be served."""

    def __init__(self, folder: str, config: AgentConfig, environ: Mapping[str, str]) -> None:
        self.folder = folder
        self.of_all_users = agent_file.serves_all_users(folder)
        if self.of_all_users:
            _check_host_wide(config)
        self._config = config
        self._advertisement = Advertisement(folder, environ)
        self._most_runs = max(1, (_raise_fd_limit() - _SPARE_FDS) // _FDS_OF_A_RUN)
        self._roots: dict[int, PinnedFolder] = {}
        self._claimed: dict[str, ClaimedRun] = {}
        self._left_alone: dict[tuple[str, str], tuple[float, str]] = {}  # runs, until when, and the trouble with them
        self._workers: dict[tuple[object, ...], ShippingWorker] = {}
        self._leaving: list[ShippingWorker] = []
        self._senders: dict[tuple[object, ...], Sender] = {}
        self._ended: SimpleQueue[ClaimedRun] = SimpleQueue()
        self._ending: set[str] = set()
        self._error = ""
        self._past = [0, 0]  # requests and records of workers that are no more
        self._rates: deque[tuple[float, int]] = deque()
        self._status_at = self._sweep_at = 0.0
        self._started = time.time()
        self.delivered: list[str] = []
        self.busy: list[str] = []
        self.crowded: list[str] = []  # runs for which there are too few descriptors at the moment
        os.nice(_NICENESS)

    def serve(self, stop: Callable[[], bool], reload: Callable[[], AgentConfig | None]) -> None:
        """Ship until `stop`, then deliver the rest within the flush timeout.

        `reload` returns a new configuration or None. Both are called at every look.
        """
        threading.Thread(target=self._end_runs, daemon=True).start()
        self._advertisement.publish(self._config.destinations)
        while not stop():
            config = reload()
            if config:
                self._reconfigure(config)
            try:
                self.look()
            except OSError as error:  # too many open files, a folder that comes and goes: it may pass
                self._error = str(error)
            if not self._advertisement.in_place:
                hint = "start it again; until then runs ship by themselves"
                raise SqsteeError(f"the agent's file in {self.folder} was removed", hint, EXIT_FAILURE)
            time.sleep(LOOK_SECONDS)
        self._advertisement.publish(())
        self.look()  # the last that relied on us has written everything by now
        self.drain()

    def once(self) -> dict[str, str]:
        """Ship what is there; the runs that stay behind, with the reasons. What shipped is in `delivered`."""
        self._advertisement.publish(())
        self.look()
        troubled = {name: problem for (_, name), (_, problem) in self._left_alone.items() if problem}
        troubled |= dict.fromkeys(self.crowded, "too many at once for the limit on open files: ship again")
        return troubled | self.drain()

    def look(self) -> None:
        """Take what runs are new, see what the others have written, let go of those that are done."""
        now = time.monotonic()
        self.busy.clear()
        self.crowded.clear()
        for root, names in self._folders():
            for name in names:
                if name not in self._claimed and self._left_alone.get((root.path, name), (0.0, ""))[0] <= now:
                    self._claim(root, name, now)
        for name, claimed in list(self._claimed.items()):
            try:
                self._attend(name, claimed, now)
            except OSError as error:  # one run's trouble is no other's
                self._error = f"{name}: {error}"
        self._retire(now)
        if now >= self._status_at:
            self._status_at = now + _STATUS_SECONDS
            self._error = self._advertisement.renew() or self._error
            self._advertisement.write_status(self.status(now))
        if now >= self._sweep_at:
            self._sweep_at = now + _TRY_AGAIN_SECONDS
            self._left_alone = {key: value for key, value in self._left_alone.items() if value[0] > now}
            self._sweep()

    def drain(self) -> dict[str, str]:
        """Deliver what is there within the flush timeout, and leave; the runs that stay behind, with the reasons."""
        deadline = time.monotonic() + self._config.settings.flush_timeout + _GRACE_SECONDS
        for sender in self._senders.values():
            shorten_waits(sender, self._config.settings.flush_timeout)
        for name, claimed in self._claimed.items():
            if not (claimed.run.ended or name in self._ending or claimed.is_written()):
                claimed.end()
        waiting = [*self._workers.values(), *self._leaving]
        while (waiting or self._ending) and time.monotonic() < deadline:
            for worker in waiting:
                worker.close()
                worker.join(_JOIN_SECONDS)
            waiting = [worker for worker in waiting if worker.alive]
        left = {}
        for name, claimed in list(self._claimed.items()):
            flow, reason = claimed.run.flow, claimed.run.failure or claimed.worker.reason
            if not claimed.run.gone and (claimed.run.ended or flow is None or not flow.done):
                left[name] = reason or "the time was over"
            if name in self._ending or claimed.worker.alive:  # its folder is in use; the locks go with the process
                continue
            if self._release(name, claimed):
                self.delivered.append(name)
            elif claimed.run.gone:
                left[name] = reason
        self._advertisement.leave()
        return left

    def status(self, now: float) -> dict[str, object]:
        """What it does, for people."""
        workers = [*self._workers.values(), *self._leaving]
        queues = [worker.queue for worker in workers if worker.queue]
        records = self._past[1] + sum(queue.acknowledged for queue in queues)
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
            "requests": self._past[0] + sum(queue.requests for queue in queues),
            "error": next((worker.reason for worker in workers if worker.reason), self._error),
        }

    def _folders(self) -> Iterator[tuple[PinnedFolder, list[str]]]:
        """Every spool folder that is served, with the names of its runs."""
        if not self.of_all_users:
            if not self._roots:
                self._roots[os.getuid()] = PinnedFolder(self.folder, os.getuid())
        else:
            self._open_users_folders()
        for root in self._roots.values():
            try:
                yield root, sorted(name for name in os.listdir(root.path) if len(name) == ULID_LENGTH)
            except OSError as error:
                self._error = str(error)

    def _open_users_folders(self) -> None:
        used = {
            claimed.run.root for claimed in self._claimed.values()
        }  # by these names, which must not become another's
        for owner in [owner for owner, root in self._roots.items() if root.gone and root.path not in used]:
            root = self._roots.pop(owner)
            if not root.lent:
                root.close()
        for name in os.listdir(self.folder):
            if name.isascii() and name.isdigit() and str(int(name)) == name and int(name) not in self._roots:
                try:
                    self._roots[int(name)] = PinnedFolder(f"{self.folder}/{name}", int(name))
                except OSError:  # a link, a file, another user's: nobody's spool
                    continue

    def _claim(self, root: PinnedFolder, name: str, now: float) -> None:
        """Take a run, unless somebody ships it, or it is not ours to ship."""
        folder: PinnedFolder | None = None
        shipping: int | None = None
        try:
            folder = PinnedFolder(f"{root.path}/{name}", root.owner)
            if holds_nothing(folder.path):
                shipping = lock(folder.path, "ship")
                if shipping is not None:
                    remove(folder.path, f"{root.path}/{name}", only_empty=True)
                return
            policy = read_policy(folder.path, name)
            if not self._config.takes(policy.to):
                self._left_alone[root.path, name] = now + _TRY_AGAIN_SECONDS, ""
                return
            if len(self._claimed) >= self._most_runs:
                self.crowded.append(name)
                return
            shipping = lock(folder.path, "ship")
            if shipping is None:
                self.busy.append(name)
                return
            claimed = ClaimedRun(
                folder, shipping, ServedRun(name, folder.path, root.path), self._worker_for(root, policy)
            )
            folder = shipping = None
        except FileNotFoundError:  # it has gone meanwhile
            return
        except (OSError, ValueError, SqsteeError, TransportError) as error:
            self._leave_alone(root.path, name, str(error), now)
            return
        finally:
            if shipping is not None:
                os.close(shipping)
            if folder is not None:
                folder.close()
        self._claimed[name] = claimed

    def _leave_alone(self, root: str, name: str, problem: str, now: float) -> None:
        self._error = f"{name}: {problem}"
        self._left_alone[root, name] = now + _TRY_AGAIN_SECONDS, problem

    def _worker_for(self, root: PinnedFolder, policy: DeliveryPolicy) -> ShippingWorker:
        settings = self._config.settings
        if self.of_all_users:  # users choose where their lines go, not how the node sends them
            policy = DeliveryPolicy(policy.to, settings)
        worker = self._workers.get(policy.key)
        if worker is None or worker.closing or not worker.alive:
            sender = self._senders.get(policy.sender_key)
            if sender is None:
                sender = self._senders[policy.sender_key] = policy.open_sender(root.path)
                root.lent = True
            # S3 objects, what a collector stores, and local rows are named by the one run that they hold
            mixing = parse(policy.to).kind == "sqs" and not (sender.ordered or policy.options.via_s3)
            if worker:
                self._leaving.append(worker)
            worker = self._workers[policy.key] = ShippingWorker(policy, sender, mixing, settings.flush_timeout)
        return worker

    def _attend(self, name: str, claimed: ClaimedRun, now: float) -> None:
        run = claimed.run
        if name in self._ending:
            return
        if run.gone or not claimed.worker.alive:
            problem = run.failure or claimed.worker.failure
            root = run.root
            if not self._release(name, claimed) and not claimed.worker.closing:
                self._leave_alone(root, name, problem or "its folder cannot be removed", now)
            return
        claimed.worker.used_at = now
        claimed.looks += 1
        closely = claimed.looks % _CLOSELY == 0
        if claimed.grown(closely):
            claimed.worker.look_at(run)
        elif closely and not run.ended and not claimed.is_written():
            self._ending.add(name)
            self._ended.put(claimed)

    def _end_runs(self) -> None:
        """A thread: to close a dead run its unacknowledged spool is read."""
        while True:
            claimed = self._ended.get()
            claimed.end()
            self._ending.discard(claimed.run.name)

    def _release(self, name: str, claimed: ClaimedRun) -> bool:
        del self._claimed[name]
        self._ending.discard(name)
        return claimed.release()

    def _reconfigure(self, config: AgentConfig) -> None:
        """Go on with a new configuration: runs to a destination that is no longer in it are left to themselves."""
        if self.of_all_users:
            try:
                _check_host_wide(config)
            except SqsteeError as error:
                self._error = error.message
                return
        self._config = config
        self._advertisement.publish(config.destinations)
        self._left_alone.clear()
        for worker in self._workers.values():
            if not config.takes(worker.policy.to):
                worker.close()

    def _retire(self, now: float) -> None:
        """Let go of workers that have ended, and of those that had nothing to do for long."""
        for key, worker in list(self._workers.items()):
            if now - worker.used_at > _IDLE_SECONDS:
                worker.close()
            if worker.closing or not worker.alive:
                self._leaving.append(self._workers.pop(key))
        for worker in [worker for worker in self._leaving if not worker.alive]:
            self._leaving.remove(worker)
            worker.join(_JOIN_SECONDS)
            self._error = worker.failure or self._error
            if worker.queue:
                self._past[0] += worker.queue.requests
                self._past[1] += worker.queue.acknowledged

    def _sweep(self) -> None:
        for root in self._roots.values():
            try:
                remove_half_made(root.path)
            except OSError as error:
                self._error = str(error)


def _check_host_wide(config: AgentConfig) -> None:
    if os.geteuid():
        hint = "run it as root, or serve a folder of your own with --spool DIR"
        raise SqsteeError("only root can serve all users' spool folders", hint)
    if not config.destinations:
        hint = 'the form is --to DEST, or to = ["DEST"] under [agent] in /etc/sqstee.toml'
        raise SqsteeError("an agent for all users needs the destinations that it may ship to", hint)
    if any(parse(name).kind == "local" and not parse(name).name for name in config.destinations):
        raise SqsteeError("an agent for all users has no local queue of its own", "the form is --to local:PATH")
    try:
        with open("/proc/sys/fs/protected_hardlinks") as file:
            protected = file.read().strip() == "1"
    except OSError:
        protected = False
    if not protected:
        hint = "sysctl fs.protected_hardlinks=1"
        raise SqsteeError("an agent for all users needs a kernel that protects hard links", hint)


def _raise_fd_limit() -> int:
    """Files and locks of hundreds of runs; the limit that is in force."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return most
