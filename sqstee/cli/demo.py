"""`sqstee demo`: the whole path in one terminal, against a stand-in for SQS in this process."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import IO, Any

import typer

from sqstee.errors import EXIT_FAILURE, EXIT_NOT_FOUND, SqsteeError

STREAMS = ("stdout", "stderr")
_QUEUE = "sqstee-demo"
_RECEIVE_SECONDS = 60.0  # moto takes 65 ms per call, and more as a queue fills
_REFRESH_SECONDS = 0.5

# Prints 100,000 lines over both streams in bursts, like a job on a cluster.
_JOB = """
import sys, time
for burst in range(20):
    for task in range(4800):
        print(f"INFO task {burst * 4800 + task:06d} of stage {burst} finished in {task % 97} ms, 128 rows, 0 errors")
        if task % 24 == 0:
            print(f"WARN task {burst * 4800 + task:06d} was slow: caf\\u00e9 \\u2603 \\t(retried)", file=sys.stderr)
    sys.stdout.flush()
    time.sleep(0.1)
"""


class Tally:
    """Counts of lines and bytes, and SHA-256, of both streams at one end of the path."""

    def __init__(self) -> None:
        self.lines = dict.fromkeys(STREAMS, 0)
        self.bytes = dict.fromkeys(STREAMS, 0)
        self._digests = {stream: hashlib.sha256() for stream in STREAMS}

    def add(self, stream: str, data: bytes) -> None:
        """Count and digest bytes of one stream; a last line without a newline is not counted."""
        self.lines[stream] += data.count(b"\n")
        self.bytes[stream] += len(data)
        self._digests[stream].update(data)

    def digest(self, stream: str) -> str:
        """The SHA-256 of the stream so far, in hexadecimal."""
        return self._digests[stream].hexdigest()


class Meter:
    """WSGI middleware around moto: counts SendMessageBatch requests, and the requests that SQS would bill."""

    def __init__(self, application: Callable[..., Iterable[bytes]]) -> None:
        self._application = application
        self._lock = threading.Lock()
        self.requests = 0
        self.billed = 0

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Count the request and pass it on to moto."""
        if environ.get("HTTP_X_AMZ_TARGET") == "AmazonSQS.SendMessageBatch":
            from io import BytesIO

            body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
            environ["wsgi.input"] = BytesIO(body)
            size = sum(_payload(entry) for entry in json.loads(body)["Entries"])
            with self._lock:
                self.requests += 1
                self.billed += _units(size)
        return self._application(environ, start_response)


def _payload(entry: dict[str, Any]) -> int:
    """The bytes of a message as SQS counts them: its body, and name, type and value of each attribute."""
    attributes = entry.get("MessageAttributes", {}).items()
    texts = [text for name, value in attributes for text in (name, value["DataType"], value["StringValue"])]
    return sum(len(text.encode()) for text in (entry["MessageBody"], *texts))


def _units(size: int) -> int:
    """Requests that SQS bills for one call: one per 64 KiB of payload, rounded up."""
    return max(1, -(-size // 65536))


class Receiving(threading.Thread):
    """Empties the queue and reassembles both streams."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self._url = url
        self.tally = Tally()
        self.record_bytes = 0
        self.last_line = ""
        self.duplicates = 0
        self._exited = False
        self.ended = threading.Event()
        self.failure: Exception | None = None

    def run(self) -> None:
        """Receive until the run's exit event has come out of the reordering."""
        try:
            self._receive()
        except Exception as error:
            self.failure = error
        finally:
            self.ended.set()

    def _receive(self) -> None:
        from sqstee.destination import parse
        from sqstee.read.decode import Item, blocks
        from sqstee.read.order import Emit, Order
        from sqstee.transports.factory import open_receiver

        receiver = open_receiver(parse(self._url), "")
        order: Order[Item] = Order(from_start=True, window=_RECEIVE_SECONDS)
        while not self._exited:
            messages = receiver.receive(10, 1.0)
            for block in (block for message in messages for block in blocks(message)):
                for emission in order.block(block[0].run, block[0].seq, block, time.monotonic()):
                    assert isinstance(emission, Emit)
                    self._add(emission.items)
                self.duplicates = order.counters(block[0].run).duplicates
            self.record_bytes += sum(len(message.data) for message in messages)
            receiver.delete(messages)

    def _add(self, items: Iterable[Any]) -> None:
        from sqstee.wire import Event

        for item in items:
            if isinstance(item, Event):
                self._exited = item.event == "exit"
                continue
            self.tally.add(item.stream, item.data)
            self.last_line = f"{item.host} {item.stream} {item.message}"


def demo(
    command: list[str] = typer.Argument(
        None, metavar="[-- COMMAND [ARG…]]", help="Your own command (default: a built-in job)."
    ),
) -> int:
    """Show the whole path in one terminal, against a stand-in for SQS in this process."""
    import shutil
    import tempfile
    from urllib.request import getproxies_environment

    try:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    except ImportError:
        from sqstee.extras import install_command

        hint = install_command("demo")
        raise SqsteeError("the demo needs moto, a stand-in for Amazon SQS", hint, EXIT_FAILURE) from None
    if command and not shutil.which(command[0]):  # without a command no line would come back
        raise SqsteeError(f"{command[0]}: command not found", "check its name and PATH", EXIT_NOT_FOUND)
    meter = Meter(DomainDispatcherApplication(create_backend_app))
    with _server(meter) as endpoint, tempfile.TemporaryDirectory(prefix="sqstee-demo-") as spool:
        for name in [name for name in os.environ if name.startswith(("AWS_", "SQSTEE_"))]:
            del os.environ[name]  # settings for the real SQS: profiles, options, endpoints
        os.environ.update(_environment(endpoint, getproxies_environment().get("no", "")))
        client = _client()
        url = client.create_queue(QueueName=_QUEUE)["QueueUrl"]
        try:
            return _perform(command or [sys.executable, "-c", _JOB], url, spool, meter)
        finally:
            client.delete_queue(QueueUrl=url)


@contextmanager
def _server(application: Callable[..., Iterable[bytes]]) -> Iterator[str]:
    """Run moto's server in a thread on a free loopback port; yields its endpoint."""
    import logging

    from moto.moto_server.werkzeug_app import MotoRequestHandler
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=MotoRequestHandler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _environment(endpoint: str, without_proxy: str) -> dict[str, str]:
    """Variables that direct every AWS client of this process and its children to the stand-in.

    `without_proxy` is the present value of no_proxy.
    """
    direct = "127.0.0.1" if not without_proxy else f"{without_proxy},127.0.0.1"
    return {
        "AWS_ENDPOINT_URL_SQS": endpoint,
        "AWS_ACCESS_KEY_ID": "demo",
        "AWS_SECRET_ACCESS_KEY": "demo",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "SQSTEE_KEEP_SHIPPER": "0",  # nothing stays behind
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "no_proxy": without_proxy if without_proxy == "*" else direct,  # Python prefers the lower-case name
    }


def _client() -> Any:
    import boto3

    return boto3.client("sqs")


def _perform(command: list[str], url: str, spool: str, meter: Meter) -> int:
    from rich.console import Console

    console = Console()
    sent, receiving = Tally(), Receiving(url)
    console.print(f"queue   {url}\ncommand {_short(' '.join(command))}", soft_wrap=True)
    started = time.monotonic()
    receiving.start()
    wrapped = [sys.executable, "-m", "sqstee", "--to", url, "--spool", f"{spool}/spool", "--flush-timeout", "60s"]
    wrapped.append("--no-merge")  # overrides the configuration: both streams are compared
    process = subprocess.Popen(
        [*wrapped, "--", *command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout
    assert process.stderr
    last: dict[str, str] = {}
    pumps = [
        threading.Thread(target=_pump, args=(stream, pipe, sent, last), daemon=True)
        for stream, pipe in zip(STREAMS, (process.stdout, process.stderr), strict=True)
    ]
    for pump in pumps:
        pump.start()
    _show_live(console, process, receiving, sent, last)
    for pump in pumps:
        pump.join()
    status = process.wait()
    receiving.ended.wait(_RECEIVE_SECONDS)
    if receiving.failure:
        raise SqsteeError(f"the queue could not be read: {receiving.failure}", "", EXIT_FAILURE)
    console.print(
        f"status  {status}, {time.monotonic() - started:.1f} s from the first line to the last one received\n"
    )
    return _report(console, sent, receiving, meter)


def _pump(stream: str, pipe: IO[bytes], tally: Tally, last: dict[str, str]) -> None:
    while data := os.read(pipe.fileno(), 65536):
        tally.add(stream, data)
        last[stream] = data.rstrip(b"\n").rpartition(b"\n")[2].decode("utf-8", "replace")
    pipe.close()


def _show_live(
    console: Any, process: subprocess.Popen[bytes], receiving: Receiving, sent: Tally, last: dict[str, str]
) -> None:
    """Show the lines that pass through and those that come back, until both have ended."""
    from contextlib import nullcontext

    from rich.live import Live
    from rich.text import Text

    def picture() -> Text:
        rows = [f"through {sum(sent.lines.values()):>8,} lines  "]
        rows.append(f"back    {sum(receiving.tally.lines.values()):>8,} lines  ")
        left = max(1, console.width - len(rows[0]))
        lines = zip(rows, (last.get("stdout", ""), receiving.last_line), strict=True)
        return Text("\n".join(row + _short(line, left) for row, line in lines))

    deadline = None
    with Live(picture(), console=console, auto_refresh=False) if console.is_terminal else nullcontext() as live:
        while not receiving.ended.wait(_REFRESH_SECONDS):
            if live:
                live.update(picture(), refresh=True)
            if process.poll() is not None:
                deadline = deadline or time.monotonic() + _RECEIVE_SECONDS
                if time.monotonic() > deadline:
                    break
        if live:
            live.update(picture(), refresh=True)
    if not console.is_terminal:
        console.print(picture(), soft_wrap=True)


def _short(text: str, width: int = 60) -> str:
    text = "".join(char if char.isprintable() else "·" for char in text)
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _report(console: Any, sent: Tally, receiving: Receiving, meter: Meter) -> int:
    """Print the counts and digests; the exit status is 0 if both ends agree."""
    from rich.table import Table

    got = receiving.tally
    lines_in, lines_out = sum(sent.lines.values()), sum(got.lines.values())
    table = Table(show_header=True)
    for column in ("", *STREAMS):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    table.add_row("lines in", *(f"{sent.lines[stream]:,}" for stream in STREAMS))
    table.add_row("lines out", *(f"{got.lines[stream]:,}" for stream in STREAMS))
    table.add_row("bytes in", *(f"{sent.bytes[stream]:,}" for stream in STREAMS))
    table.add_row("bytes out", *(f"{got.bytes[stream]:,}" for stream in STREAMS))
    table.add_row("SHA-256 in", *(sent.digest(stream)[:16] for stream in STREAMS))
    table.add_row("SHA-256 out", *(got.digest(stream)[:16] for stream in STREAMS))
    console.print(table)
    console.print(f"lost {lines_in - lines_out:,}   duplicated {receiving.duplicates:,}")
    console.print(_costs(lines_in, meter, receiving.record_bytes))
    same = all(sent.digest(stream) == got.digest(stream) for stream in STREAMS)
    console.print("both ends agree, byte for byte" if same else "the two ends DIFFER")
    return 0 if same else EXIT_FAILURE


def _costs(lines: int, meter: Meter, record_bytes: int) -> Any:
    """A table of requests and billed requests, next to the same lines sent one by one and ten per batch."""
    from rich.table import Table

    record = record_bytes // max(1, lines)
    tens = -(-lines // 10)
    table = Table(show_header=True)
    for column in ("", "requests", "billed", "per million lines"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    rows = (
        ("sqstee", meter.requests, meter.billed),
        ("ten lines per batch", tens, tens * _units(10 * record)),
        ("one line per message", lines, lines * _units(record)),
    )
    for name, requests, billed in rows:
        dollars = billed / max(1, lines) * 0.40  # $0.40 per million requests
        table.add_row(name, f"{requests:,}", f"{billed:,}", f"${dollars:.4f}")
    return table
