"""One backlog by each way to rest, and what sqstee and Spark then say of it: verdicts, and the SHA-256 of each stream.

    python tests/bench/at_rest.py [LINES [RUNS [LINES OF A BODY]]]

The ways: `drain` into streams, NDJSON and Parquet, `--to s3://`, the Lambda function, `sqstee.spark.receive`. For S3
and Lambda the CPU time of a fake S3 in this process is counted too. A row tells what was found; the command fails
where two of them differ.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench.common import machine, table
from fakes.bucket import FakeS3
from fakes.sqs import FakeSqs
from fakes.web import FakeWeb
from support import SCRIPT, clean_environment
from support.at_rest import RUN_IN_QUERIES, statements
from support.backlog import Backlog
from support.spark import digests, judged, spark_session

from sqstee.record import Body
from sqstee.spark import read, receive

NOTHING = 0.0, 0.0
DUCKDB_VIEWS = {"parquet": "duckdb", "ndjson": "duckdb_ndjson"}  # by layout, the file that has its view
Answer = tuple[dict[str, tuple[str, int, bool]], dict[tuple[str, str], str]]  # verdicts by run, digests by stream


def batched(bodies: Iterable[Body], number: int) -> Iterator[list[Body]]:
    """As itertools.batched of Python 3.12."""
    left = iter(bodies)
    while some := list(islice(left, number)):
        yield some


def put(server: FakeSqs, bodies: Iterable[Body]) -> int:
    """Store the backlog in the queue; the number of messages."""
    number = 0
    for some in batched(bodies, 100):
        server.put("q", *(body.data.decode() for body in some))
        number += len(some)
    return number


def drain(server: FakeSqs, folder: Path, *words: str) -> None:
    """`sqstee drain`."""
    command = [SCRIPT, "drain", "q", "-O", str(folder), "--idle-timeout", "1s", *words]
    found = subprocess.run(command, env=clean_environment() | server.environ(), capture_output=True, check=False)
    assert found.returncode == 3, found.stderr  # lines are missing


def send_to_s3(bodies: Iterable[Body]) -> None:
    """What `--to s3://` stores."""
    from sqstee.destination import parse
    from sqstee.transports.s3 import S3Sender

    sender = S3Sender(parse("s3://bkt/queue"))
    for body in bodies:
        assert not sender.send([body])


def run_lambda(bodies: Iterable[Body]) -> None:
    """The Lambda function, with events of a hundred messages."""
    from sqstee.aws_lambda import handler

    os.environ["SQSTEE_LAMBDA_TO"] = "s3://bkt/lambda"
    for some in batched(bodies, 20):
        records = [{"messageId": str(at), "body": body.data.decode()} for at, body in enumerate(some)]
        assert not handler({"Records": records})["batchItemFailures"]


def as_folder(bucket: FakeS3, prefix: str, folder: Path) -> Path:
    """A prefix of the bucket as files: Spark reads s3a:// with a library that PySpark does not bring."""
    for key, data in bucket.objects.items():
        if key.startswith(f"{prefix}/"):
            path = folder / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    return folder / prefix


def by_spark(spark: Any, source: Path) -> Answer:
    """What Spark says."""
    frame = read(spark, str(source))
    found = {run: (one["verdict"], one["missing"], one["failed"]) for run, one in judged(frame).items()}
    return found, digests(frame)


def by_duckdb(folder: Path, queries: str) -> Answer:
    """What DuckDB says of a drained folder, by the manual's statements; `queries` has the one of the view."""
    import duckdb

    texts = statements("duckdb")
    with duckdb.connect() as database:
        database.execute(statements(queries)["view"].replace("'logs/", f"'{folder}/"))
        failed = {row[0] for row in database.execute(texts["failed"]).fetchall()}
        verdicts = {
            run: (verdict, missing, run in failed)
            for run, _, _, _, missing, _, verdict in database.execute(texts["verdicts"]).fetchall()
        }
        streams: dict[tuple[str, str], Any] = {}
        for run in verdicts:
            for stream, data in database.execute(texts["rebuild"].replace(RUN_IN_QUERIES, run)).fetchall():
                streams.setdefault((run, stream), hashlib.sha256()).update(data)
    return verdicts, {key: one.hexdigest() for key, one in streams.items()}


def by_index(folder: Path) -> Answer:
    """What drain says, and the files of its streams."""
    lines = (folder / "runs.ndjson").read_text().splitlines()
    verdicts = {one["run"]: one for one in map(json.loads, lines)}
    files = {}
    for run, one in verdicts.items():
        for name in one["files"]:
            with (folder / name).open("rb") as file:
                files[run, name.rpartition(".")[2]] = hashlib.file_digest(file, "sha256").hexdigest()
    return {run: (one["verdict"], one["missing"], one["state"] == "failed") for run, one in verdicts.items()}, files


def by_show(runs: Iterable[str], source: str, environ: dict[str, str]) -> Answer:
    """What `sqstee show -o raw` writes of a few runs."""
    files = {}
    for run in runs:
        for stream in ("stdout", "stderr"):
            words = [SCRIPT, "show", run, source, "-o", "raw", "--stream", stream]
            found = subprocess.run(words, env=environ, capture_output=True, check=True)
            files[run, stream] = hashlib.sha256(found.stdout).hexdigest()
    return {}, files


class Report:
    """A row for each answer, and whether all answers are the same."""

    def __init__(self, lines: int) -> None:
        self._lines = lines
        self._wanted: Answer | None = None
        self.rows: list[tuple[object, ...]] = []
        self.is_equal = True

    def add(self, way: str, reader: str, cost: tuple[float, float], answer: Answer) -> None:
        """An answer, which may be about a few runs; `cost`: the seconds, and the CPU seconds, to put the backlog there.

        0 where they are not known, or were told.
        """
        wanted = self._wanted = self._wanted or answer
        is_equal = answer[0].items() <= wanted[0].items() and answer[1].items() <= wanted[1].items()
        self.is_equal &= is_equal and (reader == "show" or answer[1].keys() == wanted[1].keys())
        states = [state for state, _, _ in answer[0].values()]
        counts = [states.count(name) for name in ("complete", "missing", "open")]
        failed = sum(failed for _, _, failed in answer[0].values())
        rate = f"{self._lines / cost[0]:,.0f}" if cost[0] else ""
        micros = f"{cost[1] / self._lines * 1e6:.2f}" if cost[1] else ""
        equality = "equal" if is_equal else "NOT EQUAL"
        self.rows.append((way, reader, rate, micros, *counts, failed, len(answer[1]), equality))


def timed(act: Callable[[], object]) -> tuple[float, float]:
    """The seconds that something takes, and the CPU seconds of this process and of those that it waits for."""
    started, before = time.monotonic(), sum(os.times()[:4])
    act()
    return time.monotonic() - started, sum(os.times()[:4]) - before


def main() -> None:
    """Take all ways."""
    given = [int(word) for word in sys.argv[1:]]
    lines, runs, block = [*given, *(1_000_000, 200, 900)[len(given) :]]
    backlog = Backlog(lines, runs, block)
    report = Report(lines)
    bucket = FakeS3("bkt")
    with tempfile.TemporaryDirectory() as made, FakeSqs("q") as server, FakeWeb(bucket) as web:
        folder = Path(made)
        environ = clean_environment() | server.environ() | {"AWS_ENDPOINT_URL_S3": web.url}
        os.environ.update(environ)
        few = backlog.runs[:7:2]
        (folder / "spark").mkdir()
        with spark_session(folder / "spark", "local[2]") as spark:
            for layout in ("streams", "ndjson", "parquet"):
                way, out = f"drain --layout {layout}", folder / layout
                put(server, backlog.bodies())
                cost = timed(lambda out=out, layout=layout: drain(server, out, "--layout", layout))  # type: ignore[misc]
                reader = "its files" if layout == "streams" else "Spark"
                report.add(way, reader, cost, by_index(out) if layout == "streams" else by_spark(spark, out))
                if layout in DUCKDB_VIEWS:
                    report.add(way, "DuckDB", NOTHING, by_duckdb(out, DUCKDB_VIEWS[layout]))
                report.add(way, "show", NOTHING, by_show(few, str(out), environ))
            for way, prefix, store in (("--to s3://", "queue", send_to_s3), ("Lambda", "lambda", run_lambda)):
                bodies = list(backlog.bodies())
                cost = timed(lambda bodies=bodies, store=store: store(bodies))  # type: ignore[misc]
                report.add(way, "Spark", cost, by_spark(spark, as_folder(bucket, prefix, folder)))
                report.add(way, "show", NOTHING, by_show(few, f"s3://bkt/{prefix}", environ))
            for layout in ("parquet", "ndjson"):
                number, out = put(server, backlog.bodies()), folder / f"spark-{layout}"
                started = time.monotonic()
                receipt = receive(spark, "q", str(out), layout=layout, idle=1.0)
                seconds = time.monotonic() - started  # of which the last two are the wait for the queue's end
                assert receipt.deleted == number
                report.add(f"spark.receive, {layout}", "Spark", (seconds, 0), by_spark(spark, out))
    print(f"{machine()}\n")
    states = ("complete", "missing", "open", "failed")
    print(table(("way", "read by", "lines/s", "CPU µs a line", *states, "streams", "to the first"), report.rows))
    sys.exit(not report.is_equal)


if __name__ == "__main__":
    os.nice(1)
    main()
