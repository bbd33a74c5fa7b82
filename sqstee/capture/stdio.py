"""What stands between the command and us: a pipe or a pty for each captured output, with both its stdio."""

from __future__ import annotations

import os
import stat

from sqstee.capture.output import Output, open_output
from sqstee.capture.stream import Stream

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sqstee.capture.pty import Pty
    from sqstee.options import Settings

_OUTPUT_STREAM = 2  # the spool's number of the merged stream


class Stdio:
    """Both ends of what stands between the command and us: a pipe or a pty for each captured output.

    `of_command` maps the command's descriptors to its ends; `on_stderr` are those of our outputs that show where our
    stderr does.
    """

    def __init__(self, captured: set[int], settings: Settings, environ: dict[bytes, bytes]) -> None:
        self.of_command: dict[int, int] = {}
        self._sources: dict[int, int] = {}
        self._ptys: dict[int, Pty] = {}
        self.on_stderr: set[int] = set()
        self._merged = settings.merge
        targets = {min(captured): captured} if settings.merge else {fd: {fd} for fd in captured}
        for fd, numbers in targets.items():
            source, end = self._open(fd, settings.tty, environ)
            self._sources[fd] = source
            self.of_command.update(dict.fromkeys(numbers, end))

    def streams(self) -> list[Stream]:
        """What the capture loop works on."""
        self.on_stderr = {fd for fd in self._sources if _is_stderr(fd)}
        return [
            Stream(_OUTPUT_STREAM if self._merged else fd - 1, fd, source, output_of(fd), self._ptys.get(fd))
            for fd, source in self._sources.items()
        ]

    def close_those_of_command(self) -> None:
        """Once the command has them; else no stream would ever end."""
        for end in set(self.of_command.values()):
            os.close(end)

    def terminals(self) -> dict[int, list[object]]:
        """The real terminals, and the modes that they had at the start."""
        return {pty.real: list(pty.saved) for pty in self._ptys.values() if pty.real is not None}

    def copy_sizes(self) -> None:
        """A terminal has a new size."""
        for pty in self._ptys.values():
            pty.copy_size()

    def copy_modes(self) -> None:
        """Back in the foreground: the modes that the command has set hold again."""
        for pty in self._ptys.values():
            if pty.copied:
                pty.copy_modes()

    def leave_modes(self) -> None:
        """The terminal is the caller's again."""
        for pty in self._ptys.values():
            pty.leave_modes()

    def restore_modes(self) -> None:
        """The command was killed and could not clean up behind itself."""
        from sqstee.capture.pty import restore

        for pty in self._ptys.values():
            if pty.copied and pty.real is not None:
                restore(pty.real, pty.saved)

    def _open(self, fd: int, tty: str, environ: dict[bytes, bytes]) -> tuple[int, int]:
        terminal = os.isatty(fd)
        if tty == "never" or not (terminal or tty == "always"):
            return os.pipe()
        from sqstee.capture.pty import Pty, size_from

        pty = Pty(fd if terminal else None, size_from(environ))
        self._ptys[fd] = pty
        return pty.master, pty.slave


def output_of(fd: int) -> Output:
    """The output behind a descriptor; whatever is odd about it can be written to as it is."""
    try:
        return open_output(fd)
    except Exception:
        return Output(fd)


def _is_stderr(fd: int) -> bool:
    """Whether what was written to `fd` and our own messages end up in one place."""
    if fd == 2:
        return True
    try:
        one, other = os.fstat(fd), os.fstat(2)
    except OSError:
        return False
    return (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino) and not stat.S_ISREG(one.st_mode)
