"""Growth: ten times the lines in ten times the processor time at most, and the same memory.

    python tests/bench/growth.py [LINES…]

Processor time is that of front and shipper together: what the kernel counted for the front and all that it reaped,
less that of the same command by itself. The queue is a sink that answers after 20 ms.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))

from bench.common import Row, machine, proportional_kib, table
from bench.shipping import PRODUCER
from fakes.sqs import FakeSqs
from support import SCRIPT, children, clean_environment

HEAD = ("lines", "CPU s", "to the row before", "CPU µs a line", "MiB at most")


def watched(words: list[str], environ: dict[str, str]) -> tuple[float, int]:
    """Processor seconds of a command with all that it waited for, and the greatest memory of ours in it, in KiB."""
    process = subprocess.Popen(words, env=environ, stdout=subprocess.DEVNULL)
    ended, peak = threading.Event(), 0

    def watch() -> None:
        nonlocal peak
        while not ended.wait(0.02):
            peak = max(peak, proportional_kib([process.pid, *children(process.pid)]))

    watcher = threading.Thread(target=watch)
    watcher.start()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    ended.set()
    watcher.join()
    assert process.returncode == 0
    return used.ru_utime + used.ru_stime, peak


def cost(lines: int) -> tuple[float, float]:
    """Processor seconds and MiB of so many lines."""
    producer = [sys.executable, "-c", PRODUCER, str(lines), "120"]
    with tempfile.TemporaryDirectory() as folder, FakeSqs("q", latency_ms=20, sink=True, discard=True) as server:
        environ = clean_environment() | server.environ() | {"SQSTEE_SPOOL": f"{folder}/spool"}
        bare, _ = watched(producer, environ)
        used, peak = watched([SCRIPT, "--to", "q", "--flush-timeout", "600s", "--", *producer], environ)
        assert server.counters().rejected == 0
    return used - bare, peak / 1024


def rows(counts: list[int]) -> list[Row]:
    """Everything that the table shows."""
    found: list[Row] = []
    before = 0.0
    for lines in counts:
        seconds, peak = cost(lines)
        found.append((lines, seconds, seconds / before if before else "", seconds / lines * 1e6, peak))
        before = seconds
    return found


def main() -> None:
    """Print the table."""
    print(machine())
    print(table(HEAD, rows([int(word) for word in sys.argv[1:]] or [10_000, 100_000, 1_000_000, 10_000_000])))


if __name__ == "__main__":
    main()
