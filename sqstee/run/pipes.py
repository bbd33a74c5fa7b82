"""What a pipe holds, and can hold: apart from the outputs, since it is loaded once the command has started."""

from __future__ import annotations

import fcntl
import os
from _struct import Struct

from sqstee.run.output import PIPE_BUF, PIPE_BYTES

_FIONREAD = 0x541B  # asm-generic/ioctls.h
_INT = Struct("i")


def readable_bytes(fd: int) -> int:
    """How many bytes a pipe, socket or terminal holds."""
    return int(_INT.unpack(fcntl.ioctl(fd, _FIONREAD, b"\0\0\0\0"))[0])


def is_plain_pipe(fd: int) -> bool:
    """Whether a pipe has the default size and this machine's pages the common one."""
    return fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ) == PIPE_BYTES and os.sysconf("SC_PAGE_SIZE") == PIPE_BUF
