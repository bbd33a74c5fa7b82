"""Receivers in processes of their own: with more than about 20 receivers, one interpreter would distort the times.

A worker is `python -m sqstee.measure.workers`. It reads commands from stdin and writes messages to stdout, both as JSON
lines, and ends at the end of stdin. It writes a record file of its own.
"""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from sqstee.errors import EXIT_FAILURE, SqsteeError
from sqstee.transports.errors import OPEN, TransportError

_SLACK_SECONDS = 10.0
_READY_SECONDS = 60.0


class ReceiverProcess:
    """Receivers in a process of their own, with the methods of ReceiverThreads."""

    def __init__(self, setup: dict[str, Any], received: Callable[[int, list[int]], None]) -> None:
        self._received = received
        self._answers: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._closing = False
        self.failure: TransportError | None = None
        # -P: a module in the current folder must not shadow one of ours
        words = [sys.executable, "-P", "-m", "sqstee.measure.workers"]
        # a process pool of its own: ^C in the terminal is for the conducting process
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._command(setup)

    @property
    def pid(self) -> int:
        """The process id, which is part of the name of its record file."""
        return self._process.pid

    def wait_until_ready(self) -> None:
        """Wait until the process can start to poll: its imports take a second."""
        self._answer(_READY_SECONDS)

    def start(self, block: int, url: str, mode: str) -> None:
        """Start to poll a block's queue."""
        self._command({"do": "start", "block": block, "url": url, "mode": mode})

    def stop(self, complete: bool, patience: float) -> None:
        """Stop the receivers, as ReceiverThreads.stop does."""
        self._command({"do": "stop", "complete": complete, "patience": patience})
        self._answer(patience + _SLACK_SECONDS)

    def close(self) -> None:
        """End the process, which may have failed meanwhile."""
        self._closing = True
        assert self._process.stdin
        try:
            self._process.stdin.close()
        except BrokenPipeError:
            pass
        try:
            self._process.wait(_SLACK_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        assert self._process.stdout
        self._process.stdout.close()

    def _answer(self, patience: float) -> None:
        if not self._reader.is_alive() and self._answers.empty():
            return
        try:
            self._answers.get(timeout=patience)
        except queue.Empty:
            self._fail("no answer")

    def _command(self, command: dict[str, Any]) -> None:
        assert self._process.stdin
        try:
            self._process.stdin.write(json.dumps(command).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self._fail("it ended")

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            message = json.loads(line)
            if "received" in message:
                self._received(message["block"], message["received"])
            elif "failed" in message:
                self.failure = TransportError(*message["failed"])
            else:
                self._answers.put(True)
        if not self._closing:
            self._fail("it ended")
        self._answers.put(True)

    def _fail(self, reason: str) -> None:
        self.failure = self.failure or TransportError(OPEN, "Worker", f"receiver process {self.pid}: {reason}")


class _MessageWriter:
    """The worker's stdout: whole lines, from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def write(self, message: dict[str, Any]) -> None:
        with self._lock:
            sys.stdout.write(json.dumps(message) + "\n")
            sys.stdout.flush()

    def received(self, block: int, seqs: list[int]) -> None:
        self.write({"received": seqs, "block": block})


def main() -> int:
    """Run the worker: the other end of ReceiverProcess."""
    from sqstee.destination import parse
    from sqstee.measure.queues import Queues
    from sqstee.measure.receivers import Polling, ReceiverThreads
    from sqstee.measure.records import Experiment
    from sqstee.measure.sink import open_sink

    out = _MessageWriter()
    setup = json.loads(sys.stdin.readline())
    header = Experiment(**setup["header"] | {"blocks": tuple(setup["header"]["blocks"])})
    polling = Polling(**setup["polling"])
    try:
        sink = open_sink(setup["folder"], setup["table"], header, setup["region"])
        pool = ReceiverThreads(Queues(parse(setup["queue"]), polling.receivers), sink, polling, sink.name, out.received)
    except TransportError as error:
        out.write({"failed": [error.kind, error.code, error.message]})
        return EXIT_FAILURE
    except SqsteeError as error:
        out.write({"failed": [OPEN, "Worker", error.message]})
        return EXIT_FAILURE
    threading.Thread(target=_watch, args=(pool, out), daemon=True).start()
    out.write({"ready": True})
    for line in sys.stdin:
        command = json.loads(line)
        if command["do"] == "start":
            pool.start(command["block"], command["url"], command["mode"])
        else:
            pool.stop(command["complete"], command["patience"])
            out.write({"stopped": True})
    try:
        sink.close()
    except TransportError as error:
        out.write({"failed": [error.kind, error.code, error.message]})
    return 0


def _watch(pool: Any, out: _MessageWriter) -> None:
    """Report the failure of the receivers."""
    while pool.failure is None:
        time.sleep(0.2)
    out.write({"failed": [pool.failure.kind, pool.failure.code, pool.failure.message]})


if __name__ == "__main__":
    sys.exit(main())
