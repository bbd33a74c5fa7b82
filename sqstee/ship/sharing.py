"""Whether a run leaves shipping to a shared shipper, and whether it may start one."""

from __future__ import annotations

import os
import resource

from sqstee.spool import agent_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqstee.settings import Settings

_TRANSIENT_SCOPE = "run-"  # systemd.exec: systemd-run names its scopes so
_LEAST_FILES = 1024  # a run takes some: it must serve a hundred
_LEAST_PROCESSES = 256
# Hard limits, which a process cannot raise and hands down to the shipper that it starts.
_LIMITS = tuple(
    getattr(resource, name)
    for name in ("RLIMIT_CPU", "RLIMIT_AS", "RLIMIT_DATA", "RLIMIT_RSS", "RLIMIT_FSIZE", "RLIMIT_STACK")
)


def identity(settings: Settings, environ: Mapping[str, str]) -> str:
    """The identity of the shared shipper of a run with these settings; '' if the run ships by itself."""
    if settings.share == "never" or _must_not_outlive_command():
        return ""
    if not os.path.exists("/proc/self/ns"):  # the folders that it serves are accessed through /proc
        return ""
    return agent_file.identity(environ)


def meta(identity: str, settings: Settings, environ: Mapping[str, str]) -> dict[str, object]:
    """The fields of the META frame that an agent needs: whether a live run is one of its own, and how to treat it."""
    if not identity:
        return {}
    return {
        "identity": identity,
        "selectors": agent_file.selectors_digest(environ),
        "keep_shipper": settings.keep_shipper,
        "spool_max": settings.spool_max,
        "on_full": settings.on_full,
    }


def may_start() -> bool:
    """Whether a shipper that this process starts would be fit for other runs too: no limit of ours must bind it."""
    unlimited = all(resource.getrlimit(limit)[1] == resource.RLIM_INFINITY for limit in _LIMITS)
    files, processes = resource.getrlimit(resource.RLIMIT_NOFILE)[1], resource.getrlimit(resource.RLIMIT_NPROC)[1]
    return unlimited and not (0 <= files < _LEAST_FILES or 0 <= processes < _LEAST_PROCESSES)


def _must_not_outlive_command() -> bool:
    """Whether whoever waits for the command would wait for a shipper that stays, or kill it with the command.

    Every process of a PID namespace ends with its process 1. A transient scope of systemd lasts until its last process
    ends.
    """
    if os.getpid() == 1:
        return True
    try:
        with open("/proc/self/cgroup", "rb") as file:
            groups = [os.fsdecode(line.strip().rpartition(b"/")[2]) for line in file]
    except OSError:
        return False
    return any(name.startswith(_TRANSIENT_SCOPE) and name.endswith(".scope") for name in groups)
