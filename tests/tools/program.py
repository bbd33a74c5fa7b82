"""The parts of the program that documents describe: verbs with their options, and exit statuses."""

from __future__ import annotations

import functools
import re
from pathlib import Path

from sqstee import errors
from sqstee.cli import help
from sqstee.cli.help import Flag, Verb

__all__ = ["Flag", "Verb", "exit_statuses", "verbs"]
ROOT = Path(__file__).parent.parent.parent


@functools.cache  # each call builds all commands anew
def verbs() -> list[Verb]:
    """All verbs, in the order of the help."""
    return help.verbs()


def exit_statuses() -> list[tuple[int, str]]:
    """The program's own exit statuses, each with its meaning: the comment after its constant."""
    found = []
    for name, comment in re.findall(r"^(EXIT_\w+) = \d+  # (.+)$", Path(errors.__file__).read_text(), re.MULTILINE):
        found.append((int(getattr(errors, name)), comment))
    return sorted(found)
