"""Ships runs that earlier processes left in the spool."""

from __future__ import annotations

import os
import time
from functools import partial

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
from sqstee.spool.run_folder import lock, remove_empty
from sqstee.spool.waiting import remove_half_made, waiting_runs
from sqstee.trace import trace
from sqstee.transports.factory import open_sender
from sqstee.transports.fallback import FallbackSender, shorten_waits
from sqstee.transports.fallback_ledger import unreported_pairs

_OTHER_RUN_SECONDS = 600.0  # time-out for each run that a shipper ships beside its own
_SCAN_SECONDS = 30.0


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


def flush_run(root: str, run: str, timeout: float, in_flight: int = IN_FLIGHT) -> FlushResult:
    """Ship one run in the spool folder `root` within `timeout` seconds; if it is dead, close it first."""
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
        return _ship_and_close(root, run, meta, timeout, in_flight)
    except NewerFormatError as error:
        return FlushResult(run, "", False, str(error))
    except Exception as error:  # whatever is damaged concerns this run alone
        trace("flush", f"{run}: {type(error).__name__}: {error}")
        return FlushResult(run, "", False, f"its spool cannot be read: {error}")
    finally:
        os.close(shipping)


def _ship_and_close(root: str, run: str, meta: dict[str, object], timeout: float, in_flight: int) -> FlushResult:
    """Ship a run, and remove it if it is closed.

    If it is not (its front was alive, or the disk was full until shipping freed segments), close it and ship its end in
    a second pass.
    """
    quarantined = 0
    for _ in range(2):
        closed, trouble = _close_if_dead(f"{root}/{run}")
        flushed = _ship(root, run, meta, timeout, in_flight)
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


def flush_other_runs(own: str) -> None:
    """Ship the runs that others left in the spool folder of the run in `own`, for as long as this process lives."""
    root, name = os.path.split(own)
    while True:
        try:
            remove_half_made(root)
            for run in waiting_runs(root):
                if run != name:
                    flush_run(root, run, _OTHER_RUN_SECONDS, in_flight=1)
        except Exception:  # a service to other runs: this process's own lines do not depend on it
            pass
        time.sleep(_SCAN_SECONDS)


def _ship(root: str, run: str, meta: dict[str, object], timeout: float, in_flight: int) -> FlushResult:
    policy = DeliveryPolicy.from_meta(meta)
    sender = policy.open_sender(root)
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
    trace("flush", f"{run} to {policy.to}: {'complete' if complete else flushed.reason}; {shipper.requests} requests")
    return flushed
