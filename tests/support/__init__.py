"""What the tests share.

    command     the real command, with a spool of its own
    processes   starting, watching and killing processes; waiting for conditions
    streams     the streams of a run, rebuilt from what was shipped
    inject      faults in sqstee's own code
    terminal    a command on a pty
    node        a node with an agent
    wrapping    a command with and without the wrapper
    bodies      bodies as sqstee sends them, and queues filled with them
    drain collector recovery targets scripted logging_programs   one subject each

The names below come from the first four.
"""

from __future__ import annotations

from .command import PROGRAMS, ROOT, SCRIPT, Sqstee, clean_environment
from .inject import injecting, time_to_meet, until_met
from .processes import (
    TIMEOUT,
    UNTIL_THE_FRONT_ENDS,
    children,
    is_running,
    kill,
    paced,
    python,
    reserved,
    running,
    states,
    wait_for,
)
from .streams import Rebuilt

__all__ = [
    "PROGRAMS",
    "ROOT",
    "SCRIPT",
    "TIMEOUT",
    "UNTIL_THE_FRONT_ENDS",
    "Rebuilt",
    "Sqstee",
    "children",
    "clean_environment",
    "injecting",
    "is_running",
    "kill",
    "paced",
    "python",
    "reserved",
    "running",
    "states",
    "time_to_meet",
    "until_met",
    "wait_for",
]
