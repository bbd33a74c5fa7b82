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
from sqstee.agent.advertisement import Presence
from sqstee.agent.claimed_run import Charge
from sqstee.agent.flow import Run
from sqstee.agent.worker import Group
from sqstee.destination import LOCAL_FILE_NAME, parse
from sqstee.errors import EXIT_FAILURE, SqsteeError
from sqstee.options import SENDER_OPTIONS, Settings
from sqstee.ship.policy import Manner, manner_of
from sqstee.spool import agent_file
from sqstee.spool.pinned_folder import Folder
from sqstee.spool.run_folder import holds_nothing, lock, remove
from sqstee.spool.waiting import ULID_LENGTH, sweep
from sqstee.transports.base import Sender
from sqstee.transports.errors import TransportError
from sqstee.transports.factory import open_sender
from sqstee.transports.fallback import shorten_waits

LOOK_SECONDS = 0.2  # how often the segments' sizes are looked at
_CLOSELY = 5  # every so many looks: whether the front lives, and a segment was begun early
_STATUS_SECONDS = 1.0
_RATE_SECONDS = 10.0
_TRY_AGAIN_SECONDS = 30.0
_IDLE_SECONDS = 600.0  # how long a group without runs is kept
_JOIN_SECONDS = 0.01
_GRACE_SECONDS = 2.0  # over the flush timeout
_NICENESS = 15
_SPARE_FDS = 256
_FDS_OF_A_RUN = 6


class Plan:
    """What an agent is configured with: its destinations (None: whatever runs ask for), and the `run` options."""

    def __init__(self, destinations: frozenset[str] | None, settings: Settings) -> None:
        self.destinations = destinations
        self.settings = settings

    def takes(self, destination: str) -> bool:
        """Whether it ships to this one."""
        return self.destinations is None or destination in self.destinations


class Agent:
    """Serves `folder`. Raises SqsteeError where another one does, or it must not be served."""

    def __init__(self, folder: str, plan: Plan, environ: Mapping[str, str]) -> None:
        self.folder = folder
        self.of_all_users = agent_file.serves_all_users(folder)
        if self.of_all_users:
            _check_host_wide(plan)
        self._plan = plan
        self._presence = Presence(folder, environ)
        self._most_runs = max(1, (_raise_fd_limit() - _SPARE_FDS) // _FDS_OF_A_RUN)
        self._roots: dict[int, Folder] = {}
        self._charges: dict[str, Charge] = {}
        self._left_alone: dict[tuple[str, str], tuple[float, str]] = {}  # runs, until when, and the trouble with them
        self._groups: dict[tuple[object, ...], Group] = {}
        self._leaving: list[Group] = []
        self._senders: dict[tuple[object, ...], Sender] = {}
        self._ended: SimpleQueue[Charge] = SimpleQueue()
        self._ending: set[str] = set()
        self._error = ""
        self._past = [0, 0]  # requests and records of groups that are no more
        self._rates: deque[tuple[float, int]] = deque()
        self._status_at = self._sweep_at = 0.0
        self._started = time.time()
        self.delivered: list[str] = []
        self.busy: list[str] = []
        self.crowded: list[str] = []  # runs for which there are too few descriptors at the moment
        os.nice(_NICENESS)

    def serve(self, stop: Callable[[], bool], reload: Callable[[], Plan | None]) -> None:
        """Ship until `stop`, then deliver the rest within the flush timeout; `reload` answers with a new plan or None.

        Both are called at every look.
        """
        threading.Thread(target=self._end_runs, daemon=True).start()
        self._presence.publish(self._plan.destinations)
        while not stop():
            plan = reload()
            if plan:
                self._adjust(plan)
            try:
                self.look()
            except OSError as error:  # too many open files, a folder that comes and goes: it may pass
                self._error = str(error)
            if not self._presence.in_place:
                hint = "start it again; until then runs ship by themselves"
                raise SqsteeError(f"the agent's file in {self.folder} was removed", hint, EXIT_FAILURE)
            time.sleep(LOOK_SECONDS)
        self._presence.publish(())
        self.look()  # the last that relied on us has written everything by now
        self.drain()

    def once(self) -> dict[str, str]:
        """Ship what is there; the runs that stay behind, with the reasons. What shipped is in `delivered`."""
        self._presence.publish(())
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
                if name not in self._charges and self._left_alone.get((root.path, name), (0.0, ""))[0] <= now:
                    self._take_charge(root, name, now)
        for name, charge in list(self._charges.items()):
            try:
                self._attend(name, charge, now)
            except OSError as error:  # one run's trouble is no other's
                self._error = f"{name}: {error}"
        self._retire(now)
        if now >= self._status_at:
            self._status_at = now + _STATUS_SECONDS
            self._error = self._presence.renew() or self._error
            self._presence.write_status(self.status(now))
        if now >= self._sweep_at:
            self._sweep_at = now + _TRY_AGAIN_SECONDS
            self._left_alone = {key: value for key, value in self._left_alone.items() if value[0] > now}
            self._sweep()

    def drain(self) -> dict[str, str]:
        """Deliver what is there within the flush timeout, and leave; the runs that stay behind, with the reasons."""
        deadline = time.monotonic() + self._plan.settings.flush_timeout + _GRACE_SECONDS
        for sender in self._senders.values():
            shorten_waits(sender, self._plan.settings.flush_timeout)
        for name, charge in self._charges.items():
            if not (charge.run.ended or name in self._ending or charge.is_written()):
                charge.end()
        waiting = [*self._groups.values(), *self._leaving]
        while (waiting or self._ending) and time.monotonic() < deadline:
            for group in waiting:
                group.close()
                group.join(_JOIN_SECONDS)
            waiting = [group for group in waiting if group.alive]
        left = {}
        for name, charge in list(self._charges.items()):
            lane, reason = charge.run.lane, charge.run.failure or charge.group.reason
            if not charge.run.gone and (charge.run.ended or lane is None or not lane.done):
                left[name] = reason or "the time was over"
            if name in self._ending or charge.group.alive:  # its folder is in use; the locks go with the process
                continue
            if self._release(name, charge):
                self.delivered.append(name)
            elif charge.run.gone:
                left[name] = reason
        self._presence.leave()
        return left

    def status(self, now: float) -> dict[str, object]:
        """What it does, for people."""
        groups = [*self._groups.values(), *self._leaving]
        fleets = [group.fleet for group in groups if group.fleet]
        records = self._past[1] + sum(fleet.acknowledged for fleet in fleets)
        self._rates.append((now, records))
        while now - self._rates[0][0] > _RATE_SECONDS:
            self._rates.popleft()
        seconds = now - self._rates[0][0]
        return {
            "pid": os.getpid(),
            "version": __version__,
            "time": time.time(),
            "started": self._started,
            "destinations": None if self._plan.destinations is None else sorted(self._plan.destinations),
            "shipping_to": sorted({group.manner.to for group in groups}),
            "runs": len(self._charges),
            "waiting_bytes": sum(charge.waiting_bytes for charge in self._charges.values()),
            "waiting_records": sum(fleet.report()[1] for fleet in fleets),
            "records": records,
            "records_per_second": round((records - self._rates[0][1]) / seconds) if seconds else 0,
            "requests": self._past[0] + sum(fleet.requests for fleet in fleets),
            "error": next((group.reason for group in groups if group.reason), self._error),
        }

    def _folders(self) -> Iterator[tuple[Folder, list[str]]]:
        """Every spool folder that is served, with the names of its runs."""
        if not self.of_all_users:
            if not self._roots:
                self._roots[os.getuid()] = Folder(self.folder, os.getuid())
        else:
            self._open_users_folders()
        for root in self._roots.values():
            try:
                yield root, sorted(name for name in os.listdir(root.path) if len(name) == ULID_LENGTH)
            except OSError as error:
                self._error = str(error)

    def _open_users_folders(self) -> None:
        used = {charge.run.root for charge in self._charges.values()}  # by these names, which must not become another's
        for owner in [owner for owner, root in self._roots.items() if root.gone and root.path not in used]:
            root = self._roots.pop(owner)
            if not root.lent:
                root.close()
        for name in os.listdir(self.folder):
            if name.isascii() and name.isdigit() and str(int(name)) == name and int(name) not in self._roots:
                try:
                    self._roots[int(name)] = Folder(f"{self.folder}/{name}", int(name))
                except OSError:  # a link, a file, another user's: nobody's spool
                    continue

    def _take_charge(self, root: Folder, name: str, now: float) -> None:
        """Take a run, unless somebody ships it, or it is not ours to ship."""
        folder: Folder | None = None
        shipping: int | None = None
        try:
            folder = Folder(f"{root.path}/{name}", root.owner)
            if holds_nothing(folder.path):
                shipping = lock(folder.path, "ship")
                if shipping is not None:
                    remove(folder.path, f"{root.path}/{name}", only_empty=True)
                return
            manner = manner_of(folder.path, name)
            if not self._plan.takes(manner.to):
                self._left_alone[root.path, name] = now + _TRY_AGAIN_SECONDS, ""
                return
            if len(self._charges) >= self._most_runs:
                self.crowded.append(name)
                return
            shipping = lock(folder.path, "ship")
            if shipping is None:
                self.busy.append(name)
                return
            charge = Charge(folder, shipping, Run(name, folder.path, root.path), self._group(root, manner))
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
        self._charges[name] = charge

    def _leave_alone(self, root: str, name: str, problem: str, now: float) -> None:
        self._error = f"{name}: {problem}"
        self._left_alone[root, name] = now + _TRY_AGAIN_SECONDS, problem

    def _group(self, root: Folder, manner: Manner) -> Group:
        settings = self._plan.settings
        if self.of_all_users:  # users choose where their lines go, not how the node sends them
            sending = {name: str(getattr(settings, name)) for name in SENDER_OPTIONS}
            own = (settings.linger, settings.message_bytes, settings.compress, settings.local_max)
            manner = Manner(manner.to, *own, sending)
        group = self._groups.get(manner.key)
        if group is None or group.closing or not group.alive:
            destination = parse(manner.to)
            sender = self._senders.get(manner.sender_key)
            if sender is None:
                local = f"{root.path}/{LOCAL_FILE_NAME}"
                sender = open_sender(destination, local, manner.local_max, **manner.sending)
                self._senders[manner.sender_key] = sender
                root.lent = True
            # S3 objects, what a collector stores, and local rows are named by the one run that they hold
            mixing = destination.kind == "sqs" and not (sender.ordered or manner.sending["via_s3"])
            if group:
                self._leaving.append(group)
            group = self._groups[manner.key] = Group(manner, sender, mixing, settings.flush_timeout)
        return group

    def _attend(self, name: str, charge: Charge, now: float) -> None:
        run = charge.run
        if name in self._ending:
            return
        if run.gone or not charge.group.alive:
            problem = run.failure or charge.group.failure
            root = run.root
            if not self._release(name, charge) and not charge.group.closing:
                self._leave_alone(root, name, problem or "its folder cannot be removed", now)
            return
        charge.group.used_at = now
        charge.looks += 1
        closely = charge.looks % _CLOSELY == 0
        if charge.grown(closely):
            charge.group.look_at(run)
        elif closely and not run.ended and not charge.is_written():
            self._ending.add(name)
            self._ended.put(charge)

    def _end_runs(self) -> None:
        """A thread: to close a dead run its unacknowledged spool is read."""
        while True:
            charge = self._ended.get()
            charge.end()
            self._ending.discard(charge.run.name)

    def _release(self, name: str, charge: Charge) -> bool:
        del self._charges[name]
        self._ending.discard(name)
        return charge.release()

    def _adjust(self, plan: Plan) -> None:
        """Go on with a new plan: runs of a destination that is no more in it are left to themselves."""
        if self.of_all_users:
            try:
                _check_host_wide(plan)
            except SqsteeError as error:
                self._error = error.message
                return
        self._plan = plan
        self._presence.publish(plan.destinations)
        self._left_alone.clear()
        for group in self._groups.values():
            if not plan.takes(group.manner.to):
                group.close()

    def _retire(self, now: float) -> None:
        """Let go of groups that have ended, and of those that had nothing to do for long."""
        for key, group in list(self._groups.items()):
            if now - group.used_at > _IDLE_SECONDS:
                group.close()
            if group.closing or not group.alive:
                self._leaving.append(self._groups.pop(key))
        for group in [group for group in self._leaving if not group.alive]:
            self._leaving.remove(group)
            group.join(_JOIN_SECONDS)
            self._error = group.failure or self._error
            if group.fleet:
                self._past[0] += group.fleet.requests
                self._past[1] += group.fleet.acknowledged

    def _sweep(self) -> None:
        for root in self._roots.values():
            try:
                sweep(root.path)
            except OSError as error:
                self._error = str(error)


def _check_host_wide(plan: Plan) -> None:
    if os.geteuid():
        hint = "run it as root, or serve a folder of your own with --spool DIR"
        raise SqsteeError("only root can serve all users' spool folders", hint)
    if not plan.destinations:
        hint = 'the form is --to DEST, or to = ["DEST"] under [agent] in /etc/sqstee.toml'
        raise SqsteeError("an agent for all users needs the destinations that it may ship to", hint)
    if any(parse(name).kind == "local" and not parse(name).name for name in plan.destinations):
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
