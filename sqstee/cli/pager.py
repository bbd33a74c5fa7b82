"""A pager for long output on a terminal, as git starts it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_DEFAULTS = {"LESS": "FRX", "LV": "-c"}  # as git sets them: leave if one screen holds it, keep colours, do not clear


def pager_command() -> str:
    """The pager by SQSTEE_PAGER, then PAGER, then less; empty where none is wanted (`cat`, or no value) or there."""
    command = os.environ.get("SQSTEE_PAGER", os.environ.get("PAGER", "less"))
    program = command.split()[:1]
    return command if program and program != ["cat"] and shutil.which(program[0]) else ""


@contextmanager
def paging(is_wanted: bool) -> Iterator[None]:
    """Pass standard output through the pager if it is wanted, goes to a terminal, and a pager can be started.

    A pager that leaves early ends the output without an error.
    """
    command = pager_command() if is_wanted and sys.stdout.isatty() else ""
    if not command:
        yield
        return
    sys.stdout.flush()
    pager = subprocess.Popen(command, shell=True, stdin=subprocess.PIPE, env={**_DEFAULTS, **os.environ})
    assert pager.stdin
    saved = os.dup(1)
    os.dup2(pager.stdin.fileno(), 1)
    pager.stdin.close()
    try:
        with suppress(BrokenPipeError):
            yield
            sys.stdout.flush()
    finally:
        os.dup2(saved, 1)  # closes the last writing end: the pager reaches the end
        os.close(saved)
        while pager.poll() is None:
            with suppress(KeyboardInterrupt):  # ^C is the pager's
                pager.wait()
