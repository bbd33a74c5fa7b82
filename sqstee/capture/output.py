"""Our own stdout and stderr: written without blocking, and never made non-blocking, since they are the caller's."""

from __future__ import annotations

import errno
import os
import stat

PIPE_BUF = 4096  # Linux: a write of up to this size to a pipe is atomic, and POLLOUT promises room for it
PIPE_BYTES = 16 * PIPE_BUF  # how much a new pipe holds
_SHORT_BYTES = 64  # a chunk that much shorter than PIPE_BYTES still tells its pages
_RWF_NOWAIT = 8  # linux/fs.h
_PTMX = os.makedev(5, 2)  # to open a pty's master anew makes another pty


class Output:
    """One of our outputs; this one is a regular file or a device, where a plain write is right.

    `fd` may be watched for room and for its reader leaving where `watched` is true.
    """

    watched = False
    reader_leaves = True  # that its reader has gone is final, and shows without a write

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def write(self, data: memoryview) -> int:
        """Write what can be written now; how much that was. Raises OSError, never BlockingIOError."""
        return os.write(self.fd, data)

    def close(self) -> None:
        """Give up a description of our own."""


class PipeOutput(Output):
    """A pipe, through a non-blocking description of our own.

    Other writers may share the pipe, and only writes of up to PIPE_BUF are atomic: lines go in pieces of that size that
    end at a newline, so that none is broken. What the command itself did not write atomically need not be so from us.
    """

    watched = True
    from_pipe = False  # what is written was read from a pipe of PIPE_BYTES, each time until it was empty

    def write(self, data: memoryview) -> int:
        written = 0
        text = data.obj
        assert isinstance(text, bytes)
        start = len(text) - len(data)
        try:
            if len(data) > PIPE_BUF and text.find(b"\n", start) < 0:
                return self._write(data)
            while written < len(data):
                end = piece_end(text, start + written, self.from_pipe)
                written += self._write(data[written : end - start])
        except BlockingIOError:
            pass
        return written

    def _write(self, piece: memoryview) -> int:
        return os.write(self.fd, piece)

    def close(self) -> None:
        os.close(self.fd)


def piece_end(text: bytes, at: int, from_pipe: bool) -> int:
    """Where the piece of a chunk that begins at `at` ends, if no line that its writer wrote atomically may be broken.

    That is the last newline within PIPE_BUF, or, where the chunk filled its pipe, the next end of a page that may be a
    line's: a pipe is a ring of 16 pages, and only a write of more than PIPE_BUF is ever spread over two of them
    (pipe_write() in Linux' fs/pipe.c). Pages less than full end at most as much earlier as the chunk is too short.
    """
    short = PIPE_BYTES - len(text)
    if from_pipe and 0 <= short <= _SHORT_BYTES:
        first = page = (at + short) // PIPE_BUF * PIPE_BUF + PIPE_BUF  # the page that `at` lies in ends there
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
    """A pipe that may not be opened anew (another user's): every write asks not to wait."""

    def _write(self, piece: memoryview) -> int:
        try:
            return os.pwritev(self.fd, (piece,), -1, _RWF_NOWAIT)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
        import select  # before Linux 6.5 only: what POLLOUT promises is all that can be written without waiting

        room = select.poll()
        room.register(self.fd, select.POLLOUT)
        if not room.poll(0):
            raise BlockingIOError
        return os.write(self.fd, piece[:PIPE_BUF])

    def close(self) -> None:
        pass


class NamedPipeOutput(PipeOutput):
    """A pipe with a name, whose readers come and go: only a write tells that there is none."""

    reader_leaves = False


class TerminalOutput(Output):
    """A terminal, through a non-blocking description of our own."""

    watched = True

    def write(self, data: memoryview) -> int:
        try:
            return os.write(self.fd, data)
        except BlockingIOError:
            return 0

    def close(self) -> None:
        os.close(self.fd)


class BorrowedTerminalOutput(TerminalOutput):
    """A terminal that may not be opened anew (another user's, after su), or is a pty's master."""

    def close(self) -> None:
        pass


class SocketOutput(Output):
    """A socket, which cannot be opened anew: each send asks not to wait."""

    watched = True

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

    def close(self) -> None:
        self._socket.detach()


def open_output(fd: int) -> Output:
    """The output behind descriptor 1 or 2, by what it is."""
    mode = os.fstat(fd).st_mode
    if stat.S_ISSOCK(mode):
        return SocketOutput(fd)
    if stat.S_ISFIFO(mode):
        own, named = _own_description(fd), _has_name(fd)
        if own < 0:
            borrowed = BorrowedPipeOutput(fd)
            borrowed.reader_leaves = not named  # one that nobody reads yet cannot be opened anew either
            return borrowed
        return NamedPipeOutput(own) if named else PipeOutput(own)
    if stat.S_ISCHR(mode) and os.isatty(fd):
        own = -1 if os.fstat(fd).st_rdev == _PTMX else _own_description(fd)
        return BorrowedTerminalOutput(fd) if own < 0 else TerminalOutput(own)
    return Output(fd)


def keeps_boundaries(fd: int) -> bool:
    """Whether a descriptor is a socket on which each write is a message of its own."""
    if not stat.S_ISSOCK(os.fstat(fd).st_mode):
        return False
    import _socket

    found = _socket.socket(fileno=fd)
    try:
        return found.type != _socket.SOCK_STREAM
    finally:
        found.detach()


def _has_name(fd: int) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{fd}").startswith("/")
    except OSError:
        return False


def _own_description(fd: int) -> int:
    flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        return os.open(f"/proc/self/fd/{fd}", flags)
    except OSError:
        return -1
