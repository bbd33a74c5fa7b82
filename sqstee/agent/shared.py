"""The shared shipper: an agent that a run has started for all runs of its identity, and that ends by itself.

It must inherit nothing from the run that started it: it has a session of its own, / as its working folder, no
descriptor, no lock, no soft limit, and only the environment variables that its identity covers. It publishes itself
before it loads the modules for shipping, since runs that begin meanwhile can rely on it already.
"""

from __future__ import annotations

import os
import select
import time

from sqstee.agent.advertisement import Advertisement, HeldError
from sqstee.errors import SqsteeError
from sqstee.fds import close_quietly, open_fds, put_null
from sqstee.spool import agent_file
from sqstee.trace import trace

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable

    from sqstee.agent.agent import Agent
else:  # the Python half of signal costs 8 ms (enum)
    import _signal

_START_SECONDS = 2.0  # how long a shared shipper may take to publish itself, or its predecessor to leave
_POLL_SECONDS = 0.005
_FLUSH_SECONDS = 10.0  # for the rest, when it is told to end
_TITLE = b"sqstee shipper"


def start(root: str, identity: str, wait: Callable[[int, float], None]) -> bool:
    """Start the shared shipper of `identity` in the spool folder `root`, unless there is one; returns whether there is.

    `wait` waits until a descriptor is readable, for at most that many seconds. The caller has one thread, and no child
    that it does not know.
    """
    try:
        reading, writing = os.pipe()
    except OSError:  # no descriptor available: the run ships by itself
        return False
    try:
        pid = os.fork()
    except OSError:  # no process available
        os.close(reading)
        os.close(writing)
        return False
    if not pid:
        try:
            os.setsid()
            if not os.fork():
                _run(root, identity, writing)
        finally:
            os._exit(0)
    os.close(writing)
    wait(reading, _START_SECONDS)  # its end is closed once it has published itself, or given up
    os.close(reading)
    os.waitpid(pid, 0)
    return bool(agent_file.published(f"{root}/{agent_file.SHARED_PREFIX}{identity}"))


def main(root: str, identity: str) -> int:
    """The body of an interpreter that a program with threads has run to start it (see ship/spawn_shared)."""

    def wait(fd: int, seconds: float) -> None:
        select.select([fd], [], [], seconds)

    return 0 if start(root, identity, wait) else 1


def _run(root: str, identity: str, ready: int) -> None:
    """The body of the shared shipper; it closes `ready` once it can be relied on."""
    _leave_caller(ready)
    advertisement = _advertise(root, identity)
    os.close(ready)
    if advertisement:
        try:
            _serve(root, advertisement)
        except Exception as error:
            trace("agent", f"the shared shipper has failed: {error}")
            advertisement.leave()


def _advertise(root: str, identity: str) -> Advertisement | None:
    """Take the lock and publish this process; None if another one serves, or leaves and does not end, or none can."""
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            found = Advertisement(root, os.environ, identity)
            found.publish(None)
            if not (problem := found.renew()):
                return found
            found.leave()  # unpublished, it would keep later runs waiting for its end
            break
        except HeldError as error:
            problem = error.message
            if agent_file.published(f"{root}/{agent_file.SHARED_PREFIX}{identity}") or time.monotonic() >= deadline:
                break
        except SqsteeError as error:
            problem = error.message
            break
        time.sleep(_POLL_SECONDS)
    trace("agent", f"no shared shipper is started: {problem}")
    return None


def _serve(root: str, advertisement: Advertisement) -> None:
    from sqstee.agent.agent import Agent
    from sqstee.agent.config import AgentConfig
    from sqstee.settings import Settings
    from sqstee.ship import priority

    priority.lower()
    settings = Settings()
    settings.flush_timeout = _FLUSH_SECONDS
    told: list[int] = []
    _signal.signal(_signal.SIGTERM, lambda number, frame: told.append(number))
    agent = Agent(root, AgentConfig(None, settings), advertisement)
    agent.serve(_until_idle(agent, told), must_go_on=lambda: not told and agent.occupied)
    os._exit(0)  # a destination that hangs holds up a thread, and must not hold up the end


def _until_idle(agent: Agent, told: list[int]) -> Callable[[], bool]:
    """Whether the agent may end: it got SIGTERM, or no run has needed it for as long as the latest one asked."""
    idle_since = time.monotonic()

    def stop() -> bool:
        nonlocal idle_since
        if agent.occupied:
            idle_since = time.monotonic()
            return bool(told)
        return bool(told) or time.monotonic() - idle_since >= agent.keep_seconds

    return stop


def _leave_caller(kept: int) -> None:
    """Give up everything that the calling process has handed down, but the descriptor `kept`."""
    import resource

    for fd in open_fds():
        if fd > 2 and fd != kept:
            close_quietly(fd)
    for fd in (0, 1, 2):
        put_null(fd)
    os.chdir("/")
    os.umask(0o077)
    for number in range(1, _signal.NSIG):
        try:
            _signal.signal(number, _signal.SIG_DFL)
        except (OSError, ValueError):  # KILL and STOP, and those of the C library
            pass
    for number in (_signal.SIGPIPE, _signal.SIGHUP, _signal.SIGINT, _signal.SIGXFSZ):
        _signal.signal(number, _signal.SIG_IGN)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
    for name in ("CPU", "AS", "DATA", "RSS", "FSIZE", "STACK", "NOFILE", "NPROC"):
        limit = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(limit)[1]
        try:
            resource.setrlimit(limit, (hard, hard))
        except (OSError, ValueError):  # fs.nr_open is below the hard limit by now
            pass
    try:
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
    except OSError:
        pass
    kept_environ = agent_file.shared_environment(os.environ)
    os.environ.clear()
    os.environ.update(kept_environ)
    _rename()


def _rename() -> None:
    """Replace the title in ps: a signal to all processes whose command line names the job must not reach this one.

    The kernel shows the memory from arg_start to env_end (proc(5), stat); nothing refers to it any more.
    """
    try:
        with open("/proc/self/comm", "wb", buffering=0) as file:
            file.write(_TITLE[:15])
        with open("/proc/self/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        start, end, environ_start, environ_end = (int(text) for text in fields[45:49])
        with open("/proc/self/mem", "r+b", buffering=0) as memory:
            for first, last, text in ((start, end, _TITLE), (environ_start, environ_end, b"")):
                memory.seek(first)
                memory.write(text[: last - first - 1].ljust(last - first, b"\0"))
    except (OSError, ValueError):
        pass
