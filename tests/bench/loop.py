"""A loop of short runs: what each costs by itself, with the shared shipper, and under an agent.

    python tests/bench/loop.py [RUNS]

Round trips take 20 ms. `cold`: no shared shipper at the first run; `warm`: one is there. CPU seconds are those of all
processes of sqstee, the shared shipper's and the agent's included.
"""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))

from bench.common import Row, machine, median, table
from bench.nodes import agent, cpu_seconds, holders
from fakes.sqs import FakeSqs
from support import SCRIPT, clean_environment

RUNS = 20
COMMANDS = {"true": ["true"], "echo": ["echo", "hi"]}
WAYS = ("by itself", "shared, cold", "shared, warm", "agent")


def run(words: list[str], environ: dict[str, str]) -> float:
    """Milliseconds from the fork to the end of one run."""
    started = time.perf_counter()
    subprocess.run(words, env=environ, check=True, stdout=subprocess.DEVNULL)
    return (time.perf_counter() - started) * 1000


@contextlib.contextmanager
def shipped(folder: str, way: str, environ: dict[str, str]) -> Iterator[None]:
    """The process that ships, if the way needs one that is there already; no process of ours is left at the end."""
    with contextlib.ExitStack() as stack:
        if way == "agent":
            stack.enter_context(agent(folder, environ))
        if way == "shared, warm":
            run([SCRIPT, "--", "true"], environ)
        yield
    if holders(folder):
        run([SCRIPT, "agent", "--stop", "--spool", folder], environ)


def row(name: str, way: str, runs: int) -> Row:
    """One row."""
    with tempfile.TemporaryDirectory() as top, FakeSqs("q", latency_ms=20) as server:
        folder = f"{top}/spool"
        os.mkdir(folder, 0o700)
        environ = clean_environment() | server.environ() | {"SQSTEE_SPOOL": folder, "SQSTEE_TO": "q", "HOME": top}
        environ["SQSTEE_SHARE"] = "never" if way in ("by itself", "agent") else "auto"
        with shipped(folder, way, environ):
            requests = len(server.requests("SendMessageBatch"))
            before = sum(cpu_seconds(pid) for pid in holders(folder))
            children = resource.getrusage(resource.RUSAGE_CHILDREN)
            times = [run([SCRIPT, "--", *COMMANDS[name]], environ) for _ in range(runs)]
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu = after.ru_utime + after.ru_stime - children.ru_utime - children.ru_stime
            cpu += sum(cpu_seconds(pid) for pid in holders(folder)) - before
            requests = len(server.requests("SendMessageBatch")) - requests
        return (name, way, times[0], median(times[1:]), sum(times) / 1000, cpu / runs, requests)


def main() -> None:
    """Print the table."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else RUNS
    print(machine())
    head = ("command", "", "first ms", "median ms", "in all s", "CPU s a run", "requests")
    print(table(head, [row(name, way, runs) for name in COMMANDS for way in WAYS]))


if __name__ == "__main__":
    main()
