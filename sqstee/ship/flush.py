"""Ships runs that earlier processes left in the spool."""

from __future__ import annotations

import os
import threading
import time
from functools import partial
from typing import TYPE_CHECKING

from sqstee.destination import parse
from sqstee.jsonbytes import decode_object
from sqstee.ship.policy import DeliveryPolicy
from sqstee.ship.sender_pool import IN_FLIGHT
from sqstee.ship.shipper import Shipper
from sqstee.ship.shipper_handle import closed_wake
from sqstee.spool.checkpoint import Checkpoint
from sqstee.spool.frame import NewerFormatError
from sqstee.spool.location import local_queue
from sqstee.spool.reader import read_meta
from sqstee.spool.recovery import close_dead_run
from sqstee.spool.run_folder import lock, lock_root, remove_empty
from sqstee.spool.waiting import remove_half_made, waiting_runs
from sqstee.trace import trace
from sqstee.transports.factory import open_sender
from sqstee.transports.fallback import FallbackSender, shorten_waits
from sqstee.transports.fallback_ledger import unreported_pairs

if TYPE_CHECKING:
    from sqstee.transports.base import Sender

_OTHER_RUN_SECONDS = 120.0  # time-out for each run that a shipper ships beside its own
_SCAN_SECONDS = 30.0
_HEAD_START_SECONDS = 1.0  # for a process's own run


class FlushResult:
    """The result for one run: `complete`, or the `reason` why not; `busy` if another process is shipping it.

    `quarantined` is the number of its records that were quarantined.
    """

    __slots__ = ("busy", "complete", "destination", "quarantined", "reason", "run")

    def __init__(self, run: str, destination: str, complete: bool, reason: str, busy: bool = False) -> None:
        self.run = run
        self.destination = destination
        self.complete = complete
        self.reason = reason
        self.busy = busy
        self.quarantined = 0


class Destinations:
    """One sender for each way to deliver the runs in the spool folder `root`.

    `refusals` maps the keys of those that failed to the reasons.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._senders: dict[tuple[object, ...], Sender] = {}
        self.refusals: dict[tuple[object, ...], str] = {}

    def sender(self, policy: DeliveryPolicy) -> Sender:
        """The sender for runs with this policy."""
        if policy.sender_key not in self._senders:
            self._senders[policy.sender_key] = policy.open_sender(self._root)
        return self._senders[policy.sender_key]


def flush_run(
    root: str, run: str, timeout: float, in_flight: int = IN_FLIGHT, destinations: Destinations | None = None
) -> FlushResult:
    """Ship one run in the spool folder `root` within `timeout` seconds; if it is dead, close it first.

    Nothing is sent to one of `destinations` that has failed.
    """
    destinations = destinations or Destinations(root)
    folder = f"{root}/{run}"
    try:
        shipping = lock(folder, "ship")
    except FileNotFoundError:
        return FlushResult(run, "", True, "")
    if shipping is None:
        return FlushResult(run, "", False, "", busy=True)
    try:
        if remove_empty(folder):
            return FlushResult(run, "", True, "")
        meta = decode_object(read_meta(folder))
        return _ship_and_close(root, run, meta, timeout, in_flight, destinations)
    except NewerFormatError as error:
        return FlushResult(run, "", False, str(error))
    except Exception as error:  # whatever is damaged concerns this run alone
        trace("flush", f"{run}: {type(error).__name__}: {error}")
        return FlushResult(run, "", False, f"its spool cannot be read: {error}")
    finally:
        os.close(shipping)


def _ship_and_close(
    root: str, run: str, meta: dict[str, object], timeout: float, in_flight: int, destinations: Destinations
) -> FlushResult:
    """Ship a run, and remove it if it is closed.

    If it is not (its front was alive, or the disk was full until shipping freed segments), close it and ship its end in
    a second pass.
    """
    quarantined = 0
    for _ in range(2):
        closed, trouble = _close_if_dead(f"{root}/{run}")
        flushed = _ship(root, run, meta, timeout, in_flight, destinations)
        flushed.quarantined = quarantined = quarantined + flushed.quarantined
        if closed or not flushed.complete:
            return flushed
    flushed.complete, flushed.reason = not trouble, trouble
    return flushed


def _close_if_dead(folder: str) -> tuple[bool, str]:
    """Close a run if it is dead. Returns whether it is closed, and the error that prevented it.

    Raises OSError if the checkpoint cannot be written either: every flush would send the same lines again.
    """
    try:
        return close_dead_run(folder), ""
    except OSError as error:
        checkpoint = Checkpoint(folder)
        checkpoint.save(checkpoint.next, checkpoint.position, checkpoint.plan)
        checkpoint.close()
        return False, f"its exit event cannot be written: {error.strerror}"


def report_diverted(root: str) -> list[str]:
    """Report to primary destinations which lines went to their fallbacks; returns the destinations that were notified.

    A destination that cannot be reached is notified by a later flush, and a live process reports its own lines. Either
    can wait, since the lines themselves are delivered.
    """
    notified = []
    for pair in unreported_pairs(root):
        try:
            to = parse(pair.pop("to"))
            sender = open_sender(to, local_queue(root), 0, **pair)
            if isinstance(sender, FallbackSender) and sender.report_diverted():
                notified.append(to.text)
        except Exception:  # the destination cannot be reached, or the ledger is damaged or from another version
            pass
    return notified


class OtherRuns:
    """Ships what other processes left in the spool folder of the run in `own`, in a thread, every half minute.

    Of all processes that share a spool folder, one at a time does so. A run that was tried is left alone for half a
    minute, and comes last then: one that cannot be delivered holds up no other, and costs the next short runs little.
    """

    def __init__(self, own: str) -> None:
        self._root, self._own = os.path.split(own)
        self._ended = threading.Event()
        self._looked = threading.Event()
        self._found = False
        self._thread = threading.Thread(target=self._work, daemon=True)

    def start(self) -> None:
        """Start after a second, or when the process's own run has ended, whose lines come first."""
        try:
            self._thread.start()
        except RuntimeError:  # no thread available: the next run ships them
            pass

    @property
    def left(self) -> bool:
        """Whether other processes have left something that has not been tried yet."""
        return self._thread.is_alive() and self._looked.wait() and self._found

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
                self._looked.set()
                if self._found:
                    self._ended.wait(head_start)
                    self._ship_all()
            except Exception:  # a service to other runs: this process's own lines do not depend on it
                pass
            self._found = False
            self._looked.set()
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
                    flush_run(self._root, run, _OTHER_RUN_SECONDS, 1, destinations)
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
        shipping = lock(folder, "ship")
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


def _ship(
    root: str,
    run: str,
    meta: dict[str, object],
    timeout: float,
    in_flight: int,
    destinations: Destinations,
) -> FlushResult:
    policy = DeliveryPolicy.from_meta(meta)
    if refusal := destinations.refusals.get(policy.sender_key):
        return FlushResult(run, policy.to, False, refusal)
    sender = destinations.sender(policy)
    wake = closed_wake()
    shipper = Shipper(
        f"{root}/{run}",
        sender,
        wake,
        policy.options,
        flush_timeout=timeout,
        on_close=partial(shorten_waits, sender),
        in_flight=in_flight,
    )
    try:
        complete = shipper.run()
        if complete:
            shipper.remove()
    finally:
        shipper.close()
        os.close(wake)
    flushed = FlushResult(
        run, policy.to, complete, shipper.reason or ("" if complete else f"not done within {timeout:g} s")
    )
    flushed.quarantined = shipper.quarantined
    if not complete and shipper.reason:
        destinations.refusals[policy.sender_key] = shipper.reason
    trace("flush", f"{run} to {policy.to}: {'complete' if complete else flushed.reason}; {shipper.requests} requests")
    return flushed
