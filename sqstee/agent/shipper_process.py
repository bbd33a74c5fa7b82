"""The body of the shipper process."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable
from functools import partial

from sqstee.agent.other_runs import OtherRuns
from sqstee.settings import Settings
from sqstee.ship import priority
from sqstee.ship.policy import DeliveryPolicy
from sqstee.ship.shipper import Shipper
from sqstee.ship.shipper_handle import Report, let_front_go, send_refusal, send_report
from sqstee.ship.throttle import Throttle
from sqstee.spool.recovery import close_dead_run
from sqstee.transports.fallback import shorten_waits

_FREE_SECONDS = 10.0  # how long a dying front may take to release its lock
_LOOK_AGAIN_SECONDS = 0.1
_OTHER_RUNS_SECONDS = 60.0  # how long to ship what others left once this process's own run has ended


def ship_run(
    folder: str, settings: Settings, policy: DeliveryPolicy, wake: int, report: int, end_command: Callable[[], None]
) -> None:
    """Ship the run in `folder`, in a process forked from the front, and report how delivery went.

    `wake` and `report` are its ends of the two pipes (see shipper_handle). `end_command` is called if the front dies
    before its command: nobody reads the command's output any more. Runs that other processes left in the
    spool are shipped meanwhile, and after the report, since the front need not wait for them.
    """
    front = os.getppid()
    priority.lower()
    root = os.path.dirname(folder)

    def front_died() -> None:
        end_command()
        _close_when_free(folder)

    def connected() -> None:
        gc.freeze()  # modules stay loaded: keep the garbage collector from visiting them again and again
        others.start()

    others = OtherRuns(folder)
    reported: set[tuple[bool, str]] = set()

    def refused(reason: str, diverted: bool, at: str) -> None:
        if (diverted, at) not in reported:
            reported.add((diverted, at))
            notice = policy.refusal_notice(reason, diverted, root, at)
            send_refusal(report, notice, "" if diverted else at or policy.to)

    sender = policy.open_sender(root)
    shipper = Shipper(
        folder,
        sender,
        wake,
        policy.options,
        flush_timeout=settings.flush_timeout,
        on_refusal=refused,
        on_front_death=front_died,
        on_connect=connected,
        on_close=partial(shorten_waits, sender),
        throttled_until=Throttle(folder, settings.spool_max, settings.on_full).until,
    )
    reason = ""
    complete = False
    try:
        complete = shipper.run()
        if complete:
            shipper.remove()
        reason = shipper.reason
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
    send_report(report, Report(shipper.acknowledged, shipper.quarantined, shipper.requests, reason))
    if complete and others.left:
        let_front_go(front)
        others.finish(_OTHER_RUNS_SECONDS)


def _close_when_free(folder: str) -> None:
    """Close a dead front's run once the kernel has released its lock.

    If that fails the folder stays: it may hold an unfinished line that was not shipped. The next run on this host tries
    again.
    """
    deadline = time.monotonic() + _FREE_SECONDS
    try:
        while not close_dead_run(folder) and time.monotonic() < deadline:
            time.sleep(_LOOK_AGAIN_SECONDS)
    except (OSError, ValueError):
        pass
