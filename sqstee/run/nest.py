"""Nesting: a stream that already goes to a live outer sqstee with the same destination is captured once."""

from __future__ import annotations

import os
import zlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

VARIABLE = "SQSTEE_NEST"


def captured_by_outer(value: str, destination: str) -> set[int]:
    """Those of descriptors 1 and 2 that lead to an outer sqstee, alive, that ships them to `destination`.

    `value` is what the outer ones left in the environment: `pid:start:hash:dev.inode,…` each, separated by blanks.
    """
    outer: set[str] = set()
    for entry in value.split():
        pid, start, digest, streams = [*entry.split(":"), "", "", "", ""][:4]
        if digest == _hash(destination) and pid.isdigit() and start and _start_time(int(pid)) == start:
            outer.update(streams.split(","))
    return {fd for fd in (1, 2) if identity(fd) in outer}


def entry(destination: str, command_fds: Mapping[int, int]) -> str:
    """What to leave for an inner sqstee: who we are, and the command's ends of the streams that we capture."""
    streams = ",".join(identity(fd) for fd in command_fds.values())
    return f"{os.getpid()}:{_start_time(os.getpid())}:{_hash(destination)}:{streams}"


def identity(fd: int) -> str:
    """What a descriptor leads to: `dev.inode`, empty where it is closed."""
    try:
        found = os.fstat(fd)
    except OSError:
        return ""
    return f"{found.st_dev}.{found.st_ino}"


def _hash(destination: str) -> str:
    return f"{zlib.crc32(os.fsencode(destination)):08x}"


def _start_time(pid: int) -> str:
    """When a process was started (proc(5), field 22 of stat): with it a pid is never mistaken for a later one's."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[19].decode()
    except (OSError, IndexError):
        return ""
