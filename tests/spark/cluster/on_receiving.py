"""receive and the streaming source: every line is in a file before its message is deleted, whoever is killed."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fakes.sqs import FakeSqs
from support import is_running, wait_for
from support.backlog import Backlog
from support.bodies import in_flight, lines_of, put
from support.spark import check_backlog, executors

from sqstee.errors import SqsteeError
from sqstee.record import Body
from sqstee.spark import read, receive, register

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

IDLE = 0.5


def test_a_queue_is_emptied_into_files(
    spark: SparkSession, sqs: FakeSqs, backlog: Backlog, bodies: list[Body], tmp_path: Path
) -> None:
    """By both executors, plain and compressed bodies; other programs' lines are kept beside them."""
    sqs.create_queue("emptied")
    put(sqs, [body if number % 2 else body.compressed() for number, body in enumerate(bodies)], "emptied")
    sqs.put("emptied", "another program's line")
    found = receive(spark, "emptied", str(tmp_path), idle=IDLE, threads=2)
    assert (found.messages, found.deleted, found.foreign) == (len(bodies) + 1, len(bodies) + 1, 1)
    assert sqs.messages("emptied") == []
    check_backlog(read(spark, str(tmp_path)), backlog)
    (foreign,) = (tmp_path / "_foreign").iterdir()
    assert "another program's line" in foreign.read_text()


def test_an_executor_is_killed_midway(spark: SparkSession, sqs: FakeSqs, tmp_path: Path) -> None:
    """Its messages come back; nothing is lost, and what came twice is dropped."""
    last = 20_000
    sqs.create_queue("killed", VisibilityTimeout=30)
    put(sqs, [lines_of(first, first + 9) for first in range(0, last, 10)], "killed")
    sqs.faults(latency_ms=20)
    before = executors()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            receive(spark, "killed", str(tmp_path), layout="ndjson", idle=IDLE, threads=2)
        except BaseException as error:  # the assertion below shows it
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        wait_for(lambda: in_flight(sqs, "killed") > 100, "messages in flight")
        os.kill(before[0], signal.SIGKILL)
        wait_for(lambda: not is_running(before[0]), "end of the executor")
    finally:
        sqs.clear_faults()
        thread.join(120)
    assert not thread.is_alive()
    assert failures == []
    sqs.advance(301)
    while sqs.messages("killed"):
        receive(spark, "killed", str(tmp_path), layout="ndjson", idle=IDLE)
    assert {row.seq for row in read(spark, str(tmp_path)).select("seq").collect()} == {*range(last)}
    assert read(spark, str(tmp_path)).count() == last
    wait_for(lambda: len(executors()) == len(before), "another executor")


def test_a_stream_deletes_what_its_sink_has_committed(
    spark: SparkSession, sqs: FakeSqs, backlog: Backlog, bodies: list[Body], tmp_path: Path
) -> None:
    """A query ends in the middle and starts again from its checkpoint: the sink has all of it."""
    sqs.create_queue("stream")
    register(spark)
    put(sqs, bodies[::2], "stream")
    source = spark.readStream.format("sqstee").option("queue", "stream").load()
    sink = source.writeStream.format("parquet").option("checkpointLocation", str(tmp_path / "checkpoint"))
    query = sink.start(str(tmp_path / "out"))
    try:
        wait_for(lambda: not sqs.messages("stream"), "empty queue")
    finally:
        query.stop()
    wait_for(lambda: not sqs.counters().active, "end of the requests of a killed reader")  # they would get messages
    put(sqs, bodies[1::2], "stream")
    query = sink.trigger(availableNow=True).start(str(tmp_path / "out"))
    try:
        assert query.awaitTermination(120)
    finally:
        query.stop()
    assert sqs.messages("stream") == []
    check_backlog(read(spark, str(tmp_path / "out")), backlog)


def test_mistakes_are_one_line(spark: SparkSession, tmp_path: Path) -> None:
    """A queue that is not there, a layout that is none, a place that is none."""
    for queue, to, layout, text in (
        ("absent", str(tmp_path), "ndjson", "absent"),
        ("q", str(tmp_path), "parket", "did you mean 'parquet'?"),
        ("s3://bkt/p", str(tmp_path), "parquet", "is not a queue"),
        ("q", "nonsense://x", "ndjson", "cannot write to nonsense://x"),
    ):
        with pytest.raises(SqsteeError, match=text.replace("?", r"\?")) as found:
            receive(spark, queue, to, layout=layout, idle=IDLE)
        assert "\n" not in found.value.message
        assert found.value.hint
