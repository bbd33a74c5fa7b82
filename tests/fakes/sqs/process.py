"""The server as a process, started by a shell or forked on request."""

from __future__ import annotations

import argparse
import gc
import json
import os
import select
import signal
from collections.abc import Sequence
from typing import NoReturn

from .control import ControlChannel
from .server import Server
from .signature import REGION
from .sqs_service import SqsService

PATIENCE = 5.0  # seconds from SIGTERM to SIGKILL


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A strict, fault-injecting SQS on 127.0.0.1.")
    parser.add_argument("--port", type=int, default=0, help="0: any free port")
    parser.add_argument("--queue", action="append", default=[], metavar="NAME[=ATTR:VALUE,…]")
    parser.add_argument("--latency-ms", type=float, default=0.0)
    parser.add_argument("--sink", action="store_true", help="answer sends without any check")
    parser.add_argument("--discard", action="store_true", help="check and count messages; keep run and seq only")
    parser.add_argument("--faults", type=json.loads, default={}, metavar="JSON", help="initial faults")
    return parser.parse_args(arguments)


def serve(arguments: Sequence[str]) -> NoReturn:
    """Serve until stdin reaches EOF or SIGTERM arrives."""
    options = _parse(arguments)
    faults = {"latency_ms": options.latency_ms, **options.faults}
    service = SqsService(sink=options.sink, discard=options.discard, faults=faults)
    control = ControlChannel(service)
    Server(service, options.port, control.answer)
    for spec in options.queue:
        name, _, pairs = spec.partition("=")
        attributes = dict(pair.split(":", 1) for pair in pairs.split(",") if pair)
        if name.endswith(".fifo"):
            attributes["FifoQueue"] = "true"
        control.create_queue(name, REGION, attributes)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    print(json.dumps({"endpoint": service.endpoint, "pid": os.getpid()}), flush=True)
    while os.read(0, 4096):
        pass
    os._exit(0)


def serve_forks() -> NoReturn:
    """The fork server: start and stop servers as the lines on stdin request, until EOF; then all of them end.

    It has one thread, so it can fork safely. Each answer is a line on stdout; a server writes its own.
    """
    lifeline, held = os.pipe()  # servers end at EOF, when this process has ended
    gc.freeze()  # a collection in a server would copy the pages of all imported modules
    with open(0, "rb", closefd=False) as requests:
        for line in requests:
            request = json.loads(line)
            if "stop" in request:
                print(json.dumps({"status": _stop(request["stop"])}), flush=True)
            elif os.fork() == 0:
                os.close(held)
                os.dup2(lifeline, 0)
                _serve(request["start"])
    os._exit(0)


def _serve(arguments: list[str]) -> NoReturn:
    try:
        serve(arguments)
    except BaseException as error:
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}), flush=True)
    finally:
        os._exit(1)


def _stop(pid: int) -> int:
    """Both signals are harmless if the server has ended already: it is a zombie until this waits for it."""
    ended = os.pidfd_open(pid)
    try:
        os.kill(pid, signal.SIGTERM)
        if not select.select([ended], [], [], PATIENCE)[0]:
            os.kill(pid, signal.SIGKILL)
    finally:
        os.close(ended)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
