"""`sqstee drain` by layout: lines per second, memory, size, and whether each run has the same bytes.

    python tests/bench/layouts.py [LINES [RUNS [ROUNDS]]]

Each round drains the same backlog, of runs on twenty hosts, from the strict SQS at a round trip of 20 ms into each
layout in turn; the figures are medians. Starting Python and waiting whether more comes is left out.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import pyarrow.parquet as pq
from bench.common import machine, median, table
from bench.receiving import drain
from fakes.sqs import FakeSqs

from sqstee.at_rest.arrow import ndjson_of
from sqstee.record import Encoder
from sqstee.wire import Event, Record, decode

LAYOUTS = ("streams", "ndjson", "parquet")
_TIME_NS = 1_700_000_000_000_000_000
_AT_ONCE = 900  # lines in a body
_WORDS = [b"step", b"loss", b"epoch", b"INFO", *(b"0.%04d" % number for number in range(500))]


def fill(server: FakeSqs, lines: int, runs: int) -> None:
    """Store the lines of all runs; every body has lines of both streams, and each run a line that is not UTF-8."""
    words = random.Random(1)
    each = lines // runs
    bodies: list[str] = []
    for run in range(runs):
        encoder = Encoder(f"01JDRUN{run:019}", f"node-{run % 20:03}", "train")
        for first in range(0, each, _AT_ONCE):
            number = min(_AT_ONCE, each - first)
            texts = [b"%08d %s" % (seq, b" ".join(words.choices(_WORDS, k=16))) for seq in range(first, first + number)]
            if not first:
                texts[0] += b" \xff"
            cut = number * 2 // 3
            body = encoder.lines(b"\n".join(texts[:cut]) + b"\n", "stdout", _TIME_NS, first) if cut else b""
            body += encoder.lines(b"\n".join(texts[cut:]) + b"\n", "stderr", _TIME_NS + 1000, first + cut)
            bodies.append(body.decode())
            if len(bodies) == 20:
                server.put("q", *bodies)
                bodies = []
    if bodies:
        server.put("q", *bodies)


def digests(folder: Path, layout: str) -> dict[str, str]:
    """The SHA-256 of each stream of each run, by the name of its file in the streams layout."""
    if layout == "streams":
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*/*.std*")}
    found: dict[str, list[tuple[int, bytes]]] = {}
    for item in _items(folder, layout):
        assert isinstance(item, Record)
        found.setdefault(f"{item.run}.{item.stream}", []).append((item.seq, item.data))
    streams = {name: b"".join(data for _, data in sorted(parts)) for name, parts in found.items()}
    return {name: hashlib.sha256(data).hexdigest() for name, data in streams.items()}


def _items(folder: Path, layout: str) -> list[Record | Event]:
    if layout == "ndjson":
        return [item for path in folder.glob("*/*.ndjson") for item in decode(path.read_bytes())]
    hosts = {run["run"]: run["host"] for run in map(json.loads, (folder / "runs.ndjson").read_text().splitlines())}
    files = map(pq.ParquetFile, folder.glob("lines/*/*/*.parquet"))
    batches = (batch for file in files for batch in file.iter_batches())
    return [item for batch in batches for line in ndjson_of(batch, hosts) for item in decode(line)]


def main() -> None:
    """All layouts, in several rounds."""
    lines, runs, rounds = (list(map(int, sys.argv[1:])) + [1_000_000, 200, 3][len(sys.argv) - 1 :])[:3]
    rates: dict[str, list[float]] = {layout: [] for layout in LAYOUTS}
    peaks: dict[str, list[float]] = {layout: [] for layout in LAYOUTS}
    sizes: dict[str, float] = {}
    seen: dict[str, dict[str, str]] = {}
    for _ in range(rounds):
        for layout in LAYOUTS:
            with tempfile.TemporaryDirectory() as folder, FakeSqs("q", latency_ms=20) as server:
                fill(server, lines, runs)
                _, deleting, assembling, peak = drain(server, folder, "--layout", layout)
                rates[layout].append(lines / (deleting + assembling))
                peaks[layout].append(peak / 1024)
                files = [path for path in Path(folder).rglob("*") if path.is_file() and ".sqstee" not in path.parts]
                sizes[layout] = sum(path.stat().st_size for path in files) / 1e6
                seen.setdefault(layout, digests(Path(folder), layout))
    rows = [
        (
            one,
            median(rates[one]),
            median(peaks[one]),
            sizes[one],
            "equal" if seen[one] == seen["streams"] else "NOT EQUAL",
        )
        for one in LAYOUTS
    ]
    print(f"{lines:,} lines of {runs} runs on 20 hosts, {rounds} rounds; {machine()}\n")
    print(table(("layout", "lines/s", "MiB of memory", "MB of files", "bytes of each run"), rows))


if __name__ == "__main__":
    os.nice(5)
    main()
