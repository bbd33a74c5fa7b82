"""What `sqstee tail` takes to read a local store: seconds from the start to the end of the process.

    python tests/bench/tailing.py [LINES [ROUNDS]]

The store has runs of 50,000 lines of about a hundred bytes, in the form in which shippers store them. The first row is
the start of a process that reads nothing; a terminal is one that is read as fast as it can be, with `cat` of the same
bytes beside it.
"""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench.common import Row, machine, median, table
from support import SCRIPT, clean_environment

from sqstee.record import Body, Encoder
from sqstee.transports.local import LocalSender

RUN_LINES = 50_000
BODY_LINES = 1_500
READ_LINES = 500  # captured in one read
TEXT = b"loading the next batch of epoch: loss and accuracy are as expected"


def fill(path: Path, lines: int) -> str:
    """Store that many lines; the last run's id."""
    sender, run = LocalSender(str(path), 2**40), ""
    started = time.time() - 86_400
    for first in range(0, lines, RUN_LINES):
        number = first // RUN_LINES
        run = f"01JD{number:022d}"
        encoder = Encoder(run, f"node{number % 100:03d}", f"job{number % 10}")
        bodies = []
        for low in range(0, min(RUN_LINES, lines - first), BODY_LINES):
            high = min(low + BODY_LINES, RUN_LINES, lines - first)
            parts = []
            for at in range(low, high, READ_LINES):
                texts = [b"line %d %s\n" % (first + seq, TEXT) for seq in range(at, min(at + READ_LINES, high))]
                moment = int((started + 80_000 * (first + at) / lines) * 1e9)
                parts.append(encoder.lines(b"".join(texts), "stdout", moment, at))
            bodies.append(Body(b"".join(parts), run, "", low, high - 1))
        for at in range(0, len(bodies), 4):
            sender.send(bodies[at : at + 4])
    sender.close()
    return run


def seconds(command: list[str], environ: dict[str, str]) -> float:
    """How long a command takes whose output goes to a pipe."""
    started = time.monotonic()
    subprocess.run(command, stdout=subprocess.PIPE, env=environ, check=True)
    return time.monotonic() - started


def seconds_on_terminal(command: list[str], environ: dict[str, str]) -> float:
    """The same where it goes to a terminal."""
    started = time.monotonic()
    pid, terminal = pty.fork()
    if not pid:
        os.execvpe(command[0], command, environ)
    try:
        while os.read(terminal, 65536):
            pass
    except OSError:  # the other side is closed
        pass
    os.close(terminal)
    os.waitpid(pid, 0)
    return time.monotonic() - started


def main() -> None:
    """Print the table."""
    given = [int(word) for word in sys.argv[1:]]
    lines, rounds = (*given, *(1_000_000, 3)[len(given) :])
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        path, copy = Path(folder, "store.db"), Path(folder, "copy")
        last = fill(path, lines)
        environ = clean_environment() | {"SQSTEE_SPOOL": folder}
        tail = [SCRIPT, "tail", f"local:{path}", "--no-follow"]
        with copy.open("wb") as file:
            subprocess.run(tail, stdout=file, env=environ, check=True)
        cases = {
            "--version": ([SCRIPT, "--version"], seconds),
            "-n 10": ([*tail, "-n", "10"], seconds),
            "--run of the last run": ([*tail, "--run", last], seconds),
            "--since 1s": ([*tail, "--since", "1s"], seconds),
            "-i with few hits": ([*tail, "-i", f"line {lines - 7} "], seconds),
            "--host of one run": ([*tail, "--host", "node000"], seconds),
            "all": (tail, seconds),
            "all, -o raw": ([*tail, "-o", "raw"], seconds),
            "all, -o json": ([*tail, "-o", "json"], seconds),
            "all, to a terminal": (tail, seconds_on_terminal),
            "cat, to a terminal": (["cat", str(copy)], seconds_on_terminal),
        }
        found: dict[str, list[float]] = {name: [] for name in cases}
        for _ in range(rounds):
            for name, (command, measure) in cases.items():
                found[name].append(measure(command, environ))
        rows: list[Row] = [(name, lines, median(times)) for name, times in found.items()]
    print(table(("tail", "lines in the store", "seconds"), rows))


if __name__ == "__main__":
    main()
