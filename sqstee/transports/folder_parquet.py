"""Parquet files at rest, as bodies: of a drained folder, and of `sqstee.spark`. Needs pyarrow (extra `parquet`).

A row of a drained folder is left out if the index does not name its run. Unlike the other layouts, these files are
only as safe to read as pyarrow is. So name no folder whose files somebody else may have forged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import BinaryIO
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from sqstee.at_rest.arrow import SCHEMA, ndjson_of
from sqstee.at_rest.schema import COLUMNS, NO_HOST
from sqstee.text import one_line
from sqstee.transports.file_tree import FileTree
from sqstee.transports.folder_files import UNREADABLE
from sqstee.transports.layouts import ForeignFileError

BAD_PARQUET = (*UNREADABLE, pa.ArrowException, NotImplementedError, KeyError)
_NEEDED = {column.name for column in COLUMNS if not column.nullable}
_HOST = "host"  # a column of `sqstee.spark`, or a folder
_ROWS = 1000  # that are decoded at a time
_BODY_BYTES = 256 * 1024  # of a body, unless one line is longer


def part_bodies(tree: FileTree, path: str, hosts: Mapping[str, str]) -> Iterator[bytes]:
    """The rows of a file as bodies: those of the runs in `hosts`. Raises one of BAD_PARQUET."""
    with tree.open(path) as file, pq.ParquetFile(file) as parquet:
        groups = [number for number in range(parquet.num_row_groups) if _may_have(parquet.metadata, number, hosts)]
        names = [name for name in SCHEMA.names if name in parquet.schema_arrow.names]
        batches = parquet.iter_batches(_ROWS, groups, names, use_threads=False)
        yield from _bodies(line for batch in batches for line in ndjson_of(batch, hosts))


def stored_rows(file: BinaryIO, path: str, runs: Sequence[str] = ()) -> Iterator[bytes]:
    """The rows of an open file as bodies: those of the runs whose names begin with one of `runs`, if there are any.

    Raises one of UNREADABLE, and ForeignFileError where the columns are not those of sqstee.
    """
    try:
        with file, pq.ParquetFile(file) as parquet:
            columns = set(parquet.schema_arrow.names)
            if not columns >= _NEEDED:
                raise ForeignFileError
            names = [name for name in (*SCHEMA.names, _HOST) if name in columns]
            groups = [at for at in range(parquet.num_row_groups) if _may_begin(parquet.metadata, at, runs)]
            batches = parquet.iter_batches(_ROWS, groups, names, use_threads=False)
            yield from _bodies(line for batch in batches for line in ndjson_of(batch, _hosts(batch, path, runs)))
    except (*UNREADABLE, ForeignFileError):
        raise
    except BAD_PARQUET as error:
        raise ValueError(one_line(str(error))) from error


def _hosts(batch: pa.RecordBatch, path: str, runs: Sequence[str]) -> dict[str, str]:
    """The host of each wanted run: by its column, or by the folder host=…"""
    folder = next((name for name in path.split("/")[:-1] if name.startswith(f"{_HOST}=")), "")
    host = unquote(folder.removeprefix(f"{_HOST}=").replace(NO_HOST, ""))
    names = [name or "" for name in batch.column("run").cast(pa.string()).to_pylist()]
    hosts = batch.column(_HOST).to_pylist() if _HOST in batch.schema.names else [host] * len(names)
    found = dict(zip(names, hosts, strict=True))
    return {run: str(at or "") for run, at in found.items() if run.startswith(tuple(runs) or "")}


def _bodies(lines: Iterator[bytes]) -> Iterator[bytes]:
    held: list[bytes] = []
    size = 0
    for line in lines:
        if held and size + len(line) > _BODY_BYTES:
            yield b"".join(held)
            held, size = [], 0
        held.append(line)
        size += len(line)
    if held:
        yield b"".join(held)


def _may_have(metadata: pq.FileMetaData, number: int, hosts: Mapping[str, str]) -> bool:
    """Whether a row group may have rows of one of a few runs; true where there are many."""
    if len(hosts) > 1:
        return True
    (run,) = hosts
    first, last = _run_range(metadata, number) or (run, run)
    return first <= run <= last


def _may_begin(metadata: pq.FileMetaData, number: int, runs: Sequence[str]) -> bool:
    """Whether a row group may have rows of runs whose names begin with one of `runs`; true where that is empty."""
    found = _run_range(metadata, number)
    if not runs or not found:
        return True
    first, last = found
    return any(first[: len(run)] <= run <= last for run in runs)


def _run_range(metadata: pq.FileMetaData, number: int) -> tuple[str, str] | None:
    """The first and the last run of a row group, if the file says so."""
    group = metadata.row_group(number)
    for place in range(group.num_columns):
        column = group.column(place)
        if column.path_in_schema == "run" and column.statistics is not None and column.statistics.has_min_max:
            first, last = column.statistics.min, column.statistics.max
            return (first, last) if isinstance(first, str) and isinstance(last, str) else None
    return None
