"""The records of an experiment: one JSON object per line, one file per process; written and read here.

A file starts with the experiment; its blocks follow in order. Times are seconds since the epoch by the clock of the
host that wrote them (in a simulation: since its start).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import IO, Any, NamedTuple, Protocol, TypeAlias

from sqstee.errors import EXIT_FAILURE, SqsteeError

MODES = ("short", "long")


@dataclass(frozen=True, slots=True)
class Experiment:
    """The first line of each file: the experiment that its records belong to.

    `messages` counts those of one mode, over all its blocks; `blocks` has the mode of each block, in order.
    """

    id: str
    host: str
    queue: str
    messages: int
    receivers: int
    blocks: tuple[str, ...]
    started: float
    parameters: dict[str, Any] = field(default_factory=dict)
    simulated: bool = False


@dataclass(frozen=True, slots=True)
class Block:
    """One block: a fresh queue, polled in one mode. `visibility_timeout` in seconds; a model has none."""

    block: int
    mode: str
    queue: str
    messages: int
    visibility_timeout: float | None


class Sent(NamedTuple):
    """One message that the queue accepted: when its request began, and when the answer came."""

    block: int
    seq: int
    message_id: str
    t0: float
    t1: float


class DeliveryRecord(NamedTuple):
    """One message of one answer to ReceiveMessage.

    `call` names the request (host:pid:number); `t0` and `t1` are the times of request and answer, `deleted_t0` and
    `deleted_t1` those of the deletion of this delivery (None if it was not deleted). `receive_count` and
    `first_received` are SQS's own, approximate figures, 0 if missing.
    """

    block: int
    seq: int
    message_id: str
    call: str
    t0: float
    t1: float
    deleted_t0: float | None
    deleted_t1: float | None
    receive_count: int
    first_received: float


@dataclass(frozen=True, slots=True)
class Calls:
    """The calls of one process in one block; `complete` is whether the block ran to its end there."""

    block: int
    sends: int = 0
    receives: int = 0
    empty: int = 0
    deletes: int = 0
    errors: int = 0
    complete: bool = True


Record: TypeAlias = Experiment | Block | Sent | DeliveryRecord | Calls
_KINDS: dict[str, type[Any]] = {
    "experiment": Experiment,
    "block": Block,
    "sent": Sent,
    "delivery": DeliveryRecord,
    "calls": Calls,
}
_OPTIONAL = {"deleted_t0", "deleted_t1", "visibility_timeout"}
_NUMBERS = _OPTIONAL | {"block", "seq", "t0", "t1", "receive_count"}
_NUMBERS |= {"messages", "sends", "receives", "empty", "deletes", "errors"}
_TEXTS = ("id", "host", "queue", "mode", "message_id", "call")
_MOST = 1e18  # the largest number accepted, be it a time in seconds or a count
_NAMES = {kind: name for name, kind in _KINDS.items()}


class RecordSink(Protocol):
    """Stores records; thread-safe."""

    def write(self, records: Iterable[Record]) -> None:
        """Store records."""

    def close(self) -> None:
        """Return once all records are stored."""


def fields_of(record: Record) -> dict[str, Any]:
    """The fields of a record's JSON object."""
    fields = record._asdict() if isinstance(record, tuple) else asdict(record)
    return {"record": _NAMES[type(record)], **fields}


def parse(line: str | bytes) -> Record:
    """The record in one line; raises ValueError if there is none."""
    try:
        fields = json.loads(line)
    except RecursionError:
        raise ValueError("not a record of an experiment") from None
    name = fields.pop("record", None) if isinstance(fields, dict) else None
    if not isinstance(name, str) or name not in _KINDS:
        raise ValueError("not a record of an experiment")
    kind = _KINDS[name]
    try:
        if kind is Experiment:
            fields["blocks"] = tuple(fields["blocks"])
        record: Record = kind(**fields)
    except (TypeError, KeyError) as error:
        raise ValueError(str(error)) from None
    for name in _NUMBERS & fields.keys():
        if not _is_number(fields[name]) and not (fields[name] is None and name in _OPTIONAL):
            raise ValueError(f"{name} is not a number")
    for name in _TEXTS:
        if not isinstance(fields.get(name, ""), str):
            raise ValueError(f"{name} is not a string")
    return record


def _is_number(value: object) -> bool:
    """Whether a value is a usable number: Python's json also reads NaN and numbers of 400 digits."""
    return isinstance(value, int | float) and abs(value) <= _MOST


class RecordFile:
    """A file of records. Each `write` is one append: a killed process can tear the last line only."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._file: IO[bytes] = open(path, "xb", buffering=0)  # noqa: SIM115 - it stays open until close()

    def write(self, records: Iterable[Record]) -> None:
        """Append lines."""
        data = "".join(f"{json.dumps(fields_of(record))}\n" for record in records).encode()
        done = 0
        while done < len(data):
            done += self._file.write(data[done:]) or 0

    def close(self) -> None:
        """Close the file."""
        self._file.close()


@dataclass(slots=True)
class BlockRecords:
    """All records of one block, from all files."""

    block: Block
    sent: list[Sent] = field(default_factory=list)
    deliveries: list[DeliveryRecord] = field(default_factory=list)
    calls: list[Calls] = field(default_factory=list)

    def add(self, record: Record) -> None:
        """Add a record to the list of its kind; headers are ignored."""
        if isinstance(record, DeliveryRecord):
            self.deliveries.append(record)
        elif isinstance(record, Sent):
            self.sent.append(record)
        elif isinstance(record, Calls):
            self.calls.append(record)


@dataclass(slots=True)
class _Span:
    """Consecutive records of one block in one file."""

    path: str
    start: int
    end: int


class RecordReader:
    """Record files of one experiment, read block by block: memory grows with the largest block, not the experiment.

    Raises SqsteeError if a file is not a record file, or belongs to another experiment.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        self.torn: list[str] = []
        self._headers: list[Experiment] = []
        self._blocks: dict[int, Block] = {}
        self._spans: dict[int, list[_Span]] = {}
        for path in dict.fromkeys(paths):
            self._index(path)
        if not self._headers:
            hint = "sqstee measure --report sqstee-measure-ID/*.ndjson"
            raise SqsteeError("the files have no records of an experiment", hint)
        self.experiment = max(self._headers, key=lambda header: header.messages)
        if any(header.id != self.experiment.id for header in self._headers):
            ids = ", ".join(sorted({header.id for header in self._headers}))
            hint = "give the files of one experiment: sqstee measure --report sqstee-measure-ID/*.ndjson"
            raise SqsteeError(f"the files belong to several experiments: {ids}", hint)
        if self._spans.keys() - self._blocks.keys():
            hint = "give the files of all hosts: sqstee measure --report HOST-1/*.ndjson HOST-2/*.ndjson"
            raise SqsteeError("the file of the host that started the experiment is missing", hint)

    def blocks(self) -> Iterator[BlockRecords]:
        """Each block with all its records."""
        for number in sorted(self._blocks):
            found = BlockRecords(self._blocks[number])
            for span in self._spans.get(number, ()):
                with open(span.path, "rb") as file:
                    file.seek(span.start)
                    for line in file.read(span.end - span.start).splitlines():
                        found.add(parse(line))
            yield found

    def _index(self, path: str) -> None:
        """Note where in a file the records of each block are."""
        try:
            with open(path, "rb") as file:
                self._index_lines(path, file)
        except OSError as error:
            hint = "sqstee measure --report sqstee-measure-ID/*.ndjson"
            raise SqsteeError(f"cannot read {path}: {error.strerror}", hint) from None

    def _index_lines(self, path: str, file: IO[bytes]) -> None:
        at, latest = 0, None
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                self.torn.append(path)  # the process was killed during a write
                return
            record = _parse_at(path, number, line)
            end = at + len(line)
            if isinstance(record, Experiment):
                self._headers.append(record)
                latest = None
            elif isinstance(record, Block):
                self._blocks.setdefault(record.block, record)
                latest = None
            elif latest is not None and latest[0] == record.block:
                latest[1].end = end
            else:
                latest = record.block, _Span(path, at, end)
                self._spans.setdefault(record.block, []).append(latest[1])
            at = end


def _parse_at(path: str, number: int, line: bytes) -> Record:
    try:
        return parse(line)
    except (ValueError, KeyError) as error:
        hint = "give files that sqstee measure wrote: sqstee measure --report sqstee-measure-ID/*.ndjson"
        raise SqsteeError(f"{path}, line {number}: {error}", hint, EXIT_FAILURE) from None
