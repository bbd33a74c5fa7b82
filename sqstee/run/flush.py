"""Shipping what earlier runs left in the spool."""

from __future__ import annotations

import json
import os

from sqstee.errors import SqsteeError
from sqstee.run.replay import read_meta
from sqstee.run.ship import Shipper
from sqstee.run.shipment import CLOSE
from sqstee.run.spool import lock
from sqstee.transports.base import open_sender
from sqstee.transports.destination import LOCAL_FILE_NAME, parse


class Flushed:
    """How it went with one run: `complete`, or why not."""

    __slots__ = ("complete", "destination", "reason", "run")

    def __init__(self, run: str, destination: str, complete: bool, reason: str) -> None:
        self.run = run
        self.destination = destination
        self.complete = complete
        self.reason = reason


def waiting_runs(root: str) -> list[str]:
    """The runs in a spool folder, oldest first (a ULID begins with its time)."""
    try:
        names = sorted(os.listdir(root))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise SqsteeError(
            f"the spool folder {root} cannot be read: {error.strerror}", "the form is --spool DIR"
        ) from None
    return [name for name in names if len(name) == 26 and os.path.isdir(f"{root}/{name}")]


def flush(root: str, run: str, timeout: float) -> Flushed | None:
    """Ship one run of those in `root` within `timeout` seconds; None where somebody else is shipping it."""
    folder = f"{root}/{run}"
    try:
        shipping = lock(folder, "ship")
    except FileNotFoundError:
        return None
    if shipping is None:
        return None
    try:
        meta = json.loads(read_meta(folder))
        return _ship(root, run, meta, timeout)
    except Exception as error:  # damage of whatever kind is this run's alone
        return Flushed(run, "", False, f"its spool cannot be read: {error}")
    finally:
        os.close(shipping)


def _ship(root: str, run: str, meta: dict[str, object], timeout: float) -> Flushed:
    to = str(meta["to"])
    wake, closing = os.pipe()
    os.write(closing, CLOSE)
    os.close(closing)
    shipper = Shipper(
        f"{root}/{run}",
        open_sender(parse(to), f"{root}/{LOCAL_FILE_NAME}", int(str(meta["local_max"]))),
        wake,
        linger=0.0,
        message_bytes=int(str(meta["message_bytes"])),
        flush_timeout=timeout,
        compress=str(meta["compress"]),
    )
    try:
        complete = shipper.run()
        if complete:
            shipper.remove()
    finally:
        os.close(wake)
    return Flushed(run, to, complete, shipper.reason or ("" if complete else f"not done within {timeout:g} s"))
