"""The body of the shipper process."""

from __future__ import annotations

import _thread
import gc
import os
import time
from collections.abc import Callable
from functools import partial

from sqstee.destination import Destination
from sqstee.options import SENDER_OPTIONS, Settings
from sqstee.ship import flush
from sqstee.ship.shipper import Shipper
from sqstee.ship.throttle import Flood
from sqstee.spool.recovery import close_dead_run
from sqstee.transports.factory import open_sender
from sqstee.transports.fallback import shorten_waits

_NICENESS = 15  # where shipper and command compete for the cores the command wins
_FREE_SECONDS = 10.0  # what dies may wait for the processor
_LOOK_AGAIN_SECONDS = 0.1


def work(
    folder: str,
    settings: Settings,
    destination: Destination,
    local_path: str,
    wake: int,
    report: int,
    end_command: Callable[[], None],
) -> None:
    """Ship the run in `folder`, in a process forked from the front, then say how it went.

    `wake` is read, `report` written: one line, see Shipment.answer. `end_command` is called if the front
    dies without a status: nobody would read the command's output.
    """
    os.nice(_NICENESS)
    closed = True

    def orphaned() -> None:
        nonlocal closed
        end_command()
        closed = _close_when_free(folder)

    def reached() -> None:
        gc.freeze()  # what is loaded by now stays, and need not be looked through again and again
        try:
            _thread.start_new_thread(flush.flush_others, (folder,))
        except RuntimeError:  # no thread can be had: the next run tries again
            pass

    sending = {name: getattr(settings, name) for name in SENDER_OPTIONS}
    sender = open_sender(destination, local_path, settings.local_max, **sending)
    shipper = Shipper(
        folder,
        sender,
        wake,
        linger=settings.linger,
        message_bytes=settings.message_bytes,
        flush_timeout=settings.flush_timeout,
        compress=settings.compress,
        orphaned=orphaned,
        reached=reached,
        flood=Flood(folder, settings.spool_max, settings.on_full).until,
        closing=partial(shorten_waits, sender),
    )
    reason = ""
    try:
        if shipper.run() and closed:
            shipper.remove()
        reason = shipper.reason
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
    answer = f"{shipper.acknowledged}\t{shipper.quarantined}\t{shipper.requests}\t{reason}\n"
    os.write(report, answer.encode(errors="replace"))


def _close_when_free(folder: str) -> bool:
    """Close a dead front's run once the kernel has let go of its lock; whether it is closed.

    Where it is not, the next run on this host tries again: until then the folder stays, since what is not closed may
    hold a line that is not shipped for want of its end.
    """
    deadline = time.monotonic() + _FREE_SECONDS
    try:
        while not close_dead_run(folder):
            if time.monotonic() >= deadline:
                return False
            time.sleep(_LOOK_AGAIN_SECONDS)
    except (OSError, ValueError):
        return False
    return True
