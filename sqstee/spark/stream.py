"""A queue as a streaming source of Spark's: `spark.readStream.format("sqstee").option("queue", …).load()`.

Where Spark calls (PySpark 4, PythonMicroBatchStream and MicroBatchExecution): latestOffset, partitions and commit in
one process of the driver's, which lives as long as the query; read in a process of an executor's, of which nothing
comes back but rows. A batch's end offset is logged before it runs, and commit(end) comes when the next batch is made,
after the sink has committed and that is logged.

A receipt handle must live until commit, so messages are received in the driver's process, and each partition carries
bodies. A task that is repeated, or runs twice, therefore reads the same lines. Executors decode them.
Lines that are not in the wire format are rows without a run: `message` is the line, `fields` is of its message.

- A batch of nothing follows each batch of messages, so that commit comes at once and not with the next message.
- A query that starts again is asked for the batch that was logged last, without its messages: it is empty. Nothing was
  deleted, so they are received again later. A sink that had written them has them twice: drop by (run, seq).
- Until commit, messages are hidden by their visibility timeout; a batch that takes longer writes lines twice.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pyspark.sql.datasource import DataSource, DataSourceStreamReader, InputPartition

from sqstee.at_rest.arrow import SCHEMA
from sqstee.at_rest.schema import COLUMNS
from sqstee.errors import SqsteeError
from sqstee.fds import write_stderr
from sqstee.read.ack_pool import AckPool
from sqstee.read.decode import problem_of
from sqstee.read.receiver_pool import PAUSE, Inbox, ReceiverPool
from sqstee.spark.parts import ParquetPart, add_message, foreign_rows
from sqstee.spark.task import ReceivePlan, receiver_of
from sqstee.transports.base import ReceivedMessage

if TYPE_CHECKING:
    from pyspark.sql.types import StructType

    class AvailableNow:
        """Spark's mixin."""
else:
    try:
        from pyspark.sql.streaming.datasource import SupportsTriggerAvailableNow as AvailableNow
    except ImportError:  # before PySpark 4.2, which does not commit the last batch of such a query
        AvailableNow = object

_PARTITION_BYTES = 4 * 1024 * 1024  # of bodies: a partition travels inside its task, and Spark warns above 1 MiB each
_OPTIONS = {"queue": "", "threads": "16", "visibility": "300", "max_bytes": str(64 * 1024 * 1024), "via_s3": ""}
_FIRST_SECONDS = 1.0  # a trigger without messages ends after so long
_PAUSE_SECONDS = 0.1  # a batch ends where no message follows for so long
# As Spark wants it to be: its own name for the items of a list, and no column that must not be null.
_LIST = pa.list_(pa.field("element", pa.string()))
_FIELDS = [(field.name, _LIST if pa.types.is_list(field.type) else field.type) for field in SCHEMA]
_SCHEMA = pa.schema([*_FIELDS, ("host", pa.string())])


class QueueDataSource(DataSource):
    """The source `sqstee`; options as in `receive`, and `max_bytes` of bodies in one batch."""

    @classmethod
    def name(cls) -> str:
        """The name for format()."""
        return "sqstee"

    def schema(self) -> str:
        """The columns of sqstee-format(5), except `date`."""
        return ", ".join(f"`{one.name}` {one.kind}" for one in COLUMNS) + ", `host` string"

    def streamReader(self, schema: StructType) -> QueueStreamReader:  # noqa: N802  # Spark's name
        """The reader of one query."""
        options = _OPTIONS | {name: self.options[name] for name in _OPTIONS if name in self.options}
        if not options["queue"]:
            hint = 'spark.readStream.format("sqstee").option("queue", QUEUE).load()'
            raise SqsteeError("the source sqstee needs the option queue", hint)
        return QueueStreamReader(options)


class BodiesPartition(InputPartition):
    """Bodies of messages, with their attributes, ids and times."""

    def __init__(self, messages: Sequence[tuple[bytes, dict[str, str], str, float]]) -> None:
        super().__init__(None)
        self.messages = messages


class QueueStreamReader(DataSourceStreamReader, AvailableNow):
    """One query's reader. On executors Spark calls only read(), on a copy without a receiver."""

    def __init__(self, options: dict[str, str]) -> None:
        self._options = options
        self._session = uuid.uuid4().hex
        self._number = 0
        self._batches: dict[int, list[ReceivedMessage]] = {}  # received and not committed
        self._intake: _Intake | None = None
        self._left: int | None = None  # messages until the end of a query that reads what is available now

    def prepareForTriggerAvailableNow(self) -> None:  # noqa: N802
        """End after as many messages as there are now, or when there are no more."""
        self._intake = _Intake(self._options)
        self._left = self._intake.visible

    def initialOffset(self) -> dict[str, Any]:  # noqa: N802
        """Nothing has been received."""
        return {"session": "", "batch": 0}

    def latestOffset(self, start: object = None, limit: object = None) -> dict[str, Any]:  # noqa: N802
        """Receive a batch; the same offset as before where nothing came and nothing waits for its commit.

        Spark passes the arguments from 4.2 on; the limit is always that of `max_bytes`.
        """
        intake = self._intake = self._intake or _Intake(self._options)
        messages = intake.take(int(self._options["max_bytes"])) if self._left is None or self._left > 0 else []
        if self._left is not None:
            self._left -= len(messages)
        if messages or self._batches:
            self._number += 1
        if messages:
            self._batches[self._number] = messages
        return self._offset(self._number) if self._number else self.initialOffset()

    def partitions(self, start: dict[str, Any], end: dict[str, Any]) -> Sequence[InputPartition]:
        """The bodies of the batch that ends there."""
        messages = self._batches.get(end["batch"], []) if end["session"] == self._session else []
        found: list[BodiesPartition] = []
        size = _PARTITION_BYTES
        for message in messages:
            if size + len(message.data) > _PARTITION_BYTES:
                found.append(BodiesPartition([]))
                size = 0
            size += len(message.data)
            found[-1].messages = [*found[-1].messages, (message.data, message.attributes, message.id, message.sent)]
        return found

    def read(self, partition: InputPartition) -> Iterator[pa.RecordBatch]:
        """The rows of a partition's bodies."""
        assert isinstance(partition, BodiesPartition)
        part, foreign = ParquetPart(), []
        for data, attributes, id, sent in partition.messages:
            foreign += add_message(part, ReceivedMessage(data, attributes, "", id, sent))[1]
        batches = [*part.batches(), *([foreign_rows(foreign)] if foreign else ())]
        for batch in batches:
            columns = [column.cast(field.type) for column, field in zip(batch.columns, _SCHEMA, strict=True)]
            yield pa.RecordBatch.from_arrays(columns, schema=_SCHEMA)

    def commit(self, end: dict[str, Any]) -> None:
        """Delete the messages of all batches up to this one."""
        if end["session"] != self._session or self._intake is None:
            return
        done = [number for number in self._batches if number <= end["batch"]]
        if messages := [message for number in done for message in self._batches.pop(number)]:
            self._intake.delete(messages)

    def stop(self) -> None:
        """Release the messages that were not committed."""
        if self._intake is not None and self._batches:
            self._intake.release([message for messages in self._batches.values() for message in messages])

    def _offset(self, number: int) -> dict[str, Any]:
        return {"session": self._session, "batch": number}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_intake": None, "_batches": {}}


class _Intake:
    """Receives a batch, and deletes it later. Nothing is received between batches: it would only grow old."""

    def __init__(self, options: dict[str, str]) -> None:
        self._threads = int(options["threads"])
        places = tuple(text for text in options["via_s3"].split(",") if text)
        visibility = int(options["visibility"])
        plan = ReceivePlan(options["queue"], "", "", self._threads, 0.0, 0.0, None, visibility, places)
        self._receiver = receiver_of(plan, 2 * self._threads)

    @property
    def visible(self) -> int:
        """The number of messages that can be received now. Raises TransportError."""
        return self._receiver.stat().visible

    def take(self, most: int) -> list[ReceivedMessage]:
        """The messages that come, up to `most` bytes and a few calls' more; waits a moment for the first."""
        inbox = Inbox(most)
        pool = ReceiverPool([self._receiver], inbox.put, _notice, self._threads, _FIRST_SECONDS)
        pool.pause = PAUSE
        found: list[ReceivedMessage] = []
        pool.start()
        until = time.monotonic() + _FIRST_SECONDS
        while pool.bytes < most and not pool.is_over and (left := until - time.monotonic()) > 0:
            came = [message for _, message in inbox.get(min(left, _PAUSE_SECONDS) if found else left)]
            if found and not came:
                break
            found += came
        inbox.lift_limit()
        pool.stop()
        found += [message for _, message in inbox.get(0.0)]
        if pool.failure:
            self.release(found)
            raise pool.failure
        # one that points to a body that cannot be read comes again after its visibility timeout
        return [message for message in found if not problem_of(message)]

    def delete(self, messages: Sequence[ReceivedMessage]) -> None:
        """Delete messages, now: Spark may kill this process at the query's end."""
        acks = AckPool(self._threads, notice=_notice)
        acks.delete(self._receiver, messages)
        acks.close()

    def release(self, messages: Sequence[ReceivedMessage]) -> None:
        """Let others receive messages at once."""
        acks = AckPool(self._threads, notice=_notice)
        acks.release(self._receiver, messages)
        acks.close()


def _notice(text: str) -> None:
    write_stderr(f"sqstee: {text}\n")
