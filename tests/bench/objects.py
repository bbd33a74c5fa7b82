"""What reading S3 takes: seconds for many objects at a round trip of 20 milliseconds, and requests of an idle reader.

    python tests/bench/objects.py [OBJECTS [ROUNDS [IDLE]]]

The objects are of runs of 100 objects, with ten lines each; for "each a run" every object is of its own run. An idle
reader has read IDLE objects (else a million) of such runs, an hour and more ago, and waits for new ones for an hour of
a clock that does not wait; a listing of every key every ten seconds stands beside it.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from bisect import bisect_right
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench.common import Row, machine, median, table
from fakes.bucket import FakeS3
from fakes.web import FakeWeb
from support import SCRIPT, clean_environment

from sqstee.destination import parse
from sqstee.record import Body, Encoder
from sqstee.transports import s3_listing, s3_receiver
from sqstee.transports.s3 import key_of

RUN_OBJECTS = 100
OBJECT_LINES = 10
DELAY_MS = 20
DOLLARS = 0.005 / 1000  # a LIST request, us-east-1
PLAIN_SECONDS = 10


def bodies(number: int, of_run: int = RUN_OBJECTS) -> Iterator[Body]:
    """So many bodies, `of_run` of each run."""
    for at in range(number):
        run, first = f"01JD{at // of_run:022d}", at % of_run * OBJECT_LINES
        lines = b"".join(b"line %d of the log\n" % (first + line) for line in range(OBJECT_LINES))
        data = Encoder(run, "node17").lines(lines, "stdout", 1_700_000_000_000_000_000, first)
        yield Body(data, run, "node17", first, first + OBJECT_LINES - 1)


def read(number: int, rounds: int) -> list[Row]:
    """Rows of the verbs: objects, seconds, objects a second."""
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder, FakeWeb(bucket := FakeS3("bkt"), latency_ms=DELAY_MS) as web:
        for body in bodies(number):
            bucket.store(key_of("all/", body), body.data)
        for body in bodies(number, 1):
            bucket.store(key_of("runs/", body), body.data)
        stored = dict(bucket.objects)
        environ = clean_environment() | web.environ() | {"SQSTEE_SPOOL": folder}
        run = f"01JD{0:022d}"
        verbs = {
            "tail": ("tail", "s3://bkt/all", "--no-follow"),
            "tail --run": ("tail", "s3://bkt/all", "--no-follow", "--run", run),
            "top": ("top", "s3://bkt/all", "--no-follow"),
            "top, each a run": ("top", "s3://bkt/runs", "--no-follow"),
            "runs": ("runs", "s3://bkt/all"),
            "show": ("show", run, "s3://bkt/all"),
            "drain": ("drain", "s3://bkt/all", "-O", f"{folder}/out", "--fail-on", "failed"),
        }
        for _ in range(rounds):
            for name, words in verbs.items():
                started = time.monotonic()
                subprocess.run([SCRIPT, *words], stdout=subprocess.DEVNULL, env=environ, check=True)
                found.setdefault(name, []).append(time.monotonic() - started)
            for key, data in stored.items():
                bucket.store(key, data)
    one = min(number, RUN_OBJECTS)
    counts = {"tail --run": one, "show": 2 * one}  # show reads a run to find it, and again to show it
    return [
        (name, count, median(times), count / median(times))
        for name, times in found.items()
        for count in [counts.get(name, number)]
    ]


class Idle:
    """The clock, and the bucket, of a reader that finds nothing new."""

    def __init__(self, number: int) -> None:
        self.requests, self._now = 0, 0.0
        stored = datetime.fromtimestamp(time.time() - 4000, UTC)
        keys = {key_of("", body): body for body in _spans(number)}
        self._keys = sorted(keys)
        self._entries = {key: {"Key": key, "Size": 1000, "LastModified": stored} for key in keys}

    def call(self, operation: str, **parameters: Any) -> dict[str, Any]:
        """A listing, as S3 answers it."""
        assert operation == "list_objects_v2"
        self.requests += 1
        after = parameters.get("ContinuationToken") or parameters["StartAfter"]
        found: list[dict[str, Any]] = []
        groups: list[dict[str, Any]] = []
        at = bisect_right(self._keys, after)
        delimiter = parameters.get("Delimiter")
        while at < len(self._keys) and len(found) + len(groups) < parameters["MaxKeys"]:
            key = self._keys[at]
            if not key.startswith(parameters["Prefix"]):
                at = len(self._keys)
            elif delimiter:
                group = key[: key.index(delimiter) + len(delimiter)]
                groups.append({"Prefix": group})
                after = f"{group}~"
                at = bisect_right(self._keys, after)
            else:
                found.append(self._entries[key])
                at += 1
        more = at < len(self._keys)
        return {"Contents": found, "CommonPrefixes": groups, "IsTruncated": more, "NextContinuationToken": after}

    def monotonic(self) -> float:
        """The clock's time."""
        return self._now

    def sleep(self, seconds: float) -> None:
        """Pass the time."""
        self._now += seconds

    @staticmethod
    def time() -> float:
        """The present."""
        return time.time()


def _spans(number: int) -> Iterator[Body]:
    for at in range(number):
        first = at % RUN_OBJECTS * OBJECT_LINES
        yield Body(b"", f"01JD{at // RUN_OBJECTS:022d}", "", first, first + OBJECT_LINES - 1)


def idle(number: int) -> list[Row]:
    """Requests in an hour, and dollars a day."""
    world: Any = Idle(number)
    for module in (s3_receiver, s3_listing):
        vars(module)["time"] = world
    receiver: Any = s3_receiver.S3Receiver(parse("s3://bkt"))
    receiver._bucket.call = world.call
    receiver._bucket.read = lambda key: b""
    while receiver.receive(1000, 0.0):
        pass
    world.requests, started = 0, world.monotonic()
    while world.monotonic() < started + 3600:
        assert receiver.receive(10, 60.0) == []
    receiver.close()
    plain = -(-number // 1000) * 3600 // PLAIN_SECONDS
    return [
        (name, number, requests, requests * 24 * DOLLARS)
        for name, requests in (("every key, every 10 s", plain), ("sqstee", world.requests))
    ]


def main() -> None:
    """Print the tables."""
    given = [int(word) for word in sys.argv[1:]]
    number, rounds, idle_number = (*given, *(2000, 3, 1_000_000)[len(given) :])
    print(machine())
    print(table(("objects 20 ms away", "objects read", "seconds", "objects/s"), read(number, rounds)))
    print()
    print(table(("an idle reader", "objects", "requests/hour", "$/day"), idle(idle_number)))


if __name__ == "__main__":
    main()
