"""The Parquet files of a drained folder, as bodies. Needs pyarrow (extra `parquet`).

A row of a run that the index does not name is left out. pyarrow reads the files, so unlike the other layouts they are
only as safe to read as pyarrow is: name no folder whose files somebody else may have forged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pyarrow as pa
import pyarrow.parquet as pq

from sqstee.at_rest.arrow import SCHEMA, ndjson_of
from sqstee.transports.file_tree import FileTree
from sqstee.transports.folder_files import UNREADABLE

BAD_PARQUET = (*UNREADABLE, pa.ArrowException, NotImplementedError, KeyError)
_ROWS = 1000  # that are decoded at a time
_BODY_BYTES = 256 * 1024  # of a body, unless one line is longer


def part_bodies(tree: FileTree, path: str, hosts: Mapping[str, str]) -> Iterator[bytes]:
    """The rows of a file as bodies: those of the runs in `hosts`. Raises one of BAD_PARQUET."""
    with tree.open(path) as file, pq.ParquetFile(file) as parquet:
        groups = [number for number in range(parquet.num_row_groups) if _may_have(parquet.metadata, number, hosts)]
        names = [name for name in SCHEMA.names if name in parquet.schema_arrow.names]
        lines: list[bytes] = []
        size = 0
        for batch in parquet.iter_batches(_ROWS, groups, names, use_threads=False):
            for line in ndjson_of(batch, hosts):
                if lines and size + len(line) > _BODY_BYTES:
                    yield b"".join(lines)
                    lines, size = [], 0
                lines.append(line)
                size += len(line)
        if lines:
            yield b"".join(lines)


def _may_have(metadata: pq.FileMetaData, number: int, hosts: Mapping[str, str]) -> bool:
    """Whether a row group may have rows of one of a few runs; true where there are many."""
    if len(hosts) > 1:
        return True
    group = metadata.row_group(number)
    for place in range(group.num_columns):
        column = group.column(place)
        if column.path_in_schema == "run" and column.statistics is not None and column.statistics.has_min_max:
            (run,) = hosts
            return bool(column.statistics.min <= run <= column.statistics.max)
    return True
