"""Whether a command is an interactive shell, which needs the terminal itself for job control."""

from __future__ import annotations

import os
from collections.abc import Sequence

_WRAPPERS = frozenset(("env", "nice", "ionice", "nohup", "setsid", "stdbuf", "exec", "doas"))
_LOGINS = frozenset(("su", "login"))
_SHELLS = frozenset(("sh", "bash", "dash", "zsh", "ksh", "mksh", "fish", "tcsh", "csh", "ash", "busybox"))


def is_interactive_shell(command: Sequence[str]) -> bool:
    """Whether the command is, or starts, a shell at the terminal, which needs it as stderr for job control."""
    if not os.isatty(0):
        return False
    words = list(command)
    while words and os.path.basename(words[0]) in _WRAPPERS:
        words = _skip_options(words[1:])
    if not words:
        return False
    name, *rest = words
    name = os.path.basename(name).removeprefix("-")
    if name in _LOGINS:
        return "-c" not in rest
    if name == "sudo":
        return not [word for word in rest if not word.startswith("-")]
    rest = [word for word in rest if not (name == "busybox" and word in _SHELLS)]
    if name not in _SHELLS:
        return False
    return all(word.startswith("-") and (word.startswith("--") or "c" not in word) for word in rest)


def _skip_options(words: list[str]) -> list[str]:
    while words and (words[0].startswith("-") or "=" in words[0]):
        words = words[1:]
    return words
