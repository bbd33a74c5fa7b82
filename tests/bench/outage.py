"""What an outage costs the command, and how fast what it left behind is shipped.

    python tests/bench/outage.py [ROUNDS [LINES]]

Wall time of a job that computes and prints, bare, with the queue in order, and with each kind of outage, in turn; the
memory of front and shipper together; then the rate of `sqstee flush` over a spool of 1 GiB (or LINES) beside that of
live output.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from typing import Any

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))

from bench.common import machine, proportional_kib, table
from bench.shipping import PRODUCER
from fakes.sqs import FakeSqs
from support import SCRIPT, children, clean_environment

ROUNDS = 5
# Some 3 s: 30,000 lines of 120 bytes, each after a little work.
JOB = """
import os
for n in range(3000):
    sum(range(20000))
    os.write(1, b"".join(b"%08d %s\\n" % (10 * n + k, b"x" * 110) for k in range(10)))
"""
OUTAGES: dict[str, dict[str, Any]] = {
    "in order": {},
    "no server": {"refuse": True},
    "black hole": {"black_hole": "before"},
    "access denied": {"errors": [{"code": "AccessDenied", "status": 403}]},
    "throttled": {"throttle": {"probability": 0.9}},
}
GIB_LINES = 1024**3 // 120


def seconds_of_command(prefix: list[str], environ: dict[str, str]) -> tuple[float, int]:
    """Until its output has ended, and the greatest memory of ours meanwhile, in KiB."""
    started, peak = time.perf_counter(), 0
    with subprocess.Popen([*prefix, sys.executable, "-c", JOB], stdout=subprocess.PIPE, env=environ) as process:
        assert process.stdout
        looked = started
        while os.read(process.stdout.fileno(), 65536):
            if time.perf_counter() - looked > 0.25:
                looked = time.perf_counter()
                peak = max(peak, proportional_kib([process.pid, *children(process.pid)]))
        elapsed = time.perf_counter() - started
    return elapsed, peak


def outages(rounds: int) -> str:
    """The first table."""
    found: dict[str, list[tuple[float, int]]] = {}
    with tempfile.TemporaryDirectory() as folder, FakeSqs("q", latency_ms=20, discard=True) as server:
        environ = clean_environment() | server.environ()
        prefix = [SCRIPT, "--spool", f"{folder}/spool", "--to", "q", "--flush-timeout", "0s", "--"]
        for _ in range(rounds):
            found.setdefault("bare", []).append(seconds_of_command([], environ))
            for name, faults in OUTAGES.items():
                server.faults(**faults)
                found.setdefault(name, []).append(seconds_of_command(prefix, environ))
                server.clear_faults()
                server.release()
    bare = sorted(elapsed for elapsed, _ in found["bare"])[rounds // 2]
    rows = []
    for name, times in found.items():
        middle = sorted(elapsed for elapsed, _ in times)[rounds // 2]
        rows.append((name, middle, middle / bare, max(kib for _, kib in times) / 1024))
    return table(("the queue", "seconds", "to bare", "MiB at most"), rows)


def recovery(lines: int) -> str:
    """The second table."""
    rows = []
    with tempfile.TemporaryDirectory() as folder, FakeSqs("q", latency_ms=20, sink=True, discard=True) as server:
        environ = clean_environment() | server.environ() | {"SQSTEE_SPOOL": f"{folder}/spool", "SQSTEE_SPOOL_MAX": "4G"}
        producer = [sys.executable, "-c", PRODUCER, str(lines), "120"]
        words = [SCRIPT, "--to", "q", "--flush-timeout", "600s", "--", *producer]
        started = time.perf_counter()
        subprocess.run(words, env=environ, stdout=subprocess.DEVNULL, check=True)
        rows.append(("live", lines, lines / (time.perf_counter() - started)))
        server.faults(refuse=True)
        words[words.index("600s")] = "0s"
        subprocess.run(words, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
        server.clear_faults()
        started = time.perf_counter()
        subprocess.run([SCRIPT, "flush", "--timeout", "600s"], env=environ, stdout=subprocess.DEVNULL, check=True)
        rows.append(("flush of what an outage left", lines, lines / (time.perf_counter() - started)))
    return table(("lines of 120 bytes", "lines", "lines/s"), rows)


def main() -> None:
    """Print both tables."""
    numbers = [int(word) for word in sys.argv[1:]]
    rounds, lines = numbers + [ROUNDS, GIB_LINES][len(numbers) :]
    print(machine())
    print(outages(rounds))
    print()
    print(recovery(lines))


if __name__ == "__main__":
    main()
