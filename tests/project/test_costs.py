"""What the hot paths cost, in counts that do not depend on the machine: calls, system calls, bytes, modules."""

from __future__ import annotations

import fcntl
import itertools
import os
import subprocess
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import PROGRAMS, Sqstee, children, python, running, wait_for

from sqstee.capture.loop import CaptureLoop, SpoolFeed
from sqstee.capture.output import Output
from sqstee.capture.stream import CHUNK_BYTES, Stream, watch
from sqstee.jsonbytes import encode_object
from sqstee.ship.request import Request, RequestLimits
from sqstee.ship.source import RunSource
from sqstee.spool.run_folder import create
from sqstee.transports.sqs import request_json

RUN = "01JDRUNAAAAAAAAAAAAAAAAAAA"
META = encode_object({"run": RUN, "host": "node17"})
LINE = b"x" * 119 + b"\n"


def spooled(root: Path, lines: int) -> str:
    """A run of so many lines of 120 bytes, spooled in chunks as they are captured; its folder."""
    root.mkdir()
    writer, *locks = create(str(root), RUN, META, 32768, 2**30, "auto")
    data = LINE * lines
    for at in range(0, len(data), CHUNK_BYTES):
        writer.write(0, data[at : at + CHUNK_BYTES])
    writer.close()
    for fd in locks:
        os.close(fd)
    return f"{root}/{RUN}"


def shipped(folder: str, compress: str = "none") -> Iterator[Request]:
    """All requests of a run, each acknowledged when the next one is asked for."""
    source = RunSource(folder, 256 * 1024, RequestLimits(), compress)
    while True:
        source.read()
        request = source.full_request()
        if request is None:
            source.close_open_body()
            request = source.partial_request()
        if not request.bodies:
            break
        source.plan(request.bodies)
        yield request
        source.acknowledge(request.bodies)
    source.close()


def calls(work: Callable[[], object]) -> int:
    """How many functions are called, those written in C included."""
    count = 0

    def profile(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(before)
    return count


def ship(folder: str) -> int:
    """Pack and serialise everything; how many bytes that were."""
    requests = ([pending.body for pending in request.bodies] for request in shipped(folder))
    return sum(len(part) for bodies in requests for part in request_json("http://h/q", bodies, fifo=False))


def test_calls_of_a_thousand_lines(tmp_path: Path) -> None:
    """No function is called for each line: packing and serialising is done in blocks."""
    few, many = (spooled(tmp_path / str(lines), lines) for lines in (10_000, 100_000))
    counts = [calls(lambda folder=folder: ship(folder)) for folder in (few, many)]  # type: ignore[misc]
    assert counts[1] <= 10.5 * counts[0]
    assert counts[1] / 100 <= 450, "calls of a thousand lines"


@pytest.mark.parametrize("compress", ["none", "auto"])
def test_memory_of_shipping_does_not_grow_with_the_lines(tmp_path: Path, compress: str) -> None:
    """Ten times the lines take the same memory, which a few requests bound."""
    peaks = []
    for lines in (30_000, 300_000):
        folder = spooled(tmp_path / str(lines), lines)
        tracemalloc.start()
        assert sum(1 for _ in shipped(folder, compress)) > 1
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] <= 1.5 * peaks[0]
    assert peaks[1] <= 6 * 1024 * 1024


def test_requests_of_a_million_lines(tmp_path: Path) -> None:
    """Requests are full: 1 MiB each, or ten bodies where they are compressed."""
    sizes = [request.size for request in shipped(spooled(tmp_path / "plain", 100_000))]
    assert len(sizes) <= -(-sum(sizes) // (1024 * 1024)) + 1
    bodies = [len(request.bodies) for request in shipped(spooled(tmp_path / "packed", 100_000), "auto")]
    assert set(bodies[:-1]) == {10}


def test_system_calls_of_a_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk is read once, written once to our output and once to the spool."""
    chunks, counts, opened = 8, Counter[str](), Counter[str]()

    def counted(name: str) -> Callable[..., object]:
        real = getattr(os, name)

        def call(*arguments: object, **named: object) -> object:
            counts[name] += 1
            opened[os.path.basename(str(arguments[0]))] += name == "open"
            return real(*arguments, **named)

        return call

    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, chunks * CHUNK_BYTES)
    data = (LINE * chunks * CHUNK_BYTES)[: chunks * CHUNK_BYTES]
    assert os.write(writing, data) == len(data)
    os.close(writing)
    file = os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT, 0o600)
    writer, *locks = create(str(tmp_path), RUN, META, 32768, 2**30, "auto")
    streams = [Stream(0, file, reading, Output(file), None)]
    capture = CaptureLoop(streams, watch(streams))
    capture.feed = SpoolFeed(writer, None)
    names = ("read", "write", "pwritev", "pwrite", "open", "stat", "listdir", "fsync", "fdatasync")
    with monkeypatch.context() as patch:
        for name in names:
            patch.setattr(os, name, counted(name))
        capture.run()
    assert capture.feed.failure == ""
    assert writer.bytes == len(data)
    writer.close()
    for fd in (file, *locks):
        os.close(fd)
    assert (tmp_path / "out").read_bytes() == data
    assert counts["read"] == chunks + 1  # and the end
    assert counts["write"] == chunks
    segments = opened["next"]
    assert segments <= 3  # the first segments of a run are short
    assert counts["pwritev"] == chunks + 1 + segments  # the unfinished line's end, each segment's first frame
    assert opened["reserve"] == 1
    grants = segments + 1
    assert opened["usage"] <= 3 * grants
    assert sum(counts[name] for name in names[3:]) <= segments + 1 + 5 * grants, counts


def test_modules_when_the_command_starts(sqstee: Sqstee, tmp_path: Path) -> None:
    """What the front has loaded when it forks the command: a few more than a bare interpreter, with options too."""
    log = tmp_path / "imports"
    environ = {"PYTHONPATH": str(PROGRAMS / "imports"), "IMPORTS_LOG": str(log)}
    options = ("--job", "j", "--label", "a=b", "--host", "h", "--linger", "1s", "--compress", "auto")
    assert sqstee.run(*options, "--", "true", environ=environ).returncode == 0
    pid = log.read_text().split(" ", 1)[0]
    ours = [line.split(" ", 1)[1] for line in log.read_text().splitlines() if line.split(" ", 1)[0] == pid]
    before = list(itertools.takewhile(lambda name: name != "-fork", ours))
    assert len(before) < len(ours), "no fork"
    assert len({name for name in before if name.startswith("sqstee")}) <= 18
    assert len(set(before)) <= 65


LOCAL = ("--to", "local")


def peak_kib(pid: int) -> int:
    """The most memory that a process has had, in KiB."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1])
    except OSError:
        pass
    return 0


def test_memory_of_many_empty_lines(sqstee: Sqstee) -> None:
    """Megabytes of empty lines with a long label took 320 MiB: 128 KiB become 140 MB of JSON."""
    code = "import os\nfor _ in range(2): os.write(1, b'\\n' * 65536)\nos.read(0, 1)"
    command = sqstee.words(*LOCAL, "--label", "x=" + "y" * 1000, "--flush-timeout", "200s", "--", *python(code))
    peak = 0
    with running(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=sqstee.environ) as process:
        assert process.stdin
        wait_for(lambda: any(map(peak_kib, children(process.pid))), "children")
        process.stdin.close()
        while process.poll() is None:
            for pid in children(process.pid):
                peak = max(peak, peak_kib(pid))
            time.sleep(0.02)  # the shipper is niced: whoever polls without a pause starves it
        assert process.wait() == 0
    assert 0 < peak < 75 * 1024
    assert len(sqstee.local().records) == 2 * 65536
