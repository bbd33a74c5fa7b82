"""A pty in place of each output that is a terminal, with the real terminal's size and modes."""

from __future__ import annotations

import fcntl
import os
import termios

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Mapping, Sequence
    from typing import Any
else:  # the Python half of signal costs 8 ms (enum)
    import _signal

_EXTPROC = 0o200000  # asm-generic/termbits.h: in packet mode the master is notified of changed modes
_TIOCPKT_IOCTL = 0x40  # ioctl_tty(2): the control packet for changed modes of the slave
_IFLAG, _OFLAG, _LFLAG, _CC = 0, 1, 3, 6  # indexes into tcgetattr's list
_DEFAULT_SIZE = (24, 80)
_LARGEST = 65535  # rows or columns: struct winsize holds unsigned shorts


class Pty:
    """A pty in place of the terminal `real` (None with --tty always, where there is no terminal).

    Its output processing is off, so that bytes come out as they went in, and the real terminal processes them as it
    always does. Modes that the command sets on the pty are copied to the real terminal. `name` is the path of its
    slave, `saved` are the terminal's modes at the start.
    """

    def __init__(self, real: int | None, size: tuple[int, int]) -> None:
        # a descriptor of our own: we close 0 to 2 before we are done with the terminal
        self.real = None if real is None else fcntl.fcntl(real, fcntl.F_DUPFD_CLOEXEC, 3)
        self.master, self.slave = os.openpty()
        self._size = b""
        self.name = os.ttyname(self.slave)
        self.saved = termios.tcgetattr(self.slave if real is None else real)
        self.modes_copied = False
        self.modes_pending = False  # set in the background, to be copied later: a shell's fg may send us no signal
        modes = list(self.saved)
        modes[_OFLAG] &= ~termios.OPOST
        modes[_LFLAG] |= _EXTPROC
        termios.tcsetattr(self.slave, termios.TCSANOW, modes)
        fcntl.ioctl(self.master, termios.TIOCPKT, (1).to_bytes(4, "little"))
        if real is None:
            termios.tcsetwinsize(self.slave, size)
        else:
            self.copy_size()

    def detach(self) -> None:
        """Leave the real terminal alone from here on: it is the caller's again."""
        self.real = None

    @property
    def full_screen(self) -> bool:
        """Whether a program reads single keys, as editors and pagers do: it has the whole screen to itself."""
        try:
            return not _flags(termios.tcgetattr(self.master), _LFLAG) & termios.ICANON
        except termios.error:
            return False

    def copy_size(self) -> None:
        """Give the pty the real terminal's size; if that has changed, send SIGWINCH to the foreground group."""
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

    def handle_packet(self, packet: int) -> None:
        """Handle a control packet from the master."""
        if packet & _TIOCPKT_IOCTL:
            self.copy_modes()

    def copy_modes(self) -> None:
        """Copy the pty's modes, except OPOST, to the real terminal; in the background note that they are pending."""
        self.modes_pending = self.real is not None and not _in_foreground(self.real)
        if self.real is None or self.modes_pending:
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
                self.modes_copied = True
            if _flags(wanted, _OFLAG) & post or not _flags(wanted, _LFLAG) & _EXTPROC:  # after `stty sane`
                wanted[_OFLAG] = _flags(wanted, _OFLAG) & ~post
                wanted[_LFLAG] = _flags(wanted, _LFLAG) | _EXTPROC
                termios.tcsetattr(self.master, termios.TCSANOW, wanted)
        except (OSError, termios.error):
            pass


def restore(real: int, saved: Sequence[Any]) -> None:
    """Give a terminal its saved modes back, unless another job has it now."""
    if not _in_foreground(real):
        return
    try:
        termios.tcsetattr(real, termios.TCSADRAIN, list(saved))
    except (OSError, termios.error):
        pass


def is_sqstee_pty(fd: int) -> bool:
    """Whether a terminal is a pty of sqstee: only there EXTPROC is set, which reports changed modes."""
    try:
        return bool(_flags(termios.tcgetattr(fd), _LFLAG) & _EXTPROC)
    except termios.error:
        return False


def size_from(environ: Mapping[bytes, bytes]) -> tuple[int, int]:
    """Rows and columns where there is no terminal: LINES and COLUMNS, or 24 and 80."""
    rows, columns = environ.get(b"LINES", b""), environ.get(b"COLUMNS", b"")
    if rows.isdigit() and columns.isdigit():
        return min(int(rows[:9]), _LARGEST), min(int(columns[:9]), _LARGEST)
    return _DEFAULT_SIZE


def _in_foreground(real: int) -> bool:
    """Whether we may change this terminal's modes; in the background the unwrapped command would be stopped for it."""
    try:
        return os.tcgetpgrp(real) == os.getpgrp()
    except OSError:
        return True  # not our controlling terminal: nobody would be stopped


def _flags(modes: Sequence[Any], index: int) -> int:
    value = modes[index]
    assert isinstance(value, int)
    return value
