"""A backlog of many runs, of any size: what each way to rest must show of it, whichever way it took."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from typing import NamedTuple

from sqstee.record import Body, Encoder

MIDNIGHT_NS = 1_795_305_600_000_000_000  # 2026-11-22T00:00:00Z
_BLOCK = 400  # lines of a body


class Expected(NamedTuple):
    """What must be found of a run."""

    verdict: str
    missing_ranges: list[tuple[int, int]]
    dropped: int
    failed: bool
    exit_code: int | None
    lines: dict[str, int]
    digests: dict[str, str]  # SHA-256 of the bytes of each stream, those that came


class Backlog:
    """`runs` runs of together about `lines` lines.

    The first run fails. The second never ends. Two more have a hole, and one has a hole that its sender reported. All
    write to both streams, across midnight, lines that are not UTF-8 and lines in two pieces among them.
    """

    def __init__(self, lines: int = 2000, runs: int = 8, block: int = _BLOCK) -> None:
        self.runs = [f"01JDRUN{number:019d}" for number in range(runs)]
        self.expected: dict[str, Expected] = {}
        self._each, self._block = max(block * 4, lines // runs), block

    def bodies(self) -> Iterator[Body]:
        """The bodies of all runs, packed, in no order over a few runs at a time; fills `expected`."""
        shuffle = random.Random(7).shuffle
        for start in range(0, len(self.runs), 8):
            found = [body for number in range(start, min(start + 8, len(self.runs))) for body in self._run(number)]
            shuffle(found)
            yield from found

    def _run(self, number: int) -> list[Body]:
        run, host = self.runs[number], f"node{number % 5}"
        encoder = Encoder(run, host, "job" if number % 2 else "", {"shard": str(number)} if number % 3 else None)
        hashes = {"stdout": hashlib.sha256(), "stderr": hashlib.sha256()}
        lines = dict.fromkeys(hashes, 0)
        found: list[Body] = []
        missing: list[tuple[int, int]] = []
        dropped = 0

        def event(seq: int, last: int | None = None, **fields: object) -> None:
            payload = json.dumps({"message": f"{fields['event']} of it", **fields}).encode()
            data = encoder.event(payload, MIDNIGHT_NS + seq * 1_000_000, seq)
            found.append(Body(data, run, host, seq, seq if last is None else last))

        event(0, event="start", pid=1, version="0.1.0")
        seq, part = 1, 0
        while seq < self._each:
            stream = "stderr" if part % 4 == 3 else "stdout"
            texts = [b"%s line %08d of a job that says something\n" % (stream.encode(), seq + at)
                     for at in range(self._block)]  # fmt: skip
            if part % 4 == 1:
                texts[2] = b"\xff\xfe not UTF-8, seq %d\n" % (seq + 2)
            eol = part % 4 != 2  # the line goes on in the next block of this stream, behind one of the other's
            if not eol:
                texts[-1] = texts[-1][:-1]
            last = seq + len(texts) - 1
            block = b"".join(texts)
            # the first half is of the day before
            time_ns = MIDNIGHT_NS + (seq - self._each // 2) * 1_000_000
            body = Body(encoder.lines(block, stream, time_ns, seq, eol), run, host, seq, last)
            is_lost = part == 1 and number in (3, 5, 6)
            if not is_lost:
                found.append(body)
                hashes[stream].update(block)
                lines[stream] += len(texts) - (part % 4 == 0 and part > 0)  # its first goes on with one before it
            elif number == 6:
                event(seq, last, event="gap", **{"from": seq, "to": last, "reason": "full"})
                dropped = len(texts)
            else:
                missing.append((seq, last))
            seq, part = last + 1, part + 1
        is_open, failed = number == 1, number == 0
        if not is_open:
            event(seq, event="exit", exit_code=3 if failed else 0, duration_s=1.5, lines=sum(lines.values()))
        verdict = "missing" if missing or dropped else "open" if is_open else "complete"
        self.expected[run] = Expected(
            verdict, missing, dropped, failed, None if is_open else 3 if failed else 0,
            {stream: count for stream, count in lines.items() if count},
            {stream: one.hexdigest() for stream, one in hashes.items() if lines[stream]},
        )  # fmt: skip
        return found
