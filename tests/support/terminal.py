"""A real terminal: a command in a session of its own on a pty, driven by reading and typing."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import termios
import time
from collections.abc import Mapping, Sequence
from typing import Any

SECONDS = 60.0


class Terminal:
    """Runs `command` as the leader of a session that this terminal controls; `before` are the modes at the start."""

    def __init__(self, command: Sequence[str], environ: Mapping[str, str], size: tuple[int, int] = (30, 100)) -> None:
        self.output = b""
        self.status: int | None = None
        self._at = 0
        ready, readying = os.pipe()
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            try:
                os.close(readying)
                os.read(ready, 1)
                os.execvpe(command[0], list(command), dict(environ))
            finally:
                os._exit(99)
        self.resize(*size)
        self.before = self.modes()
        os.close(ready)
        os.close(readying)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self.status is None:
            for target in {-self.foreground(), self.pid} - {0, -1, 1}:
                try:
                    os.kill(target, signal.SIGKILL)
                except OSError:
                    pass
            self.wait()
        os.close(self.fd)

    def foreground(self) -> int:
        """The terminal's foreground process group."""
        try:
            return os.tcgetpgrp(self.fd)
        except OSError:
            return self.pid

    def type(self, keys: bytes) -> None:
        """Press keys."""
        os.write(self.fd, keys)

    def resize(self, rows: int, columns: int) -> None:
        """Change the terminal's size."""
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def modes(self) -> list[Any]:
        """The terminal's modes."""
        return termios.tcgetattr(self.fd)

    def expect(self, text: bytes, seconds: float = SECONDS) -> bytes:
        """Read until `text` comes after the end of the last expectation; all that came since, `text` included."""
        deadline = time.monotonic() + seconds
        while text not in self.output[self._at :]:
            assert self._read(deadline), f"no {text!r} in {self.output[self._at :]!r}"
        start, self._at = self._at, self.output.index(text, self._at) + len(text)
        return self.output[start : self._at]

    def wait(self, seconds: float = SECONDS) -> int:
        """Read to the end; the exit status, as os.waitstatus_to_exitcode gives it."""
        deadline = time.monotonic() + seconds
        while self._read(deadline):
            pass
        while self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
                break
            assert time.monotonic() < deadline, f"still running; {self.output!r}"
            time.sleep(0.01)
        return self.status

    def _read(self, deadline: float) -> bool:
        ready = select.select([self.fd], [], [], max(0.0, deadline - time.monotonic()))[0]
        if not ready:
            return False
        try:
            data = os.read(self.fd, 65536)
        except OSError:
            return False
        self.output += data
        return bool(data)
