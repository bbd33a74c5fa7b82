"""A node full of wrappers, by themselves, with the shared shipper, and under an agent: memory, CPU, requests, and how
late the last line is.

    python tests/bench/nodes.py [--seconds SECONDS] [WRAPPERS…]

Each wrapper runs a process that prints 3,000 lines of 120 bytes within ten seconds, as Spark executors do (300 a
second for other SECONDS). Memory is the proportional set size of sqstee's own processes, CPU what all of them used. A
row for which the machine has not the memory is left out, and says so.
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
from pathlib import Path

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))

from bench.common import Row, machine, proportional_kib, table
from fakes.sqs import FakeSqs
from support import SCRIPT, children, clean_environment

from sqstee.spool import agent_file

SECONDS = 10
RATE = 300  # lines a second
# Says when it starts: so many at once take a while to start, which is not what is measured.
JOB = """
import os, sys, time
lines, seconds, start = int(sys.argv[1]), int(sys.argv[2]), time.time()
for n in range(lines):
    rest = start + n * seconds / lines - time.time()
    if rest > 0.001:
        time.sleep(rest)
    os.write(1, b"%017.6f %s\\n" % (time.time(), b"x" * 101))
"""
HEAD = ("wrappers", "", "MiB a wrapper", "MiB in all", "CPU s of sqstee", "requests", "billed", "last line s")
ALONE, SHARED, AGENT = HOW = ("by themselves", "shared", "agent")
_MIB_OF_A_JOB, _MIB_BY_ITSELF, _MIB_UNDER_AN_AGENT, _MIB_BESIDE = 10, 42, 12, 512


class Node:
    """What was found out: `each` and `peak` in MiB, `cpu` in seconds, `ended` the time of the last wrapper's exit."""

    def __init__(self, server: FakeSqs) -> None:
        self.server = server
        self.each = self.peak = self.cpu = self.ended = 0.0
        self._cpu: dict[int, float] = {}

    def watch(self, processes: list[subprocess.Popen[bytes]], folder: str) -> None:
        """Look at the processes until all have ended, and at who ships for all runs of the spool folder.

        Ahead of them: among hundreds it would not come to look before they have ended.
        """
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, 0, -15)
        try:
            self._watch(processes, folder)
        finally:
            with contextlib.suppress(PermissionError):
                os.setpriority(os.PRIO_PROCESS, 0, 0)

    def _watch(self, processes: list[subprocess.Popen[bytes]], folder: str) -> None:
        while any(process.poll() is None for process in processes):
            ours = set(holders(folder))
            fronts = [process.pid for process in processes if process.poll() is None]
            found = {pid for front in fronts for pid in (front, *children(front))} | ours
            of_sqstee = [pid for pid in found if is_sqstee(pid)]
            self._cpu |= {pid: cpu_seconds(pid) for pid in of_sqstee}
            peak = proportional_kib(of_sqstee) / 1024
            if peak > self.peak:
                wrappers = proportional_kib([pid for pid in of_sqstee if pid not in ours]) / 1024
                self.peak, self.each = peak, wrappers / max(1, len(fronts))
            time.sleep(0.5)
        self.ended = time.time()
        self.cpu = sum(self._cpu.values())


def holders(folder: str) -> list[int]:
    """The processes that ship for all runs of a spool folder."""
    return [pid for path in agent_file.files(folder) if (pid := agent_file.holder(path)) > 0]


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


@contextlib.contextmanager
def running(wrappers: int, how: str, words: list[str], discard: bool = True) -> Iterator[Node]:
    """So many wrappers of a command, run to their end, and all that they wrote delivered."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory()) + "/spool"
        os.mkdir(folder, 0o700)
        server = stack.enter_context(FakeSqs("q", latency_ms=20, discard=discard))
        environ = clean_environment() | server.environ() | {"SQSTEE_SPOOL": folder, "SQSTEE_TO": "q"}
        environ |= {"SQSTEE_SHARE": "auto" if how == SHARED else "never", "SQSTEE_KEEP_SHIPPER": "1s"}
        if how == AGENT:
            stack.enter_context(agent(folder, environ))
        # all is delivered, however long so many imports of boto3 take
        wrapped = [SCRIPT, "--flush-timeout", "600s", "--", sys.executable, "-c", *words]
        processes = [
            stack.enter_context(subprocess.Popen(wrapped, env=environ, stdout=subprocess.DEVNULL))
            for _ in range(wrappers)
        ]
        node = Node(server)
        node.watch(processes, folder)
        while how != ALONE and any(len(name) == 26 for name in os.listdir(folder)):
            time.sleep(0.05)
        yield node
        while how == SHARED and holders(folder):
            time.sleep(0.05)


def is_sqstee(pid: int) -> bool:
    """Whether a process is one of ours, not a wrapped command."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read().split(b"\0")
            return SCRIPT.encode() in words[:2] or words[0] == b"sqstee shipper"
    except OSError:
        return False


def lacking_mib(wrappers: int, how: str) -> int:
    """How much memory the machine lacks for so many; 0 where there is enough."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    available = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) // 1024
    each = _MIB_OF_A_JOB + (_MIB_BY_ITSELF if how == ALONE else _MIB_UNDER_AN_AGENT)
    return max(0, wrappers * each + _MIB_BESIDE - available)


def row(wrappers: int, how: str, seconds: int) -> Row:
    """One row."""
    lacking = lacking_mib(wrappers, how)
    if lacking:
        return (wrappers, how, f"left out: {lacking:,} MiB too little memory", "", "", "", "", "")
    with running(wrappers, how, [JOB, str(RATE * seconds), str(seconds)]) as node:
        requests = node.server.requests("SendMessageBatch")
        late = max(request.at for request in requests) - node.ended
        billed = node.server.counters().billed
        return (wrappers, how, node.each, node.peak, node.cpu, len(requests), billed, late)


def main() -> None:
    """Print the table."""
    words, seconds = sys.argv[1:], SECONDS
    if words[:1] == ["--seconds"]:
        seconds, words = int(words[1]), words[2:]
    print(machine())
    counts = [int(word) for word in words] or [1, 8, 64]
    print(table(HEAD, [row(count, how, seconds) for count in counts for how in HOW]))


if __name__ == "__main__":
    main()
