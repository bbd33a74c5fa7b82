"""What an experiment writes down: one JSON object a line, a file for each process, and the way back.

A file starts with the experiment and goes on with its blocks in their order. Times are seconds since the epoch by the
clock of the host that wrote them (in a simulation: since its start).
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
    """The first line of each file: which experiment its records belong to.

    `messages` are those of one mode, over all its blocks; `blocks` are the modes of all blocks, in their order.
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
    """One queue of its own, polled in one mode. `visibility_timeout` in seconds; a model has none."""

    block: int
    mode: str
    queue: str
    messages: int
    visibility_timeout: float | None


class Sent(NamedTuple):
    """One message that the queue took: when its request began, and when it was answered."""

    block: int
    seq: int
    message_id: str
    t0: float
    t1: float


class DeliveryRecord(NamedTuple):
    """One message of one answer to ReceiveMessage.

    `call` names the request (host:pid:number), `t0` and `t1` are its beginning and its answer, `deleted_t0` and
    `deleted_t1` those of the request that deleted this delivery (None where it was not). `receive_count` and
    `first_received` are what SQS says: approximate, and 0 where it says nothing.
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
    """What one process did in one block; `complete` is whether the block came to its own end there."""

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
_MOST = 1e18  # of any number here: times in seconds, counts
_NAMES = {kind: name for name, kind in _KINDS.items()}


class RecordSink(Protocol):
    """Takes records; from several threads."""

    def write(self, records: Iterable[Record]) -> None:
        """Keep these."""

    def close(self) -> None:
        """Have everything kept."""


def fields_of(record: Record) -> dict[str, Any]:
    """A record as a JSON object's fields."""
    fields = record._asdict() if isinstance(record, tuple) else asdict(record)
    return {"record": _NAMES[type(record)], **fields}


def parse(line: str | bytes) -> Record:
    """A record of one line; raises ValueError where it is none."""
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
            raise ValueError(f"{name} is no number")
    for name in _TEXTS:
        if not isinstance(fields.get(name, ""), str):
            raise ValueError(f"{name} is no text")
    return record


def _is_number(value: object) -> bool:
    """Whether it is one that can be counted with: JSON as Python reads it has NaN and numbers of 400 digits."""
    return isinstance(value, int | float) and abs(value) <= _MOST


class RecordFile:
    """A file of records; each call of `write` is one append, so that a killed process tears its last line only."""

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
        """Take a record into its list; the others are headers."""
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
    """Record files of one experiment, read block by block: memory follows the largest block, not the experiment.

    Raises SqsteeError where a file is none of records, or one of another experiment.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        self.torn: list[str] = []
        self._headers: list[Experiment] = []
        self._blocks: dict[int, Block] = {}
        self._spans: dict[int, list[_Span]] = {}
        for path in dict.fromkeys(paths):
            self._index(path)
        if not self._headers:
            raise SqsteeError("no file has the records of an experiment", "they are in DIR of --records DIR")
        self.experiment = max(self._headers, key=lambda header: header.messages)
        if any(header.id != self.experiment.id for header in self._headers):
            ids = ", ".join(sorted({header.id for header in self._headers}))
            raise SqsteeError(f"the files are of several experiments: {ids}", "give --report the files of one")
        if self._spans.keys() - self._blocks.keys():
            raise SqsteeError(
                "the file of the host that started the experiment is not among these",
                "give --report the files of all hosts",
            )

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
            raise SqsteeError(f"{path}: {error.strerror}", "give --report the files of an experiment") from None

    def _index_lines(self, path: str, file: IO[bytes]) -> None:
        at, latest = 0, None
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                self.torn.append(path)  # its process was killed while it wrote
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
        hint = "give --report files that sqstee measure wrote"
        raise SqsteeError(f"{path}, line {number}: {error}", hint, EXIT_FAILURE) from None
