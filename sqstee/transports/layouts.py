"""The names of objects in S3, and of files in a folder, by which readers recognise those of sqstee. Pure.

- `<shard>/<run>/<first>-<last>[-gap].ndjson[.gz]`: records of one run, stored by `--to s3://…`
- `date=<date>/hour=<hour>/<digest>.ndjson[.gz]`: a batch's records of that hour, of many runs, stored by Lambda
- `_index/date=<date>/hour=<hour>/<digest>.json`: Lambda's index of that object, by run
- `date=<date>/host=<host>/run=<run>/<first>-<last>-<digest>.ndjson[.gz]`: stored by early versions of Lambda
- `<name>=<value>/…/<name>.ndjson[.gz]`, `…/part-….json[.gz]`: records that Spark or another engine has written
- `….parquet`: records in columns, of `sqstee.spark`, or of a drained folder without its index
- `runs.ndjson` and the files that it names: written by `drain`, see folder.py

Hours and dates are those of the records, in UTC. Names that begin with an underscore or a dot are hidden from Hive,
Spark and Athena, so an index is not read as records.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

from sqstee.at_rest.schema import PARQUET_FOLDER
from sqstee.text import count, one_line

QUEUE = "queue"  # the kinds of names: see above
BATCH = "batch"
BATCH_INDEX = "batch index"
RUN_RANGE = "run range"
RECORDS = "records"
DRAINED = "drained"
PARQUET = "parquet"
HIDDEN_NAME = "hidden"
FOREIGN = "foreign"
OF_RECORDS = (QUEUE, BATCH, RUN_RANGE, RECORDS, PARQUET)

INDEX_NAME = "runs.ndjson"
INDEX_FOLDER = "_index/"
QUEUE_KEY = re.compile(
    r"(?P<shard>[0-9a-f]{2})/(?P<run>[^/]+)/(?P<first>\d{12})-(?P<last>\d{12})(?P<gap>-gap)?\.ndjson(?P<gz>\.gz)?"
)
_SHARD = re.compile(r"[0-9a-f]{2}/")
_HOUR = r"date=\d{4}-\d\d-\d\d/hour=\d\d"
_BATCH = re.compile(rf"{_HOUR}/[0-9a-f]{{16}}\.ndjson(?:\.gz)?")
_BATCH_INDEX = re.compile(rf"{INDEX_FOLDER}{_HOUR}/[0-9a-f]{{16}}\.json")
_RUN_RANGE = re.compile(
    r"date=[^/]*/host=[^/]*/run=(?P<run>[^/]+)/(?P<first>\d{12,19})-(?P<last>\d{12,19})-[0-9a-f]{16}\.ndjson(?:\.gz)?"
)
_RECORDS = re.compile(r"(?:(?:[^/=]+=[^/]*/)+[^/]+|part-[^/]+|[0-9a-f]{16})\.(?:ndjson|jsonl?)(?:\.gz)?")
_PARQUET = re.compile(r"(?:[^/]+/)*[^/]+\.parquet")
_PARTITION = re.compile(r"([^/=]+=)[^/]*/")
_PROBE = re.compile(r"sqstee-check-[^/]+")  # an object of `sqstee check` that could not be deleted
_DRAINED_PARQUET = f"{PARQUET_FOLDER}/"
_MOST_COUNTED = 10_000  # files that are left out


class ForeignFileError(Exception):
    """A file has no records, although its name is one of those that have."""


class StoredName:
    """The meaning of a name: its `kind`, and the run and seqs of an object of one run."""

    __slots__ = ("first", "kind", "last", "run")

    def __init__(self, kind: str, run: str = "", first: int = 0, last: int = 0) -> None:
        self.kind = kind
        self.run = run
        self.first = first
        self.last = last


def recognise(path: str) -> StoredName:
    """The meaning of the name of an object or a file, by its path below the prefix or in the folder."""
    if found := QUEUE_KEY.fullmatch(path):
        return StoredName(QUEUE, found["run"], int(found["first"]), int(found["last"]))
    if _BATCH.fullmatch(path):
        return StoredName(BATCH)
    if _BATCH_INDEX.fullmatch(path):
        return StoredName(BATCH_INDEX)
    is_hidden = any(part[:1] in ("_", ".") for part in path.split("/"))
    if is_hidden or not path or path.endswith("/") or _PROBE.fullmatch(path):
        return StoredName(HIDDEN_NAME)
    if found := _RUN_RANGE.fullmatch(path):
        return StoredName(RUN_RANGE, unquote(found["run"]), int(found["first"]), int(found["last"]))
    if _RECORDS.fullmatch(path):
        return StoredName(RECORDS)
    if _PARQUET.fullmatch(path):
        return StoredName(PARQUET)
    return StoredName(DRAINED if path == INDEX_NAME else FOREIGN)


def kind_of_top(name: str) -> str:
    """The kind of a name directly below the prefix: of an object, or of all in a folder, which ends in a slash."""
    if _SHARD.fullmatch(name):
        return QUEUE
    if _PARTITION.fullmatch(name) or name == _DRAINED_PARQUET:
        return RECORDS
    if name.endswith("/") and name[:1] not in ("_", "."):
        return FOREIGN
    return recognise(name).kind


def beginning_of(name: str) -> str:
    """How the names begin that are like this one of RECORDS: `date=` for `date=2026-11-30/`."""
    if found := _PARTITION.match(name):
        return found[1]
    if name == _DRAINED_PARQUET:
        return name
    return "part-" if name.startswith("part-") else name[:1]


def inner_folder(path: str) -> str:
    """The first folders of a path, if the file in them is sqstee's: somebody has named too short a prefix."""
    parts = path.split("/")
    for depth in range(1, len(parts)):
        kind = recognise("/".join(parts[depth:])).kind
        if kind in (*OF_RECORDS, DRAINED, BATCH_INDEX) and kind != PARQUET:  # whose name may be anybody's
            return "/".join(parts[:depth])
    return ""


def batch_name(date: str, hour: str, digest: str) -> str:
    """The name of a batch's records of one hour."""
    return f"date={date}/hour={hour}/{digest}.ndjson.gz"


def index_of_batch(name: str) -> str:
    """The name of the index of a batch's records."""
    return f"{INDEX_FOLDER}{name.removesuffix('.gz').removesuffix('.ndjson')}.json"


class Strays:
    """Counts the files and lines that a reader leaves out, for its remarks about them."""

    def __init__(self) -> None:
        self.foreign = self.parquet = self.lines = 0
        self.example = self._why = ""
        self._with_lines: list[str] = []  # the files of these lines
        self._is_more = False
        self._counted: set[str] = set()

    def add(self, path: str, number: int = 1, is_more: bool = False) -> None:
        """Add `number` files, the first of which is `path`; with `is_more` there are others that were not counted.

        The same one may come several times.
        """
        if path in self._counted:
            return
        if len(self._counted) >= _MOST_COUNTED:
            self._is_more = True
            return
        self._counted.add(path)
        self.foreign += number
        self.example = min(self.example or path, path)
        self._is_more |= is_more

    def add_parquet(self, path: str, why: str) -> None:
        """Add a Parquet file that is not read; `why` is the same for all."""
        if path not in self._counted and len(self._counted) < _MOST_COUNTED:
            self._counted.add(path)
            self.parquet += 1
            self._why = why

    def add_lines(self, path: str, number: int) -> None:
        """Add `number` lines that are no records, of a file that has some, or its name says so; '' for no file."""
        self.lines += number
        if path:
            self._with_lines.append(path)

    def remarks(self, name: str, noun: str) -> list[str]:
        """The remarks about them; `noun` is object or file."""
        found = []
        if self.foreign:
            number = f"{'more than ' if self._is_more else ''}{count(self.foreign, noun)}"
            shown = f"{one_line(self.example)}{', …' if self.foreign > 1 else ''}"
            inner = inner_folder(self.example)
            hint = f"; to read that folder: {name.rstrip('/')}/{one_line(inner)}" if inner else ""
            found.append(f"{name}: {number} not written by sqstee, left out: {shown}{hint}")
        if self.lines:
            more = ", …" if len(self._with_lines) > 1 else ""
            where = f": in {one_line(min(self._with_lines))}{more}" if self._with_lines else ""
            found.append(f"{name}: {count(self.lines, 'line')} not written by sqstee, left out{where}")
        if self.parquet:
            found.append(f"{name}: {count(self.parquet, f'Parquet {noun}')} left out: {self._why}")
        return found
