"""The pipes and ptys between the command and us, one for each captured output."""

from __future__ import annotations

import os

from sqstee.capture.output import Output, open_output
from sqstee.capture.stream import Stream

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sqstee.capture.pty import Pty
    from sqstee.settings import Settings

_OUTPUT_STREAM, _STDIN_STREAM = 2, 3  # the spool's numbers of the merged stream, and of a pipe that we read


class Stdio:
    """Both ends of a pipe or a pty for each captured output.

    `command_fds` maps the command's descriptors to its ends of them. `sharing_stderr` are our outputs that lead to the
    same place as our stderr. With `is_stdin` the only output, stdout, is the data from stdin.
    """

    def __init__(
        self, captured: set[int], settings: Settings, environ: dict[bytes, bytes], is_stdin: bool = False
    ) -> None:
        self.command_fds: dict[int, int] = {}
        self._sources: dict[int, int] = {}
        self._ptys: dict[int, Pty] = {}
        self.sharing_stderr: set[int] = set()
        self._only_stream = _STDIN_STREAM if is_stdin else _OUTPUT_STREAM if settings.merge else None
        targets = {min(captured): captured} if settings.merge else {fd: {fd} for fd in sorted(captured)}
        for fd, numbers in targets.items():
            source, end = self._open(fd, settings.tty, environ)
            self._sources[fd] = source
            self.command_fds.update(dict.fromkeys(numbers, end))

    def streams(self) -> list[Stream]:
        """The streams for the capture loop, stdout before stderr."""
        self.sharing_stderr = {fd for fd in self._sources if _is_stderr(fd)}
        only = self._only_stream
        return [
            Stream(fd - 1 if only is None else only, fd, source, output_of(fd), self._ptys.get(fd))
            for fd, source in self._sources.items()
        ]

    def close_command_fds(self) -> None:
        """Close the command's ends once the command has them; otherwise no stream would ever end."""
        for end in set(self.command_fds.values()):
            os.close(end)

    def terminals(self) -> dict[int, list[object]]:
        """The real terminals, with their modes at the start."""
        return {pty.real: list(pty.saved) for pty in self._ptys.values() if pty.real is not None}

    def copy_sizes(self) -> None:
        """Give each pty the new size of its terminal."""
        for pty in self._ptys.values():
            pty.copy_size()

    def copy_modes(self) -> None:
        """Copy the modes that the command has set to the terminals again: we are back in the foreground."""
        for pty in self._ptys.values():
            if pty.modes_copied:
                pty.copy_modes()

    def detach(self) -> None:
        """Leave the terminals alone from here on: they are the caller's again."""
        for pty in self._ptys.values():
            pty.detach()

    def restore_modes(self) -> None:
        """Give the terminals their modes back after the command was killed and could not do so itself."""
        from sqstee.capture.pty import restore

        for pty in self._ptys.values():
            if pty.modes_copied and pty.real is not None:
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
    """The output behind a descriptor; if it cannot be examined, a plain one."""
    try:
        return open_output(fd)
    except Exception:
        return Output(fd)


def _is_stderr(fd: int) -> bool:
    """Whether `fd` and our own notices on stderr lead to the same place."""
    if fd == 2:
        return True
    try:
        one, other = os.fstat(fd), os.fstat(2)
    except OSError:
        return False
    return os.path.samestat(one, other)
