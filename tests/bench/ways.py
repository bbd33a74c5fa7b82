"""Every way to ship lines beside the others: lines/s, delay, requests and dollars a million lines.

    python tests/bench/ways.py [LINES [SECONDS]]

Every request has a round trip of 20 ms. Lines per second are of LINES lines of 120 bytes, from the start of the
command to its end, when all are delivered (of the two that send few lines a request: of fewer lines). The delay is
that of a live trickle of some two lines a second over SECONDS seconds: from a line's print to its line on the stdout of
`sqstee tail` at the other end, in the median.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))

from bench.common import Row, machine, table
from bench.shipping import PRODUCER, SIMPLE
from fakes.bucket import FakeS3
from fakes.sqs import FakeSqs
from fakes.web import FakeWeb, Forward
from support import SCRIPT, clean_environment
from support.collector import collecting

ROUND_TRIP_MS = 20.0
LENGTH = 120
HEAD = ("way", "lines/s", "delay, ms", "requests per million", "$ per million lines")
LEGEND = """
Standing in for the services, each 20 ms away: for SQS a server of our own that checks every rule of its API, for S3 one
that keeps to PutObject's conditions and checksums; behind the same delay the real `sqstee serve`, on this machine.
Dollars are for sending alone: $0.40 a million requests to SQS (64 KiB each), $5.00 a million PUTs to S3; a collector
costs what its machine costs. The delay is that of a trickle, two lines a second, from a line's print to `sqstee tail`
showing it, in the median: S3 gets an object for ten seconds of it, and is listed every one to ten seconds.
"""
TRICKLE = """
import random, sys, time
choice, until = random.Random(1), time.time() + float(sys.argv[1])
while time.time() < until:
    print(f"at {time.time():.6f}", flush=True)
    time.sleep(choice.uniform(0.2, 0.8))
"""
_AFTERWARDS_SECONDS = 11.0  # longer than any linger: the lines of the end go early, and do not count
_STARTING_SECONDS = 3.0  # nor do those of the beginning, when the reader may not be there yet


class Place:
    """A destination: where `to` is and what is `read`, `requests` made so far, and what a million of them cost."""

    def __init__(
        self, to: str, read: str, environ: dict[str, str], requests: Callable[[], int], dollars: float
    ) -> None:
        self.to = to
        self.read = read
        self.environ = clean_environment() | environ
        self.requests = requests
        self.dollars = dollars


@contextmanager
def queue(live: bool) -> Iterator[Place]:
    """SQS."""
    with FakeSqs("q", latency_ms=ROUND_TRIP_MS, discard=not live) as server:

        def billed() -> int:
            counted = server.counters()
            assert counted.rejected == 0, counted.rejections[:3]
            return counted.billed

        yield Place("q", "q", server.environ(), billed, 0.40)


@contextmanager
def bucket(live: bool) -> Iterator[Place]:
    """S3."""
    with FakeWeb(FakeS3("bkt", discard=not live), ROUND_TRIP_MS) as web:
        yield Place("s3://bkt/logs", "s3://bkt/logs", web.environ(), lambda: web.calls.get("PUT", 0), 5.0)


@contextmanager
def collector(live: bool) -> Iterator[Place]:
    """`sqstee serve`."""
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store.db"
        with (
            collecting(store, environ={"SQSTEE_LOCAL_MAX": "64G"}) as (_, url),
            FakeWeb(Forward(url), ROUND_TRIP_MS) as web,
        ):
            yield Place(f"{web.url}/", f"local:{store}", {}, lambda: web.calls.get("POST", 0), 0.0)


Sending = Callable[[Place, str, list[str]], AbstractContextManager[subprocess.Popen[bytes]]]


def wrapped(*options: str) -> Sending:
    """The real command around a producer."""

    @contextmanager
    def start(place: Place, folder: str, producer: list[str]) -> Iterator[subprocess.Popen[bytes]]:
        words = [SCRIPT, "--spool", f"{folder}/spool", "--host", "node-0123456789", "--flush-timeout", "600s"]
        command = [*words, "--to", place.to, *options, "--", *producer]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=place.environ) as process:
            yield process

    return start


def simple(many: int) -> Sending:
    """What people write first: boto3, one connection, so many lines a request."""

    @contextmanager
    def start(place: Place, folder: str, producer: list[str]) -> Iterator[subprocess.Popen[bytes]]:
        sender = [sys.executable, "-u", "-c", SIMPLE, str(many)]
        with (
            subprocess.Popen(producer, stdout=subprocess.PIPE, env=place.environ) as made,
            subprocess.Popen(sender, stdin=made.stdout, env=place.environ) as process,
        ):
            yield process

    return start


WAYS: list[tuple[str, Callable[[bool], AbstractContextManager[Place]], Sending, int]] = [
    ("SQS, boto3, one line a request", queue, simple(1), 300),
    ("SQS, boto3, ten lines a request", queue, simple(10), 3000),
    ("SQS, sqstee", queue, wrapped(), 0),
    ("SQS, sqstee --compress gzip", queue, wrapped("--compress", "gzip"), 0),
    ("S3 as the queue, sqstee", bucket, wrapped(), 0),
    ("HTTP collector, sqstee", collector, wrapped(), 0),
]


def rate(place: Place, sending: Sending, lines: int) -> tuple[float, float]:
    """Lines a second, and requests a million lines."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        with sending(place, folder, [sys.executable, "-c", PRODUCER, str(lines), str(LENGTH)]) as process:
            status = process.wait()
        elapsed = time.perf_counter() - started
        assert status == 0
        assert not list(Path(folder).glob("spool/0*"))  # nothing waits
    return lines / elapsed, place.requests() * 1_000_000 / lines


def delay(place: Place, sending: Sending, seconds: float) -> float:
    """Milliseconds from a line's print to its arrival at a reader, in the median."""
    with tempfile.TemporaryDirectory() as folder:
        tail = [SCRIPT, "tail", place.read, "--consume", "-o", "raw"]
        environ = place.environ | {"SQSTEE_SPOOL": folder}
        with subprocess.Popen(tail, stdout=subprocess.PIPE, env=environ) as reader:
            assert reader.stdout
            producer = [sys.executable, "-c", TRICKLE, str(_STARTING_SECONDS + seconds + _AFTERWARDS_SECONDS)]
            delays = []
            with sending(place, folder, producer):
                first = 0.0
                for line in reader.stdout:
                    for stamp in re.findall(rb"at (\d+\.\d+)", line):
                        first = first or float(stamp)
                        if _STARTING_SECONDS <= float(stamp) - first < _STARTING_SECONDS + seconds:
                            delays.append(time.time() - float(stamp))
                        elif float(stamp) - first >= _STARTING_SECONDS + seconds:
                            reader.terminate()
            reader.terminate()
    return statistics.median(delays) * 1000


def rows(lines: int, seconds: float) -> Iterator[Row]:
    """The table."""
    for name, place, sending, few in WAYS:
        with place(False) as there:
            per_second, requests = rate(there, sending, few or lines)
            dollars = requests / 1_000_000 * there.dollars
        with place(True) as there:
            late = delay(there, sending, seconds)
        yield name, per_second, late, round(requests), f"{dollars:.2g}" if dollars else "none"


def main() -> None:
    """Print the table and what it means."""
    lines = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 20.0
    print(machine())
    print()
    print(table(HEAD, rows(lines, seconds)))
    print(LEGEND)


if __name__ == "__main__":
    main()
