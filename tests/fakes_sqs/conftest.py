"""One server for all tests of the fake; each test has a queue of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from fakes.sqs import FakeSqs

from .helpers import client_of, until

if TYPE_CHECKING:
    from mypy_boto3_sqs.client import SQSClient


@pytest.fixture(scope="session")
def server() -> Iterator[FakeSqs]:
    """One server for all tests: each test has a queue of its own."""
    with FakeSqs() as running:
        yield running


@pytest.fixture(scope="session")
def shared_client(server: FakeSqs) -> SQSClient:
    """One client for all tests: it costs 50 ms to build."""
    return client_of(server)


@pytest.fixture
def sqs(server: FakeSqs) -> Iterator[FakeSqs]:
    """The server with no faults and all counters at 0."""
    server.clear_faults()
    until(lambda: server.counters().active == 0)  # an answered request is counted a moment later
    server.reset_counters()
    yield server
    server.clear_faults()


@pytest.fixture
def client(sqs: FakeSqs, shared_client: SQSClient) -> SQSClient:
    """The client, for use with the clean server."""
    return shared_client


@pytest.fixture
def queue(sqs: FakeSqs, request: pytest.FixtureRequest) -> str:
    """The URL of a fresh standard queue."""
    return sqs.create_queue(name_of(request.node.name))


@pytest.fixture
def fifo(sqs: FakeSqs, request: pytest.FixtureRequest) -> str:
    """The URL of a fresh FIFO queue."""
    return sqs.create_queue(name_of(request.node.name) + ".fifo")


def name_of(test: str) -> str:
    """A queue name for a test."""
    return "q-" + hashlib.sha256(test.encode()).hexdigest()[:20]
