"""Testing the path to a bucket step by step, without leaving anything in it."""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from sqstee.destination import Destination
from sqstee.transports.aws import build_client, refusal_of
from sqstee.transports.probe import FAILED, OK, READ_SECONDS, WARNING, AwsProbe, Step, clock_steps
from sqstee.transports.s3 import Bucket, clients

_PUT, LIST, _GET, _DELETE = "s3:PutObject", "s3:ListBucket", "s3:GetObject", "s3:DeleteObject"
BUCKET_ROLES = {"send": (_PUT,), "receive": (LIST, _GET, _DELETE), "both": (_PUT, LIST, _GET, _DELETE)}
PAYLOAD_ROLES = {"send": (_PUT,), "receive": (_GET, _DELETE), "both": (_PUT, _GET, _DELETE)}  # of --via-s3
_WRONG_MD5 = base64.b64encode(bytes(16)).decode()
_REFUSED_CONTENT = ("BadDigest", "PreconditionFailed", "412")
_MISSING = ("NoSuchKey", "404", "PreconditionFailed", "412")


class BucketProbe(AwsProbe):
    """Tests one bucket and prefix for some of the actions above."""

    service = "s3"

    def __init__(self, destination: Destination, actions: tuple[str, ...]) -> None:
        super().__init__(destination)
        self._actions = actions
        self._bucket = destination.name
        self._prefix = Bucket(destination, clients()).prefix
        self._key = f"{self._prefix}sqstee-check-{os.getpid()}-{time.time_ns()}"  # no reader takes it for a body
        self._listed: Exception | None = None
        self._some_key = ""

    def make_client(self) -> Any:
        """The client that senders and receivers use."""
        return build_client("s3", "", None, 1, READ_SECONDS)

    def resource(self, action: str) -> str:
        """The ARN of the bucket, for listing, or of the objects under the prefix."""
        bucket = f"arn:{self.partition()}:s3:::{self._bucket}"
        return bucket if action == LIST else f"{bucket}/{self._prefix}*"

    def target(self) -> Iterator[Step]:
        """List one object: the refusal tells whether the bucket is there, even where listing is not allowed."""
        before, answer = time.time(), None
        try:
            answer = self.client.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix, MaxKeys=1)
            self._some_key = next((found["Key"] for found in answer.get("Contents", ())), "")
        except Exception as error:
            self._listed, refusal = error, refusal_of(error)
            answer = getattr(error, "response", None)
            yield from clock_steps(answer, before)
            if "AccessDenied" not in refusal.code:
                yield self.failed("bucket", refusal, LIST)
                return
        else:
            yield from clock_steps(answer, before)
        yield Step("bucket", OK, f"s3://{self._bucket} is there")

    def permissions(self) -> Iterator[Step]:
        """Try each action with parameters that it refuses."""
        tests = {_PUT: self._put, LIST: self._list, _GET: self._get, _DELETE: self._delete}
        for action in self._actions:
            yield tests[action]()

    def round_trip(self) -> Step:
        """Store an object, read it, and delete it."""
        name, started = "round trip", time.monotonic()
        try:
            self.client.put_object(Bucket=self._bucket, Key=self._key, Body=b"sqstee check")
        except Exception as error:
            return self.failed(name, refusal_of(error), _PUT)
        reading: Step | None = None
        try:
            self.client.get_object(Bucket=self._bucket, Key=self._key)["Body"].read()
        except Exception as error:
            reading = self.failed(name, refusal_of(error), _GET, FAILED if _GET in self._actions else WARNING)
        try:
            self.client.delete_object(Bucket=self._bucket, Key=self._key)
        except Exception as error:
            text = f"s3://{self._bucket}/{self._key} stays: {refusal_of(error)}"
            return reading or Step(name, WARNING, text, f"aws s3 rm s3://{self._bucket}/{self._key}")
        return reading or Step(name, OK, f"{(time.monotonic() - started) * 1000:.0f} ms")

    def _put(self) -> Step:
        """Store an object under a checksum that is not its own; nothing can be stored, but for emulators' mistakes."""
        parameters = {"Bucket": self._bucket, "Key": self._key, "Body": b"sqstee check", "ContentMD5": _WRONG_MD5}

        def call() -> None:
            try:
                self.client.put_object(**parameters, IfNoneMatch="*")
            except Exception as error:
                if refusal_of(error).code not in ("NotImplemented", "501"):
                    raise
                self.client.put_object(**parameters)
            with suppress(Exception):
                self.client.delete_object(Bucket=self._bucket, Key=self._key)

        return self.tried(_PUT, call, _REFUSED_CONTENT)

    def _list(self) -> Step:
        if self._listed is None:
            return Step(LIST, OK, "allowed")
        return self.failed(LIST, refusal_of(self._listed), LIST)

    def _get(self) -> Step:
        """Read a byte of an object, or a missing object, which looks forbidden without the permission to list."""
        key = self._some_key or self._key
        more = {"Range": "bytes=0-0"} if self._some_key else {}
        step = self.tried(
            _GET, lambda: self.client.get_object(Bucket=self._bucket, Key=key, **more), (*_MISSING, "InvalidRange")
        )
        if step.state != FAILED or self._listed is None:
            return step
        if LIST in step.text:  # the refusal names the permission to list: that to read is there
            return Step(_GET, OK, "allowed")
        text = f"{step.text} (without {LIST} a missing object looks forbidden: try --round-trip)"
        return Step(_GET, WARNING, text, step.advice)

    def _delete(self) -> Step:
        """Delete a missing object on condition that it is there."""

        def call() -> None:
            self.client.delete_object(Bucket=self._bucket, Key=self._key, IfMatch="*")

        return self.tried(_DELETE, call, _MISSING, must=False)
