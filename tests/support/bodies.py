"""Bodies as sqstee sends them, and queues filled with them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fakes.sqs import FakeSqs

from sqstee.record import Body, Encoder
from sqstee.transports.local import LocalSender

RUN = "01JDRUNAAAAAAAAAAAAAAAAAAA"
TIME_NS = 1_700_000_000_000_000_000


def lines_of(first: int, last: int, run: str = RUN, host: str = "node1", stream: str = "stdout", job: str = "") -> Body:
    """A body with the lines of seqs first..last; each line contains its seq."""
    block = b"".join(b"line %d\n" % seq for seq in range(first, last + 1))
    data = Encoder(run, host, job).lines(block, stream, TIME_NS, first)
    return Body(data, run, host, first, last)


def piece_of(seq: int, text: str, run: str = RUN, eol: bool = True, stream: str = "stderr") -> Body:
    """A body with a piece of a line, whose end it is where `eol` is true."""
    block = text.encode() + (b"\n" if eol else b"")
    return Body(Encoder(run, "node1").lines(block, stream, TIME_NS, seq, eol), run, "node1", seq, seq)


def event_of(event: str, seq: int, run: str = RUN, host: str = "node1", job: str = "", **fields: Any) -> Body:
    """A body with one event."""
    payload = json.dumps({"event": event, "message": f"{event} of it", **fields}).encode()
    data = Encoder(run, host, job).event(payload, TIME_NS, seq)
    return Body(data, run, host, seq, int(str(fields.get("to", seq))))


def gap_of(first: int, last: int, run: str = RUN, **fields: Any) -> Body:
    """A body with a gap event over the seqs first..last."""
    return event_of("gap", first, run, **{"from": first, "to": last, **fields})


def whole_run(lines: int, run: str = RUN, status: int = 0, **more: Any) -> list[Body]:
    """A run from its start to its exit event, in three bodies."""
    return [
        event_of("start", 0, run, **more),
        lines_of(1, lines, run, **more),
        event_of("exit", lines + 1, run, exit_code=status, duration_s=1.5, lines=lines, **more),
    ]


def at_present(body: Body) -> Body:
    """A body as if it were written now."""
    now = time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime()).encode()
    return Body(body.data.replace(b"2023-11-14T22:13:20.000000Z", now), body.run, body.host, body.first, body.last)


def put(server: FakeSqs, bodies: Iterable[Body], queue: str = "q") -> None:
    """Store bodies as messages."""
    for body in bodies:
        attributes = {name: {"DataType": "String", "StringValue": value} for name, value in body.attributes.items()}
        group = {"MessageGroupId": body.run, "MessageDeduplicationId": f"{body.run}:{body.first}-{body.last}"}
        more: dict[str, Any] = group if queue.endswith(".fifo") else {}
        server.put(queue, body.data.decode(), MessageAttributes=attributes, **more)


def put_local(path: Path, *bodies: Body) -> str:
    """Store bodies in a local store; the destination that names it."""
    sender = LocalSender(str(path), 1 << 30)
    for body in bodies:
        sender.send([body])
    sender.close()
    return f"local:{path}"


def in_flight(server: FakeSqs, queue: str = "q") -> int:
    """The number of messages in flight."""
    return sum(message.in_flight for message in server.messages(queue))


def expected(first: int, last: int) -> bytes:
    """The bytes of the lines in a body of `lines_of`."""
    return b"".join(b"line %d\n" % seq for seq in range(first, last + 1))
