"""Searches, each in a process of its own: a pattern that needs ages then stops no page, and is killed with its process.

The process bounds its own CPU time and memory (see search_process). This module bounds its time by the clock and the
number of processes, and ends each process with its request.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import sqstee
from sqstee.web.answers import HeldStream, RequestError

MOST_SEARCHES = 2  # at a time, in one worker process
_MOST_SECONDS = 120.0
_READ_BYTES = 65536
_STARTED = b'{"searched":0}\n'  # the client knows that it is under way, and whether it has left
_POLL_MILLISECONDS = 500
# Isolated: neither PYTHON* variables nor the current folder decide what is imported, and what lies beside this very
# package is no library of it.
_CODE = (
    "import sys; sys.path.insert(0, sys.argv[1]); import sqstee; del sys.path[0]; "
    "from sqstee.web.search_process import main; main()"
)
_PACKAGE = os.path.abspath(os.path.dirname(sqstee.__path__[0]))


class Searches:
    """The searches of one worker process over the store in the file `path`."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._slots = threading.BoundedSemaphore(MOST_SEARCHES)
        self._lock = threading.Lock()
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._is_closed = False

    @property
    def running(self) -> int:
        """The number of searches under way."""
        return len(self._processes)

    def start(self, query: dict[str, Any], has_left: Callable[[], bool]) -> HeldStream:
        """Start a search; its hits come as they are found. Raises RequestError for an invalid pattern.

        It ends once its client `has_left`.
        """
        if self._is_closed or not self._slots.acquire(blocking=False):
            raise RequestError(503, "too many searches at a time", ("Retry-After", "2"))
        try:
            words = [sys.executable, "-I", "-c", _CODE, _PACKAGE]
            process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        except (OSError, ValueError) as error:  # in a server that embeds Python, sys.executable may be empty
            self._slots.release()
            raise RequestError(503, f"a search cannot be started: {type(error).__name__}") from None
        with self._lock:
            self._processes.add(process)
            if self._is_closed:
                process.kill()
        assert process.stdout
        parts = _read(process.stdout.fileno(), has_left)
        stream = HeldStream(parts, lambda: self._end(process))
        try:
            _ask(process, json.dumps({"store": self._path, **query}).encode())
            first, _, others = next(parts, b"").partition(b"\n")
            if first == b'{"ok":true}':
                return HeldStream(chain([_STARTED + others], parts), stream.close)
        except BaseException:
            stream.close()
            raise
        stream.close()
        problem = str(json.loads(first or b"{}").get("error", ""))
        raise RequestError(400, problem[:200]) if problem else RequestError(503, "the search did not start")

    def close(self) -> None:
        """End all searches."""
        with self._lock:
            self._is_closed = True
            for process in self._processes:
                process.kill()

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        process.kill()
        if process.stdout:
            process.stdout.close()
        process.wait()
        with self._lock:
            self._processes.discard(process)
        self._slots.release()


def _ask(process: subprocess.Popen[bytes], query: bytes) -> None:
    assert process.stdin
    try:
        process.stdin.write(query)
        process.stdin.close()
    except BrokenPipeError:  # it has ended: its output ends as well
        pass


def _read(fd: int, has_left: Callable[[], bool]) -> Iterator[bytes]:
    """Whole lines, as they come, with a last one that tells why there are no more."""
    deadline = time.monotonic() + _MOST_SECONDS
    ready = select.poll()
    ready.register(fd, select.POLLIN)
    rest, ending = b"", b'{"end":"time"}\n'
    while time.monotonic() < deadline:
        if not ready.poll(_POLL_MILLISECONDS):
            if has_left():
                return
            continue
        part = os.read(fd, _READ_BYTES)
        if not part:
            ending = b'{"end":"killed"}\n'
            break
        *lines, rest = (rest + part).split(b"\n")
        if lines:
            yield b"".join(line + b"\n" for line in lines)
            if lines[-1].startswith(b'{"end":'):
                return
    yield ending
