"""Nesting: a stream that already goes to a live outer sqstee with the same destination is captured once."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

VARIABLE = "SQSTEE_NEST"


def captured_by_outer(value: str, destination: str) -> set[int]:
    """Those of descriptors 1 and 2 that lead to an outer sqstee, alive, that ships them to `destination`.

    `value` is what the outer ones left in the environment: `pid:hash:dev.inode,…` each, separated by blanks, the
    innermost last. A pipe that we hold cannot have been another before, so its inode is proof enough; the outer one, or
    its heir, is alive if there is a reader. A terminal's inode is its number, which the next one gets: it must look as
    ours do.
    """
    outer: dict[str, str] = {}
    for entry in value.split():
        _, digest, streams = [*entry.split(":"), "", "", ""][:3]
        outer |= dict.fromkeys(streams.split(","), digest)
    mine = _hash(destination)
    return {fd for fd in (1, 2) if outer.get(identity(fd)) == mine and _has_reader(fd) and not _is_others_terminal(fd)}


def entry(destination: str, command_fds: Mapping[int, int]) -> str:
    """What to leave for an inner sqstee: the command's ends of the streams that we capture, and for whom."""
    streams = ",".join(identity(fd) for fd in command_fds.values())
    return f"{os.getpid()}:{_hash(destination)}:{streams}"


def identity(fd: int) -> str:
    """What a descriptor leads to: `dev.inode`, empty where it is closed."""
    try:
        found = os.fstat(fd)
    except OSError:
        return ""
    return f"{found.st_dev}.{found.st_ino}"


def _hash(destination: str) -> str:
    """FNV-1a, in 64 bits: it needs no module that would have to be loaded before the command's start."""
    found = 0xCBF29CE484222325
    for byte in os.fsencode(destination):
        found = (found ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return f"{found:016x}"


def _is_others_terminal(fd: int) -> bool:
    if not os.isatty(fd):
        return False
    from sqstee.run.terminal import is_captured  # rarely needed

    return not is_captured(fd)


def _has_reader(fd: int) -> bool:
    import select

    poll = select.poll()
    poll.register(fd, 0)
    return not poll.poll(0)
