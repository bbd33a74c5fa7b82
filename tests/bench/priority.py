"""The shipper's priority: how late lines are at their reader and at SQS, with 0, 1 and 2 busy loops a core.

    python tests/bench/priority.py [ROUNDS [NICENESS…]]

A command prints three lines and ends, cold: `delivered` is from its fork to the end of sqstee, which waits for its
delivery. A second one prints a line every 10 ms for two seconds while 100,000 lines of an earlier run are shipped:
`line` is from a line's write to its arrival at the reader of sqstee's stdout. All are run in turn; the medians of the
rounds are shown.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))

from bench.common import machine, median, table
from fakes.sqs import FakeSqs
from support import clean_environment

ROUNDS = 5
NICENESS = (0, 2, 5, 15)
LOOPS = (0, 1, 2)  # a core
LINES = 200
# The program with another niceness of its shippers.
SQSTEE = "import sys; from sqstee.ship import priority; priority.NICENESS = int(sys.argv.pop(1)); \
from sqstee.__main__ import main; main()"
PRINT = """
import os, sys, time
for n in range(int(sys.argv[1])):
    os.write(1, b"%.6f\\n" % time.time())
    time.sleep(0.01)
"""


@contextlib.contextmanager
def busy(loops: int) -> Iterator[None]:
    """So many processes that do nothing but compute."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(loops)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def words(niceness: int, *command: str) -> list[str]:
    """The command line of a wrapped command."""
    return [sys.executable, "-c", SQSTEE, str(niceness), "--to", "q", "--flush-timeout", "60s", "--", *command]


def delivered(niceness: int, environ: dict[str, str]) -> float:
    """Milliseconds from the fork to the end of a run that has nobody to ship for it yet."""
    started = time.perf_counter()
    subprocess.run(words(niceness, "seq", "3"), env=environ, check=True, stdout=subprocess.DEVNULL)
    return (time.perf_counter() - started) * 1000


def line_delays(niceness: int, environ: dict[str, str]) -> list[float]:
    """Milliseconds of each line on its way to the reader, while a shipper has much to do."""
    first = words(niceness, "seq", "100000")
    subprocess.run(first, env=environ | {"SQSTEE_FLUSH_TIMEOUT": "0"}, check=True, stdout=subprocess.DEVNULL)
    command = words(niceness, sys.executable, "-c", PRINT, str(LINES))
    found = []
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE) as process:
        assert process.stdout
        for line in process.stdout:
            found.append((time.time() - float(line)) * 1000)
    return sorted(found)


def main() -> None:
    """Print the table."""
    numbers = [int(word) for word in sys.argv[1:]]
    rounds, choices = (numbers or [ROUNDS])[0], numbers[1:] or list(NICENESS)
    cores = os.cpu_count() or 1
    found: dict[tuple[int, int], list[tuple[float, float, float]]] = {}
    print(machine())
    with FakeSqs("q", latency_ms=20, discard=True) as server:
        for _ in range(rounds):
            for loops in LOOPS:
                for niceness in choices:
                    with busy(loops * cores), tempfile.TemporaryDirectory() as folder:
                        environ = clean_environment() | server.environ() | {"SQSTEE_SPOOL": f"{folder}/spool"}
                        took = delivered(niceness, environ)
                        delays = line_delays(niceness, environ)
                    row = (took, median(delays), delays[len(delays) * 99 // 100])
                    found.setdefault((loops, niceness), []).append(row)
    rows = [
        (loops, niceness, *(median(list(column)) for column in zip(*measured, strict=True)))
        for (loops, niceness), measured in sorted(found.items())
    ]
    print(table(("busy loops a core", "niceness", "delivered ms", "line p50 ms", "line p99 ms"), rows))


if __name__ == "__main__":
    main()
