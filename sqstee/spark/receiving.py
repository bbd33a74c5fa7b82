"""Empties a queue into files by the executors: the driver's half. See task.py for a task's work and guarantees."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from sqstee.destination import parse
from sqstee.errors import EXIT_FAILURE, SqsteeError, did_you_mean

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from sqstee.spark.task import Receipt, ReceivePlan


def receive(
    spark: SparkSession,
    queue: str,
    to: str,
    *,
    layout: str = "parquet",
    tasks: int | None = None,
    threads: int = 16,
    idle: float = 5.0,
    seconds: float | None = None,
    visibility: int = 300,
    via_s3: str | Sequence[str] = (),
) -> Receipt:
    """Empty an SQS queue into the folder `to`, by as many tasks as the cluster has cores; return the sum of receipts.

    `to` is s3://BUCKET/PREFIX, a path that all executors share, or a URL that pyarrow writes to. Files are
    `to/date=…/part-….parquet` (or `.ndjson.gz` for `layout` ndjson); lines that are not in the wire format go to
    `to/_foreign`. `read` drops the lines that came twice.

    Each of `tasks` receives in `threads` threads. It ends when the queue has been empty for `idle` seconds, or after
    `seconds`. A received message is hidden from others for `visibility` seconds: a file takes ten to be filled. Where
    messages point to bodies in S3, `via_s3` names the places where these may be.

    A message is deleted when its lines are in a file. An executor that dies loses none: its messages are received
    again after `visibility` seconds, by this call if it is still running, else by the next. Raises SqsteeError.
    """
    from sqstee.spark.output import open_output
    from sqstee.spark.parts import LAYOUTS
    from sqstee.spark.task import Receipt, ReceivePlan

    places = (via_s3,) if isinstance(via_s3, str) else tuple(via_s3)
    if layout not in LAYOUTS:
        expected = f"expected {' or '.join(LAYOUTS)}{did_you_mean(layout, LAYOUTS)}"
        raise SqsteeError(f"invalid layout {layout!r} ({expected})", "receive(spark, QUEUE, TO, layout='ndjson')")
    if parse(queue).kind != "sqs":
        raise SqsteeError(f"{queue!r} is not a queue's name, URL or ARN", "read(spark, PATH) reads stored lines")
    for text in places:
        if parse(text).kind != "s3":
            raise SqsteeError(f"{text!r} is not s3://BUCKET/PREFIX", "the form is via_s3='s3://BUCKET/PREFIX'")
    open_output(to)
    _check_extra(layout)
    number = tasks or max(1, spark.sparkContext.defaultParallelism)
    plan = ReceivePlan(queue, to, layout, threads, 1.0, idle, seconds, visibility, places)
    run = partial(_run_tasks, plan)
    done = spark.sparkContext.parallelize(range(number), number).mapPartitions(run).collect()
    receipt = sum((Receipt._make(found) for found in done), Receipt())
    if receipt.problem:
        hint = "messages that were not written stay in the queue; sqstee check QUEUE looks for the cause"
        raise SqsteeError(receipt.problem, hint, EXIT_FAILURE)
    return receipt


def _run_tasks(plan: ReceivePlan, numbers: Iterator[int]) -> Iterator[tuple[Any, ...]]:
    """On an executor: run the task of each number, one in a partition."""
    from sqstee.spark.task import run_task

    return (tuple(run_task(plan, number)) for number in numbers)


def _check_extra(layout: str) -> None:
    """Raise SqsteeError where pyarrow is needed, and is not there."""
    if layout != "parquet":
        return
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        hint = "pip install 'sqstee[parquet]', on the driver and on the executors; or layout='ndjson'"
        raise SqsteeError("layout parquet needs pyarrow", hint) from None
