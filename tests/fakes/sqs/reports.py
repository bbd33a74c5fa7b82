"""What a test learns from the server: stored messages, deliveries, requests and counters."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message in the server; binary attributes in base64, times in seconds since the epoch.

    `state`: ready, in flight, delayed or deleted. `receives`: deliveries, without injected duplicates.
    """

    id: str
    body: str
    attributes: dict[str, str]
    sent_at: float
    state: str
    receives: int
    group: str | None
    dedup_id: str | None
    sequence: str

    @property
    def in_flight(self) -> bool:
        """Received, and neither deleted nor visible again."""
        return self.state == "in flight"

    @property
    def deleted(self) -> bool:
        """Deleted, purged, or moved to a dead-letter queue."""
        return self.state == "deleted"


@dataclass(frozen=True, slots=True)
class Delivery:
    """One delivery of a message to a receiver; `injected` marks the duplicates that the faults add."""

    id: str
    at: float
    receives: int
    injected: bool


@dataclass(frozen=True, slots=True)
class Request:
    """One finished SQS request.

    `at`: time of arrival. `bytes`: size of its HTTP body. `entries` and `payload`: messages and their bytes that were
    accepted (ReceiveMessage: received). `code`: the error code, "" for none.
    """

    at: float
    operation: str
    bytes: int
    entries: int
    payload: int
    status: int
    code: str


@dataclass(frozen=True, slots=True)
class Counters:
    """The server's counts since its start or `reset_counters`.

    `rejections`: calls and entries that SQS's rules refused (operation, code, message), never injected faults;
    `rejected` is their number. `stored`: accepted messages by queue. `billed`: 1 per call and started 64 KiB.
    `max_in_flight`: the highest number of requests at one time.
    """

    calls: dict[str, int]
    billed: int
    bytes_in: int
    bytes_out: int
    payload_bytes: int
    rejected: int
    rejections: list[dict[str, str]] = field(repr=False)
    injected: dict[str, int]
    connections: int
    open_connections: int
    active: int
    max_in_flight: int
    regions: dict[str, int]
    access_keys: dict[str, int]
    user_agents: dict[str, int]
    stored: dict[str, int]
    max_messages_in_flight: dict[str, int]
