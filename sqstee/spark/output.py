"""Where a task puts its files: each appears at once and whole, and is there to stay when put() returns.

On a file system of the machine (NFS, EFS and Databricks volumes included) a file is written under a hidden name, synced
and renamed. In S3 a PUT is atomic in itself. Anywhere else pyarrow writes the file under a hidden name and moves it
(hdfs:// renames, abfs:// as well where it has a hierarchical namespace). No two attempts of a task use the same name.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Protocol

from sqstee.destination import parse
from sqstee.drain.journal import sync_folder
from sqstee.errors import SqsteeError
from sqstee.transports.s3 import Bucket, clients

_S3_SCHEMES = ("s3", "s3a", "s3n")
_CONTENT_TYPE = "application/octet-stream"


class PartOutput(Protocol):
    """A folder, anywhere."""

    def put(self, name: str, data: bytes) -> None:
        """Store a file under a new name, such as date=2026-11-21/part-1.parquet. Raises OSError or TransportError."""


class LocalOutput:
    """A folder that every executor sees under the same path."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def put(self, name: str, data: bytes) -> None:
        """Write, sync, rename."""
        path = os.path.join(self._folder, name)
        folder, base = os.path.split(path)
        os.makedirs(folder, exist_ok=True)
        hidden = os.path.join(folder, f".{base}")  # readers skip names with a dot
        try:
            with open(hidden, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.rename(hidden, path)
        except OSError:
            with suppress(OSError):
                os.unlink(hidden)
            raise
        with suppress(OSError):  # FUSE mounts may have no sync of a folder
            sync_folder(folder)


class BucketOutput:
    """A prefix in S3."""

    def __init__(self, url: str) -> None:
        self._bucket = Bucket(parse(url), clients())

    def put(self, name: str, data: bytes) -> None:
        """One PutObject."""
        self._bucket.put(f"{self._bucket.prefix}{name}", data, _CONTENT_TYPE)


class ArrowOutput:
    """A folder on a file system that pyarrow reaches."""

    def __init__(self, url: str) -> None:
        try:
            from pyarrow.fs import FileSystem
        except ImportError:
            hint = "pip install 'sqstee[parquet]' on the driver and on the executors"
            raise SqsteeError(f"writing to {url} needs pyarrow", hint) from None
        try:
            self._files, self._folder = FileSystem.from_uri(url)
        except (ValueError, OSError) as error:  # pyarrow's own errors are these too
            hint = "use a path, s3://BUCKET/PREFIX, or a URL that pyarrow.fs.FileSystem.from_uri takes"
            raise SqsteeError(f"cannot write to {url}: {error}", hint) from error

    def put(self, name: str, data: bytes) -> None:
        """Write, move."""
        path = f"{self._folder.rstrip('/')}/{name}"
        folder, _, base = path.rpartition("/")
        self._files.create_dir(folder, recursive=True)
        hidden = f"{folder}/.{base}"
        with self._files.open_output_stream(hidden) as file:
            file.write(data)
        self._files.move(hidden, path)


def open_output(to: str) -> PartOutput:
    """The folder that `to` names: a path, file:, s3:// (s3a://) or any URL that pyarrow knows. Raises SqsteeError."""
    scheme, separator, rest = to.partition("://")
    if scheme in _S3_SCHEMES and separator:
        return BucketOutput(f"s3://{rest}")
    if to.startswith("file:"):
        return LocalOutput("/" + to[5:].lstrip("/"))
    if separator:
        return ArrowOutput(to)
    return LocalOutput(to)
