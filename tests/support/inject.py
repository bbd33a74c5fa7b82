"""Running sqstee with a fault injected into its code; see programs/inject."""

from __future__ import annotations

from pathlib import Path

from .command import PROGRAMS


def time_to_meet(fault: str) -> tuple[str, str]:
    """Options with the flush time for a fault: sending is tried again and again, so such a fault takes all of it."""
    return ("--flush-timeout", "1s" if "Sender.send" in fault else "60s")


def until_met(folder: Path, fault: str) -> str:
    """A shell command that waits until a fault in sending has struck; other faults strike in time anyway."""
    return f"until [ -e {folder}/injected ]; do sleep 0.02; done" if "Sender.send" in fault else ":"


def injecting(folder: Path, fault: str) -> dict[str, str]:
    """Variables that inject a fault (see programs/inject); the file `folder`/injected appears once it has struck."""
    return {"PYTHONPATH": str(PROGRAMS / "inject"), "INJECT": fault, "INJECTED": str(folder / "injected")}
