"""Starting, watching and killing processes, and waiting for conditions."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

TIMEOUT = 60.0
UNTIL_THE_FRONT_ENDS = "while [ -e /proc/$PPID/exe ]; do sleep 0.02; done"  # in a grandchild that outlives the command


def wait_for(condition: Callable[[], object], what: str, seconds: float = TIMEOUT) -> None:
    """Poll until `condition` is true, for at most a quarter of the time: the awaited work needs the processor too."""
    deadline = time.monotonic() + seconds
    while True:
        asked = time.monotonic()
        if condition():
            return
        now = time.monotonic()
        assert now < deadline, f"no {what} within {seconds} s"
        time.sleep(max(0.01, 3 * (now - asked)))


@contextmanager
def running(words: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process; if the test fails before its end, it is killed with its children."""
    with subprocess.Popen(words, **options) as process:
        try:
            yield process
        except BaseException:
            for pid in (*children(process.pid), process.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            raise


def python(code: str) -> list[str]:
    """A command that runs Python code."""
    return [sys.executable, "-c", code]


def paced(*lines: bytes) -> list[str]:
    """A command that writes a line to its stdout, a pipe, once the previous one was read: a read gets one line."""
    unread = "fcntl.ioctl(1, termios.FIONREAD, bytes(4)) != bytes(4)"
    return python(
        "import fcntl, os, termios, time\n"
        f"for line in {list(lines)!r}:\n"
        "    os.write(1, line)\n"
        f"    while {unread}: time.sleep(0.001)\n"
    )


def is_running(pid: int) -> bool:
    """Whether a process exists and is no zombie; a zombie with dying threads counts: it still holds its locks."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            is_zombie = file.read().rpartition(")")[2].split()[0] == "Z"
        return not is_zombie or len(os.listdir(f"/proc/{pid}/task")) > 1
    except (FileNotFoundError, ProcessLookupError):
        return False


def reserved() -> socket.socket:
    """A socket that keeps a free port of 127.0.0.1 for a server, which may listen on it several times."""
    found = socket.socket()
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    found.bind(("127.0.0.1", 0))
    return found


def states(pid: int) -> set[str]:
    """The states of a process's threads, one letter each (R: running or runnable); empty if it has ended."""
    found = set()
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with suppress(FileNotFoundError, ProcessLookupError), open(f"/proc/{pid}/task/{thread}/stat") as file:
                found.add(file.read().rpartition(")")[2].split()[0])
    except (FileNotFoundError, ProcessLookupError):
        pass
    return found


def kill(*pids: int) -> None:
    """kill -9 all of them at once, and wait until their locks are free.

    They are stopped first, parents before children: otherwise one could see another's death, and report it or take
    over its work.
    """
    for pid in sorted(pids):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
        wait_for(lambda pid=pid: states(pid) <= set("TtZX"), "stop before the kill")  # type: ignore[misc]
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not any(map(is_running, pids)), "end of the killed processes")


def children(pid: int) -> list[int]:
    """The pids of a process's children, the oldest first; a front's are the command and the shipper."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
