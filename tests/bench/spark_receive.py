"""Lines per second and memory of `sqstee.spark.receive` with 1, 2 and 4 tasks, from the strict SQS 100 ms away.

    python tests/bench/spark_receive.py [ROUNDS [LINES [MESSAGES]]]

Full bodies are received by one thread a task, so that the round trip decides, as it does where a task has a core to
itself; single lines by sixteen. The clock runs from the first answer with messages to the last one, and from the last
request at all to the last delete; between these a task waits whether more comes. All runs of one shape take turns, and
the ratios are of their medians. The memory is that of a Python process, which runs one task after the other.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench.common import machine, median, table
from bench.receiving import fill, peak_kib
from fakes.sqs import FakeSqs
from pyspark.sql import SparkSession
from support.spark import descendants, spark_session

from sqstee.spark import receive

TASKS = (1, 2, 4)
SHAPES = (("full bodies, parquet", 900, "parquet", 1), ("full bodies, ndjson", 900, "ndjson", 1),
          ("one line a message, ndjson", 1, "ndjson", 16))  # fmt: skip


class Watch:
    """The most memory that any Python process of an executor has had."""

    def __init__(self) -> None:
        self.peak = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.1):
            for pid in descendants(os.getpid()):
                try:
                    command = Path(f"/proc/{pid}/cmdline").read_bytes()
                except OSError:
                    continue
                if b"pyspark" in command and b"java" not in command:
                    self.peak = max(self.peak, peak_kib(pid))


def rate(spark: SparkSession, server: FakeSqs, lines: int, each: int, layout: str, threads: int, tasks: int) -> float:
    """Lines per second."""
    server.clear_faults()
    fill(server, lines, each)
    server.faults(latency_ms=100)
    server.reset_counters()
    started = time.time()
    with tempfile.TemporaryDirectory() as folder:
        found = receive(spark, "q", folder, layout=layout, tasks=tasks, threads=threads, idle=1.0)
    assert found.records == lines
    requests = [one for one in server.requests() if one.at >= started]
    receives = [one for one in requests if one.operation == "ReceiveMessage"]
    answers = [one.at for one in receives if one.entries]
    last = max(one.at for one in requests if one.operation == "DeleteMessageBatch")
    writing = max(0.0, last - max(one.at for one in receives))
    return lines / (max(answers) - min(answers) + writing)


def main() -> None:
    """Measure."""
    given = [int(word) for word in sys.argv[1:]]
    rounds, lines, messages = [*given, *(3, 200_000, 6_000)[len(given) :]]
    rows = []
    with FakeSqs("q") as server, tempfile.TemporaryDirectory() as folder, Watch() as watch:
        os.environ.update(server.environ())
        with spark_session(Path(folder), "local[4]") as spark:
            for shape, each, layout, threads in SHAPES:
                found: dict[int, list[float]] = {tasks: [] for tasks in TASKS}
                watch.peak = 0
                for _ in range(rounds):
                    for tasks in TASKS:
                        number = lines if each > 1 else messages
                        found[tasks].append(rate(spark, server, number, each, layout, threads, tasks))
                medians = {tasks: median(found[tasks]) for tasks in TASKS}
                for tasks in TASKS:
                    ratio = medians[tasks] / medians[TASKS[0]]
                    rows.append((shape, threads, tasks, round(medians[tasks]), ratio, watch.peak / 1024))
    print(f"{machine()}\n")
    print(table(("", "threads a task", "tasks", "lines/s", "to one task", "MiB a task at most"), rows))


if __name__ == "__main__":
    os.nice(5)
    main()
