"""The burst: 64 processes on a node that print 3,000 lines each within ten seconds, by themselves, with the shared
shipper, and under an agent.

    python tests/bench/burst.py [PROCESSES [SECONDS]]

The delay of a line is from its write to the moment at which a receiver could have it from the strict server, which
answers after 20 ms; the last column is from the last write of all until everything was receivable.
"""

from __future__ import annotations

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))

from bench.common import DOLLARS, Row, machine, table
from bench.nodes import HOW, JOB, RATE, running
from fakes.sqs import FakeSqs

from sqstee.wire import decode

HEAD = ("", "lines", "requests", "billed", "dollars", "CPU s", "MiB", "p50 ms", "p99 ms", "until all is there ms")


def times(server: FakeSqs) -> list[tuple[float, float]]:
    """When each line was receivable, and when it was written."""
    found = []
    for message in server.sent("q"):
        for record in decode(message.body, message.attributes):
            if record.message[:1].isdigit():
                found.append((message.sent_at, float(record.message.split()[0])))
    return sorted(found)


def row(processes: int, seconds: int, how: str) -> Row:
    """One row."""
    with running(processes, how, [JOB, str(RATE * seconds), str(seconds)], discard=False) as node:
        found = node.server.counters()
        lines = times(node.server)
        assert len(lines) == processes * RATE * seconds
        delays = sorted(receivable - written for receivable, written in lines)
        p50, p99 = (delays[len(delays) * part // 100] * 1000 for part in (50, 99))
        last = (lines[-1][0] - max(written for _, written in lines)) * 1000
        requests = found.calls["SendMessageBatch"]
        counts = (len(lines), requests, found.billed, f"{found.billed * DOLLARS:.6f}")
        return (how, *counts, node.cpu, node.peak, p50, p99, last)


def main() -> None:
    """Print the table."""
    numbers = [int(word) for word in sys.argv[1:]]
    processes, seconds = numbers + [64, 10][len(numbers) :]
    print(machine())
    print(table(HEAD, [row(processes, seconds, how) for how in HOW]))


if __name__ == "__main__":
    main()
