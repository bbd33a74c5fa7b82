"""The quarantine: records that a destination refuses for good, in one NDJSON file for each run."""

from __future__ import annotations

import os

from sqstee.fds import give_to_owner
from sqstee.spool.segments import write_whole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sqstee.record import Body

QUARANTINE = "quarantine"  # the name of its folder in the spool folder
_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


def quarantine(root: str, body: Body, owner: int) -> int:
    """Append a plain body's records to its run's file in the spool folder `root`; returns their number.

    `owner` is the uid of the run's owner, who becomes the owner of files that root creates here. Raises OSError, with
    the file's path, if the disk refuses.
    """
    folder, name = f"{root}/{QUARANTINE}", f"{body.run}.ndjson"
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        pass
    inside = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    fd = -1
    try:
        fd = os.open(name, _APPEND, 0o600, dir_fd=inside)
        for created in (inside, fd):
            give_to_owner(created, owner)
        write_whole(fd, body.data, b"", os.fstat(fd).st_size)
    except OSError as error:
        raise OSError(error.errno, error.strerror, f"{folder}/{name}") from None
    finally:
        os.close(inside)
        if fd >= 0:
            os.close(fd)
    return body.last - body.first + 1


def quarantined_records(folder: str) -> int:
    """The number of records of the run in `folder` that are in quarantine, whichever process put them there."""
    root, run = os.path.split(folder)
    try:
        with open(f"{root}/{QUARANTINE}/{run}.ndjson", "rb") as file:
            return file.read().count(b"\n")
    except OSError:
        return 0


def quarantine_notice(records: str, root: str, flush: str = "sqstee flush") -> str:
    """The notice to the user about quarantined records; `records` counts them, as in `3 lines`."""
    refused = f"{records} larger than the destination takes, or refused by it"
    return f"{refused}: kept in {root}/{QUARANTINE}, `{flush} --list` shows them"
