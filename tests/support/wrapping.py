"""Helpers of the tests that run a command with and without the wrapper."""

from __future__ import annotations

import subprocess

from support import TIMEOUT, Sqstee

Prefix = list[str]


def shell(
    sqstee: Sqstee, script: str, *words: str, name: str = "bash", timeout: float = TIMEOUT
) -> subprocess.CompletedProcess[bytes]:
    """Run a shell script in which `"$@"` is the command."""
    return subprocess.run(
        [name, "-c", script, name, *words], capture_output=True, env=sqstee.environ, timeout=timeout, check=False
    )


def comm(pid: int) -> str:
    """A process's name."""
    try:
        with open(f"/proc/{pid}/comm") as file:
            return file.read().strip()
    except OSError:
        return ""
