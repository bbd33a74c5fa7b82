"""Starting servers by fork: that takes 3 ms, where a new interpreter with all imports takes 90 ms.

The fork server is a child of the test process, started with its first `FakeSqs`; see `process.serve_forks`.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, ClassVar

TESTS = Path(__file__).parents[2]


class ForkServer:
    """The client side: one fork server per process."""

    _shared: ClassVar[ForkServer | None] = None
    _starting: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self) -> None:
        command = [sys.executable, "-E", "-S", "-m", "fakes.sqs", "--fork-server"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=TESTS)
        self._lock = threading.Lock()
        self._owner = os.getpid()

    @classmethod
    def shared(cls) -> ForkServer:
        """The fork server of this process."""
        with cls._starting:
            if cls._shared is None or cls._shared._owner != os.getpid():
                cls._shared = cls()
                atexit.register(cls._shared._close)
            return cls._shared

    def start(self, arguments: list[str]) -> tuple[str, int]:
        """Start a server with the arguments of `python -m fakes.sqs`; its endpoint and its pid."""
        answer = self._call({"start": arguments})
        if "error" in answer:
            raise RuntimeError(f"the fake SQS did not start: {answer['error']}")
        return answer["endpoint"], answer["pid"]

    def stop(self, pid: int) -> int:
        """End a server with SIGTERM, after 5 s with SIGKILL; its exit status."""
        return int(self._call({"stop": pid})["status"])

    def _call(self, request: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the fork server has ended (status {self._process.wait()})")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _close(self) -> None:
        if self._owner == os.getpid():
            self._process.communicate(timeout=60)
