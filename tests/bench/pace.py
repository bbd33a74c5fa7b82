"""The sending rule: requests, billed requests and the delay of lines, simulated and measured.

    python tests/bench/pace.py [--minutes MINUTES] [--flat LINES] [--runs RUNS]

Each load is simulated with the shipper's own rule (sqstee.ship.pack.Pace) on a clock of its own, and measured with
the real command against the strict SQS at a round trip of 20 ms; for MINUTES (10) where it has no end of its own. The
slow loads run side by side, among them RUNS (64) runs with one shared shipper and as many under one agent; then comes
what is flat out, by itself.
Delay is from the command's write to the moment at which a receiver could have the line.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))

from bench.burst import times as times_of
from bench.common import Row, machine, table
from bench.nodes import AGENT, SHARED, running
from fakes.sqs import FakeSqs
from support import SCRIPT, clean_environment

from sqstee.ship.pace import Pace
from sqstee.ship.request import BILLED_UNIT_BYTES, MAX_REQUEST_BYTES

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
# Writes one such line a second.
TRICKLE = """
import os, sys, time
start = time.time()
for n in range(int(sys.argv[1])):
    time.sleep(max(0.0, start + n - time.time()))
    os.write(1, b"%017.6f %s\\n" % (time.time(), b"x" * 101))
"""
HEAD = ("load", "", "lines", "requests", "billed", "p50 ms", "max ms")
Found = tuple[int, int, list[float]]  # requests, billed requests, delays


def loads(seconds: float) -> dict[str, list[float]]:
    """The times of the lines of each slow load."""
    burst = [at + n / 1000 for at in range(0, int(seconds), 10) for n in range(40)]
    return {
        "1 line/s": [float(n) for n in range(int(seconds))],
        "10 lines/s": [n / 10 for n in range(int(seconds * 10))],
        "3,000 lines in 10 s": [n / 300 for n in range(min(3000, int(300 * seconds)))],
        "40 lines every 10 s": burst,
    }


def simulate(times: list[float]) -> Found:
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


def measure(times: list[float]) -> Found:
    """The same with the real command."""
    with tempfile.TemporaryDirectory() as folder, FakeSqs("q", latency_ms=ROUND_TRIP * 1000) as server:
        words = [SCRIPT, "--spool", f"{folder}/spool", "--to", "q", "--flush-timeout", "60s", "--"]
        environ = clean_environment() | server.environ()
        text = " ".join(map(str, times)).encode()
        command = [*words, sys.executable, "-c", WRITER]
        subprocess.run(command, input=text, stdout=subprocess.DEVNULL, env=environ, check=True)
        return found_by(server)


def measure_many(runs: int, seconds: float, how: str) -> Found:
    """So many runs of a line a second."""
    with running(runs, how, [TRICKLE, str(int(seconds))], discard=False) as node:
        return found_by(node.server)


def found_by(server: FakeSqs) -> Found:
    """What the server has seen."""
    found = server.counters()
    delays = sorted(receivable - written for receivable, written in times_of(server))
    return found.calls["SendMessageBatch"], found.billed, delays


def row(name: str, how: str, found: Found) -> Row:
    """One line of the table; the median and the greatest delay in milliseconds."""
    requests, billed, delays = found
    return (name, how, len(delays), requests, billed, delays[len(delays) // 2] * 1000, delays[-1] * 1000)


def rows(seconds: float, flat: int, runs: int) -> list[Row]:
    """Everything that the table shows."""
    found: list[Row] = []
    slow = loads(seconds)
    with ThreadPoolExecutor(len(slow) + 2) as pool:
        measured = {name: pool.submit(measure, times) for name, times in slow.items()}
        for how in (SHARED, AGENT):
            of_many = f"{runs} runs of 1 line/s, {how}"
            measured[of_many] = pool.submit(measure_many, runs, seconds, how)
            slow[of_many] = sorted(n + run / runs for n in range(int(seconds)) for run in range(runs))
        for name, times in slow.items():
            found += [row(name, "simulated", simulate(times)), row(name, "measured", measured[name].result())]
    name, times = f"{flat:,} flat out", [0.0] * flat
    return [*found, row(name, "simulated", simulate(times)), row(name, "measured", measure(times))]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--flat", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=64)
    options = parser.parse_args()
    print(machine())
    print(f"\nRound trip {ROUND_TRIP * 1000:.0f} ms, linger {LINGER:.0f} s.\n")
    print(table(HEAD, rows(options.minutes * 60, options.flat, options.runs)))


if __name__ == "__main__":
    main()
