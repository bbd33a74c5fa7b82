"""What sqstee leaves at rest, in each layout: objects, or files of a folder, by their names."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch

from fakes.bucket import FakeS3

from sqstee import aws_lambda
from sqstee.record import Body
from sqstee.transports.layouts import BATCH_INDEX, recognise
from sqstee.transports.s3 import key_of

from .drain import assembled, journal

Objects = dict[str, bytes]


class _Kept:
    """A bucket in memory, which keeps the first object of each name."""

    prefix = ""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    def put(self, key: str, data: bytes, content_type: str) -> None:
        self._objects.setdefault(key, data)


def queue_objects(bodies: Sequence[Body]) -> Objects:
    """As `--to s3://` stores them."""
    return {key_of("", body): body.data for body in bodies}


def batch_objects(*batches: Sequence[Body]) -> Objects:
    """As the Lambda function stores batches, with their indexes."""
    found: Objects = {}
    for batch in batches:
        records = [{"messageId": str(at), "body": body.data.decode()} for at, body in enumerate(batch)]
        with (
            patch.object(aws_lambda, "Bucket", lambda *_: _Kept(found)),
            patch.dict("os.environ", {aws_lambda.VARIABLE: "s3://bucket"}),
        ):
            assert aws_lambda.handler({"Records": records}) == {"batchItemFailures": []}
    return found


def without_indexes(objects: Objects) -> Objects:
    """The same without the indexes of batches."""
    return {name: data for name, data in objects.items() if recognise(name).kind != BATCH_INDEX}


def run_range_objects(bodies: Sequence[Body]) -> Objects:
    """As Lambda functions of early versions stored them."""
    found = {}
    for body in bodies:
        digest = hashlib.sha256(body.data).hexdigest()[:16]
        found[f"date=2023-11-14/host=node1/run={body.run}/{body.first:012d}-{body.last:012d}-{digest}.ndjson"] = (
            body.data
        )
    return found


def drained_files(folder: Path, bodies: Sequence[Body], layout: str, packed: bool) -> Objects:
    """As `drain` leaves them; `folder` is for its work."""
    journal(folder, *(body.data for body in bodies))
    assembled(folder, layout, packed)
    paths = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    return {str(path): (folder / path).read_bytes() for path in paths if path.parts[0] != ".sqstee"}


def write_files(folder: Path, objects: Objects) -> None:
    """Write objects as files, as `aws s3 sync` copies them."""
    for name, data in objects.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def store_objects(s3: FakeS3, prefix: str, objects: Objects) -> None:
    """Store objects behind a prefix."""
    for name, data in objects.items():
        s3.store(f"{prefix}{name}", data)
