"""The index of a batch's records: NDJSON, a line per run with the fields that readers of runs need.

A line has `sqstee` (the version of this form), `run`, and the fields of RunSummary.dump(): host, job, name, times, the
exit, lines by stream, the seqs that came, and those that only gap events cover. The lines of several batches are merged
into the summary of a run, as if its records had been read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from sqstee.record import Body
from sqstee.run_summary import RunSummary, seconds_of
from sqstee.wire import DecodeError, by_run, decode

INDEX_VERSION = "1"
MOST_INDEX_BYTES = 16 * 1024 * 1024  # a batch of 6 MB has a tenth of this, if every record is of another run


def add_bodies(found: dict[str, RunSummary], bodies: Iterable[Body]) -> None:
    """Add plain bodies, each of one run and of consecutive seqs, to the summaries of their runs.

    `heard` of a run is the time of its last record, by its sender's clock, so that the same records always give the
    same index.
    """
    for body in bodies:
        if body.run not in found:
            found[body.run] = RunSummary(body.run, is_whole=False)
        (last,) = decode(body.data[body.data.rfind(b"\n", 0, -1) + 1 :])
        found[body.run].add_body(body.data, body.first, body.last, seconds_of(last.timestamp))


def bodies_in(block: bytes) -> list[Body]:
    """The records in NDJSON as bodies of one run and of consecutive seqs; lines that are no records are left out."""
    try:
        return by_run(block)
    except DecodeError:
        pass
    found: list[Body] = []
    for line in block.split(b"\n"):
        try:
            found += by_run(line)
        except DecodeError:
            continue
    return found


def other_lines(block: bytes, bodies: Iterable[Body]) -> int:
    """How many lines of NDJSON are no records, and not empty; `bodies` are those in it, by bodies_in()."""
    records = sum(body.data.count(b"\n") for body in bodies)
    if records >= block.count(b"\n") + (not block.endswith(b"\n")):
        return 0
    return sum(bool(line.strip()) for line in block.split(b"\n")) - records


def index_of(summaries: Iterable[RunSummary]) -> bytes:
    """The index that says this of its runs."""
    lines = []
    for one in summaries:
        head = json.dumps({"sqstee": INDEX_VERSION, "run": one.run})
        lines.append(f"{head[:-1]}, {one.dump()[1:]}\n")
    return "".join(lines).encode()


def read_index(data: bytes) -> list[RunSummary]:
    """The inverse of index_of(); raises ValueError for an index of another version, or a damaged one."""
    found = []
    for line in data.split(b"\n"):
        if not line:
            continue
        try:
            fields = json.loads(line)
            version, run = fields.get("sqstee"), fields.get("run")
        except (ValueError, AttributeError, RecursionError) as error:
            raise ValueError("it is damaged") from error
        if version != INDEX_VERSION:
            raise ValueError(f"it is of version {str(version)[:20]}, not {INDEX_VERSION}")
        one = RunSummary.from_fields(run, fields) if isinstance(run, str) and run else None
        if one is None:
            raise ValueError("it is damaged")
        (one.run + one.host).encode()  # raises for names that no record can have
        found.append(one)
    if not found:
        raise ValueError("it is empty")
    return found
