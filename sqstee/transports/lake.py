"""Objects of records, in a data lake or copied into a folder, as a source that is read and never consumed.

Among them are the objects of a Lambda function, those that `--to s3://` stores (as a copy in a folder), and records
that Spark has written: see layouts.py. They come in the order of their names, each in parts of bounded size.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import BinaryIO, TypeAlias

from sqstee.record import CONTENT_TYPE, FORMAT_VERSION
from sqstee.run_summary import RunSummary
from sqstee.text import count
from sqstee.transports.base import QueueState, ReceivedMessage
from sqstee.transports.batch_index import bodies_in
from sqstee.transports.errors import OPEN, Failure, TransportError, is_denied
from sqstee.transports.file_tree import FileTree, TreeFile, files_of
from sqstee.transports.folder_files import UNREADABLE, reason_of_failure
from sqstee.transports.lake_runs import LakeRuns, indexed_runs
from sqstee.transports.layouts import BATCH, BATCH_INDEX, DRAINED, HIDDEN_NAME, OF_RECORDS, Strays, recognise
from sqstee.transports.read_ahead import ReadAhead
from sqstee.transports.run_blocks import blocks_by_run
from sqstee.transports.stored_records import stored_records

Opened: TypeAlias = BinaryIO | Exception | None  # why a file cannot be read; None: it need not be

_ATTRIBUTES = {"content-type": CONTENT_TYPE, "sqstee": FORMAT_VERSION}
_ESCAPE = b"\\u00"  # of an ASCII character: a run's name may be written so
_DATES = "date="  # where new names are those of the latest hours
_RECENT_SECONDS = 2 * 3600.0  # while a bucket is followed: records of these hours are looked for each time,
_WHOLE_PASS_SECONDS = 600.0  # and those of all others, which a sender could not send for long, this often
_AHEAD_BYTES = 16 * 1024 * 1024  # of files that are opened ahead
_OPENED_BYTES = 2 * 1024 * 1024  # the most of a file that is in memory once it is opened
_REST = 9  # times as long as a pass takes no other begins


class LakeReceiver:
    """Returns the records of each file once, whenever it appears.

    `unders`: the beginnings of the paths in which files are looked for. `strays` counts the files and lines that
    are not read.
    """

    ordered = False
    follows = True
    lists_all = True  # an empty answer means that everything was returned

    def __init__(self, tree: FileTree, unders: Sequence[str] = ("",), strays: Strays | None = None) -> None:
        self.name = tree.name
        self._tree = tree
        self._unders = list(unders)
        self._runs: tuple[str, ...] = ()
        self._lock = threading.Lock()
        self._given: dict[str, set[str]] = {}  # by folder, the names of the files that were listed
        self._pending: deque[TreeFile] = deque()  # to be opened, the first of them after trouble
        self._ahead = ReadAhead[TreeFile, Opened](self._open, tree.at_once, _AHEAD_BYTES)
        self._file: TreeFile | None = None  # the one that is being read,
        self._bodies = 0  # how many of its bodies have been returned,
        self._skip = 0  # and how many are not to be returned again
        self._messages: Iterator[ReceivedMessage] = iter(())
        self._has_read = False
        self._cursor: tuple[int, str] | None = None  # where the listing goes on; None: a pass is over
        self._list_again_at = self._whole_pass_at = self._pass_began = 0.0
        self._strays = strays or Strays()
        self._is_listed = self._has_remarked = False

    def look_under(self, unders: Sequence[str]) -> None:
        """Look under these beginnings of paths as well."""
        self._unders += [under for under in unders if under not in self._unders]

    def narrow(self, runs: Sequence[str]) -> None:
        """Give the lines of these runs alone, named by their first characters, of the files that may have some."""
        self._runs = tuple(runs)

    def receive(self, limit: int, wait: float) -> list[ReceivedMessage]:
        """Records not returned before; makes at least one listing if none is known."""
        deadline = time.monotonic() + wait
        while True:
            with self._lock:
                if found := self._next(limit):
                    return found
            if wait:
                time.sleep(max(0.0, min(self._list_again_at, deadline) - time.monotonic()))
                if time.monotonic() < self._list_again_at:
                    return []
            with self._lock:
                if not self._list() and time.monotonic() >= deadline:
                    return []

    def delete(self, messages: Sequence[ReceivedMessage]) -> list[Failure]:
        """Do nothing: the objects stay."""
        return []

    def release(self, messages: Sequence[ReceivedMessage]) -> None:
        """Do nothing: the objects stay."""

    def stat(self) -> QueueState:
        """The number of files with records, their bytes, and the age of the oldest one."""
        found, oldest = QueueState(0), None
        found.bytes = 0
        for file in self._files():
            if recognise(file.path).kind in OF_RECORDS:
                found.visible += 1
                found.bytes += file.size
                oldest = file.modified if oldest is None else min(oldest, file.modified)
        found.oldest = None if oldest is None else max(0.0, time.time() - oldest)
        return found

    def summaries(self, problems: list[str]) -> Iterator[RunSummary]:
        """All runs, as far as possible by the indexes of batches alone; unreadable files are added to `problems`.

        Raises TransportError.
        """
        try:
            yield from LakeRuns(self._tree, self._unders, self._strays, problems).collect()
        except OSError as error:
            raise _refusal(error, self.name) from error
        self._is_listed = True

    def layouts(self) -> list[str]:
        """The contents of the files, in words. Raises TransportError."""
        number = 0
        for file in self._files():
            number += recognise(file.path).kind in OF_RECORDS
            self._count_stray(file)
        self._is_listed = True
        return [f"a data lake: {count(number, self._tree.noun)} with records"] if number else []

    def remarks(self) -> list[str]:
        """Remarks about the files that are not read, made once, after a whole listing."""
        if self._has_remarked or not self._is_listed or self._runs:
            return []
        self._has_remarked = True
        return self._strays.remarks(self.name, self._tree.noun)

    def close(self) -> None:
        """Close the files."""
        with self._lock:
            self._messages = iter(())
            self._ahead.close()

    def _next(self, limit: int) -> list[ReceivedMessage]:
        """The next records of the files that are known."""
        while True:
            try:
                found = list(islice(self._messages, limit))
            except TransportError:
                if self._file:
                    self._pending.appendleft(self._file)
                self._messages, self._skip, self._file = iter(()), self._bodies, None
                raise
            if found:
                self._bodies += len(found)
                return found
            self._file = None
            taken = self._take()
            if taken is None:
                return []
            file, opened = taken
            if opened is None:
                self._skip = 0
                continue
            if isinstance(opened, Exception) and is_denied(opened) and not self._has_read:
                raise opened
            self._has_read = True
            self._file, self._bodies = file, self._skip
            self._messages = islice(self._messages_of(file, opened), self._skip, None)
            self._skip = 0

    def _take(self) -> tuple[TreeFile, Opened] | None:
        """The next file. Raises TransportError for trouble that may pass: the file is then the next one again."""
        if self._pending:
            opened = self._open(self._pending[0])
            return self._pending.popleft(), opened
        return next(iter(self._ahead.take(1)), None)

    def _open(self, file: TreeFile) -> Opened:
        """A file, if it is still there and may have lines of the runs that are wanted. For several threads."""
        try:
            if self._runs:
                name = recognise(file.path)
                if name.run and not name.run.startswith(self._runs):
                    return None
                if name.kind == BATCH:
                    runs = indexed_runs(self._tree, file.path)
                    if runs is not None and not any(run.startswith(self._runs) for run in runs):
                        return None
            return self._tree.open(file.path)
        except FileNotFoundError:
            return None
        except (OSError, TransportError) as error:
            reason_of_failure(error)  # raises trouble that may pass
            return error

    def _messages_of(self, file: TreeFile, opened: BinaryIO | Exception) -> Iterator[ReceivedMessage]:
        at = f"{self.name.rstrip('/')}/{file.path}"
        number = 0
        try:
            if isinstance(opened, Exception):
                raise opened
            for block in stored_records(opened, file.path, self._strays, self._runs):
                for data in blocks_by_run(self._wanted(block) if self._runs else block):
                    yield _message(data, f"{at}@{file.tag}/{number}", file.modified)
                    number += 1
        except UNREADABLE as error:
            message = _message(b"", f"{at}@{file.tag}/{number}", file.modified)
            message.problem = f"{at}: {reason_of_failure(error)}"
            yield message

    def _wanted(self, block: bytes) -> bytes:
        """Those lines of NDJSON that are of the wanted runs; only lines that may be are decoded."""
        marks = [run.encode() for run in self._runs if run.isascii() and run.isalnum()]
        if len(marks) == len(self._runs):
            marks.append(_ESCAPE)
            if not any(mark in block for mark in marks):
                return b""
            block = b"".join(line for line in block.splitlines(True) if any(mark in line for mark in marks))
        return b"".join(body.data for body in bodies_in(block) if body.run.startswith(self._runs))

    def _list(self) -> bool:
        """List until there is a file that was not listed before, or a pass is over; whether there is one."""
        if self._pending or len(self._ahead):
            return True  # another thread has listed meanwhile
        if self._cursor is None:
            self._cursor, self._pass_began = self._start(), time.monotonic()
        while self._cursor is not None:
            number, after = self._cursor
            try:
                files, after = self._tree.page(self._unders[number], after)
            except OSError as error:
                raise _refusal(error, self.name) from error
            following = (number + 1, "") if number + 1 < len(self._unders) else None
            self._cursor = (number, after) if after else following
            fresh = [file for file in files if self._is_fresh(file)]
            if fresh:
                if self._tree.at_once > 1:
                    self._ahead.add((file, min(file.size, _OPENED_BYTES)) for file in fresh)
                else:
                    self._pending.extend(fresh)
                return True
        self._is_listed = True
        now = time.monotonic()
        self._list_again_at = now + max(self._tree.poll_seconds, _REST * (now - self._pass_began))
        return False

    def _start(self) -> tuple[int, str]:
        """Where a pass begins."""
        now = time.monotonic()
        if self._unders == [_DATES] and self._is_listed and now < self._whole_pass_at:
            return 0, time.strftime("date=%Y-%m-%d/hour=%H", time.gmtime(time.time() - _RECENT_SECONDS))
        self._whole_pass_at = now + _WHOLE_PASS_SECONDS
        return 0, ""

    def _is_fresh(self, file: TreeFile) -> bool:
        """Whether a file has records and was not listed before."""
        if recognise(file.path).kind not in OF_RECORDS:
            if not self._is_listed:
                self._count_stray(file)
            return False
        folder, _, name = file.path.rpartition("/")
        known = self._given.setdefault(folder, set())
        if name in known:
            return False
        known.add(name)
        return True

    def _count_stray(self, file: TreeFile) -> None:
        if recognise(file.path).kind not in (*OF_RECORDS, HIDDEN_NAME, BATCH_INDEX, DRAINED):
            self._strays.add(file.path)

    def _files(self) -> Iterator[TreeFile]:
        try:
            yield from files_of(self._tree, self._unders)
        except OSError as error:
            raise _refusal(error, self.name) from error


def _message(data: bytes, id: str, modified: float) -> ReceivedMessage:
    return ReceivedMessage(data, _ATTRIBUTES, id, id, modified)


def _refusal(error: OSError, name: str) -> TransportError:
    return TransportError(OPEN, "Folder", f"{error.filename or name}: {error.strerror}")
