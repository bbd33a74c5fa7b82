"""`… | sqstee`: the body of the process in the command's place, which passes stdin on to stdout as tee(1) does.

The front captures its stdout like a command's, so that everything that holds for a command holds for it too.
"""

from __future__ import annotations

import os

from sqstee.capture import signals
from sqstee.capture.stream import CHUNK_BYTES, write_all
from sqstee.errors import EXIT_FAILURE
from sqstee.fds import close_quietly, open_fds, write_stderr

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from typing import NoReturn
else:  # the Python half of signal costs 8 ms (enum)
    import _signal


def copy_stdin() -> NoReturn:
    """Copy stdin to stdout until its end, and exit; all other descriptors are closed, as by execve(2).

    A first ^C reaches whoever writes to the pipe, too: its last lines are still passed on. Then, or at a second one, we
    die of it, so that a shell sees its loop interrupted.
    """
    for fd in open_fds():
        if fd > 2:
            close_quietly(fd)
    interrupted: list[int] = []

    def note(number: int, _: object) -> None:
        interrupted.append(number)
        _signal.signal(number, _signal.SIG_DFL)

    if _signal.getsignal(_signal.SIGINT) != _signal.SIG_IGN:
        _signal.signal(_signal.SIGINT, note)
    status = _copy()
    if interrupted:
        signals.die_by(interrupted[0])
    os._exit(status)


def _copy() -> int:
    """Copy to the end; the exit status."""
    try:
        while chunk := _read():
            if not write_all(1, chunk):  # its reader has left, and SIGPIPE is ignored
                return EXIT_FAILURE
    except OSError as error:
        write_stderr(f"sqstee: stdin cannot be read: {error.strerror}\n")
        return EXIT_FAILURE
    return 0


def _read() -> bytes:
    """The next bytes, also where somebody has made stdin non-blocking; empty at its end."""
    while True:
        try:
            return os.read(0, CHUNK_BYTES)
        except BlockingIOError:
            import select

            ready = select.poll()
            ready.register(0, select.POLLIN)
            ready.poll()
