"""Lines per second into one collector, from senders in processes of their own, on loopback.

    python tests/bench/collector.py [SENDERS] [SECONDS] [OPTION…]

The lines are 120 bytes long with their newline, in bodies of 256 KiB of NDJSON as sqstee sends them; each is on the
disk when it is acknowledged. A run ends after RUN lines, and the sender goes on with the next one. What is refused is
sent again, as soon as the collector asks for it. With options of `sqstee serve`, such as --store-max 64M, collectors
without and with them are measured in turn, ROUNDS times.
"""

from __future__ import annotations

import multiprocessing
import sqlite3
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench.common import median
from support.bodies import event_of
from support.collector import collecting

from sqstee.destination import parse
from sqstee.record import Body, Encoder
from sqstee.transports.errors import RETRY, TransportError
from sqstee.transports.http import HttpSender

LINES = 1000  # about 256 KiB of records
RUN = 5_000  # lines
ROUNDS = 5


def send(url: str, name: str, seconds: float) -> tuple[int, int]:
    """Post runs for a time; how many lines were acknowledged, and how often a body was refused."""
    block = b"".join(b"%07d" % number + b"x" * 112 + b"\n" for number in range(LINES))
    until, lines, refused = time.monotonic() + seconds, 0, 0
    with closing(HttpSender(parse(url))) as sender:
        while time.monotonic() < until:
            number, seq = divmod(lines, RUN)
            run = f"{name}-{number}"
            data = Encoder(run, "node-0123456789").lines(block, "stdout", time.time_ns(), seq)
            bodies = [Body(data, run, "node-0123456789", seq, seq + LINES - 1)]
            if seq + LINES == RUN:
                bodies.append(event_of("exit", RUN, run, exit_code=0))
            try:
                sender.send(bodies)
                lines += LINES
            except TransportError as error:
                if error.kind != RETRY:
                    raise RuntimeError(str(error)) from None  # that reaches the parent: exceptions are sent by pickle
                refused += 1
                time.sleep(max(0.0, min(error.after, until - time.monotonic())))
    return lines, refused


def measure(senders: int, seconds: float, words: Sequence[str]) -> float:
    """Lines per second into a new collector with these options, which are printed."""
    with (
        tempfile.TemporaryDirectory() as folder,
        collecting(Path(folder) / "store.db", *words, environ={"SQSTEE_LOCAL_MAX": "64G"}) as (_, url),
        multiprocessing.Pool(senders) as pool,
    ):
        started = time.perf_counter()
        found = pool.starmap(send, [(url, f"RUN{number}", seconds) for number in range(senders)])
        elapsed = time.perf_counter() - started
        lines, refused = (sum(column) for column in zip(*found, strict=True))
        with closing(sqlite3.connect(f"{folder}/store.db")) as connection:
            (kept,) = connection.execute("SELECT total(last - first + 1) FROM body WHERE last > first").fetchone()
    text = f"{senders} senders: {lines} lines in {elapsed:.2f} s: {lines / elapsed:,.0f} lines/s, {kept:.0f} stored"
    print(text + (f", {refused} refusals" if refused else ""), *words)
    return float(lines / elapsed)


def main() -> None:
    """Run and print lines of figures."""
    senders = int(sys.argv[1]) if len(sys.argv) > 1 else 8
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 8.0
    words = sys.argv[3:]
    if not words:
        measure(senders, seconds, ())
        return
    pairs = [(measure(senders, seconds, ()), measure(senders, seconds, words)) for _ in range(ROUNDS)]
    share = median([limited / without for without, limited in pairs])
    print(f"with {' '.join(words)} {share:.2f} of the lines/s without, in the middle of {ROUNDS} pairs")


if __name__ == "__main__":
    main()
