"""The records in a file of a data lake, whether it is NDJSON or Parquet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import BinaryIO

from sqstee.transports.folder_files import stored_blocks
from sqstee.transports.layouts import PARQUET, ForeignFileError, Strays, recognise


def stored_records(file: BinaryIO, path: str, strays: Strays, runs: Sequence[str] = ()) -> Iterator[bytes]:
    """The records in an open file, which is closed at the end, as NDJSON; of Parquet, those of `runs` alone.

    Raises one of UNREADABLE. A Parquet file that has no records, or that cannot be read here, is added to `strays`.
    """
    if recognise(path).kind != PARQUET:
        yield from stored_blocks(file, path)
        return
    try:
        from sqstee.transports.folder_parquet import stored_rows
    except ImportError:
        from sqstee.extras import install_command

        file.close()
        strays.add_parquet(path, f"reading them needs pyarrow: {install_command('parquet')}")
        return
    try:
        yield from stored_rows(file, path, runs)
    except ForeignFileError:
        strays.add(path)
