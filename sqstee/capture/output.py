"""Our own stdout and stderr: written without blocking, but never made non-blocking, since they are the caller's."""

from __future__ import annotations

import errno
import os
import stat

PIPE_BUF = 4096  # Linux: a write of up to this size to a pipe is atomic, and POLLOUT promises room for it
PIPE_BYTES = 16 * PIPE_BUF  # the capacity of a new pipe
# The capacity of a pipe in a flood, for as long as it lasts: once all pipes of a user together hold 64 MiB (Linux's
# pipe-user-pages-soft), each new one gets two pages only. A hundred floods at once stay below that.
WIDE_PIPE_BYTES = 4 * PIPE_BYTES
_SHORT_BYTES = 64  # a chunk shorter than its pipe's capacity by up to this much still shows where its pages end
_RWF_NOWAIT = 8  # linux/fs.h
_PTMX = os.makedev(5, 2)  # opening a pty's master again makes another pty


class Output:
    """One of our outputs; this class is for regular files and devices, where a plain write is right.

    `pollable` says whether `fd` can be polled for room. `reports_hangup` says whether polling it also shows, finally
    and without a write, that its reader has left.
    """

    pollable = False
    reports_hangup = True
    source_bytes = 0  # the capacity of the pipe that each chunk was read from, and that this emptied; 0 if unknown

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def write(self, data: memoryview) -> int:
        """Write as much as can be written now, and return how much that was. Raises OSError, never BlockingIOError."""
        return os.write(self.fd, data)

    def widen(self) -> bool:
        """Get ready for chunks of WIDE_PIPE_BYTES; returns whether they go through in fewer steps than short ones."""
        return True

    def narrow(self) -> bool:
        """Undo `widen`; False while that cannot be done."""
        return True

    def close(self) -> None:
        """Close a file description of our own."""


class PipeOutput(Output):
    """A pipe, through a non-blocking file description of our own.

    Other writers may share the pipe, and only writes of up to PIPE_BUF are atomic: lines are written in pieces of at
    most that size that end at a newline, so that no line is broken. Longer lines were not atomic from the command
    either.
    """

    pollable = True
    _widened = False

    def write(self, data: memoryview) -> int:
        written = 0
        text = data.obj
        assert isinstance(text, bytes)
        start = len(text) - len(data)
        try:
            if len(data) > PIPE_BUF and text.find(b"\n", start) < 0:
                return self._write(data)
            while written < len(data):
                end = piece_end(text, start + written, self.source_bytes)
                written += self._write(data[written : end - start])
        except BlockingIOError:
            pass
        return written

    def _write(self, piece: memoryview) -> int:
        return os.write(self.fd, piece)

    def widen(self) -> bool:
        if pipe_bytes(self.fd) == PIPE_BYTES:  # else somebody chose its capacity
            self._widened = set_pipe_bytes(self.fd, WIDE_PIPE_BYTES)
        return pipe_bytes(self.fd) > PIPE_BYTES

    def narrow(self) -> bool:
        self._widened = self._widened and not set_pipe_bytes(self.fd, PIPE_BYTES)
        return not self._widened

    def close(self) -> None:
        os.close(self.fd)


def pipe_bytes(fd: int) -> int:
    """The capacity of a pipe; 0 if it is not a pipe, or if the machine's page size is not the common one."""
    import fcntl  # not before the command starts, which needs no fcntl

    try:
        return fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ) if os.sysconf("SC_PAGE_SIZE") == PIPE_BUF else 0
    except OSError:
        return 0


def set_pipe_bytes(fd: int, capacity: int) -> bool:
    """Set a pipe's capacity; False if it holds more at present, or the user's pipes hold as much as they may."""
    import fcntl

    try:
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, capacity)
    except OSError:
        return False
    return True


def piece_end(text: bytes, at: int, source_bytes: int) -> int:
    """Where the piece of a chunk that begins at `at` ends, so that no line that was written atomically is broken.

    That is the last newline within PIPE_BUF, or, if the chunk filled its pipe, the next end of a page that can be the
    end of a line. A pipe is a ring of pages, and only a write of more than PIPE_BUF is ever spread over two of them
    (pipe_write() in Linux's fs/pipe.c). Pages that are not full end earlier, by at most as many bytes as the chunk is
    short of its pipe's capacity, `source_bytes`. Where all are full, a write that finds too little room ends with one
    of them, too: such a chunk is one piece.
    """
    short = source_bytes - len(text)
    if not short and not at % PIPE_BUF:
        return len(text)
    if 0 <= short <= _SHORT_BYTES:
        first = page = (at + short) // PIPE_BUF * PIPE_BUF + PIPE_BUF  # the end of the page that holds `at`
        while page < len(text):
            end = text.rfind(b"\n", page - short - 1, page) + 1
            if end and page > first:
                return end
            if end:
                break
            page += PIPE_BUF
        else:
            return len(text)
    end = at + PIPE_BUF
    return len(text) if end >= len(text) else text.rfind(b"\n", at, end) + 1 or end


class BorrowedPipeOutput(PipeOutput):
    """A pipe that we may not open again (another user's): every write asks not to wait."""

    def _write(self, piece: memoryview) -> int:
        try:
            return os.pwritev(self.fd, (piece,), -1, _RWF_NOWAIT)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
        import select  # before Linux 6.5 only: no more than POLLOUT promises can be written without waiting

        room = select.poll()
        room.register(self.fd, select.POLLOUT)
        if not room.poll(0):
            raise BlockingIOError
        return os.write(self.fd, piece[:PIPE_BUF])

    def widen(self) -> bool:
        return False

    def close(self) -> None:
        pass


class NamedPipeOutput(PipeOutput):
    """A named pipe, whose readers come and go: only a write shows that there is none."""

    reports_hangup = False


class TerminalOutput(Output):
    """A terminal, through a non-blocking file description of our own."""

    pollable = True

    def write(self, data: memoryview) -> int:
        try:
            return os.write(self.fd, data)
        except BlockingIOError:
            return 0

    def widen(self) -> bool:
        return False

    def close(self) -> None:
        os.close(self.fd)


class BorrowedTerminalOutput(TerminalOutput):
    """A terminal that we may not open again (another user's, after su), or a pty's master."""

    def close(self) -> None:
        pass


class SocketOutput(Output):
    """A socket, which cannot be opened again: each send asks not to wait."""

    pollable = True

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        import _socket

        self._socket = _socket.socket(fileno=fd)
        self._flags = _socket.MSG_DONTWAIT | _socket.MSG_NOSIGNAL

    def write(self, data: memoryview) -> int:
        try:
            return self._socket.send(data, self._flags)
        except BlockingIOError:
            return 0

    def widen(self) -> bool:
        return False

    def close(self) -> None:
        self._socket.detach()


def open_output(fd: int) -> Output:
    """The output behind descriptor 1 or 2, by its type."""
    mode = os.fstat(fd).st_mode
    if stat.S_ISSOCK(mode):
        return SocketOutput(fd)
    if stat.S_ISFIFO(mode):
        own, named = _reopen(fd), _is_named(fd)
        if own < 0:
            borrowed = BorrowedPipeOutput(fd)
            borrowed.reports_hangup = not named  # opening a named pipe without a reader fails too
            return borrowed
        return NamedPipeOutput(own) if named else PipeOutput(own)
    if stat.S_ISCHR(mode) and os.isatty(fd):
        own = -1 if os.fstat(fd).st_rdev == _PTMX else _reopen(fd)
        return BorrowedTerminalOutput(fd) if own < 0 else TerminalOutput(own)
    return Output(fd)


def is_message_socket(fd: int) -> bool:
    """Whether a descriptor is a socket on which each write is a message of its own."""
    if not stat.S_ISSOCK(os.fstat(fd).st_mode):
        return False
    import _socket

    found = _socket.socket(fileno=fd)
    try:
        return found.type != _socket.SOCK_STREAM
    finally:
        found.detach()


def _is_named(fd: int) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{fd}").startswith("/")
    except OSError:
        return False


def _reopen(fd: int) -> int:
    flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        return os.open(f"/proc/self/fd/{fd}", flags)
    except OSError:
        return -1
