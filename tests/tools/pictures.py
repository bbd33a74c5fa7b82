"""Draws README's pictures: the real commands on a real terminal, against the strict server, as SVG by rich.

`make pictures` draws all into tests/pictures; names as arguments (tail, drain, stat, top) select some. Durations, rates
and run names differ from one drawing to the next. The pictures show nothing of this machine: hosts are set, the spool's
path is replaced, and no font is loaded from the network.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from fakes.sqs import FakeSqs, StoredMessage
from support import SCRIPT, Sqstee
from support.terminal import Terminal

FOLDER = Path(__file__).parent.parent / "pictures"
COLUMNS = 100
FONTS = "Fira Code, ui-monospace, SFMono-Regular, Menlo, Consolas, DejaVu Sans Mono, Liberation Mono, monospace"
QUEUE = "jobs"
_HOME = b"\x1b[H"  # begins each frame of a live view
_JOB = """
import os, sys, time
time.sleep(1)
for line in sys.stdin:
    os.write(1 + line.startswith('!'), line.lstrip('!').encode())
    time.sleep(float(sys.argv[1]))
time.sleep(float(sys.argv[3]))
sys.exit(int(sys.argv[2]))
"""

# the output of the jobs; a line with an exclamation mark goes to stderr
ETL = """loading 12 tables
customers: 120,000 rows
orders: 4,310,092 rows
!orders: 17 rows without a customer, put aside
invoices: 3,989,120 rows
payments: 3,702,544 rows
written to the warehouse
"""
TRAIN = """epoch 1/3 loss 0.9134
epoch 2/3 loss 0.5170
!learning rate lowered to 0.0005
epoch 3/3 loss 0.4982
checkpoint saved
"""
EXPORT = """exporting 3 shards
shard 1: 88,210 records
!shard 2: connection reset by peer, retrying
!shard 2: connection reset by peer, giving up
"""
JOBS = (("node17", "nightly-etl", ETL, 0), ("node2", "train", TRAIN, 0), ("node31", "export", EXPORT, 3))


class Stage:
    """A server with a queue `jobs`, its dead-letter queue, and the messages of three jobs to fill it with."""

    def __init__(self, folder: Path, server: FakeSqs) -> None:
        self.server = server
        self.sqstee = Sqstee(folder)
        self.environ = self.sqstee.environ | server.environ() | {"TERM": "xterm-256color", "COLORTERM": ""}
        for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES"):
            self.environ.pop(name, None)
        account = server.url(QUEUE).split("/")[-2]
        dead = f"arn:aws:sqs:us-east-1:{account}:{QUEUE}-dead"
        server.create_queue(f"{QUEUE}-dead")
        server.create_queue(QUEUE, RedrivePolicy={"deadLetterTargetArn": dead, "maxReceiveCount": 5})
        server.create_queue("shipped")
        for process in [self.job(*job) for job in JOBS]:
            process.wait(60)
        self.shipped = server.sent("shipped")

    def job(
        self, host: str, job: str, script: str, status: int, pause: float = 0.5, last: float = 0.6, to: str = "shipped"
    ) -> subprocess.Popen[bytes]:
        """Wrap a job that prints a script line every `pause` seconds and ends `last` seconds after the last one."""
        command = [sys.executable, "-c", _JOB, str(pause), str(status), str(last)]
        options = f"--to {to} --host {host} --job {job} --linger 0.3s --message-bytes 1K"
        words = [SCRIPT, *options.split(), "--", *command]
        null = subprocess.DEVNULL
        process = subprocess.Popen(words, env=self.environ, stdin=subprocess.PIPE, stdout=null, stderr=null)
        assert process.stdin
        process.stdin.write(script.encode())
        process.stdin.close()
        return process

    def fill(self, without: str) -> None:
        """Put the shipped messages into the queue, except the last one of a host without events: it is lost."""
        lines = [one for one in self.shipped if one.attributes["host"] == without and '"event"' not in one.body]
        for message in self.shipped:
            if message is not lines[-1]:
                self.put(message)

    def put(self, message: StoredMessage, times: int = 1) -> None:
        """Store a message again."""
        attributes = {name: {"DataType": "String", "StringValue": value} for name, value in message.attributes.items()}
        self.server.put(QUEUE, *[message.body] * times, MessageAttributes=attributes)

    def on_terminal(self, *words: str, rows: int, until: Callable[[Terminal], None] | None = None) -> bytes:
        """The output of a command on a terminal; after `until`, if given, ^C ends the command."""
        with Terminal([SCRIPT, *words], self.environ, (rows, COLUMNS)) as terminal:
            if until:
                until(terminal)
                terminal.type(b"\x03")
            terminal.wait()
            return terminal.output


def tail(stage: Stage) -> bytes:
    """Three jobs; one of them has lost a line."""
    stage.fill(without="node2")

    def see(terminal: Terminal) -> None:
        terminal.expect(b"train: exited")
        terminal.expect(b"\n")

    output = stage.on_terminal("tail", QUEUE, "--consume", "-H", r"[\d,]+ rows", rows=30, until=see)
    return output.partition(b"^C")[0]


def drain(stage: Stage) -> bytes:
    """The verdicts."""
    stage.fill(without="node2")
    return stage.on_terminal("drain", QUEUE, "-O", f"{stage.sqstee.folder}/logs", rows=30)


def stat(stage: Stage) -> bytes:
    """A queue during a drain, with a few dead letters."""
    for message in stage.shipped:
        stage.put(message, 5000 // len(stage.shipped))
    stage.server.put(f"{QUEUE}-dead", "one", "two", "three")
    stage.server.faults(latency_ms=120.0)
    words = [SCRIPT, "drain", QUEUE, "-O", f"{stage.sqstee.folder}/logs", "--concurrency", "2"]
    null = subprocess.DEVNULL
    with _going_on(stage), subprocess.Popen(words, env=stage.environ, stdout=null, stderr=null) as draining:

        def see(terminal: Terminal) -> None:
            for _ in range(50):
                terminal.expect(_HOME)
            draining.terminate()

        return _last_frame(stage.on_terminal("stat", QUEUE, "--watch", "--interval", "0.4s", rows=16, until=see))


def top(stage: Stage) -> bytes:
    """Runs in every state."""
    stage.fill(without="node2")
    with _going_on(stage):

        def see(terminal: Terminal) -> None:
            terminal.expect(b"silent 4 s")

        words = ("top", QUEUE, "--consume", "--silent-after", "3s")
        return _last_frame(stage.on_terminal(*words, rows=9, until=see))


@contextmanager
def _going_on(stage: Stage) -> Iterator[None]:
    """Two running jobs: one prints line after line, one is silent."""
    steps = "".join(f"step {n:,} of 1,000\n" for n in range(1, 1001))
    jobs = [
        stage.job("node8", "simulate", steps, 0, 0.05, to=QUEUE),
        stage.job("node5", "compact", "waiting for the lock\n", 0, 0.05, 60.0, to=QUEUE),
    ]
    try:
        yield
    finally:
        for job in jobs:
            job.terminate()
            job.wait(60)


def _last_frame(output: bytes) -> bytes:
    """The last screen of a live view before ^C."""
    frames = [frame for frame in output.partition(b"^C")[0].split(_HOME) if frame.strip()]
    return frames[-1]


def svg(name: str, title: str, output: bytes, hidden: str) -> str:
    """A picture of a terminal with this output; the path `hidden` is shown as the default one."""
    from rich.console import Console
    from rich.text import Text

    lines = output.decode().replace(hidden, "/var/spool/sqstee/1000").replace("\r\n", "\n")
    lines = re.sub(r"[^\n]*\r\x1b\[K", "", lines)  # progress lines that were erased
    lines = re.sub(r"\x1b\[[0-9;?]*[A-LN-Za-ln-z]", "", lines)  # all but colours
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="256")
    console.print(Text.from_ansi(lines.rstrip()))
    picture = console.export_svg(title=title, unique_id=name)
    picture = picture.replace("Fira Code, monospace", FONTS)
    # in a font of another width, letters are scaled to their cells: pushed together they could not be read
    picture = picture.replace(" textLength=", ' lengthAdjust="spacingAndGlyphs" textLength=')
    return re.sub(r"\s*@font-face \{.*?\}", "", picture, flags=re.DOTALL)


PICTURES: dict[str, tuple[str, Callable[[Stage], bytes]]] = {
    "tail": (r"sqstee tail jobs --consume -H '[\d,]+ rows'", tail),
    "drain": ("sqstee drain jobs -O logs", drain),
    "stat": ("sqstee stat jobs --watch --interval 0.4s", stat),
    "top": ("sqstee top jobs --consume --silent-after 3s", top),
}


def main(names: list[str]) -> None:
    """Draw these pictures, or all."""
    for name in names or PICTURES:
        title, scene = PICTURES[name]
        with tempfile.TemporaryDirectory() as folder, FakeSqs() as server:
            stage = Stage(Path(folder), server)
            picture = svg(name, title, scene(stage), str(stage.sqstee.spool))
        FOLDER.mkdir(exist_ok=True)
        (FOLDER / f"{name}.svg").write_text(picture)
        print(FOLDER / f"{name}.svg")


if __name__ == "__main__":
    main(sys.argv[1:])
