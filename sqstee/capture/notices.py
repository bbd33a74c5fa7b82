"""A run's notices to its user: lines of our own on stderr, after the command's last line."""

from __future__ import annotations

from sqstee.capture.stdio import output_of
from sqstee.errors import SqsteeError, reason_of
from sqstee.text import one_line
from sqstee.trace import trace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Notices:
    """Collects lines and prints them together; each gives the event, its extent and the next step.

    With `quiet` (--quiet) nothing is printed.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self._texts: list[str] = []

    def add(self, text: str) -> None:
        """Add a line, unless the same one was added before."""
        text = one_line(text)
        if text not in self._texts:
            self._texts.append(text)
            trace("front", f"notice: {text}")

    def guarded(self, failure: str, advice: str, step: Callable[[], None]) -> bool:
        """Take a step that may fail, and return whether it succeeded; a failure adds a line, and goes no further.

        `failure` is its consequence for the user, `advice` the remedy.
        """
        try:
            step()
        except SqsteeError as error:
            self.add(f"the output was not captured: {error.message} ({error.hint})")
        except Exception as error:
            self.add(f"{failure}: {reason_of(error)}; {advice}")
        else:
            return True
        return False

    def print_now(self, text: str, unfinished: bool) -> bool:
        """Write one line while the command runs; returns False if stderr has no room for it."""
        trace("front", f"notice: {text}")
        return self.quiet or write("\n" * unfinished + f"sqstee: {one_line(text)}\n") > 0

    def print(self, unfinished: bool) -> None:
        """Write the lines; `unfinished`: the command's last line lacks its newline, which comes before ours then."""
        if self._texts and not self.quiet:
            write("\n" * unfinished + "".join(f"sqstee: {text}\n" for text in self._texts))


def write(text: str) -> int:
    """Write to stderr without waiting for room: an unread one must not hold us up. Returns how much was written."""
    written = 0
    try:
        output = output_of(2)
        written = output.write(memoryview(text.encode(errors="replace")))
        output.close()
    except OSError:
        pass
    return written
