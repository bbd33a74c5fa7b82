"""Lines per second and memory of `sqstee drain`, from the strict SQS at a round trip of 20 (else MS) milliseconds.

    python tests/bench/receiving.py                         all that README speaks of
    python tests/bench/receiving.py packed [LINES]          a backlog of full bodies
    python tests/bench/receiving.py single [MESSAGES [PROCESSES [MS]]]  one line a message, beside bare boto3 threads

The lines are 120 bytes long with their newline. The clock of `packed` runs from the first request to the last, and
then to the end of the process, with the files put together; starting Python and waiting whether more comes is told
apart.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from fakes.sqs import FakeSqs
from support import SCRIPT, children, clean_environment

from sqstee.record import Encoder

RUN = "01JDRUNAAAAAAAAAAAAAAAAAAA"
IDLE = 2.0
LINE = b"x" * 111 + b"\n"


def fill(server: FakeSqs, lines: int, each: int) -> bytes:
    """Store a run's lines, `each` to a message; what the command wrote."""
    encoder = Encoder(RUN, "node-0123456789")
    wrote: list[bytes] = []
    bodies, size = [], 0
    for first in range(0, lines, each):
        block = b"".join(b"%08d" % seq + LINE for seq in range(first, min(lines, first + each)))
        wrote.append(block)
        bodies.append(encoder.lines(block, "stdout", 1_700_000_000_000_000_000, first).decode())
        size += len(bodies[-1])
        if size > 4_000_000 or len(bodies) == 1000:
            server.put("q", *bodies)
            bodies, size = [], 0
    if bodies:
        server.put("q", *bodies)
    return b"".join(wrote)


def peak_kib(pid: int) -> int:
    """The most that a process has had in memory so far."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return 0


def drain(server: FakeSqs, folder: str, *words: str) -> tuple[float, float, float, int]:
    """Drain the queue: seconds from the first request to the last answer with messages, to the last delete, and
    from the first to the process's end without the idle time; the peak of each process, in KiB."""
    command = [SCRIPT, "drain", "q", "-O", folder, "--idle-timeout", f"{IDLE}s", *words]
    environ = clean_environment() | server.environ()
    peaks: dict[int, int] = {}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environ) as process:
        while process.poll() is None:
            for pid in (process.pid, *children(process.pid)):
                peaks[pid] = max(peaks.get(pid, 0), peak_kib(pid))
            time.sleep(0.02)
    ended = time.time()
    requests = server.requests()
    received = [one.at for one in requests if one.operation == "ReceiveMessage" and one.entries]
    deleted = [one.at for one in requests if one.operation == "DeleteMessageBatch"]
    empties = [one.at for one in requests if one.operation == "ReceiveMessage"]
    assembling = ended - max(*empties, *deleted) - 1.0  # the last long poll of a second
    return received[-1] - received[0], deleted[-1] - received[0], max(0.0, assembling), max(peaks.values())


def packed(lines: int) -> None:
    """A backlog of full bodies."""
    with tempfile.TemporaryDirectory() as folder, FakeSqs("q", latency_ms=20) as server:
        wrote = fill(server, lines, 900)
        receiving, deleting, assembling, peak = drain(server, folder)
        got = (Path(folder) / "node-0123456789" / f"{RUN}.stdout").read_bytes()
        total = deleting + assembling
        print(
            f"{lines:,} lines: received in {receiving:.2f} s, deleted after {deleting:.2f} s, put together in "
            f"{assembling:.2f} s: {lines / total:,.0f} lines/s; at most {peak / 1024:.1f} MiB; "
            f"{'equal' if got == wrote else 'NOT EQUAL'}"
        )


def bare(server: FakeSqs, messages: int, threads: int) -> float:
    """What boto3 alone does: threads that receive and delete; seconds."""
    code = f"""
import boto3, threading, time
from botocore.config import Config
client = boto3.client("sqs", config=Config(max_pool_connections={threads}))
url = client.get_queue_url(QueueName="q")["QueueUrl"]
left, lock = {messages}, threading.Lock()
def work():
    global left
    while left > 0:
        got = client.receive_message(
            QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=1, MessageAttributeNames=["All"]
        ).get("Messages", [])
        if got:
            client.delete_message_batch(QueueUrl=url, Entries=[
                {{"Id": str(n), "ReceiptHandle": one["ReceiptHandle"]}} for n, one in enumerate(got)])
            with lock:
                left -= len(got)
started = time.perf_counter()
pool = [threading.Thread(target=work) for _ in range({threads})]
[one.start() for one in pool]
while left > 0:
    time.sleep(0.005)
print(time.perf_counter() - started)
import os
os._exit(0)
"""
    environ = clean_environment() | server.environ()
    found = subprocess.run([sys.executable, "-c", f"{code}"], env=environ, capture_output=True, check=False, text=True)
    return float(found.stdout)


def single(messages: int, processes: int, milliseconds: int) -> None:
    """One line a message."""
    for _ in range(2):
        with FakeSqs("q", latency_ms=milliseconds) as server:
            fill(server, messages, 1)
            seconds = bare(server, messages, 16)
        with tempfile.TemporaryDirectory() as folder, FakeSqs("q", latency_ms=milliseconds) as server:
            fill(server, messages, 1)
            _, deleting, assembling, peak = drain(server, folder, "--processes", str(processes))
        print(
            f"{messages:,} messages, processes: {processes}, round trip {milliseconds} ms: "
            f"boto3 with 16 threads {messages / seconds:,.0f}/s, drain "
            f"{messages / deleting:,.0f}/s ({seconds / deleting:.2f} of it), files in {assembling:.2f} s, "
            f"at most {peak / 1024:.1f} MiB a process"
        )


def main() -> None:
    """One of the two, or both."""
    words: list[Any] = sys.argv[1:]
    numbers = [int(word) for word in words[1:]]
    if not words:
        packed(1_000_000)
        single(15_000, 1, 20)
        for processes in (1, 2, 4):
            single(8_000, processes, 100)
    elif words[0] == "packed":
        packed(*(numbers or [1_000_000]))
    else:
        single(*(numbers + [5000, 1, 20][len(numbers) :]))


if __name__ == "__main__":
    os.nice(5)
    main()
