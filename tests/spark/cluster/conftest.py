"""One Spark, one SQS, and one backlog for all cases."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fakes.sqs import FakeSqs
from support.backlog import Backlog
from support.spark import spark_session

from sqstee.record import Body

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@pytest.fixture(scope="session")
def sqs() -> Iterator[FakeSqs]:
    """A strict SQS; each case makes its own queue."""
    with FakeSqs() as server:
        yield server


@pytest.fixture(scope="session")
def spark(sqs: FakeSqs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    """A driver and two executors, which reach the SQS."""
    before = dict(os.environ)
    os.environ.update(sqs.environ())
    try:
        with spark_session(tmp_path_factory.mktemp("spark")) as session:
            yield session
    finally:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="session")
def backlog() -> Backlog:
    """What the cases find, whichever way it came."""
    return Backlog(block=50)


@pytest.fixture(scope="session")
def bodies(backlog: Backlog) -> list[Body]:
    """The backlog's bodies."""
    return list(backlog.bodies())


@pytest.fixture(scope="session")
def drained(bodies: list[Body], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The backlog, drained: a folder for each layout."""
    from support.drain import assembled, journal

    folder = tmp_path_factory.mktemp("drained")
    for layout in ("ndjson", "parquet"):
        journal(folder / layout, *(body.data for body in bodies))
        assembled(folder / layout, layout)
    return folder
