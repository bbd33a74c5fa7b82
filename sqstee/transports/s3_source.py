"""A prefix in a bucket as a source, whatever sqstee stored there: bodies as of a queue, a data lake, a drained folder.

The names directly below the prefix show which of these are there. Bodies that `--to s3://` stored are consumed where
asked to; all else is only read.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from itertools import islice
from typing import Any

from sqstee.destination import Destination
from sqstee.run_summary import RunSummary
from sqstee.transports.aws import RenewedClient
from sqstee.transports.base import QueueState, ReceivedMessage, Receiver
from sqstee.transports.bucket_tree import BucketTree
from sqstee.transports.errors import Failure
from sqstee.transports.file_tree import NO_FILE
from sqstee.transports.folder import FolderReceiver
from sqstee.transports.lake import LakeReceiver
from sqstee.transports.layouts import (
    FOREIGN,
    HIDDEN_NAME,
    INDEX_NAME,
    PARQUET,
    QUEUE,
    QUEUE_KEY,
    RECORDS,
    Strays,
    beginning_of,
    kind_of_top,
    recognise,
)
from sqstee.transports.s3 import DELETED_AT_ONCE, MOST_OBJECT_BYTES, Bucket, clients, shard_range
from sqstee.transports.s3_receiver import S3Receiver

NOTHING_YET = "no objects, nothing has been stored there yet"
_LOOK_AGAIN_SECONDS = 1.0  # while nothing is there; twice as long after each look,
_LOOK_AGAIN_MOST_SECONDS = 10.0
_OTHERS_SECONDS = 60.0  # and for objects of another kind than those that are there
_MOST_AT_ONCE = 16  # objects of a lake that are read ahead
_MOST_FOLDERS = 10  # of others, in which objects are counted


class _ListedBucket(Bucket):
    """Adds those objects in shards to `strays` that are listed, and are no bodies."""

    def __init__(self, destination: Destination, clients: RenewedClient[Any], strays: Strays) -> None:
        super().__init__(destination, clients)
        self._strays = strays

    def call(self, operation: str, **parameters: object) -> Any:
        """One call on the bucket; raises TransportError."""
        answer = super().call(operation, **parameters)
        if operation == "list_objects_v2":
            for entry in answer.get("Contents", ()):
                path = entry["Key"][len(self.prefix) :]
                kind = recognise(path).kind
                is_too_large = kind == QUEUE and entry["Size"] > MOST_OBJECT_BYTES
                if is_too_large or (kind == FOREIGN and kind_of_top(f"{path.partition('/')[0]}/") == QUEUE):
                    self._strays.add(path)
        return answer


class BucketReceiver:
    """Reads all that is behind a prefix; see S3Receiver, LakeReceiver and FolderReceiver."""

    ordered = False
    lists_all = True  # an empty answer means that everything was returned
    max_delete = DELETED_AT_ONCE

    def __init__(
        self, destination: Destination, consume: bool = False, shards: str = "", connections: int = 16
    ) -> None:
        self.follows = not consume
        self.name = destination.text
        shard_range(shards)  # raises
        self._destination, self._consume, self._shards, self._connections = destination, consume, shards, connections
        self._strays = Strays()
        self._bucket = _ListedBucket(destination, clients(connections), self._strays)
        self._tree = BucketTree(self._bucket, destination.text, min(connections, _MOST_AT_ONCE))
        self._lock = threading.Lock()
        self._queue: S3Receiver | None = None
        self._lake: LakeReceiver | None = None
        self._drained: FolderReceiver | None = None
        self._are_known = False  # the runs of lake and folder, whose lines are not read then
        self._runs: Sequence[str] = ()
        self._look_at = 0.0
        self._interval = _LOOK_AGAIN_SECONDS
        self._turn = 0
        self._has_others = False  # what --shards leaves out
        self._has_looked = self._has_remarked = False

    def narrow(self, runs: Sequence[str]) -> None:
        """Give only objects, or parts of them, that may have lines of these runs, named by their first characters."""
        self._runs = runs

    def receive(self, limit: int, wait: float) -> list[ReceivedMessage]:
        """Objects not returned before, or parts of them; makes at least one listing if none is known."""
        deadline = time.monotonic() + wait
        while True:
            parts = self._parts()
            for part in parts:
                if found := part.receive(limit, wait):
                    return found
            left = deadline - time.monotonic()
            if parts or left <= 0:
                return []
            time.sleep(max(0.0, min(self._look_at - time.monotonic(), left)))

    def delete(self, messages: Sequence[ReceivedMessage]) -> list[Failure]:
        """Delete the objects of the queue."""
        skip = len(self._bucket.prefix)
        places = [at for at, message in enumerate(messages) if QUEUE_KEY.fullmatch(message.handle, skip)]
        failures = self._queue.delete([messages[at] for at in places]) if self._queue and places else []
        for failure in failures:
            failure.index = places[failure.index]
        return failures

    def release(self, messages: Sequence[ReceivedMessage]) -> None:
        """Return the queue's objects again in this receiver; others see every object anyway."""
        if self._queue:
            self._queue.release(messages)

    def stat(self) -> QueueState:
        """Objects with records, their bytes and the age of the oldest one, by listing all of them."""
        found = QueueState(0)
        found.bytes = 0
        for part in self._parts():
            state = part.stat()
            found.visible += state.visible
            found.bytes += state.bytes or 0
            ages = [age for age in (found.oldest, state.oldest) if age is not None]
            found.oldest = max(ages, default=None)
        return found

    def take_summaries(self, problems: list[str]) -> list[RunSummary]:
        """The runs that indexes tell of; their lines are not returned by receive(). Raises OSError and TransportError.

        Files that cannot be read are added to `problems`.
        """
        self._parts()
        found: list[RunSummary] = []
        for part in (self._lake, self._drained):
            if part:
                found += part.summaries(problems)
        self._are_known = True
        return found

    def layouts(self) -> list[str]:
        """The layouts below the prefix, in words. Raises TransportError."""
        self._parts()
        known = {
            "bodies, as of a queue": self._queue,
            "objects of a data lake": self._lake,
            "a drained folder": self._drained,
        }
        return [text for text, part in known.items() if part]

    def remarks(self) -> list[str]:
        """Remarks about objects that are missing or not read, made once, after a whole listing."""
        if self._has_remarked or not self._has_looked or self._runs:
            return []
        self._has_remarked = True
        found = self._strays.remarks(self.name, BucketTree.noun)
        if self._drained:
            found += self._drained.remarks()
        if self._has_others:
            found.append(f"{self.name}: --shards divides runs: objects with many of them are left out")
        if not (found or self._queue or self._lake or self._drained):
            found.append(f"{self.name}: {NOTHING_YET}")
        return found

    def close(self) -> None:
        """Close the files; the connections close with the process."""
        for part in (self._queue, self._lake, self._drained):
            if part:
                part.close()

    def _parts(self) -> list[Receiver]:
        """The receivers of the layouts that are there, in turns: none waits for another's end."""
        with self._lock:
            if time.monotonic() >= self._look_at:
                self._look()
            rest = [] if self._are_known else [self._lake, self._drained]
            found: list[Receiver] = [part for part in (self._queue, *rest) if part]
            self._turn += 1
            at = self._turn % len(found) if found else 0
            return found[at:] + found[:at]

    def _look(self) -> None:
        """Look below the prefix for layouts that were not there before, and for objects that are not sqstee's."""
        names, are_all = self._tree.tops()
        kinds = {name: kind_of_top(name) for name in names}
        is_lake = any(kind in (RECORDS, PARQUET) for kind in kinds.values())
        self._has_others = bool(self._shards) and (INDEX_NAME in names or is_lake)
        if self._shards:
            if QUEUE in kinds.values():
                self._add_queue()
        elif INDEX_NAME in names or (not are_all and self._tree.size(INDEX_NAME) != NO_FILE):
            self._add_drained()
        elif not self._drained:
            unders = {beginning_of(name) for name, kind in kinds.items() if kind in (RECORDS, PARQUET)}
            if QUEUE in kinds.values():
                self._add_queue()
            if unders:
                self._add_lake(sorted(unders))
            if not self._has_looked:
                self._count_strays([name for name, kind in kinds.items() if kind == FOREIGN])
        self._has_looked = True
        is_empty = not (self._queue or self._lake or self._drained)
        self._look_at = time.monotonic() + (self._interval if is_empty else _OTHERS_SECONDS)
        self._interval = min(_LOOK_AGAIN_MOST_SECONDS, 2 * self._interval)

    def _add_queue(self) -> None:
        if self._queue is None:
            settings = self._destination, self._consume, self._shards, self._connections
            self._queue = S3Receiver(*settings, bucket=self._bucket)
            self._queue.narrow(self._runs)

    def _add_lake(self, unders: list[str]) -> None:
        if self._lake is None:
            self._lake = LakeReceiver(self._tree, unders, self._strays)
            self._lake.narrow(self._runs)
        self._lake.look_under(unders)

    def _add_drained(self) -> None:
        if self._drained is None:
            self._drained = FolderReceiver(self._tree.name, self.name, self._tree)
            self._drained.narrow(self._runs, are_whole=False)

    def _count_strays(self, names: list[str]) -> None:
        folders = [name for name in names if name.endswith("/")]
        for name in names:
            if not name.endswith("/"):
                self._strays.add(name)
        for name in islice(folders, _MOST_FOLDERS):
            listed, after = self._tree.page(name)
            files = [file for file in listed if recognise(file.path).kind != HIDDEN_NAME]
            if files:
                self._strays.add(files[0].path, len(files), is_more=bool(after))
        if len(folders) > _MOST_FOLDERS:
            self._strays.add(folders[_MOST_FOLDERS], len(folders) - _MOST_FOLDERS, is_more=True)
