"""SQSTEE_DEBUG=FILE: a trace of the decisions of the front, the shipper and the agent, for bug reports.

One line per decision: seconds of the monotonic clock (the same for all processes of a host), process, part, decision.
No line of the command's output and no credential is in it; destinations are.
"""

from __future__ import annotations

import os
import time

from sqstee.text import without_userinfo

VARIABLE = "SQSTEE_DEBUG"
_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK


def _path() -> str:
    """The absolute path, since every process goes to /; empty for no trace, also where the working folder is gone."""
    path = os.environ.get(VARIABLE, "")
    try:
        return os.path.abspath(path) if path else ""
    except OSError:
        return ""


_PATH = _path()


def trace(part: str, text: str) -> None:
    """Append one line to the trace, if there is one. It is opened each time: the shipper closes inherited files."""
    if not _PATH:
        return
    line = f"{time.monotonic():.6f} {os.getpid()} {part}: {without_userinfo(' '.join(text.split()))}\n"
    try:
        fd = os.open(_PATH, _APPEND, 0o600)
        try:
            os.write(fd, line.encode(errors="replace"))
        finally:
            os.close(fd)
    except OSError:  # a full disk, a folder that has gone: a trace is no reason to fail
        pass
