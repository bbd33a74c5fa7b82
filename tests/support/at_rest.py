"""A backlog of every kind of run, what it holds, and the SQL statements of the manual."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

import sqstee
from sqstee.record import Body, Encoder

from .bodies import TIME_NS, event_of, gap_of, lines_of
from .streams import Rebuilt

QUERIES = Path(sqstee.__file__).parent / "at_rest/queries"
RUN_IN_QUERIES = "01JD6Y0C3N5QK8T1V7W2X4Z9AB"
COMPLETE, FAILED, HOLED, DROPPED, OPEN, BINARY = (f"01JDRUN{name}" for name in ("A", "B", "C", "D", "E", "F"))
VERDICTS = {
    COMPLETE: "complete",
    FAILED: "complete",
    HOLED: "missing",
    DROPPED: "missing",
    OPEN: "open",
    BINARY: "complete",
}
_TWO_HOURS = 2 * 3600 * 1_000_000_000  # from TIME_NS on: past midnight


def backlog() -> list[Body]:
    """Runs on two hosts, one over midnight; with duplicates, and not in order."""
    encoder = Encoder(BINARY, "node2", "bin", {"team": "ml", "rack": "7"})
    pieces = [
        (b"caf\xe9 \xff\xfe\x00\n", 1, True, "stdout"),
        (b"progress 10%\r", 2, False, "stdout"),
        (b"meanwhile\n", 3, True, "stderr"),
        (b"progress 100%\n", 4, True, "stdout"),
        (b'"quoted" \\ \t \x1b[31m \xc3\xa9 \xf0\x9f\x98\x80\n\n', 5, True, "stdout"),
        (b"\xc3", 7, False, "stderr"),
        (b"\xa9 no newline", 8, False, "stderr"),
    ]
    binary = [
        Body(encoder.lines(text, stream, TIME_NS + (seq > 4) * _TWO_HOURS, seq, eol), BINARY, "node2", seq, seq)
        for text, seq, eol, stream in pieces
    ]
    holed = [lines_of(3, 5, HOLED), lines_of(9, 10, HOLED), event_of("exit", 12, HOLED, exit_code=0)]
    return [
        *holed,
        event_of("start", 0, COMPLETE, job="etl", version="1"),
        lines_of(1, 1000, COMPLETE, job="etl"),
        lines_of(500, 1500, COMPLETE, job="etl"),
        event_of("exit", 1501, COMPLETE, job="etl", exit_code=0, duration_s=1.5, lines=1500, open=["stdout"]),
        event_of("end", 1502, COMPLETE, job="etl"),
        event_of("start", 0, FAILED, name="train.py", command=["train.py", "--fast"], pid=7, heartbeat_s=60),
        lines_of(1, 3, FAILED),
        lines_of(4, 12, FAILED, stream="stderr"),
        event_of("exit", 13, FAILED, name="train.py", exit_code=3, duration_s=2, cpu_s=0.5, max_rss=2**33),
        event_of("start", 0, DROPPED),
        lines_of(1, 2, DROPPED),
        gap_of(3, 8, DROPPED, reason="rate-limit"),
        lines_of(5, 6, DROPPED),
        event_of("exit", 9, DROPPED, signal=9),
        event_of("start", 0, OPEN, host="node2"),
        lines_of(1, 4, OPEN, host="node2"),
        event_of("start", 0, BINARY, host="node2"),
        *binary,
        *binary[:3],
        event_of("exit", 9, BINARY, host="node2", exit_code=0),
    ]


def digests(bodies: Iterable[Body]) -> dict[tuple[str, str], str]:
    """The SHA-256 of each stream of each run."""
    rebuilt = Rebuilt.of_many((body.data, {}) for body in bodies)
    streams = {(run, record.stream) for run, one in rebuilt.items() for record in one.records}
    return {(run, stream): digest(rebuilt[run].stream(stream)) for run, stream in streams}


def digest(data: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(data).hexdigest()


def statements(name: str) -> dict[str, str]:
    """The statements of a file of SQL by their titles, without the semicolons."""
    parts = re.split(r"^-- (\w+): .*\n", (QUERIES / f"{name}.sql").read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], (text.strip().removesuffix(";") for text in parts[2::2]), strict=True))
