"""Finds the objects in a bucket by listing, pass after pass, and lists runs that are over as seldom as it can.

A listing costs money for every thousand keys, whether they are new or not. So there are two kinds of passes. A plain
one lists every key. One by runs asks S3 for the names of the runs alone, a thousand per answer, and then lists new
objects of those runs that are new themselves, or have had an object within the last half hour.
"""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqstee.intervals import IntervalSet
from sqstee.transports.errors import TransportError
from sqstee.transports.layouts import QUEUE_KEY
from sqstee.transports.s3 import MOST_OBJECT_BYTES, Bucket, shard

_LISTED_AT_ONCE = 1000  # S3 API reference, ListObjectsV2: the maximum
# S3 answers with one common prefix for all keys that are alike up to here. It is the beginning of a run's seqs below
# 1,000,000,000, and not of a run's name, which begins with its time.
_GROUP_END = "/000"
_GROUP = re.compile(rf"[0-9a-f]{{2}}/(?:(?P<run>[^/]+)/)?{_GROUP_END[1:]}")
_REFUSED_GROUPS = ("NotImplemented", "501", "InvalidArgument")  # of emulators that only know the delimiter /
_WHOLE_NAME = re.compile(r"[0-9A-Z]{26}")  # a ULID: no other run's name begins with it
_MOST_NAMED_RUNS = 100  # above it, one listing of everything is cheaper than one for each run
_QUIET_SECONDS = 1800.0  # AWS refuses requests of a host whose clock is wrong by more than 15 minutes
_FEW_REQUESTS = 2  # a plain pass of no more is not worth avoiding
_PLAIN_AGAIN_SECONDS = 300.0  # a run that was quiet for half an hour has its next object found after this long,
_SECONDS_PER_REQUEST = 2.0  # or after this many seconds for each request of a plain pass


class ListedObject:
    """An object in a listing; `series` distinguishes the records of its run from the gap events."""

    __slots__ = ("compressed", "first", "key", "last", "modified", "run", "series", "size", "tag")

    def __init__(self, key: str, parts: re.Match[str], size: int, modified: datetime, tag: str) -> None:
        self.key = key
        self.run = parts["run"]
        self.series = series_of(parts)
        self.first = int(parts["first"])
        self.last = int(parts["last"])
        self.compressed = bool(parts["gz"])
        self.size = size
        self.modified = modified.timestamp()
        self.tag = tag


def series_of(parts: re.Match[str]) -> str:
    """The name under which the ranges of a key's run, or of its gap events, are kept."""
    return parts["run"] + ("/gap" if parts["gap"] else "")  # a run's name in a key has no slash


class ListedRanges:
    """The ranges of each run that have been listed. Memory grows with the holes between them, not their number."""

    def __init__(self) -> None:
        self._runs: dict[str, IntervalSet] = {}

    def covers(self, run: str, first: int, last: int) -> bool:
        """Whether a range is covered as a whole."""
        return run in self._runs and self._runs[run].covers(first, last)

    def add(self, run: str, first: int, last: int) -> None:
        """Add a range."""
        self._runs.setdefault(run, IntervalSet()).add(first, last)

    def remove(self, run: str, first: int, last: int) -> None:
        """Remove a range, whether it was added as a whole or in parts."""
        if run in self._runs:
            self._runs[run].remove(first, last)

    def end(self, run: str, first: int) -> int:
        """The last seq of the range that covers `first`, which is `first` itself where none does."""
        found = self._runs[run].containing(first) if run in self._runs else None
        return found[1] if found else first


class _KeyRange(NamedTuple):
    """The keys that begin with `prefix`, come after `after`, and, if `beyond` is not empty, before that."""

    prefix: str
    after: str
    beyond: str = ""


class Listing:
    """Lists the objects of a range of shards in the order of their keys, pass after pass.

    `listed`: the ranges that the caller knows, which allow passes by runs; None where each pass must list every key.
    `requests` is the number of requests of this pass, or the last one.
    """

    def __init__(self, bucket: Bucket, shards: tuple[str, str], listed: ListedRanges | None = None) -> None:
        self._bucket = bucket
        self._all = _KeyRange(bucket.prefix, f"{bucket.prefix}{shards[0]}/", f"{bucket.prefix}{shards[1]}0")
        self._listed = listed
        self._names: tuple[str, ...] = ()  # of the wanted runs, or their first characters; none: all runs
        self._ranges: deque[_KeyRange] = deque()  # left in this pass
        self._latest: dict[str, float] = {}  # by run, when its newest object was stored
        self._knows_groups = True
        self._is_plain = True  # this pass, or the last one
        self._plain_cost = 0  # requests of the last plain pass
        self._plain_again_at = 0.0
        self.requests = 0

    def narrow(self, names: Sequence[str]) -> None:
        """List only the objects of runs whose names begin so."""
        self._names = tuple(names)

    @property
    def at_start(self) -> bool:
        """Whether a new pass begins with the next page."""
        return not self._ranges

    def page(self) -> list[ListedObject]:
        """The next objects; after the last one, a new pass begins."""
        if not self._ranges:
            self._begin()
            if not self._ranges:
                return []
        keys = self._ranges[0]
        answer = self._list(Prefix=keys.prefix, StartAfter=keys.after)
        entries = answer.get("Contents", ())
        found = [one for entry in entries if (one := self._wanted(entry))]
        for one in found:
            self._latest[one.run] = max(one.modified, self._latest.get(one.run, 0.0))
        if answer.get("IsTruncated") and entries and not (keys.beyond and entries[-1]["Key"] >= keys.beyond):
            self._ranges[0] = keys._replace(after=entries[-1]["Key"])
        else:
            self._ranges.popleft()
        if self.at_start and self._is_plain:
            self._plain_cost = self.requests
            again = max(_PLAIN_AGAIN_SECONDS, _SECONDS_PER_REQUEST * self.requests)
            self._plain_again_at = time.monotonic() + again
        return found

    def skip(self, found: ListedObject, last: int) -> None:
        """Continue after seq `last` of the run of `found`, since everything up to there has been listed."""
        key = _end_of(found.key[: -len(found.key.rpartition("/")[2])], last)
        if self._ranges and key.startswith(self._ranges[0].prefix) and key > self._ranges[0].after:
            self._ranges[0] = self._ranges[0]._replace(after=key)

    def _list(self, **parameters: str) -> Any:
        self.requests += 1
        return self._bucket.call("list_objects_v2", MaxKeys=_LISTED_AT_ONCE, **parameters)

    def _wanted(self, entry: Any) -> ListedObject | None:
        """The object of an entry, if it is one of ours."""
        key, prefix = entry["Key"], self._bucket.prefix
        parts = QUEUE_KEY.fullmatch(key, len(prefix))
        if not parts or not self._all.after <= key < self._all.beyond or entry["Size"] > MOST_OBJECT_BYTES:
            return None
        if self._names and not parts["run"].startswith(self._names):
            return None
        return ListedObject(key, parts, entry["Size"], entry["LastModified"], str(entry.get("ETag", "")))

    def _begin(self) -> None:
        """Plan a pass."""
        self.requests = 0
        ranges = self._planned()
        self._is_plain = ranges is None
        self._ranges.extend([self._all] if ranges is None else ranges)

    def _planned(self) -> list[_KeyRange] | None:
        """The keys to list in a pass by runs; None for a plain pass."""
        if self._names and all(map(_WHOLE_NAME.fullmatch, self._names)) and len(self._names) <= _MOST_NAMED_RUNS:
            ranges = [self._rest_of(f"{self._bucket.prefix}{shard(run)}/{run}/", run) for run in self._names]
            return sorted(one for one in ranges if self._all.after <= one.prefix < self._all.beyond)
        is_due = self._plain_cost <= _FEW_REQUESTS or time.monotonic() >= self._plain_again_at
        if not self._knows_groups or self._listed is None or (is_due and not self._names):
            return None
        try:
            ranges = self._runs_to_list()
        except TransportError as error:
            if error.code not in _REFUSED_GROUPS:
                raise
            self._knows_groups = False
            return None
        most = _MOST_NAMED_RUNS if self._names else self._plain_cost - 1
        return ranges if len(ranges) <= most else None

    def _runs_to_list(self) -> list[_KeyRange]:
        """The keys of the runs that are wanted, or else of those that may have a new object, by listing the runs."""
        found: dict[str, _KeyRange] = {}
        oldest = time.time() - _QUIET_SECONDS
        parameters = {"Prefix": self._bucket.prefix, "Delimiter": _GROUP_END, "StartAfter": self._all.after}
        while True:
            answer = self._list(**parameters)
            names = [entry["Prefix"] for entry in answer.get("CommonPrefixes", ())]
            names += [entry["Key"] for entry in answer.get("Contents", ())]
            for name in names:
                parts = _GROUP.match(name, len(self._bucket.prefix)) or QUEUE_KEY.match(name, len(self._bucket.prefix))
                if not parts or not self._all.after <= name < self._all.beyond:
                    continue
                run = parts["run"]
                if run is None:  # of runs whose names begin as the seqs do
                    folder = name[: parts.end()]
                    found[folder] = _KeyRange(folder, folder)
                elif run.startswith(self._names) if self._names else self._latest.get(run, oldest) >= oldest:
                    folder = f"{name[: parts.start()]}{parts[0][:3]}{run}/"
                    found[folder] = self._rest_of(folder, run)
            if not answer.get("IsTruncated") or not names or max(names) >= self._all.beyond:
                return list(found.values())
            parameters["ContinuationToken"] = answer["NextContinuationToken"]

    def _rest_of(self, folder: str, run: str) -> _KeyRange:
        """The keys of a run behind the part that has been listed without a hole from its start."""
        if self._listed is None or not self._listed.covers(run, 0, 0):
            return _KeyRange(folder, folder)
        return _KeyRange(folder, _end_of(folder, self._listed.end(run, 0)))


def _end_of(folder: str, last: int) -> str:
    """A key behind those of a run's objects up to the seq `last`."""
    return f"{folder}{last:012d}-~"
