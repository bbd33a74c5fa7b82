"""Ships what other processes left in the spool, beside this process's own run and behind it."""

from __future__ import annotations

import os
import threading
import time
from functools import partial
from typing import TYPE_CHECKING

from sqstee.jsonbytes import decode_object
from sqstee.ship.policy import DeliveryPolicy
from sqstee.ship.shipper import Shipper
from sqstee.ship.shipper_handle import closed_wake
from sqstee.spool.checkpoint import Checkpoint
from sqstee.spool.frame import NewerFormatError
from sqstee.spool.reader import read_meta
from sqstee.spool.recovery import close_dead_run
from sqstee.spool.run_folder import lock, lock_root, probe_lock, remove_empty
from sqstee.spool.waiting import remove_half_made, waiting_runs
from sqstee.trace import trace
from sqstee.transports.fallback import shorten_waits

if TYPE_CHECKING:
    from sqstee.transports.base import Sender

_RUN_SECONDS = 120.0  # time-out for each run
_SCAN_SECONDS = 30.0
_FAILURES = 2  # in a row, of different runs: then their destination is left alone for this round
_HEAD_START_SECONDS = 1.0  # for a process's own run


class OtherRuns:
    """Ships what other processes left in the spool folder of the run in `own`, in a thread, every half minute.

    Of all processes that share a spool folder, one at a time does so. A run that was tried is left alone for half a
    minute, and comes last then: one that cannot be delivered holds up no other, and costs the next short runs little.
    """

    def __init__(self, own: str) -> None:
        self._root, self._own = os.path.split(own)
        self._ended = threading.Event()
        self._found = True  # until it has looked
        self._thread = threading.Thread(target=self._work, daemon=True)

    def start(self) -> None:
        """Start after a second, or when the process's own run has ended, whose lines come first."""
        try:
            self._thread.start()
        except RuntimeError:  # no thread available: the next run ships them
            pass

    @property
    def left(self) -> bool:
        """Whether other processes have left something that has not been tried yet, as far as is known."""
        return self._thread.is_alive() and self._found

    def finish(self, seconds: float) -> None:
        """The process's own run has ended: ship what others have left by now, for at most `seconds`."""
        self._ended.set()
        self._thread.join(seconds)

    def _work(self) -> None:
        head_start = _HEAD_START_SECONDS
        while True:
            try:
                remove_half_made(self._root)
                self._found = any(not _is_held(f"{self._root}/{run}") for run in self._due())
                if self._found:
                    self._ended.wait(head_start)
                    self._ship_all()
            except Exception:  # a service to other runs: this process's own lines do not depend on it
                pass
            self._found = False
            if self._ended.wait(_SCAN_SECONDS):
                return
            head_start = 0.0

    def _ship_all(self) -> None:
        turn = lock_root(self._root)
        if turn is None:  # another process does it
            return
        try:
            destinations = Destinations(self._root)
            for run in self._due():
                folder = f"{self._root}/{run}"
                if not _is_held(folder):
                    _postpone(folder)
                    ship_left_run(self._root, run, _RUN_SECONDS, destinations)
        finally:
            os.close(turn)

    def _due(self) -> list[str]:
        """The runs to try: oldest first, and behind them those that were tried before."""
        due = {run: _due_at(f"{self._root}/{run}") for run in waiting_runs(self._root) if run != self._own}
        now = time.time()
        return sorted((run for run in due if not now < due[run] <= now + _SCAN_SECONDS), key=due.__getitem__)


def _is_held(folder: str) -> bool:
    """Whether a process ships the run."""
    try:
        shipping = probe_lock(folder, "ship")
    except OSError:  # delivered meanwhile
        return True
    if shipping is not None:
        os.close(shipping)
    return shipping is None


def _due_at(folder: str) -> float:
    """When to try a run again: the modification time of its `ship` file; in the past if it was not tried."""
    try:
        return os.stat(f"{folder}/ship").st_mtime
    except OSError:
        return 0.0


def _postpone(folder: str) -> None:
    """Leave a run alone for half a minute from now."""
    try:
        due = time.time() + _SCAN_SECONDS
        os.utime(f"{folder}/ship", (due, due))
    except OSError:
        pass


class Destinations:
    """One sender for each way to deliver the runs in the spool folder `root`, and the failures of each in a row."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._senders: dict[tuple[object, ...], Sender] = {}
        self._failures: dict[tuple[object, ...], list[str]] = {}

    def sender(self, policy: DeliveryPolicy) -> Sender:
        """The sender for runs with this policy."""
        if policy.sender_key not in self._senders:
            self._senders[policy.sender_key] = policy.open_sender(self._root)
        return self._senders[policy.sender_key]

    def note(self, policy: DeliveryPolicy, reason: str) -> None:
        """Note why a run was not delivered, or '' if it was."""
        failures = self._failures.setdefault(policy.sender_key, [])
        if reason:
            failures.append(reason)
        else:
            failures.clear()

    def refusal(self, policy: DeliveryPolicy) -> str:
        """Why not to try this destination again, or ''. One failure may be the fault of its run alone."""
        failures = self._failures.get(policy.sender_key, [])
        return failures[-1] if len(failures) >= _FAILURES else ""


def ship_left_run(root: str, run: str, timeout: float, destinations: Destinations) -> str:
    """Ship one run in the spool folder `root` within `timeout` seconds; if it is dead, close it first.

    Returns why it stays, or ''. Nothing is sent to one of `destinations` that has failed.
    """
    folder = f"{root}/{run}"
    try:
        shipping = lock(folder, "ship")
    except FileNotFoundError:
        return ""
    if shipping is None:
        return "another process is shipping it"
    try:
        reason = "" if remove_empty(folder) else _ship_and_close(root, run, timeout, destinations)
    except NewerFormatError as error:
        reason = str(error)
    except Exception as error:  # whatever is damaged concerns this run alone
        reason = f"{type(error).__name__}: {error}"
    finally:
        os.close(shipping)
    trace("shipper", f"other run {run}: {reason or 'shipped'}")
    return reason


def _ship_and_close(root: str, run: str, timeout: float, destinations: Destinations) -> str:
    """Ship a run, and remove it if it is closed; returns why it stays, or ''.

    If it is not (its front was alive, or the disk was full until shipping freed segments), close it and ship its end in
    a second pass.
    """
    for _ in range(2):
        closed, trouble = _close_if_dead(f"{root}/{run}")
        reason = _ship(root, run, timeout, destinations)
        if closed or reason:
            return reason
    return trouble


def _close_if_dead(folder: str) -> tuple[bool, str]:
    """Close a run if it is dead. Returns whether it is closed, and the error that prevented it.

    Raises OSError if the checkpoint cannot be written either: every attempt would send the same lines again.
    """
    try:
        return close_dead_run(folder), ""
    except OSError as error:
        checkpoint = Checkpoint(folder)
        checkpoint.save(checkpoint.next, checkpoint.position, checkpoint.plan)
        checkpoint.close()
        return False, f"its exit event cannot be written: {error.strerror}"


def _ship(root: str, run: str, timeout: float, destinations: Destinations) -> str:
    """Ship what is there; returns why it is not delivered, or ''."""
    policy = DeliveryPolicy.from_meta(decode_object(read_meta(f"{root}/{run}")))
    if refusal := destinations.refusal(policy):
        return refusal
    sender = destinations.sender(policy)
    wake = closed_wake()
    shipper = Shipper(
        f"{root}/{run}",
        sender,
        wake,
        policy.options,
        flush_timeout=timeout,
        on_close=partial(shorten_waits, sender),
        in_flight=1,
    )
    try:
        if shipper.run():
            shipper.remove()
            destinations.note(policy, "")
            return ""
    finally:
        shipper.close()
        os.close(wake)
    if shipper.reason:
        destinations.note(policy, shipper.reason)
    return shipper.reason or f"not done within {timeout:g} s"
