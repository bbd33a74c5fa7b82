"""The runs that wait in a spool folder, and the folders of runs that were never created in full."""

from __future__ import annotations

import os
import shutil
import time

from sqstee.errors import SqsteeError
from sqstee.jsonbytes import decode_object
from sqstee.spool.frame import NewerFormatError
from sqstee.spool.location import OTHER_FOLDER
from sqstee.spool.reader import read_meta
from sqstee.spool.recovery import SpoolTail
from sqstee.spool.run_folder import lock
from sqstee.spool.segments import RESERVE

ULID_LENGTH = 26
_HALF_MADE_SECONDS = 3600.0  # the age at which a .new- folder is removed


class WaitingRun:
    """A run in the spool: `records` and `bytes` wait, `alive` while a process writes it, `problem` if unreadable.

    `name` is the name that people know it by: its job, or its program.
    """

    __slots__ = ("alive", "bytes", "destination", "job", "name", "problem", "records", "run")

    def __init__(self, root: str, run: str) -> None:
        folder = f"{root}/{run}"
        self.run = run
        self.destination = self.job = self.name = self.problem = ""
        self.records = 0
        self.bytes = sum(_size(entry) for entry in os.scandir(folder) if entry.name not in ("writer", RESERVE))
        try:
            meta = decode_object(read_meta(folder))
            self.destination, self.job = str(meta["to"]), str(meta.get("job", ""))
            self.name = self.job or str(meta.get("name", ""))
            tail = SpoolTail(folder)
            self.records = tail.next_seq - tail.acknowledged
        except NewerFormatError as error:
            self.problem = str(error)
        except KeyError:
            self.problem = "cannot be read: its META frame names no destination"
        except (OSError, ValueError) as error:
            self.problem = f"cannot be read: {error}"
        try:
            writing = lock(folder, "writer")
        except FileNotFoundError:
            raise
        except OSError as error:  # a read-only file system: nobody can ship the run, or write it
            self.problem, self.alive = self.problem or f"cannot be shipped: {error.strerror}", False
            return
        self.alive = writing is None
        if writing is not None:
            os.close(writing)


def _size(entry: os.DirEntry[str]) -> int:
    """A file's bytes; 0 if it is a segment that was deleted meanwhile."""
    try:
        return entry.stat().st_size
    except FileNotFoundError:
        return 0


def waiting_runs(root: str) -> list[str]:
    """The runs in a spool folder, oldest first (a ULID begins with its time)."""
    try:
        names = sorted(os.listdir(root))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise SqsteeError(f"the spool folder {root} cannot be read: {error.strerror}", OTHER_FOLDER) from None
    return [name for name in names if len(name) == ULID_LENGTH and os.path.isdir(f"{root}/{name}")]


def remove_half_made(root: str) -> None:
    """Remove folders whose process was killed while it created them."""
    for name in os.listdir(root):
        path = f"{root}/{name}"
        try:
            if name.startswith(".new-") and time.time() - os.lstat(path).st_mtime > _HALF_MADE_SECONDS:
                shutil.rmtree(path, ignore_errors=True)
        except FileNotFoundError:  # renamed to its run's name meanwhile
            pass
