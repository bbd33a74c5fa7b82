"""The one exception type, and the exit statuses that are the program's own."""

from __future__ import annotations

# Statuses that say something about sqstee; every other status is the wrapped command's own.
EXIT_FAILURE = 1  # a verb could not do all of what it was asked, or a command's output could not be written
EXIT_MISSING = 3  # drain: lines of a run are missing
EXIT_OPEN = 4  # drain: nothing is missing, but a run has not ended yet
EXIT_UNDELIVERED = 122  # --strict: the command's status was 0, but not every line was delivered
EXIT_USAGE = 125  # as env(1), timeout(1): called wrongly, and nothing was started
EXIT_INTERRUPTED = 130  # as shells tell a death by SIGINT: a verb was interrupted
EXIT_NOT_EXECUTABLE = 126  # POSIX sh: found, but cannot be executed
EXIT_NOT_FOUND = 127  # POSIX sh: not found


class SqsteeError(Exception):
    """Something that a user can cause and mend.

    `message` is one line without a full stop, `hint` one line with the right form (or empty), `exit_code` the
    status that the process ends with. Printed in one place, as `sqstee: message` and `hint: …`.
    """

    def __init__(self, message: str, hint: str = "", exit_code: int = EXIT_USAGE) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.exit_code = exit_code

    def __str__(self) -> str:
        hint = f"\nhint: {_printable(self.hint)}" if self.hint else ""
        return f"sqstee: {_printable(self.message)}{hint}"


def _printable(text: str) -> str:
    """Without what would begin another line, or what a terminal would obey: a word or a path may hold anything."""
    return "".join(char if char.isprintable() else "?" for char in text)
