"""Which process of the command reads keys from its pty, found in /proc."""

from __future__ import annotations

import os
from collections.abc import Iterator

_MOST_POLLED = 1024
# The numbers of read, poll, ppoll, select and pselect6 in the kernel's tables of x86-64, and of all newer machines.
_SYSTEM_CALLS = (
    {b"0": "read", b"7": "poll", b"271": "poll", b"23": "select", b"270": "select"}
    if os.uname().machine == "x86_64"
    else {b"63": "read", b"73": "poll", b"72": "select"}
)


def _descendants(pid: int) -> Iterator[int]:
    """A process and those it started, as far as they have not been handed to another parent."""
    yield pid
    try:
        with open(f"/proc/{pid}/task/{pid}/children", "rb") as file:
            children = [int(word) for word in file.read().split()]
    except OSError:
        return
    for child in children:
        yield from _descendants(child)


def _reads(pid: int, terminal: str) -> bool:
    """Whether a process reads from a terminal: has it as fd 0, has opened it for reading alone, or waits for it."""
    folder = f"/proc/{pid}/fd"
    try:
        fds = {int(name) for name in os.listdir(folder) if os.readlink(f"{folder}/{name}") == terminal}
        if 0 in fds or any(not os.lstat(f"{folder}/{fd}").st_mode & 0o200 for fd in fds):
            return True
        return bool(fds & _awaited(pid))
    except (OSError, ValueError, IndexError):
        return False


def _awaited(pid: int) -> set[int]:
    """The descriptors that a process waits to read, from the system call that it is in (proc(5), syscall and mem)."""
    with open(f"/proc/{pid}/syscall", "rb") as file:
        call, *arguments = file.read().split()
    kind = _SYSTEM_CALLS.get(call, "")
    if not kind:
        return set()
    first, second = int(arguments[0], 16), int(arguments[1], 16)
    if kind == "read":
        return {first}
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        if kind == "poll":  # struct pollfd: int fd, short events, short revents
            memory.seek(first)
            data = memory.read(8 * min(second, _MOST_POLLED))
            return {int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data), 8)}
        memory.seek(second)  # fd_set: bits
        bits = int.from_bytes(memory.read((first + 7) // 8), "little")
        return {fd for fd in range(first) if bits >> fd & 1}
