"""Receivers in processes of their own: one interpreter polls with some 20 receivers before its times become its own.

A worker is `python -m sqstee.measure.workers`; commands come as JSON lines on its stdin, news leave on its stdout, and
it ends with its stdin. It writes a record file of its own.
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
    """A group in a process of its own, with the group's methods."""

    def __init__(self, setup: dict[str, Any], received: Callable[[int, list[int]], None]) -> None:
        self._received = received
        self._answers: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._closing = False
        self.failure: TransportError | None = None
        # -P: the folder that sqstee is called in holds no modules of ours
        words = [sys.executable, "-P", "-m", "sqstee.measure.workers"]
        # a process group of its own: the terminal's ^C is for the one that started it
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._say(setup)

    @property
    def pid(self) -> int:
        """The process's id, which is in the name of its record file."""
        return self._process.pid

    def wait_until_ready(self) -> None:
        """Until the process can start to poll: importing takes it a second."""
        self._answer(_READY_SECONDS)

    def start(self, block: int, url: str, mode: str) -> None:
        """Poll a block's queue from now on."""
        self._say({"do": "start", "block": block, "url": url, "mode": mode})

    def stop(self, complete: bool, patience: float) -> None:
        """End the receivers, as ReceiverThreads.stop does."""
        self._say({"do": "stop", "complete": complete, "patience": patience})
        self._answer(patience + _SLACK_SECONDS)

    def close(self) -> None:
        """End the process; it may have failed at its end."""
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
            self._fail("it does not answer")

    def _say(self, command: dict[str, Any]) -> None:
        assert self._process.stdin
        try:
            self._process.stdin.write(json.dumps(command).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self._fail("it has ended")

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            news = json.loads(line)
            if "received" in news:
                self._received(news["block"], news["received"])
            elif "failed" in news:
                self.failure = TransportError(*news["failed"])
            else:
                self._answers.put(True)
        if not self._closing:
            self._fail("it has ended")
        self._answers.put(True)

    def _fail(self, what: str) -> None:
        self.failure = self.failure or TransportError(OPEN, "Worker", f"a process of receivers: {what}")


class _Out:
    """The worker's stdout: whole lines, from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def say(self, news: dict[str, Any]) -> None:
        with self._lock:
            sys.stdout.write(json.dumps(news) + "\n")
            sys.stdout.flush()

    def received(self, block: int, seqs: list[int]) -> None:
        self.say({"received": seqs, "block": block})


def main() -> int:
    """The worker's own side."""
    from sqstee.destination import parse
    from sqstee.measure.queues import Queues
    from sqstee.measure.receivers import Polling, ReceiverThreads
    from sqstee.measure.records import Experiment
    from sqstee.measure.sink import open_sink

    out = _Out()
    setup = json.loads(sys.stdin.readline())
    header = Experiment(**setup["header"] | {"blocks": tuple(setup["header"]["blocks"])})
    polling = Polling(**setup["polling"])
    try:
        sink = open_sink(setup["folder"], setup["table"], header, setup["region"])
        group = ReceiverThreads(
            Queues(parse(setup["queue"]), polling.receivers), sink, polling, sink.name, out.received
        )
    except TransportError as error:
        out.say({"failed": [error.kind, error.code, error.message]})
        return EXIT_FAILURE
    except SqsteeError as error:
        out.say({"failed": [OPEN, "Worker", error.message]})
        return EXIT_FAILURE
    threading.Thread(target=_watch, args=(group, out), daemon=True).start()
    out.say({"ready": True})
    for line in sys.stdin:
        command = json.loads(line)
        if command["do"] == "start":
            group.start(command["block"], command["url"], command["mode"])
        else:
            group.stop(command["complete"], command["patience"])
            out.say({"stopped": True})
    try:
        sink.close()
    except TransportError as error:
        out.say({"failed": [error.kind, error.code, error.message]})
    return 0


def _watch(group: Any, out: _Out) -> None:
    """Pass the group's failure on."""
    while group.failure is None:
        time.sleep(0.2)
    out.say({"failed": [group.failure.kind, group.failure.code, group.failure.message]})


if __name__ == "__main__":
    sys.exit(main())
