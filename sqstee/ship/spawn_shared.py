"""Starting the shared shipper from a program that has threads: a fork without an exec is not safe there.

An interpreter of its own starts it, and ends once it has published itself (see `agent/shared`).
"""

from __future__ import annotations

import fcntl
import os
import sys
import time

import sqstee
from sqstee.spool import agent_file
from sqstee.trace import trace

# The interpreter is isolated: neither PYTHON* variables nor the program's folder decide what is imported. This very
# package comes first; the program's paths come last, for libraries that only they lead to.
_CODE = (
    "import sys; package, *others = sys.argv[3:]; sys.path.insert(0, package); import sqstee; del sys.path[0]; "
    "sys.path += [path for path in others if path not in sys.path]; "
    "from sqstee.agent.shared import main; sys.exit(main(*sys.argv[1:3]))"
)
_PACKAGE = os.path.abspath(os.path.dirname(sqstee.__path__[0]))  # here: a daemon goes to / later
_START_SECONDS = 5.0  # how long a starter may take, ours or another process's
_POLL_SECONDS = 0.003


def spawn(root: str, identity: str) -> bool:
    """Start the shared shipper of `identity` in the spool folder `root` unless there is one; returns whether there is.

    If many processes call this at once, one starts it, and the others wait for that one.
    """
    if not _is_interpreter(sys.executable):
        trace("handler", f"starts no shared shipper: {sys.executable!r} is no Python interpreter")
        return False
    path = f"{root}/{agent_file.SHARED_PREFIX}{identity}"
    try:
        starting = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    except OSError:
        return False
    try:
        if not agent_file.published(path) and _is_first(starting):
            _run_starter(root, identity)
        return bool(agent_file.published(path))
    finally:
        fcntl.flock(starting, fcntl.LOCK_UN)  # also for a child that another thread has forked meanwhile
        os.close(starting)


def _is_first(starting: int) -> bool:
    """Whether no other process is starting it; waits for one that is. The shipper's own lock is of another kind."""
    is_first = True
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            fcntl.flock(starting, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return is_first
        except BlockingIOError:
            is_first = False
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_SECONDS)


def _run_starter(root: str, identity: str) -> None:
    words = [sys.executable, "-I", "-c", _CODE, root, identity, _PACKAGE, *map(os.path.abspath, sys.path)]
    null = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)]
    deadline = time.monotonic() + _START_SECONDS
    try:
        pid = os.posix_spawn(sys.executable, words, os.environ, file_actions=null, setsid=True)
        while os.waitpid(pid, os.WNOHANG)[0] == 0 and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
    except ChildProcessError:  # the program has reaped it, or ignores SIGCHLD
        pass
    except (OSError, NotImplementedError) as error:
        trace("handler", f"starts no shared shipper: {error}")


def _is_interpreter(path: str) -> bool:
    """Whether `path` is Python, and no program that it is embedded in or frozen into: that would begin anew."""
    return os.path.basename(path or "").startswith("python") and not hasattr(sys, "frozen")
