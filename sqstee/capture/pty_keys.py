"""Keys of the terminal for a program that reads them from a pty of ours, as pagers do; found in /proc."""

from __future__ import annotations

import os
import time

from sqstee.capture.stream import readable_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sqstee.capture.pty import Pty

_MIN_DELAY_SECONDS, _MAX_DELAY_SECONDS = 0.01, 0.5  # between searches for a reader of the keys; doubled each time
_KEY_BYTES = 4096
_MAX_POLLED_FDS = 1024
_BUSY_NANOSECONDS = 20_000_000  # of CPU time while keys wait; a program that was woken by a key needs a hundredth
# The numbers of read and readv, poll and ppoll, select and pselect6, epoll_wait, epoll_pwait and epoll_pwait2 in the
# kernel's tables: of x86-64, and of all newer machines.
_SYSTEM_CALLS = {
    number: kind
    for kind, numbers in (
        {"read": (0, 19), "poll": (7, 271), "select": (23, 270), "epoll": (232, 281, 441)}
        if os.uname().machine == "x86_64"
        else {"read": (63, 65), "poll": (73,), "select": (72,), "epoll": (22, 441)}
    ).items()
    for number in numbers
}


class KeyRelay:
    """Passes keys from the terminal to the pty that a process of the command reads.

    `fd` is the terminal, to be watched edge-triggered: keys that no pty's reader wants are for the command to read
    from the terminal itself, whenever it likes. `due` is when to call `relay` again, None where no key waits. Raises
    OSError where there is no terminal.
    """

    def __init__(self, command: int) -> None:
        self.fd = os.open("/dev/tty", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        self.due: float | None = None
        self._command = command
        self._delay = _MIN_DELAY_SECONDS
        self._cpu_before: dict[int, int] = {}  # of each process that ran when it was looked at, since a key waits

    def keys_arrived(self, ptys: Sequence[Pty]) -> None:
        """Relay keys that were typed just now."""
        self._delay = _MIN_DELAY_SECONDS
        self.relay(ptys)

    def relay(self, ptys: Sequence[Pty]) -> None:
        """Relay the waiting keys if a process reads one of `ptys`; otherwise try again later, as it may be starting.

        In the background the keys belong to another job, and reading them would fail.
        """
        try:
            in_foreground = os.tcgetpgrp(self.fd) == os.getpgrp()
            pty = next((pty for pty in ptys if in_foreground and self._is_read(pty)), None)
            if pty and (keys := os.read(self.fd, _KEY_BYTES)):
                os.write(pty.master, keys)
                self._delay = _MIN_DELAY_SECONDS
            self.due = None
            if readable_bytes(self.fd):
                self.due = time.monotonic() + self._delay
                self._delay = min(2 * self._delay, _MAX_DELAY_SECONDS)
            else:
                self._cpu_before.clear()
        except BlockingIOError:
            pass
        except OSError:
            self.close()

    def close(self) -> None:
        """Relay no more keys."""
        if self.fd >= 0:
            os.close(self.fd)  # which removes it from any epoll
        self.fd = -1
        self.due = None

    def _is_read(self, pty: Pty) -> bool:
        """Whether a process of the command reads the pty."""
        return any(self._reads(pid, pty) for pid in _descendants(self._command))

    def _reads(self, pid: int, pty: Pty) -> bool:
        """Whether a process reads a pty: as its fd 0, by a read-only descriptor, or in its current system call.

        `more` awaits the key on fd 0, the real terminal, and reads it from fd 2, a pty: the key must stay in the
        terminal until it is in that read. `more` of util-linux 2.42 polls both and never sleeps while the key is in
        the terminal: a process that is busy all the time and has set the pty to single keys reads it too.
        """
        folder = f"/proc/{pid}/fd"
        try:
            fds = {int(name) for name in os.listdir(folder) if os.readlink(f"{folder}/{name}") == pty.name}
            if 0 in fds or any(not os.lstat(f"{folder}/{fd}").st_mode & 0o200 for fd in fds):
                return True
            awaited = _awaited_fds(pid)
            if awaited is not None:
                return bool(fds & awaited)
            return bool(fds) and pty.full_screen and self._is_busy(pid)
        except (OSError, ValueError, IndexError):
            return False

    def _is_busy(self, pid: int) -> bool:
        """Whether a process has used much CPU time since a key waits (proc(5), schedstat: nanoseconds)."""
        with open(f"/proc/{pid}/schedstat", "rb") as file:
            cpu = int(file.read().split()[0])
        return cpu - self._cpu_before.setdefault(pid, cpu) >= _BUSY_NANOSECONDS


def _descendants(pid: int) -> Iterator[int]:
    """A process and its descendants, except those that were handed to another parent."""
    yield pid
    try:
        with open(f"/proc/{pid}/task/{pid}/children", "rb") as file:
            children = [int(word) for word in file.read().split()]
    except OSError:
        return
    for child in children:
        yield from _descendants(child)


def _awaited_fds(pid: int) -> set[int] | None:
    """The descriptors that a process waits to read, from its current system call (proc(5), syscall and mem).

    None if it is running.
    """
    with open(f"/proc/{pid}/syscall", "rb") as file:
        call, *arguments = file.read().split()
    if call == b"running":
        return None
    kind = _SYSTEM_CALLS.get(int(call))
    if kind is None:
        return set()
    first, second = int(arguments[0], 16), int(arguments[1], 16)
    if kind == "read":
        return {first}
    if kind == "epoll":
        with open(f"/proc/{pid}/fdinfo/{first}", "rb") as file:
            return {int(line.split()[1]) for line in file if line.startswith(b"tfd:")}
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        if kind == "poll":  # struct pollfd: int fd, short events, short revents
            memory.seek(first)
            data = memory.read(8 * min(second, _MAX_POLLED_FDS))
            return {int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data), 8)}
        memory.seek(second)  # fd_set: bits
        bits = int.from_bytes(memory.read((first + 7) // 8), "little")
        return {fd for fd in range(first) if bits >> fd & 1}
