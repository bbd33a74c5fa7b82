"""The one exception type, the wording that messages share, and the program's own exit statuses. Pure."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

# Statuses of sqstee itself; every other status is the wrapped command's own. sqstee(1) shows these comments.
EXIT_FAILURE = 1  # a verb did only part of its work, or the command's output could not be written
EXIT_MISSING = 3  # drain: lines of a run are missing
EXIT_OPEN = 4  # drain: no line is missing, but a run has not ended yet
EXIT_FAILED_RUN = 5  # drain --fail-on failed: the command of a run did not succeed
EXIT_UNDELIVERED = 122  # --strict: the command's status was 0, but not every line was delivered
EXIT_USAGE = 125  # as env(1), timeout(1): invalid usage, and no command was started
EXIT_INTERRUPTED = 130  # as shells report death by SIGINT: a verb was interrupted
EXIT_NOT_EXECUTABLE = 126  # POSIX sh: found, but cannot be executed
EXIT_NOT_FOUND = 127  # POSIX sh: not found


class SqsteeError(Exception):
    """An error that a user can cause and fix.

    `message` is one line without a full stop. `hint` is one line with a command or form to use, or empty. `exit_code`
    is the process's exit status. The error is printed in one place, as `sqstee: message` and `hint: …`. `meant` is the
    word that is wrong and the one that was probably meant, where they are known: cli/slips makes the hint of them.
    """

    def __init__(
        self, message: str, hint: str = "", exit_code: int = EXIT_USAGE, meant: tuple[str, str] = ("", "")
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.exit_code = exit_code
        self.meant = meant

    def __str__(self) -> str:
        hint = f"\nhint: {_printable(self.hint)}" if self.hint else ""
        return f"sqstee: {_printable(self.message)}{hint}"


def reason_of(error: BaseException) -> str:
    """An exception in a few words. A MemoryError has none of its own: the words name the remedy."""
    if isinstance(error, MemoryError):
        return "no memory is left, raise its limit (ulimit -v, or the container's)"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"{type(error).__name__}: {error}"


def _printable(text: str) -> str:
    """`text` without newlines and terminal escapes, which words and paths may hold, and without passwords in URLs."""
    if "@" in text or "://" in text:
        from sqstee.text import without_userinfo  # rarely needed before the command starts

        text = without_userinfo(text)
    return "".join(char if char.isprintable() else "?" for char in text)


def invalid_value(text: str, name: str, expected: str, hint: str, guess: str = "") -> SqsteeError:
    """The error for a value that does not fit; `name` is the flag, variable or key that it was given to.

    `guess` is the value that was probably meant, or empty.
    """
    message = f"invalid value {text!r} for {name} (expected {expected}){suggestion(guess)}"
    return SqsteeError(message, hint, meant=(text, guess))


def unknown_name(kind: str, word: str, known: Iterable[str], hint: str) -> SqsteeError:
    """The error for an unknown name, such as an option's."""
    guess = closest(word, known)
    return SqsteeError(f"unknown {kind} {word!r}{suggestion(guess)}", hint, meant=(word, guess))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: `; did you mean 'tail'?`, or nothing if no known name is close."""
    return suggestion(closest(word, known))


def suggestion(guess: str) -> str:
    """The end of a message that asks whether `guess` was meant; nothing for an empty one."""
    return f"; did you mean {guess!r}?" if guess else ""


def closest(word: str, known: Iterable[str]) -> str:
    """The known name that `word` is probably a misspelling or the beginning of, whatever its case; empty if none is."""
    from difflib import get_close_matches  # only in errors: it loads re and collections

    names = {_folded(name): name for name in known}
    found = get_close_matches(_folded(word), names, 1, 0.7)
    if not found and len(word) > 1:
        longer = [name for name in names if name.startswith(_folded(word))]
        found = longer if len(longer) == 1 else []
    return names[found[0]] if found else ""


def _folded(word: str) -> str:
    return word.lower().replace("_", "-")
