"""The client side: start the server as a process, and control it."""

from __future__ import annotations

import http.client
import json
import os
import threading
from typing import Any, ClassVar, Self, Unpack

from .faults import Faults
from .fork_server import ForkServer
from .limits import ACCOUNT
from .reports import Counters, Delivery, Request, StoredMessage
from .signature import ACCESS_KEY, REGION, SECRET_KEY


class FakeSqs:
    """Starts the server as a process of its own, and controls it.

    `queues` are created at the start: NAME (NAME.fifo for a FIFO queue) or NAME=ATTR:VALUE,ATTR:VALUE. `faults` are in
    force from the start, and `clear_faults` returns to them. Thread-safe. A control call times out after `TIMEOUT` s.
    """

    TIMEOUT: ClassVar[float] = 30.0

    def __init__(
        self,
        *queues: str,
        latency_ms: float = 0.0,
        sink: bool = False,
        discard: bool = False,
        port: int = 0,
        faults: Faults | None = None,
    ) -> None:
        arguments = [f"--port={port}", f"--latency-ms={latency_ms}", f"--faults={json.dumps(faults or {})}"]
        arguments += ["--sink"] * sink + ["--discard"] * discard
        for queue in queues:
            arguments += ["--queue", queue]
        self._lock = threading.Lock()
        self._fork_server = ForkServer.shared()
        self.status: int | None = None  # the server's exit status
        self.endpoint, self.pid = self._fork_server.start(arguments)
        address = self.endpoint.removeprefix("http://")
        self._control = http.client.HTTPConnection(address, timeout=self.TIMEOUT)
        self._call("counters")  # connects now: `refuse` does not reset this connection

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the server: SIGTERM, and SIGKILL after 5 s; a second call does nothing."""
        self._control.close()
        if self.status is None:
            self.status = self._fork_server.stop(self.pid)

    def environ(self) -> dict[str, str]:
        """Environment variables that lead boto3 to this server, and away from the machine's own configuration."""
        return {
            "AWS_ENDPOINT_URL_SQS": self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    def _call(self, verb: str, **arguments: Any) -> Any:
        """One control call on the open connection; http.client ignores proxies."""
        with self._lock:
            self._control.request("POST", f"/_control/{verb}", json.dumps(arguments))
            response = self._control.getresponse()
            answer = json.loads(response.read())
        if response.status != 200:
            raise ValueError(answer["error"])
        return answer

    def url(self, queue: str) -> str:
        """A queue's URL, whether or not it exists."""
        return f"{self.endpoint}/{ACCOUNT}/{queue}"

    def create_queue(self, name: str, region: str = REGION, **attributes: object) -> str:
        """Create a queue with SQS attributes such as VisibilityTimeout=5; its URL."""
        if name.endswith(".fifo"):
            attributes.setdefault("FifoQueue", "true")
        texts = {key: json.dumps(v) if isinstance(v, dict) else str(v) for key, v in attributes.items()}
        return str(self._call("queue", name=name, region=region, attributes=texts)["QueueUrl"])

    def put(self, queue: str, *bodies: str, **parameters: Any) -> list[str]:
        """Store messages without a counted request, each with SendMessage's `parameters`; their message ids."""
        entries = [{"MessageBody": body, **parameters} for body in bodies]
        return list(self._call("put", queue=queue, entries=entries))

    def messages(self, queue: str) -> list[StoredMessage]:
        """The messages in a queue, in order of arrival, in flight or not, without injected duplicates."""
        return [StoredMessage(**message) for message in self._call("messages", queue=queue)]

    def sent(self, queue: str) -> list[StoredMessage]:
        """All messages that the queue has accepted, deleted ones included."""
        return [StoredMessage(**message) for message in self._call("sent", queue=queue)]

    def ranges(self, queue: str) -> list[tuple[str, str]]:
        """With discard: (run, seq) attributes of each accepted message, in order; "" where absent."""
        return [(run, seq) for run, seq in self._call("ranges", queue=queue)]

    def deliveries(self, queue: str) -> list[Delivery]:
        """All deliveries, in order."""
        return [Delivery(*delivery) for delivery in self._call("deliveries", queue=queue)]

    def requests(self, operation: str | None = None) -> list[Request]:
        """The latest finished requests (at most 20,000), of one operation or of all."""
        found = [Request(**request) for request in self._call("requests")]
        return [request for request in found if operation in {None, request.operation}]

    def counters(self) -> Counters:
        """The counters now."""
        return Counters(**self._call("counters"))

    def reset_counters(self) -> None:
        """All counters to 0."""
        self._call("reset_counters")

    def faults(self, **changes: Unpack[Faults]) -> None:
        """Put faults in force; other fields stay as they are."""
        self._call("faults", **changes)

    def clear_faults(self) -> None:
        """Return to the initial faults, and release the black hole."""
        self._call("clear_faults")

    def release(self) -> None:
        """Close the black hole, and let the requests in it go on."""
        self._call("release")

    def advance(self, seconds: float) -> None:
        """Move the server's clock, so timeouts, delays and deduplication windows end without a sleep."""
        self._call("advance", seconds=seconds)
