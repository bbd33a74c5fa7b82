"""Lines per second, requests billed and memory, from one wrapped command to the strict SQS at a round trip of 20 ms.

    python tests/bench/shipping.py [LINES] [OPTION…]

The lines are 120 bytes long with their newline; options go to sqstee (`--compress auto`).
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from fake_sqs import FakeSqs
from support import SCRIPT, children, clean_environment

PRODUCER = """
import sys
rest = "x" * 112 + "\\n"
for first in range(0, int(sys.argv[1]), 100):
    sys.stdout.write("".join("%07d" % (first + n) + rest for n in range(100)))
"""


def proportional_kib(pids: list[int]) -> int:
    """Proportional set size of our own processes together: pages that they share count once."""
    total = 0
    for pid in pids:
        try:
            if b"sqstee" in Path(f"/proc/{pid}/cmdline").read_bytes():
                lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
                total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        except (OSError, StopIteration):
            pass
    return total


def main() -> None:
    """Run and print one line of figures."""
    lines = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory() as folder, FakeSqs("q", latency_ms=20, discard=True) as server:
        words = [
            SCRIPT,
            "--spool",
            f"{folder}/spool",
            "--host",
            "node-0123456789",
            "--flush-timeout",
            "300s",
            "--to",
            "q",
        ]
        command = [*words, *sys.argv[2:], "--", sys.executable, "-c", PRODUCER, str(lines)]
        started, peak = time.perf_counter(), 0
        environ = clean_environment() | server.environ()
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environ) as process:
            while process.poll() is None:
                peak = max(peak, proportional_kib([process.pid, *children(process.pid)]))
                time.sleep(0.05)
        elapsed = time.perf_counter() - started
        found = server.counters()
        print(f"{lines} lines in {elapsed:.2f} s: {lines / elapsed:,.0f} lines/s, at most {peak / 1024:.1f} MiB")
        print(f"{found.calls['SendMessageBatch']} requests, {found.billed} billed, {found.rejected} rejected")


if __name__ == "__main__":
    main()
