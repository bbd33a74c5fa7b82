"""What the wrapper adds for the command: delay of each line, and bytes per second, beside the bare command and tee.

    python tests/bench/wrapping.py [ROUNDS [MEGABYTES [BACKLOG]]]

Everything is measured in turn in one run, since machines differ and are shared: the ratios count.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from fakes.sqs import FakeSqs
from support import SCRIPT, children, clean_environment, wait_for

ROUNDS = 5
LINES = 2000
BACKLOG = 300_000
MEGABYTES = 400

# Writes BACKLOG lines at once, then LINES lines a millisecond apart, each with the time at which it is written.
TIMED = f"""
import os, sys, time
backlog = int(sys.argv[1])
block = b"." * 119 + b"\\n"
for _ in range(backlog // 500):
    os.write(1, block * 500)
for _ in range({LINES}):
    os.write(1, b"%020d %s\\n" % (time.perf_counter_ns(), b"x" * 98))
    until = time.perf_counter() + 0.001
    while time.perf_counter() < until:
        time.sleep(0.0002)
"""
FLOOD = """
import os, sys
block = (b"x" * 119 + b"\\n") * 546
for _ in range(int(sys.argv[1]) * 1000000 // len(block)):
    os.write(1, block)
"""


def delays(prefix: list[str], environ: dict[str, str], backlog: int = 0) -> list[float]:
    """Microseconds from the command's write to our read, of each timed line, sorted."""
    words = [*prefix, sys.executable, "-c", TIMED, str(backlog)]
    found = []
    with subprocess.Popen(words, stdout=subprocess.PIPE, env=environ) as process:
        assert process.stdout
        rest = b""
        while data := os.read(process.stdout.fileno(), 65536):
            now = time.perf_counter_ns()
            *lines, rest = (rest + data).split(b"\n")
            found += [(now - int(line[:20])) / 1000 for line in lines if not line.startswith(b".")]
    return sorted(found)


def rate(prefix: list[str], environ: dict[str, str], megabytes: int, stop_shipper: bool = False) -> float:
    """Megabytes per second through a pipe to a reader that throws them away, from the first byte to the last.

    With `stop_shipper` the shipper stands still, as if it had a core of its own.
    """
    words = [*prefix, sys.executable, "-c", FLOOD, str(megabytes)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, env=environ) as process:
        assert process.stdout
        os.read(process.stdout.fileno(), 1)
        started = time.perf_counter()
        if stop_shipper:
            wait_for(lambda: len(children(process.pid)) == 2, "shipper")
            os.kill(max(children(process.pid)), signal.SIGSTOP)
        while os.read(process.stdout.fileno(), 65536):
            pass
        elapsed = time.perf_counter() - started
        shippers = children(process.pid)
        for pid in (*shippers, process.pid):  # what is left to deliver is not what is measured
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    return megabytes / elapsed


def seconds(prefix: list[str], environ: dict[str, str], path: str) -> float:
    """Seconds for `cat FILE`, wrapped, into another `cat`: from the start to the last byte and the wrapper's end."""
    started = time.perf_counter()
    with subprocess.Popen([*prefix, "cat", path], stdout=subprocess.PIPE, env=environ) as process:
        subprocess.run(["cat"], stdin=process.stdout, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


def main() -> None:
    """Print the three tables."""
    numbers = [int(word) for word in sys.argv[1:]]
    rounds, megabytes, backlog = numbers + [ROUNDS, MEGABYTES, BACKLOG][len(numbers) :]
    with tempfile.TemporaryDirectory() as folder, FakeSqs("q", latency_ms=20, sink=True, discard=True) as server:
        environ = clean_environment() | server.environ()
        wrapped = [SCRIPT, "--spool", f"{folder}/spool", "--to", "q", "--flush-timeout", "0", "--"]
        tee = ["sh", "-c", f'"$@" | tee {folder}/tee', "tee"]
        os.setpriority(os.PRIO_PROCESS, server.pid, 19)  # in life the queue is on another machine
        print(f"{'delay of a line, microseconds':32}{'median':>10}{'p99':>10}{'max':>10}")
        for _ in range(rounds):
            for name, prefix, before in (
                ("bare", [], 0),
                ("tee FILE", tee, 0),
                ("sqstee, boto3 being imported", wrapped, 0),
                (f"tee FILE, after {backlog:,} lines", tee, backlog),
                ("sqstee, a backlog being shipped", wrapped, backlog),
            ):
                found = delays(prefix, environ, before)
                print(f"{name:32}{found[len(found) // 2]:10.0f}{found[len(found) * 99 // 100]:10.0f}{found[-1]:10.0f}")
        print(f"\n{'bytes per second':32}{'MB/s':>10}{'to tee':>10}")
        for _ in range(rounds):
            through_tee = rate(tee, environ, megabytes)
            print(f"{'tee FILE':32}{through_tee:10.0f}{1:10.2f}")
            for name, stop_shipper in (("sqstee", False), ("sqstee, shipper at a standstill", True)):
                through_us = rate(wrapped, environ, megabytes, stop_shipper)
                shutil.rmtree(f"{folder}/spool")
                print(f"{name:32}{through_us:10.0f}{through_us / through_tee:10.2f}")
        with open(f"{folder}/file", "wb") as file:
            for _ in range(megabytes):
                file.write((b"x" * 119 + b"\n") * (1_000_000 // 120))
        print(f"\n{'seconds for a file, in all':32}{'s':>10}{'to tee':>10}")
        for _ in range(rounds):
            through_tee = seconds(tee, environ, f"{folder}/file")
            print(f"{'tee FILE':32}{through_tee:10.3f}{1:10.2f}")
            through_us = seconds([*wrapped[:-1], "--quiet", "--"], environ, f"{folder}/file")
            shutil.rmtree(f"{folder}/spool")
            print(f"{'sqstee':32}{through_us:10.3f}{through_tee / through_us:10.2f}")


if __name__ == "__main__":
    main()
