"""Which runs in the spool folders an agent claims, and which ones it leaves to others, or for later."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Container, Iterator

from sqstee.agent.advertisement import Advertisement, NoAdvertisement
from sqstee.agent.claimed_run import ClaimedRun, checked_meta
from sqstee.agent.config import AgentConfig
from sqstee.agent.flow import ServedRun
from sqstee.agent.worker_pool import WorkerPool
from sqstee.errors import SqsteeError
from sqstee.ship.policy import DeliveryPolicy
from sqstee.spool import agent_file
from sqstee.spool.pinned_folder import PinnedFolder
from sqstee.spool.run_folder import holds_nothing, lock, probe_lock, remove_empty
from sqstee.spool.waiting import ULID_LENGTH, remove_half_made
from sqstee.trace import trace
from sqstee.transports.errors import TransportError

RETRY_SECONDS = 30.0
_KEEP_SECONDS = 10.0
_LONGEST_KEEP_SECONDS = 30 * 86400.0  # any user can write what he likes in the META frame of his run
_SPARE_FDS = 256
_FDS_OF_A_RUN = 6


class Claimer:
    """Claims runs in `folder`, or in the folders of all users there, for the workers of `pool`.

    `claimed` are the runs that the agent holds, by their names: new ones are added to it. With `runs` no others are
    claimed. `note_error` gets errors for the agent's status. A dead run that relies on another agent is claimed once it
    was without a shipper for `others_patience` seconds.

    The last look sorted the other runs. `busy` are those that another process ships; `expected` are those among them
    that rely on this agent, but whose ship locks are not free yet. `unclaimed` are those that it had no time for.
    `over_limit` are those that the limit on open files leaves out for now. `abandoned` are dead runs of others that no
    process ships, and since when.
    """

    def __init__(
        self,
        folder: str,
        advertisement: Advertisement | NoAdvertisement,
        pool: WorkerPool,
        claimed: dict[str, ClaimedRun],
        note_error: Callable[[str], None],
        runs: Container[str] | None = None,
    ) -> None:
        self.max_runs = max(1, (_raise_fd_limit() - _SPARE_FDS) // _FDS_OF_A_RUN)
        self.others_patience = 0.0
        self.keep_seconds = _KEEP_SECONDS  # how long a shared shipper waits for further runs, as the latest run asks
        self.busy: list[str] = []
        self.expected: list[str] = []
        self.unclaimed: list[str] = []
        self.over_limit: list[str] = []
        self.abandoned: dict[str, float] = {}
        self._abandoned_before: dict[str, float] = {}
        self._folder = folder
        self._of_all_users = agent_file.serves_all_users(folder)
        self._advertisement = advertisement
        self._pool = pool
        self._claimed = claimed
        self._note_error = note_error
        self._runs = runs
        self._roots: dict[int, PinnedFolder] = {}
        self._postponed: dict[tuple[str, str], tuple[float, str]] = {}  # (folder, run): until when, and why
        self._skipped: dict[str, str] = {}  # runs that are not claimed, and why, as last traced

    def claim_new(self, config: AgentConfig, now: float, until: float) -> None:
        """Claim the runs that have come since the last look; none after `until`, a time of the monotonic clock."""
        self._abandoned_before, self.abandoned = self.abandoned, {}
        for names in (self.busy, self.expected, self.over_limit, self.unclaimed):
            names.clear()
        for root, names in self.folders():
            for name in names:
                is_postponed = self._postponed.get((root.path, name), (0.0, ""))[0] > now
                if self._advertisement.withdrawn or name in self._claimed or is_postponed:
                    continue
                if time.monotonic() < until:
                    self._advertisement.beat()  # there may be thousands
                    self._claim(root, name, config, now)
                else:
                    self.unclaimed.append(name)

    def postpone(self, root: str, name: str, problem: str, now: float) -> None:
        """Leave a run in the folder `root` alone for half a minute."""
        self._note_error(f"{name}: {problem}")
        self._trace_skipped(name, problem)
        self._postponed[root, name] = now + RETRY_SECONDS, problem

    def problems(self) -> dict[str, str]:
        """The runs that cannot be claimed, with the reasons."""
        left = {name: problem for (_, name), (_, problem) in self._postponed.items() if problem}
        left |= dict.fromkeys(self.unclaimed, "not done within --timeout")
        return left | dict.fromkeys(
            self.over_limit, "more runs than the limit on open files allows at once: run it again"
        )

    def sweep(self, now: float) -> None:
        """Forget expired postponements, and remove the folders that killed processes have not finished making."""
        self._postponed = {key: value for key, value in self._postponed.items() if value[0] > now}
        self._skipped.clear()
        for root in self._roots.values():
            try:
                remove_half_made(root.path)
            except OSError as error:
                self._note_error(str(error))

    def forget_postponed(self) -> None:
        """Try postponed runs again: another configuration may accept them."""
        self._postponed.clear()

    def close(self) -> None:
        """Close the folders; a later look opens them anew."""
        for root in self._roots.values():
            root.close()
        self._roots.clear()
        self._postponed.clear()

    def folders(self) -> Iterator[tuple[PinnedFolder, list[str]]]:
        """Every served spool folder, with the names of its runs."""
        if self._of_all_users:
            self._open_users_folders()
        elif not self._roots:
            self._roots[os.getuid()] = PinnedFolder(self._folder, os.stat(self._folder).st_uid)
        for root in self._roots.values():
            try:
                names = sorted(name for name in os.listdir(root.path) if len(name) == ULID_LENGTH)
            except OSError as error:
                self._note_error(str(error))
                continue
            yield root, names if self._runs is None else [name for name in names if name in self._runs]

    def _open_users_folders(self) -> None:
        # a path /proc/self/fd/N in use must not come to mean another folder
        used = {claimed.run.root for claimed in self._claimed.values()}
        for owner in [owner for owner, root in self._roots.items() if root.gone and root.path not in used]:
            root = self._roots.pop(owner)
            if not root.keep_open:
                root.close()
        for name in os.listdir(self._folder):
            if name.isascii() and name.isdigit() and str(int(name)) == name and int(name) not in self._roots:
                try:
                    self._roots[int(name)] = PinnedFolder(f"{self._folder}/{name}", int(name))
                except OSError:  # a link, a file, another user's folder: no spool
                    continue

    def _claim(self, root: PinnedFolder, name: str, config: AgentConfig, now: float) -> None:
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
            if not config.accepts(policy.to):
                self._postponed[root.path, name] = now + RETRY_SECONDS, ""
                self._trace_skipped(name, f"not configured to ship to {policy.to}")
                return
            if len(self._claimed) >= self.max_runs:
                self.over_limit.append(name)
                self._trace_skipped(name, f"the limit on open files allows {self.max_runs} runs")
                return
            shipping = lock(folder.path, "ship")
            if shipping is None:
                self.busy.append(name)
                if self._advertisement.identity and meta.get("identity") == self._advertisement.identity:
                    self.expected.append(name)
                self._trace_skipped(name, "another process holds its ship lock")
                return
            run = ServedRun(name, folder.path, root.path)
            claimed = ClaimedRun(folder, shipping, run, self._pool.worker_for(root, policy, config), meta)
            folder = shipping = None
        except FileNotFoundError:  # delivered meanwhile
            return
        except (OSError, ValueError, SqsteeError, TransportError) as error:
            self.postpone(root.path, name, str(error), now)
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
        since = self.abandoned[name] = self._abandoned_before.get(name, now)
        return now - since >= self.others_patience

    def _trace_skipped(self, name: str, why: str) -> None:
        """Trace why a run is not claimed, once for each reason and sweep."""
        if self._skipped.get(name) != why:
            self._skipped[name] = why
            trace("agent", f"does not claim {name}: {why}")


def _raise_fd_limit() -> int:
    """Raise the limit on open files, for the files and locks of hundreds of runs; returns the limit in force."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return most
