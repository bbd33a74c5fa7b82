"""boto3 clients without retries, batch entries, expected errors, and actions in threads."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from fakes.sqs import ACCESS_KEY, REGION, SECRET_KEY, FakeSqs

if TYPE_CHECKING:
    from mypy_boto3_sqs.client import SQSClient

SENT: Any = {"MessageGroupId": "g", "MessageDeduplicationId": "d"}


def client_of(server: FakeSqs, *, timeout: float = 10.0, key: str = ACCESS_KEY, region: str = REGION) -> SQSClient:
    """A boto3 client without retries of its own."""
    return boto3.session.Session().client(
        "sqs",
        region_name=region,
        endpoint_url=server.endpoint,
        aws_access_key_id=key,
        aws_secret_access_key=SECRET_KEY,
        config=Config(
            retries={"total_max_attempts": 1},
            read_timeout=timeout,
            connect_timeout=5,
            max_pool_connections=20,
        ),
    )


def entries(*bodies: str, **more: Any) -> list[Any]:
    """Batch entries with the ids 0, 1, …"""
    return [{"Id": str(n), "MessageBody": body, **more} for n, body in enumerate(bodies)]


def code_of(call: Callable[..., Any], /, *arguments: Any, **parameters: Any) -> tuple[str, int]:
    """(error code, HTTP status) with which boto3 reports that a call failed."""
    with pytest.raises(ClientError) as caught:
        call(*arguments, **parameters)
    response: Any = caught.value.response
    return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Poll till a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "condition not met in time"
        time.sleep(0.005)


@contextlib.contextmanager
def in_thread(action: Callable[[], Any]) -> Iterator[list[Any]]:
    """Run an action beside the block; the list holds its result (or exception) after the block."""
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(action())
        except Exception as error:
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield results
    finally:
        thread.join(10)
    assert not thread.is_alive()
