"""The server as a process; see the package's docstring."""

from __future__ import annotations

import argparse
import json
import os
import signal

from .control import ControlChannel
from .server import Server
from .signature import REGION
from .sqs_service import SqsService


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A strict, fault-injecting SQS on 127.0.0.1.")
    parser.add_argument("--port", type=int, default=0, help="0: any free port")
    parser.add_argument("--queue", action="append", default=[], metavar="NAME[=ATTR:VALUE,…]")
    parser.add_argument("--latency-ms", type=float, default=0.0)
    parser.add_argument("--sink", action="store_true", help="answer sends without any check")
    parser.add_argument("--discard", action="store_true", help="check and count messages; keep run and seq only")
    parser.add_argument("--faults", type=json.loads, default={}, metavar="JSON", help="initial faults")
    return parser.parse_args()


def main() -> None:
    """Serve until stdin reaches EOF or SIGTERM arrives."""
    options = _arguments()
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


if __name__ == "__main__":
    main()
