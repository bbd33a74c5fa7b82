"""The destinations of the fault suite: how to reach them, their possible faults, and their contents.

Each is a server that injects faults: those that all servers have in common, and its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fakes.bucket import FakeS3
from fakes.sqs import FakeSqs
from fakes.web import FakeWeb, Wsgi

from sqstee.collector import Collector, open_store
from sqstee.record import gunzip

from .collector import stored

FaultSpec = dict[str, Any]
Bodies = list[tuple[str | bytes, dict[str, str]]]
TOKEN = "secret"


def _errors(code: str, status: int, probability: float = 1.0, **more: object) -> FaultSpec:
    return {"errors": [{"probability": probability, "code": code, "status": status, **more}]}


def _network(operation: str) -> dict[str, FaultSpec]:
    """The faults between any client and any server; `operation` is the one that sends, and may be executed in spite."""
    sending = {"operation": operation}
    return {
        "no answer": {"dropped": {"probability": 0.4, **sending}},
        "resets": {"reset": {"probability": 0.4}},
        "cut answers": {"truncated": {"probability": 0.4}},
        "made-up answers": {"garbage": {"probability": 0.4}},
        "no server": {"refuse": True},
        "black hole": {"black_hole": "before"},
        "held answers": {"black_hole": "after"},
        "slow": {"latency_ms": 80},
        "internal errors": _errors("InternalError", 500, 0.4),
    }


_SQS: dict[str, FaultSpec] = {
    **_network("SendMessageBatch"),
    "throttling": {"throttle": {"probability": 0.4}},
    "failed entries": {"failed_entries": [{"probability": 0.4, "code": "InternalError"}]},
    "failed but stored": {"failed_entries": [{"probability": 0.4, "code": "InternalError", "stored": True}]},
    "access denied": _errors("AccessDenied", 403),
    "no queue": _errors("QueueDoesNotExist", 400, operation="SendMessageBatch"),
    "expired credentials": _errors("ExpiredToken", 403),
    "poison": {"failed_entries": [{"probability": 0.3, "code": "InvalidMessageContents", "sender_fault": True}]},
    "whole calls refused": _errors("ValidationError", 400, 0.4, operation="SendMessageBatch"),
    "too large": _errors("BatchRequestTooLong", 400, 0.4, operation="SendMessageBatch"),
}
_HTTP: dict[str, FaultSpec] = {
    **_network("POST"),
    "failed but stored": _errors("InternalError", 500, 0.4, stored=True),
    "throttling": _errors("TooManyRequests", 429, 0.4, headers={"Retry-After": "1"}),
    "unavailable": _errors("Unavailable", 503, headers={"Retry-After": "60"}),
    "a gateway's errors": _errors("BadGateway", 502, 0.4),
    "token refused": _errors("Unauthorized", 401),
    "access denied": _errors("Forbidden", 403),
    "nothing there": _errors("NotFound", 404),
    "poison": _errors("Unprocessable", 422, 0.3),
    "whole calls refused": _errors("BadRequest", 400, 0.4),
    "too large": _errors("TooLarge", 413, 0.4),
}
_S3: dict[str, FaultSpec] = {
    **_network("PUT"),
    "failed but stored": _errors("InternalError", 500, 0.4, stored=True),
    "throttling": _errors("SlowDown", 503, 0.4),
    "conflicts": _errors("ConditionalRequestConflict", 409, 0.4),
    "incomplete": _errors("IncompleteBody", 400, 0.4),
    "access denied": _errors("AccessDenied", 403),
    "no bucket": _errors("NoSuchBucket", 404),
    "expired credentials": _errors("ExpiredToken", 400),
    "too large": _errors("EntityTooLarge", 400, 0.4),
}
FAULTS = {"sqs": _SQS, "http": _HTTP, "s3": _S3}
# These faults make the sender divide bodies; with all others it sends exactly the same body again.
DIVIDING = {"poison", "whole calls refused", "too large"}
UNCOUNTED = {"no server", "slow"}  # the server does not count how often they strike


class Target:
    """A destination under test: `to` is its name, `environ` leads to it, `known` are its possible faults."""

    def __init__(self, kind: str, to: str, server: FakeSqs | FakeWeb, environ: Mapping[str, str]) -> None:
        self.kind = kind
        self.to = to
        self.server = server
        self.environ = dict(environ)
        self.known = FAULTS.get(kind, _SQS)

    @property
    def options(self) -> tuple[str, ...]:
        """Further options for the command line."""
        return ()

    @property
    def keeps_one(self) -> bool:
        """Whether a body that is sent twice is stored once."""
        return not isinstance(self.server, FakeSqs)

    @property
    def struck(self) -> int:
        """How often faults struck, without those in UNCOUNTED."""
        counts = self.server.counters().injected if isinstance(self.server, FakeSqs) else self.server.injected
        return sum(counts.values())

    @property
    def active(self) -> int:
        """Running requests."""
        return self.server.counters().active if isinstance(self.server, FakeSqs) else self.server.active

    def fault(self, name: str) -> None:
        """Put one of the known faults in force."""
        self.server.faults(**self.known[name])

    def seed(self, seed: int) -> None:
        """Restart the random generator of the faults."""
        self.server.faults(seed=seed)

    def heal(self) -> None:
        """End all faults."""
        self.server.clear_faults()
        self.server.release()

    def bodies(self) -> Bodies:
        """All bodies that it has accepted."""
        raise NotImplementedError


class _Queue(Target):
    second: Path

    def bodies(self) -> Bodies:
        assert isinstance(self.server, FakeSqs)
        return [(message.body, message.attributes) for message in self.server.sent("q")]


class _Fallback(_Queue):
    """A queue with a local fallback; the fallback's bodies come first: a record beats the gap event in its place."""

    @property
    def options(self) -> tuple[str, ...]:
        return ("--fallback", f"local:{self.second}", "--fallback-after", "0.2s")

    def bodies(self) -> Bodies:
        behind = [(row.data, row.attributes) for row in stored(self.second)] if self.second.exists() else []
        return [*behind, *super().bodies()]


class _Collector(Target):
    store: Path

    def bodies(self) -> Bodies:
        return [(row.data, row.attributes) for row in stored(self.store)]


class _Bucket(Target):
    s3: FakeS3

    def bodies(self) -> Bodies:
        return [(gunzip(data) if key.endswith(".gz") else data, {}) for key, data in self.s3.objects.items()]


@contextmanager
def target(kind: str, folder: Path) -> Iterator[Target]:
    """A destination of one kind, with `folder` for its files."""
    if kind in ("sqs", "fallback"):
        with FakeSqs("q") as queue:
            found = (_Queue if kind == "sqs" else _Fallback)(kind, "q", queue, queue.environ())
            found.second = folder / "second.db"
            yield found
    elif kind == "s3":
        s3 = FakeS3("bkt")
        with FakeWeb(s3) as web:
            bucket = _Bucket(kind, "s3://bkt/logs", web, web.environ())
            bucket.s3 = s3
            yield bucket
    else:
        path = folder / "collected.db"
        store = open_store(f"local:{path}", "", 1 << 30)
        with FakeWeb(Wsgi(Collector(store, [TOKEN]))) as web:
            collector = _Collector(kind, f"{web.url}/", web, {"SQSTEE_TOKEN": TOKEN})
            collector.store = path
            yield collector
        store.close()
