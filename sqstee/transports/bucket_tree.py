"""The objects of a bucket, behind a prefix, as a tree of files that are only read."""

from __future__ import annotations

import errno
import io
from contextlib import closing
from typing import Any, BinaryIO, cast

from sqstee.transports.aws import refusal_of
from sqstee.transports.errors import RETRY, TransportError
from sqstee.transports.file_tree import NO_FILE, TreeFile
from sqstee.transports.s3 import Bucket

_PART_BYTES = 2 * 1024 * 1024  # of one GetObject
_LISTED_AT_ONCE = 1000  # S3 API reference, ListObjectsV2: the maximum
_MOST_PAGES = 10  # of names directly behind the prefix
_GONE = ("NoSuchKey", "404")


class BucketTree:
    """The objects of `bucket`; `name` is how the user wrote it. For several threads."""

    noun = "object"
    poll_seconds = 10.0  # a listing costs as much as twelve receives

    def __init__(self, bucket: Bucket, name: str, at_once: int) -> None:
        self.name = name.rstrip("/")
        self.at_once = at_once
        self._bucket = bucket

    def page(self, under: str = "", after: str = "") -> tuple[list[TreeFile], str]:
        """One listing."""
        prefix = self._bucket.prefix
        more = {"StartAfter": f"{prefix}{after}"} if after else {}
        answer = self._bucket.call("list_objects_v2", Prefix=f"{prefix}{under}", MaxKeys=_LISTED_AT_ONCE, **more)
        found = [_listed(entry, len(prefix)) for entry in answer.get("Contents", ())]
        return found, found[-1].path if found and answer.get("IsTruncated") else ""

    def tops(self) -> tuple[list[str], bool]:
        """The names directly behind the prefix, those of folders with a slash, and whether these are all."""
        prefix = self._bucket.prefix
        names: list[str] = []
        more: dict[str, object] = {}
        for _ in range(_MOST_PAGES):
            answer = self._bucket.call("list_objects_v2", Prefix=prefix, Delimiter="/", MaxKeys=_LISTED_AT_ONCE, **more)
            names += [entry["Key"][len(prefix) :] for entry in answer.get("Contents", ())]
            names += [entry["Prefix"][len(prefix) :] for entry in answer.get("CommonPrefixes", ())]
            if not answer.get("IsTruncated"):
                return names, True
            more = {"ContinuationToken": answer["NextContinuationToken"]}
        return names, False

    def open(self, path: str) -> BinaryIO:
        """An object, whose first part is here already."""
        return cast(BinaryIO, _ObjectFile(self._bucket, path))

    def size(self, path: str) -> int:
        """The size of an object."""
        found = self._find(path)
        return found.size if found else NO_FILE

    def identity(self, path: str) -> tuple[object, ...]:
        """Its time, size and ETag."""
        found = self._find(path)
        if found is None:
            raise FileNotFoundError(errno.ENOENT, "no such object", f"{self.name}/{path}")
        return found.modified, found.size, found.tag

    def _find(self, path: str) -> TreeFile | None:
        key = f"{self._bucket.prefix}{path}"
        answer = self._bucket.call("list_objects_v2", Prefix=key, MaxKeys=1)
        entries = [entry for entry in answer.get("Contents", ()) if entry["Key"] == key]
        return _listed(entries[0], len(self._bucket.prefix)) if entries else None


def _listed(entry: dict[str, Any], skip: int) -> TreeFile:
    tag = str(entry.get("ETag", "")).strip('"')
    return TreeFile(entry["Key"][skip:], entry["Size"], entry["LastModified"].timestamp(), tag)


class _ObjectFile(io.RawIOBase):
    """An object that is read part by part: no connection waits for a slow reader.

    Reading raises TransportError.
    """

    def __init__(self, bucket: Bucket, path: str) -> None:
        self._bucket, self._path = bucket, path
        self._part, self._begin = memoryview(b""), 0  # the part that is here, and where it begins
        self._at = 0  # what was read
        self._size = -1  # until the first answer
        self._tag = ""
        self._fetch()

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is: the part around the new place is fetched once it is read."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Continue at another place."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Copy the next bytes into `buffer`, as many as fit, fewer only at the end."""
        done, wanted = 0, len(buffer)
        while done < wanted and self._at < self._size:
            if not self._begin <= self._at < self._begin + len(self._part):
                self._fetch()
            at = self._at - self._begin
            some = self._part[at : at + wanted - done]
            buffer[done : done + len(some)] = some
            done += len(some)
            self._at += len(some)
        return done

    def _fetch(self) -> None:
        """Get the part that begins here; the first request has no range, which an empty object would refuse."""
        more: dict[str, object] = {}
        if self._size >= 0:
            more = {"Range": f"bytes={self._at}-{self._at + _PART_BYTES - 1}", "IfMatch": self._tag}
        try:
            answer = self._bucket.call("get_object", Key=f"{self._bucket.prefix}{self._path}", **more)
        except TransportError as error:
            if error.code in _GONE:
                raise FileNotFoundError(errno.ENOENT, "no such object", self._path) from error
            raise
        try:
            with closing(answer["Body"]) as body:
                data: bytes = body.read(_PART_BYTES)
        except Exception as error:
            raise refusal_of(error) from error
        if self._size < 0:
            self._size, self._tag = answer["ContentLength"], str(answer.get("ETag", ""))
        if len(data) < min(_PART_BYTES, self._size - self._at):
            raise TransportError(RETRY, "Incomplete", f"{self._path}: the answer ended early")
        self._part, self._begin = memoryview(data), self._at
