"""Lines per second, requests billed and memory: sqstee beside senders of one and of ten lines a request.

    python tests/bench/shipping.py [LINES [REQUESTS]]

The senders get lines of 120 bytes from a program; the queue answers after a round trip, and is once the strict server,
which checks everything, and once a sink, which checks nothing. All in one run, since machines differ. The plain senders
make REQUESTS (300) only: their rate is that of the round trip. The lines are a number and one letter, but for those of
the access log, which compresses as logs do; compression is gzip at level 1, by ISA-L where that is installed (`make
bench` has it).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))

from bench.common import Row, machine, proportional_kib, table
from fakes.sqs import FakeSqs
from support import SCRIPT, children, clean_environment

PRODUCER = """
import sys
length = int(sys.argv[2])
rest = "x" * (length - 8) + "\\n"
for first in range(0, int(sys.argv[1]), 100):
    sys.stdout.write("".join("%07d" % (first + n) + rest for n in range(100)))
"""

# Lines as servers log them, in the same lengths: addresses, times, paths, statuses and sizes, none like the one before.
ACCESS_LOG = """
import random, sys
length, words, chance = int(sys.argv[2]), "user order item cart search login static api".split(), random.Random(1)
def line(n):
    address = ".".join(str(chance.randrange(256)) for _ in range(4))
    path = "/".join(chance.choice(words) + str(chance.randrange(9999)) for _ in range(4))
    status, size = chance.choice((200, 200, 200, 304, 404, 500)), chance.randrange(99999)
    clock = f"{n % 24:02}:{n % 60:02}:{n % 59:02}"
    text = f'{address} - - [{clock}] "GET /{path}" {status} {size} {chance.random():.6f}'
    return text[: length - 1].ljust(length - 1) + "\\n"
lines = [line(n) for n in range(10_000)]
for first in range(0, int(sys.argv[1]), 100):
    sys.stdout.write("".join(lines[(first + n) % 10_000] for n in range(100)))
"""

# What people write first: boto3, one connection, one or ten lines a request.
SIMPLE = """
import itertools, socket, sys
import boto3
many, host = int(sys.argv[1]), socket.gethostname()
client = boto3.client("sqs")
url = client.get_queue_url(QueueName="q")["QueueUrl"]
lines = ({"host": host, "line": line} for line in sys.stdin)
while batch := list(itertools.islice(lines, many)):
    if many == 1:
        client.send_message(QueueUrl=url, MessageBody=str(batch[0]))
    else:
        client.send_message_batch(
            QueueUrl=url, Entries=[{"Id": str(n), "MessageBody": str(one)} for n, one in enumerate(batch)]
        )
"""
HEAD = ("sender", "queue", "round trip ms", "line bytes", "lines", "lines/s", "requests", "billed per million", "MiB")


def sqstee(lines: int, length: int, round_trip: int, sink: bool, *options: str, producer: str = PRODUCER) -> Row:
    """One run of the real command."""
    with tempfile.TemporaryDirectory() as folder, server(round_trip, sink) as queue:
        words = [SCRIPT, "--spool", f"{folder}/spool", "--host", "node-0123456789", "--flush-timeout", "600s"]
        command = [*words, "--to", "q", *options, "--", sys.executable, "-c", producer, str(lines), str(length)]
        started, peak = time.perf_counter(), 0
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=clean_environment() | queue.environ()) as process:
            while process.poll() is None:
                peak = max(peak, proportional_kib([process.pid, *children(process.pid)]))
                time.sleep(0.02)
        name = " ".join(("sqstee", *options)) + (", access log" if producer == ACCESS_LOG else "")
        return row(name, queue, sink, round_trip, length, lines, time.perf_counter() - started, peak)


def simple(lines: int, length: int, round_trip: int, many: int) -> Row:
    """The sender of one or ten lines a request."""
    with server(round_trip, True) as queue:
        environ = clean_environment() | queue.environ()
        started, peak = time.perf_counter(), 0
        producer = subprocess.Popen(
            [sys.executable, "-c", PRODUCER, str(lines), str(length)], stdout=subprocess.PIPE, env=environ
        )
        with (
            producer,
            subprocess.Popen([sys.executable, "-c", SIMPLE, str(many)], stdin=producer.stdout, env=environ) as process,
        ):
            while process.poll() is None:
                peak = max(peak, proportional_kib([process.pid], b"boto3"))
                time.sleep(0.02)
        name = "boto3, one line a request" if many == 1 else f"boto3, {many} lines a request"
        return row(name, queue, True, round_trip, length, lines, time.perf_counter() - started, peak)


def server(round_trip: int, sink: bool) -> FakeSqs:
    """A queue `q`."""
    return FakeSqs("q", latency_ms=round_trip, sink=sink, discard=True)


def row(
    name: str, queue: FakeSqs, sink: bool, round_trip: int, length: int, lines: int, seconds: float, kib: int
) -> Row:
    """One row of the table."""
    found = queue.counters()
    assert found.rejected == 0, found.rejections[:3]
    requests = found.calls.get("SendMessageBatch", 0) + found.calls.get("SendMessage", 0)
    billed = found.billed * 1_000_000 / lines
    kind = "sink" if sink else "strict"
    return (name, kind, round_trip, length, lines, lines / seconds, requests, billed, kib / 1024)


def rows(lines: int, requests: int) -> list[Row]:
    """Everything that the table shows."""
    found = [simple(requests, 120, 20, 1), simple(10 * requests, 120, 20, 10)]
    for sink in (False, True):
        for options in ((), ("--compress", "auto")):
            found.append(sqstee(lines, 120, 20, sink, *options))
    found.append(sqstee(lines, 120, 20, True, "--compress", "auto", producer=ACCESS_LOG))
    for round_trip in (1, 100):
        found.append(sqstee(lines, 120, round_trip, True))
    for length in (20, 1000):
        found.append(sqstee(lines * 120 // max(120, length), length, 20, True))
    return found


def main() -> None:
    """Print the table."""
    numbers = [int(word) for word in sys.argv[1:]]
    lines, requests = numbers + [1_000_000, 300][len(numbers) :]
    print(machine())
    print(table(HEAD, rows(lines, requests)))


if __name__ == "__main__":
    main()
