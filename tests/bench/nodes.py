"""A node full of wrappers, with and without the agent: memory, CPU, requests, and how late the last line is.

    python tests/bench/nodes.py [WRAPPERS…]

Each wrapper runs a process that prints 3,000 lines of 120 bytes within ten seconds, as Spark executors do; a million
flat out shows growth. Memory is the proportional set size of sqstee's own processes, CPU what all of them used.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))

from bench.common import Row, machine, proportional_kib, table
from fake_sqs import FakeSqs
from support import SCRIPT, children, clean_environment

LINES, SECONDS = 3000, 10
# Says when it starts: so many at once take a while to start, which is not what is measured.
JOB = f"""
import os, time
start = time.time()
for n in range({LINES}):
    rest = start + n * {SECONDS} / {LINES} - time.time()
    if rest > 0.001:
        time.sleep(rest)
    os.write(1, b"%017.6f %s\\n" % (time.time(), b"x" * 101))
"""
HEAD = ("wrappers", "", "MiB a wrapper", "MiB in all", "CPU s of sqstee", "requests", "billed", "last line s")


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, without its children."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def agent(folder: str, environ: dict[str, str]) -> Iterator[int]:
    """A running agent's pid."""
    words = [SCRIPT, "agent", "--spool", folder, "--to", "q"]
    with subprocess.Popen(words, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not os.path.exists(f"{folder}/agent"):
            time.sleep(0.05)
        time.sleep(1)  # until it has loaded what it needs
        yield process.pid
        process.send_signal(signal.SIGTERM)


def node(wrappers: int, with_agent: bool) -> Row:
    """One row."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory()) + "/spool"
        os.mkdir(folder, 0o700)
        server = stack.enter_context(FakeSqs("q", latency_ms=20, discard=True))
        environ = clean_environment() | server.environ() | {"SQSTEE_SPOOL": folder, "SQSTEE_TO": "q"}
        ours: set[int] = set()
        if with_agent:
            ours.add(stack.enter_context(agent(folder, environ)))
        processes = [
            stack.enter_context(
                subprocess.Popen([SCRIPT, "--", sys.executable, "-c", JOB], env=environ, stdout=subprocess.DEVNULL)
            )
            for _ in range(wrappers)
        ]
        cpu: dict[int, float] = {}
        peak, each = 0, 0.0
        while any(process.poll() is None for process in processes):
            fronts = [process.pid for process in processes if process.poll() is None]
            found = {pid for front in fronts for pid in (front, *children(front))} | ours
            of_sqstee = [pid for pid in found if is_sqstee(pid)]
            cpu |= {pid: cpu_seconds(pid) for pid in of_sqstee}
            kib = proportional_kib(of_sqstee)
            if kib > peak:
                peak = kib
                each = proportional_kib([pid for pid in of_sqstee if pid not in ours]) / max(1, len(fronts)) / 1024
            time.sleep(0.5)
        ended = time.time()
        while with_agent and any(len(name) == 26 for name in os.listdir(folder)):
            time.sleep(0.05)
        requests = server.requests("SendMessageBatch")
        late = max(request.at for request in requests) - ended
        billed = server.counters().billed
        how = "agent" if with_agent else "by themselves"
        return (wrappers, how, each, peak / 1024, sum(cpu.values()), len(requests), billed, late)


def is_sqstee(pid: int) -> bool:
    """Whether a process is one of ours, not a wrapped command."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return SCRIPT.encode() in file.read().split(b"\0")[:2]
    except OSError:
        return False


def main() -> None:
    """Print the table."""
    print(machine())
    counts = [int(word) for word in sys.argv[1:]] or [1, 8, 64]
    print(table(HEAD, [node(count, with_agent) for count in counts for with_agent in (False, True)]))


if __name__ == "__main__":
    main()
