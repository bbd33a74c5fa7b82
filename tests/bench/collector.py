"""Lines per second into one collector, from senders in processes of their own, on loopback.

    python tests/bench/collector.py [SENDERS] [SECONDS] [OPTION…]

The lines are 120 bytes long with their newline, in bodies of 256 KiB of NDJSON as sqstee sends them; each is on the
disk when it is acknowledged. Options are those of `sqstee serve`, such as --store-max 64M.
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from support.collector import collecting, stored

from sqstee.destination import parse
from sqstee.record import Body, Encoder
from sqstee.transports.http import HttpSender

LINES = 1000  # about 256 KiB of records


def send(url: str, name: str, seconds: float) -> int:
    """Post bodies of a run for a time; how many lines were acknowledged."""
    sender, encoder, first = HttpSender(parse(url)), Encoder(name, "node-0123456789"), 0
    block = b"".join(b"%07d" % number + b"x" * 112 + b"\n" for number in range(LINES))
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        data = encoder.lines(block, "stdout", time.time_ns(), first)
        sender.send([Body(data, name, "node-0123456789", first, first + LINES - 1)])
        first += LINES
    return first


def main() -> None:
    """Run and print one line of figures."""
    senders = int(sys.argv[1]) if len(sys.argv) > 1 else 8
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 8.0
    with (
        tempfile.TemporaryDirectory() as folder,
        collecting(Path(folder) / "store.db", *sys.argv[3:], environ={"SQSTEE_LOCAL_MAX": "64G"}) as (_, url),
        multiprocessing.Pool(senders) as pool,
    ):
        started = time.perf_counter()
        counts = pool.starmap(send, [(url, f"RUN{number}", seconds) for number in range(senders)])
        elapsed = time.perf_counter() - started
        lines = sum(counts)
        kept = sum(row.data.count(b"\n") for row in stored(Path(folder) / "store.db"))
        print(f"{senders} senders: {lines} lines in {elapsed:.2f} s: {lines / elapsed:,.0f} lines/s, {kept} stored")


if __name__ == "__main__":
    main()
