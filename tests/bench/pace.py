"""The sending rule: requests, billed requests and the delay of lines, simulated and measured.

    python tests/bench/pace.py [SECONDS]

Each load is simulated with the shipper's own rule (sqstee.run.pack.Pace) on a clock of its own, and measured with
the real command against the strict SQS at a round trip of 20 ms; for SECONDS (600) where it has no end of its own.
Delay is from the command's write to the moment at which a receiver could have the line.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from datetime import datetime

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))

from fake_sqs import FakeSqs
from support import SCRIPT, clean_environment

from sqstee.record import decode
from sqstee.run.pack import BILLED_UNIT_BYTES, MAX_REQUEST_BYTES, Pace

ROUND_TRIP = 0.02
IN_FLIGHT = 4
RECORD_BYTES = 120 + 145  # a line of 120 bytes with what goes around it
LINGER = 1.0

# Writes a line of 120 bytes at each of the times given on stdin, each with the time at which it is written.
WRITER = """
import os, sys, time
times = [float(word) for word in sys.stdin.read().split()]
start = time.time()
for at in times:
    rest = start + at - time.time()
    if rest > 0:
        time.sleep(rest)
    os.write(1, b"%017.6f %s\\n" % (time.time(), b"x" * 101))
"""


def loads(seconds: float) -> dict[str, list[float]]:
    """The times of the lines of each load."""
    burst = [at + n / 1000 for at in range(0, 60, 10) for n in range(40)]
    return {
        "1 line/s": [float(n) for n in range(int(seconds))],
        "10 lines/s": [n / 10 for n in range(int(seconds * 10))],
        "3,000 lines in 10 s": [n / 300 for n in range(3000)],
        "40 lines every 10 s": burst,
        "100,000 flat out": [0.0] * 100_000,
    }


def simulate(times: list[float]) -> tuple[int, int, list[float]]:
    """Requests, billed requests and delays, by the rule alone: no process, no network but its round trip."""
    pace, now, at = Pace(LINGER), 0.0, 0
    waiting: list[float] = []
    flying: list[float] = []
    requests = billed = 0
    delays: list[float] = []
    most = MAX_REQUEST_BYTES // RECORD_BYTES

    def send(count: int) -> None:
        nonlocal requests, billed, waiting
        requests += 1
        billed += max(1, -(-count * RECORD_BYTES // BILLED_UNIT_BYTES))
        delays.extend(now + ROUND_TRIP - line for line in waiting[:count])
        waiting = waiting[count:]
        flying.append(now + ROUND_TRIP)

    while at < len(times) or waiting:
        while at < len(times) and times[at] <= now:
            waiting.append(times[at])
            at += 1
        flying[:] = [end for end in flying if end > now]
        if waiting:
            pace.waiting(now)
        while len(waiting) >= most and len(flying) < IN_FLIGHT:
            send(most)
            pace.full_left(now, bool(waiting))
        due = now if at == len(times) else pace.due(len(flying))
        if waiting and due is not None and due <= now and len(flying) < IN_FLIGHT:
            send(len(waiting))
            pace.partial_left(now, False)
        coming = [*flying, *times[at : at + 1]]
        if waiting and due is not None and due > now:
            coming.append(due)
        if coming:
            now = min(coming)
    return requests, billed, sorted(delays)


def measure(times: list[float]) -> tuple[int, int, list[float]]:
    """The same with the real command."""
    with tempfile.TemporaryDirectory() as folder, FakeSqs("q", latency_ms=ROUND_TRIP * 1000) as server:
        words = [SCRIPT, "--spool", f"{folder}/spool", "--to", "q", "--", sys.executable, "-c", WRITER]
        environ = clean_environment() | server.environ()
        text = " ".join(map(str, times)).encode()
        subprocess.run(words, input=text, stdout=subprocess.DEVNULL, env=environ, check=True)
        found = server.counters()
        delays = []
        for message in server.sent("q"):
            for record in decode(message.body, message.attributes):
                if record.message[:1].isdigit():
                    delays.append(message.sent_at - float(record.message.split()[0]))
        return found.calls["SendMessageBatch"], found.billed, sorted(delays)


def row(name: str, how: str, found: tuple[int, int, list[float]]) -> str:
    """One line of the table; the median and the greatest delay in milliseconds."""
    requests, billed, delays = found
    middle, most = delays[len(delays) // 2] * 1000, delays[-1] * 1000
    return f"{name:22}{how:12}{len(delays):>9,}{requests:>10,}{billed:>8,}{middle:>10.0f}{most:>10.0f}"


def main(arguments: Iterable[str] = sys.argv[1:]) -> None:
    """Print the table."""
    seconds = float(next(iter(arguments), 600))
    print(f"{datetime.now():%Y-%m-%d}, round trip {ROUND_TRIP * 1000:.0f} ms, linger {LINGER:.0f} s")
    print(f"{'load':22}{'':12}{'lines':>9}{'requests':>10}{'billed':>8}{'p50 ms':>10}{'max ms':>10}")
    for name, times in loads(seconds).items():
        print(row(name, "simulated", simulate(times)))
        print(row(name, "measured", measure(times)), flush=True)


if __name__ == "__main__":
    main()
