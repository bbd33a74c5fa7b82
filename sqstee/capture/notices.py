"""What a run has to tell its user: lines of our own on stderr, after the command's last, each complete in itself."""

from __future__ import annotations

from sqstee.capture.stdio import output_of
from sqstee.errors import SqsteeError
from sqstee.text import one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Notices:
    """Collects lines and prints them at once; each says what happened, how much, and what to do next."""

    def __init__(self) -> None:
        self._texts: list[str] = []

    def add(self, text: str) -> None:
        """One more line; the same one is said once."""
        text = one_line(text)
        if text not in self._texts:
            self._texts.append(text)

    def guarded(self, what: str, advice: str, step: Callable[[], None]) -> bool:
        """A step of ours that may fail: then one line says so, and the command does not notice. Whether it did well."""
        try:
            step()
        except SqsteeError as error:
            self.add(f"the output was not captured: {error.message} ({error.hint})")
        except Exception as error:
            self.add(f"{what}: {reason_of(error)}; {advice}")
        else:
            return True
        return False

    def print(self, unfinished: bool) -> None:
        """Write the lines; with `unfinished` the command's last line has no end, and ours begin with one."""
        if self._texts:
            write("\n" * unfinished + "".join(f"sqstee: {text}\n" for text in self._texts))


def write(text: str) -> None:
    """To stderr, without waiting for room: one that nobody reads must not hold us."""
    try:
        output = output_of(2)
        output.write(memoryview(text.encode(errors="replace")))
        output.close()
    except OSError:
        pass


def reason_of(error: Exception) -> str:
    """An exception in a few words."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"{type(error).__name__}: {error}"
