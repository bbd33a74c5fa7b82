"""What an hour of many busy clusters costs, and where it breaks: computed from RESULTS.md and from AWS's quotas.

    python tests/bench/scale.py [CLUSTERS [CORES [LINES PER SECOND OF A CORE [CORES OF A NODE]]]]

Each cluster has a queue of its own. Its lines are 120 bytes long, as in the benches. Rates of readers are those in
RESULTS.md: of one process of drain at a round trip of 20 ms, of one task of spark.receive with one receiving thread at
100 ms, and of the CPU time of the Lambda handler. A quota of S3 is for one prefix that S3 has not divided; the keys of
--to s3:// begin with one of 256 shards, so that it can.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench.all import number, results, tables
from bench.common import DOLLARS, table

SECONDS = 3600
BILLED_BYTES = 65_536  # https://aws.amazon.com/sqs/pricing/: each 64 KiB of a payload is a request
BODY_BYTES = 262_144  # what sqstee packs into a message by default
MIB = 1_048_576
PUT_DOLLARS = 5e-6  # https://aws.amazon.com/s3/pricing/: S3 Standard, us-east-1
GB_SECOND_DOLLARS = 1.66667e-5  # https://aws.amazon.com/lambda/pricing/: x86, the first six billion of a month
INVOCATION_DOLLARS = 2e-7  # the same page
LAMBDA_GB = 1.769  # at which a function has one whole processor (lambda/latest/dg/configuration-memory.html)
LAMBDA_BATCH_BYTES = 6_291_456  # payload of an invocation, and so of a batch: the page of LAMBDA below
S3_OBJECT_SECONDS, S3_OBJECT_BYTES = 10, 4 * MIB  # --to s3:// stores what came in this time, at most so much

SQS = "https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-queues.html"
LAMBDA = "https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html"
LAMBDA_SQS = "https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-scaling.html"
S3 = "https://docs.aws.amazon.com/AmazonS3/latest/userguide/optimizing-performance.html"


class Units(NamedTuple):
    """What was measured: billed requests per million lines, and lines per second of a core."""

    billed: float
    billed_compressed: float
    drain: float
    spark: float
    on_lambda: float

    @property
    def line_bytes(self) -> float:
        """Bytes of a line of 120 in a body."""
        return self.billed * BILLED_BYTES / 1e6


class Quota(NamedTuple):
    """A limit of AWS's, for one queue, function or prefix."""

    most: float
    where: str


class Load(NamedTuple):
    """The lines, and where they come from."""

    clusters: int = 20
    cores: int = 2000
    rate: float = 300
    node_cores: int = 64

    @property
    def lines(self) -> float:
        """Lines per second of one cluster."""
        return self.cores * self.rate


IN_FLIGHT = Quota(120_000, SQS)
CONCURRENCY = Quota(1_000, LAMBDA)
MAPPING = Quota(1_250, LAMBDA_SQS)
POLLERS = Quota(2_000, "https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-parameters.html")
PUTS = Quota(3_500, S3)
SPARK_HELD_SECONDS = 15.0  # receive fills a file for ten seconds, then writes it and deletes
DRAIN_HELD_SECONDS = 0.5  # drain syncs its journal as often, then deletes


def units(found: dict[str, str]) -> Units:
    """The unit costs in RESULTS.md."""
    sender = {row[0]: row for row in tables(found["shipping.py"]) if row[1:4] == ["strict", "20", "120"]}
    drained = re.search(r"([\d,]+) lines/s", found["receiving.py"])
    assert drained
    spark = next(row for row in tables(found["spark_receive.py"]) if row[0].endswith("parquet") and row[2] == "1")
    ways = {row[0]: row for row in tables(found["at_rest.py"]) if row[3]}  # not what was read again
    return Units(
        number(sender["sqstee"][7]),
        number(sender["sqstee --compress auto"][7]),
        number(drained[1]),
        number(spark[3]),
        1e6 / number(ways["Lambda"][3]),
    )


def rows_of(load: Load, cost: Units) -> list[tuple[str, str, str, str, str]]:
    """The table: what is needed for one cluster and for all, and how much of a quota the first is."""
    rows: list[tuple[str, str, str, str, str]] = []

    def add(name: str, one: float, form: str = "{:,.0f}", quota: Quota | None = None, all_in_one: bool = False,
            is_each: bool = False) -> None:  # fmt: skip
        """A row; with `all_in_one` all clusters share what the quota is for, with `is_each` there is no sum."""
        used = one * (load.clusters if all_in_one else 1)
        share = f"{used / quota.most:.0%} of {quota.most:,.0f}" if quota else ""
        every = "" if is_each else form.format(one * load.clusters)
        rows.append((name, form.format(one), every, share, quota.where if quota else ""))

    lines, nodes = load.lines, load.cores / load.node_cores
    hour = lines * SECONDS
    bodies = lines * cost.line_bytes / BODY_BYTES
    add("lines per second", lines)
    add("lines per hour, millions", hour / 1e6)
    add("MiB per second, as NDJSON", lines * cost.line_bytes / MIB)
    add("messages per second, full bodies", bodies)
    add("messages per second, --compress", bodies * cost.billed_compressed / cost.billed)
    for name, billed in (("", cost.billed), (", --compress", cost.billed_compressed)):
        add(f"SQS: billed requests to send, millions{name}", hour / 1e6 * billed / 1e6, "{:,.1f}")
        add(f"SQS: dollars to send{name}", hour / 1e6 * billed * DOLLARS, "{:,.2f}")
        add(f"SQS: dollars to receive and delete{name}",
            (hour / 1e6 * billed + bodies * billed / cost.billed * SECONDS / 10) * DOLLARS, "{:,.2f}")  # fmt: skip
    apart = min(load.rate * cost.line_bytes, BODY_BYTES)
    add("SQS: dollars to send, each wrapper by itself",
        load.cores * SECONDS * -(-apart // BILLED_BYTES) * DOLLARS, "{:,.2f}")  # fmt: skip
    add("in flight, spark.receive", bodies * SPARK_HELD_SECONDS, quota=IN_FLIGHT)
    add("in flight, drain", bodies * DRAIN_HELD_SECONDS, quota=IN_FLIGHT)
    single = lines * SPARK_HELD_SECONDS
    add("in flight, if a message were a line", single, quota=IN_FLIGHT)
    add("drain: processes", lines / cost.drain, "{:,.1f}")
    add("spark.receive: tasks", lines / cost.spark, "{:,.1f}")
    batch_lines = LAMBDA_BATCH_BYTES / cost.line_bytes
    batch_seconds = batch_lines / cost.on_lambda
    invocations = lines / batch_lines
    add("Lambda: invocations per second, full batches", invocations, "{:,.1f}")
    add("Lambda: seconds of one", batch_seconds, "{:,.2f}", is_each=True)
    add("Lambda: concurrency, account", invocations * batch_seconds, "{:,.1f}", CONCURRENCY, all_in_one=True)
    add("Lambda: concurrency, event source", invocations * batch_seconds, "{:,.1f}", MAPPING)
    add("Lambda: provisioned pollers of 1 MB/s", lines * cost.line_bytes / 1e6, quota=POLLERS)
    invocation_dollars = batch_seconds * LAMBDA_GB * GB_SECOND_DOLLARS + INVOCATION_DOLLARS
    add("Lambda: dollars", invocations * invocation_dollars * SECONDS, "{:,.2f}")
    objects = max(load.cores / S3_OBJECT_SECONDS, lines * cost.line_bytes / S3_OBJECT_BYTES)
    add("S3 PUTs per second, --to s3://, a run by itself", objects, quota=PUTS, all_in_one=True)
    add("S3 PUTs per second, Lambda, an object per batch", invocations, "{:,.1f}", PUTS, all_in_one=True)
    add("S3 PUTs per second, Lambda, an object per run", bodies, quota=PUTS, all_in_one=True)
    add("S3 PUTs per second, spark.receive", lines / cost.spark / 10, "{:,.1f}", PUTS, all_in_one=True)
    add("S3: dollars of PUTs, --to s3://", objects * SECONDS * PUT_DOLLARS, "{:,.2f}")
    add("S3: dollars of PUTs, Lambda, an object per batch", invocations * SECONDS * PUT_DOLLARS, "{:,.2f}")
    add("nodes, with one agent each", nodes, "{:,.1f}")
    return rows


def shown(load: Load, cost: Units) -> str:
    """The table as Markdown, and where its quotas are from."""
    rows = rows_of(load, cost)
    sources = list(dict.fromkeys(row[4] for row in rows if row[4]))
    cells = [(*row[:3], f"{row[3]} [{sources.index(row[4]) + 1}]" if row[4] else "") for row in rows]
    text = table(("an hour", "a cluster", f"all {load.clusters}", "of a quota"), cells)
    return text + "\n\n" + "\n".join(f"[{at}] {where}  " for at, where in enumerate(sources, 1))


def main() -> None:
    """Print it."""
    given = [float(word) for word in sys.argv[1:]]
    words = [kind(value) for kind, value in zip((int, int, float, int), given, strict=False)]
    print(shown(Load(*words), units(results())))


if __name__ == "__main__":
    main()
