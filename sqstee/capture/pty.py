"""Terminals: a pty in the place of each output that is one, with the real terminal's size and modes."""

from __future__ import annotations

import fcntl
import os
import termios

from sqstee.capture.pty_keys import _descendants, _reads

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Mapping, Sequence
    from typing import Any
else:  # the Python half of signal costs 8 ms (enum)
    import _signal

_EXTPROC = 0o200000  # asm-generic/termbits.h: changes of mode are told to the master, in packet mode
_TIOCPKT_IOCTL = 0x40  # ioctl_tty(2): the packet that says that the slave's modes have changed
_IFLAG, _OFLAG, _LFLAG, _CC = 0, 1, 3, 6  # of tcgetattr's list
_DEFAULT_SIZE = (24, 80)
_LARGEST = 65535  # rows or columns: struct winsize holds unsigned shorts


class Pty:
    """A pty that stands for the terminal `real` (None where there is none and one was asked for).

    Output processing is off in it, so that the bytes that come out are those that went in, and the real terminal does
    what it always does with them. Modes that the command sets on it are copied to the real terminal.
    """

    def __init__(self, real: int | None, size: tuple[int, int]) -> None:
        # a descriptor of its own: those from 0 to 2 are given up before the terminal is done with
        self.real = None if real is None else fcntl.fcntl(real, fcntl.F_DUPFD_CLOEXEC, 3)
        self.master, self.slave = os.openpty()
        self._size = b""
        self._name = os.ttyname(self.slave)
        self.saved = termios.tcgetattr(self.slave if real is None else real)
        self.copied = False
        self.owes_modes = False  # the command has set some in the background: a shell's fg need not tell us
        modes = list(self.saved)
        modes[_OFLAG] &= ~termios.OPOST
        modes[_LFLAG] |= _EXTPROC
        termios.tcsetattr(self.slave, termios.TCSANOW, modes)
        fcntl.ioctl(self.master, termios.TIOCPKT, (1).to_bytes(4, "little"))
        if real is None:
            termios.tcsetwinsize(self.slave, size)
        else:
            self.copy_size()

    def is_read_by(self, command: int) -> bool:
        """Whether a process of the command's reads keys from this pty, rather than from the terminal itself."""
        return any(_reads(pid, self._name) for pid in _descendants(command))

    def leave_modes(self) -> None:
        """From here on the terminal's modes are somebody else's."""
        self.real = None

    def copy_size(self) -> None:
        """Give the pty the real terminal's size; where it is new, tell the terminal's foreground group."""
        if self.real is None:
            return
        try:
            size = fcntl.ioctl(self.real, termios.TIOCGWINSZ, b"\0" * 8)
            if size == self._size:
                return
            fcntl.ioctl(self.master, termios.TIOCSWINSZ, size)
            known, self._size = self._size, size
            if known:
                os.killpg(os.tcgetpgrp(self.real), _signal.SIGWINCH)
        except OSError:
            pass

    def control(self, packet: int) -> None:
        """Take a control packet of the master's."""
        if packet & _TIOCPKT_IOCTL:
            self.copy_modes()

    def copy_modes(self) -> None:
        """Copy the pty's modes to the real terminal, all but output processing as such; later where it is not ours."""
        self.owes_modes = self.real is not None and not _in_foreground(self.real)
        if self.real is None or self.owes_modes:
            return
        try:
            wanted, modes = termios.tcgetattr(self.master), termios.tcgetattr(self.real)
            new = list(modes)
            new[_IFLAG], new[_CC] = wanted[_IFLAG], wanted[_CC]
            new[_LFLAG] = _flags(wanted, _LFLAG) & ~_EXTPROC
            post = termios.OPOST
            new[_OFLAG] = (_flags(wanted, _OFLAG) & ~post) | (_flags(modes, _OFLAG) & post)
            if new != modes:
                termios.tcsetattr(self.real, termios.TCSADRAIN, new)
                self.copied = True
            if _flags(wanted, _OFLAG) & post or not _flags(wanted, _LFLAG) & _EXTPROC:  # as `stty sane` leaves them
                wanted[_OFLAG] = _flags(wanted, _OFLAG) & ~post
                wanted[_LFLAG] = _flags(wanted, _LFLAG) | _EXTPROC
                termios.tcsetattr(self.master, termios.TCSANOW, wanted)
        except (OSError, termios.error):
            pass


def restore(real: int, saved: Sequence[Any]) -> None:
    """Give a terminal the modes that it had, unless it is another job's by now."""
    if not _in_foreground(real):
        return
    try:
        termios.tcsetattr(real, termios.TCSADRAIN, list(saved))
    except (OSError, termios.error):
        pass


def is_captured(fd: int) -> bool:
    """Whether a terminal is a pty as we make them; one of another program's changes its modes untold."""
    try:
        return bool(_flags(termios.tcgetattr(fd), _LFLAG) & _EXTPROC)
    except termios.error:
        return False


def size_from(environ: Mapping[bytes, bytes]) -> tuple[int, int]:
    """Rows and columns where there is no terminal to ask: LINES and COLUMNS, or 24 and 80."""
    rows, columns = environ.get(b"LINES", b""), environ.get(b"COLUMNS", b"")
    if rows.isdigit() and columns.isdigit():
        return min(int(rows[:9]), _LARGEST), min(int(columns[:9]), _LARGEST)
    return _DEFAULT_SIZE


def _in_foreground(real: int) -> bool:
    """Whether this terminal's modes are ours to change; in the background the bare command would be stopped."""
    try:
        return os.tcgetpgrp(real) == os.getpgrp()
    except OSError:
        return True  # not our controlling terminal: nobody would be stopped


def _flags(modes: Sequence[Any], index: int) -> int:
    value = modes[index]
    assert isinstance(value, int)
    return value
