"""Shipping what earlier runs left in the spool."""

from __future__ import annotations

import json
import os
import time
from functools import partial

from sqstee.destination import parse
from sqstee.ship.policy import DeliveryPolicy
from sqstee.ship.sender_pool import IN_FLIGHT
from sqstee.ship.shipper import Shipper
from sqstee.ship.shipper_handle import closed_wake
from sqstee.spool.checkpoint import Checkpoint
from sqstee.spool.location import local_queue
from sqstee.spool.reader import read_meta
from sqstee.spool.recovery import close_dead_run
from sqstee.spool.run_folder import holds_nothing, lock, remove
from sqstee.spool.waiting import remove_half_made, waiting_runs
from sqstee.transports.factory import open_sender
from sqstee.transports.fallback import FallbackSender, shorten_waits
from sqstee.transports.fallback_ledger import unreported_pairs

_OTHERS_SECONDS = 600.0  # for each run that is shipped beside one's own
_LOOK_AGAIN_SECONDS = 30.0


class FlushResult:
    """How it went with one run: `complete`, or why not; `busy` where somebody else is shipping it.

    `quarantined` is how many of its records were put aside.
    """

    __slots__ = ("busy", "complete", "destination", "quarantined", "reason", "run")

    def __init__(self, run: str, destination: str, complete: bool, reason: str, busy: bool = False) -> None:
        self.run = run
        self.destination = destination
        self.complete = complete
        self.reason = reason
        self.busy = busy
        self.quarantined = 0


def flush(root: str, run: str, timeout: float, in_flight: int = IN_FLIGHT) -> FlushResult:
    """Ship one run of those in `root` within `timeout` seconds; a dead one is closed first."""
    folder = f"{root}/{run}"
    try:
        shipping = lock(folder, "ship")
    except FileNotFoundError:
        return FlushResult(run, "", True, "")
    if shipping is None:
        return FlushResult(run, "", False, "", busy=True)
    try:
        if holds_nothing(folder) and remove(folder, only_empty=True):
            return FlushResult(run, "", True, "")
        meta = json.loads(read_meta(folder))
        return _ship_and_close(root, run, meta, timeout, in_flight)
    except Exception as error:  # damage of whatever kind is this run's alone
        return FlushResult(run, "", False, f"its spool cannot be read: {error}")
    finally:
        os.close(shipping)


def _ship_and_close(root: str, run: str, meta: dict[str, object], timeout: float, in_flight: int) -> FlushResult:
    """Ship a run, and remove it if it was closed before its end was read: else that may be missing in what is shipped.

    A run may end while the rest of it is shipped, and a disk may be full until some of it is freed: it is closed again
    then, and what that adds is shipped as well.
    """
    quarantined = 0
    for _ in range(2):
        closed, trouble = _closed(f"{root}/{run}")
        flushed = _ship(root, run, meta, timeout, in_flight, remove=closed)
        flushed.quarantined = quarantined = quarantined + flushed.quarantined
        if closed or not flushed.complete:
            return flushed
    flushed.complete, flushed.reason = not trouble, trouble
    return flushed


def _closed(folder: str) -> tuple[bool, str]:
    """Close a run if it is dead; whether it is closed, and what kept us from it.

    Raises OSError where what is shipped could not be noted either: it would be sent again each time.
    """
    try:
        return close_dead_run(folder), ""
    except OSError as error:
        state = Checkpoint(folder)
        state.save(state.next, state.position, state.plan)
        state.close()
        return False, f"its end cannot be written: {error.strerror}"


def settle(root: str) -> list[str]:
    """Tell the first destinations of fallbacks what went to the second ones; those that were told something.

    What is away, or owed by a process that lives, is told later: every line is delivered, the rest is a courtesy.
    """
    told = []
    for pair in unreported_pairs(root):
        try:
            to = parse(pair.pop("to"))
            sender = open_sender(to, local_queue(root), 0, **pair)
            if isinstance(sender, FallbackSender) and sender.report_diverted():
                told.append(to.text)
        except Exception:  # the destination is away, or the file is damaged or another version's
            pass
    return told


def flush_other_runs(own: str) -> None:
    """Ship, as long as this process lives, what other runs left behind in the spool folder of the run in `own`."""
    root, name = os.path.split(own)
    while True:
        try:
            remove_half_made(root)
            for run in waiting_runs(root):
                if run != name:
                    flush(root, run, _OTHERS_SECONDS, in_flight=1)
        except Exception:  # it is a service to others: one's own lines do not depend on it
            pass
        time.sleep(_LOOK_AGAIN_SECONDS)


def _ship(root: str, run: str, meta: dict[str, object], timeout: float, in_flight: int, remove: bool) -> FlushResult:
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
        if complete and remove:
            shipper.remove()
    finally:
        shipper.close()
        os.close(wake)
    flushed = FlushResult(
        run, policy.to, complete, shipper.reason or ("" if complete else f"not done within {timeout:g} s")
    )
    flushed.quarantined = shipper.quarantined
    return flushed
