"""The Parquet layout of a drain: Hive partitions of files that are never appended to.

    DIR/lines/date=D/host=H/TIME-PID-N.parquet       rows of runs up to their first hole: final
    DIR/lines/date=D/host=H/TIME-PID-N.open.parquet  rows after a hole, until the next drain writes them anew
    DIR/.sqstee/parts/TIME-PID-N.parquet             files on their way

A file has the rows of many runs, in the order of (run, seq). It is written and synced in .sqstee/parts. The transaction
that stores the state of the runs also stores the names of the new files, and of those that they replace; then they are
moved to their places, and the replaced ones are removed. A kill before the transaction ends leaves files that nobody
names, which are removed. A kill after it leaves moves, which the next drain makes.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress

import pyarrow as pa
import pyarrow.parquet as pq

from sqstee.at_rest.arrow import SCHEMA, RowBuilder, table_of
from sqstee.at_rest.schema import DICTIONARY, MOST_DATES, NO_DATE, PARQUET_FOLDER, partition_of
from sqstee.drain.fast_decode import plain_rows
from sqstee.drain.files import MAX_SYNCED
from sqstee.drain.journal import name_by_time, sync_folder
from sqstee.drain.run_assembly import AssemblyContext, RunAssembly
from sqstee.fds import sync_data

_GROUP_ROWS = 128 * 1024
_GROUP_BYTES = 8 * 1024 * 1024  # of NDJSON in a row group, which is in memory as a whole while it is written
_PENDING_BYTES = 16 * 1024 * 1024  # of all row groups that are not full yet
_MOST_PARTS = 4096  # that are begun at a time; then the one that was not added to for the longest time is closed
_MOST_OPEN = 128  # files at a time, likewise
_TABLE = """
CREATE TABLE IF NOT EXISTS part (
    name TEXT NOT NULL, partition TEXT NOT NULL, state TEXT NOT NULL, PRIMARY KEY (name, partition));
"""
_NEW, _OPEN, _REPLACED = "new", "open", "replaced"  # states: to be moved; in its place, but not final; to be removed


class Parts:
    """The Parquet files of a folder: those that are written, and those whose names a transaction has stored."""

    def __init__(self, folder: str, hidden: str, database: sqlite3.Connection) -> None:
        self._folder, self._hidden = f"{folder}/{PARQUET_FOLDER}", f"{hidden}/parts"
        self._database = database
        self._prefix = name_by_time()
        self._number = 0
        self._open: dict[tuple[str, bool], _Part] = {}  # by partition and whether it is final; written to last: last
        self._writing: dict[tuple[str, bool], None] = {}  # of these, the ones whose file is open
        self._closed: list[_Part] = []
        self._pending = 0
        database.executescript(_TABLE)
        pa.set_memory_pool(pa.system_memory_pool())  # the default one keeps 30 MiB more, and is no faster here
        os.makedirs(self._hidden, 0o700, exist_ok=True)
        self.publish()
        for name in os.listdir(self._hidden):
            os.unlink(f"{self._hidden}/{name}")

    def add(self, partition: str, is_final: bool, batch: pa.RecordBatch, size: int) -> None:
        """Add rows of one run, made from `size` bytes, behind those of runs before it. Raises OSError."""
        key = partition, is_final
        part = self._open.pop(key, None) or self._new(partition, is_final)
        self._open[key] = part
        self._pending += part.add(batch, size)
        if self._pending > _PENDING_BYTES:
            key, part = max(self._open.items(), key=lambda item: item[1].pending)
            self._pending -= part.write()
        if part.is_open:
            self._writing.pop(key, None)
            self._writing[key] = None
            if len(self._writing) > _MOST_OPEN:
                self._close(next(iter(self._writing)))

    def assembly(self, context: AssemblyContext, run: str) -> RunAssembly:
        """One run on its way into its rows."""
        return RowAssembly(context, run)

    def rows(self, host: str, run: str, dates: Iterable[str]) -> RunRows:
        """Where a run is written whose final part is in the partitions of these dates."""
        return RunRows(self, host, run, dates)

    def store(self) -> None:
        """Write and sync everything, and store the names of the files, as part of a transaction. Raises OSError."""
        for key in list(self._open):
            self._close(key)
        parts = self._closed
        if len(parts) > MAX_SYNCED:
            os.sync()
        else:
            for part in parts:
                part.sync()
        if parts:
            sync_folder(self._hidden)
        self._database.execute("UPDATE part SET state = ? WHERE state = ?", (_REPLACED, _OPEN))
        rows = [(part.name, part.partition, _NEW) for part in parts]
        self._database.executemany("INSERT INTO part VALUES (?, ?, ?)", rows)
        self._closed = []

    def abandon(self) -> None:
        """Remove the files that were written since the last call of store()."""
        for part in (*self._open.values(), *self._closed):
            part.abandon()
        self._open, self._writing, self._closed, self._pending = {}, {}, [], 0

    def publish(self) -> None:
        """Make the stored names those of the files that engines find. It can be repeated. Raises OSError.

        The replaced files go first: a query meanwhile may miss rows behind a hole, but sees none twice.
        """
        folders = set()
        for name, partition in self._named(_REPLACED):
            with suppress(FileNotFoundError):
                os.unlink(f"{self._folder}/{partition}/{name}")
        for name, partition in self._named(_NEW):
            folder = f"{self._folder}/{partition}"
            os.makedirs(folder, exist_ok=True)
            with suppress(FileNotFoundError):  # moved already
                os.rename(f"{self._hidden}/{name}", f"{folder}/{name}")
            folders |= {folder, os.path.dirname(folder), self._folder, os.path.dirname(self._folder)}
        if len(folders) > MAX_SYNCED:
            os.sync()
        else:
            for folder in folders:
                sync_folder(folder)
        self._database.execute("BEGIN IMMEDIATE")
        self._database.execute("DELETE FROM part WHERE state = ?", (_REPLACED,))
        self._database.execute("DELETE FROM part WHERE state = ? AND name NOT LIKE '%.open.parquet'", (_NEW,))
        self._database.execute("UPDATE part SET state = ? WHERE state = ?", (_OPEN, _NEW))
        self._database.execute("COMMIT")

    def _named(self, state: str) -> list[tuple[str, str]]:
        return self._database.execute("SELECT name, partition FROM part WHERE state = ?", (state,)).fetchall()

    def _new(self, partition: str, is_final: bool) -> _Part:
        if len(self._open) >= _MOST_PARTS:
            self._close(next(iter(self._open)))
        self._number += 1
        name = f"{self._prefix}-{self._number:06d}{'' if is_final else '.open'}.parquet"
        return _Part(self._hidden, name, partition)

    def _close(self, key: tuple[str, bool]) -> None:
        part = self._open[key]
        self._pending -= part.close()
        del self._open[key]
        self._writing.pop(key, None)
        self._closed.append(part)


class _Part:
    """A file of one partition, opened when its first row group is written; `pending` bytes of rows wait for it."""

    def __init__(self, folder: str, name: str, partition: str) -> None:
        self.name, self.partition = name, partition
        self._path = f"{folder}/{name}"
        self._batches: list[pa.RecordBatch] = []
        self._rows = 0
        self._writer: pq.ParquetWriter | None = None
        self.pending = 0

    def add(self, batch: pa.RecordBatch, size: int) -> int:
        """Add rows made from `size` bytes; by how many `pending` grew."""
        before = self.pending
        self._batches.append(batch)
        self._rows += batch.num_rows
        self.pending += size
        if self._rows >= _GROUP_ROWS or self.pending >= _GROUP_BYTES:
            self.write()
        return self.pending - before

    def write(self) -> int:
        """Write the rows that wait as a row group; how many bytes they had."""
        before = self.pending
        if self._batches:
            if self._writer is None:
                self._writer = _writer(self._path)
            self._writer.write_table(table_of(self._batches), row_group_size=self._rows)
            self._batches, self._rows, self.pending = [], 0, 0
        return before

    def close(self) -> int:
        """Write the rest; how many bytes it had."""
        before = self.write()
        if self._writer is not None:
            self._writer.close()
        return before

    @property
    def is_open(self) -> bool:
        """Whether the file is open."""
        return self._writer is not None

    def sync(self) -> None:
        """Sync the file, which is closed."""
        fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            sync_data(fd)
        finally:
            os.close(fd)

    def abandon(self) -> None:
        """Remove the file."""
        if self._writer is not None:
            with suppress(OSError):  # on a full disk
                self._writer.close()
            self._writer.is_open = False
            with suppress(OSError):
                os.unlink(self._path)


def _writer(path: str) -> pq.ParquetWriter:
    return pq.ParquetWriter(
        path,
        SCHEMA,
        compression="zstd",
        compression_level=1,
        use_dictionary=[*DICTIONARY, "labels.key_value.key", "labels.key_value.value"],
        write_statistics=[one for one in SCHEMA.names if one not in _LONG],
        store_schema=False,
    )


_LONG = ("message", "raw", "data", "fields", "labels")  # columns whose least and greatest values help no query


class RunRows:
    """The rows of one run, written instead of its files (files.RunFiles)."""

    def __init__(self, parts: Parts, host: str, run: str, dates: Iterable[str]) -> None:
        self._parts, self._host, self._run = parts, host, run
        self._builder = RowBuilder(run, host)
        self._dates = dict.fromkeys(dates, 0)
        self._is_final = True

    def write(self, suffix: str, data: bytes) -> None:
        """Add NDJSON of records and events of the run, in order. Raises OSError."""
        self._add(self._builder.lines(data), len(data))

    def write_plain(self, data: bytes, first: int, last: int) -> dict[str, int] | None:
        """Add the records first..last; how many each stream has, or None where they are not plain. Raises OSError."""
        plain = plain_rows(data, self._run)
        if plain is None or (plain.first, len(plain.messages)) != (first, last - first + 1):
            return None
        batches = self._builder.plain(*plain)
        if batches is None:
            return None
        self._add(batches, len(data))
        streams: dict[str, int] = {}
        for head, count in zip(plain.heads, plain.counts, strict=True):
            streams[head["stream"]] = streams.get(head["stream"], 0) + count
        return streams

    def _add(self, batches: Sequence[tuple[str, pa.RecordBatch]], size: int) -> None:
        for date, batch in batches:
            if date not in self._dates:
                date = date if len(self._dates) < MOST_DATES - 1 else NO_DATE
                self._dates[date] = 0
            self._parts.add(partition_of(date, self._host), self._is_final, batch, size // len(batches))

    def checkpoint(self) -> dict[str, int]:
        """Make the rows added so far final, and later rows not final; return the dates of the run's partitions."""
        self._is_final = False
        return dict(self._dates)

    def close(self, sync: bool) -> None:
        """Do nothing: the files are shared with other runs."""

    @property
    def suffixes(self) -> list[str]:
        """The dates of its partitions."""
        return list(self._dates)


class RowAssembly(RunAssembly):
    """One run on its way into its rows."""

    def _write(self, data: bytes, first: int, last: int, skip: int) -> Collection[str]:
        """Write plain records without a second look at them, and all others as the assembly into files does."""
        streams = self._files.write_plain(data, first, last) if isinstance(self._files, RunRows) and not skip else None
        if streams is None:
            return super()._write(data, first, last, skip)
        for stream, lines in streams.items():
            self._count(stream, lines - self._continues(stream))
        return streams
