"""What a call of logging costs the program: with logging's own FileHandler, and with `sqstee.Handler`.

    python tests/bench/handler.py [ROUNDS [CALLS]]

Each program logs CALLS lines of 120 bytes without a pause; requests take 20 ms. A call's time is the mean of a program,
its CPU time that of the whole program meanwhile; all are medians of ROUNDS programs of each kind in turn.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))

from bench.common import Row, machine, median, table
from fakes.sqs import FakeSqs
from support import SCRIPT, clean_environment

ROUNDS, CALLS = 9, 50_000
PROGRAM = """
import logging, sys, time
calls, kind = int(sys.argv[1]), sys.argv[2]
log = logging.getLogger("job")
log.setLevel("INFO")
started = time.perf_counter()
if kind == "file":
    log.addHandler(logging.FileHandler(sys.argv[3]))
else:
    import sqstee
    log.addHandler(sqstee.Handler("q", spool=sys.argv[3], share=kind))
log.info("first")
first = time.perf_counter()
text, cpu = "x" * 112, time.process_time()
for n in range(calls):
    log.info("%s %d", text, n)
called, cpu = time.perf_counter(), time.process_time() - cpu
logging.shutdown()
ended = time.perf_counter()
print((first - started) * 1000, (called - first) / calls * 1e6, cpu / calls * 1e6, (ended - called) * 1000)
"""
WAYS = {"FileHandler": "file", "Handler, --share never": "never", "Handler, shared": "auto"}


def program(kind: str, calls: int, folder: str, environ: dict[str, str]) -> list[float]:
    """Milliseconds to the end of the first call, microseconds and CPU of a further one, milliseconds of the closing."""
    words = [sys.executable, "-c", PROGRAM, str(calls), kind, f"{folder}/{'log' if kind == 'file' else 'spool'}"]
    found = subprocess.run(words, env=environ, check=True, capture_output=True, text=True)
    return [float(text) for text in found.stdout.split()]


def main() -> None:
    """Print the table."""
    rounds, calls = (int(word) for word in [*sys.argv[1:], *map(str, (ROUNDS, CALLS)[len(sys.argv) - 1 :])])
    print(machine())
    found: dict[str, list[list[float]]] = {name: [] for name in WAYS}
    with tempfile.TemporaryDirectory() as top, FakeSqs("q", latency_ms=20) as server:
        environ = clean_environment() | server.environ() | {"HOME": top, "SQSTEE_KEEP_SHIPPER": "60s"}
        for _ in range(rounds):
            for name, kind in WAYS.items():
                found[name].append(program(kind, calls, top, environ))
        subprocess.run([SCRIPT, "agent", "--stop", "--spool", f"{top}/spool"], env=environ, capture_output=True)
    columns = {name: [median(values) for values in zip(*times, strict=True)] for name, times in found.items()}
    (_, wall, cpu, _), *_ = columns.values()
    rows: list[Row] = [
        (name, first, call, call / wall, used, used / cpu, closing)
        for name, (first, call, used, closing) in columns.items()
    ]
    print(table(("", "first call ms", "µs a call", "ratio", "CPU µs a call", "ratio", "closing ms"), rows))


if __name__ == "__main__":
    main()
