"""The runs whose records are in a data lake, by the indexes of batches; of files without one, by their records."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

from sqstee.backoff import full_jitter
from sqstee.run_summary import RunSummary
from sqstee.transports.batch_index import MOST_INDEX_BYTES, add_bodies, bodies_in, other_lines, read_index
from sqstee.transports.errors import REFRESH, RETRY, TransportError, is_denied
from sqstee.transports.file_tree import FileTree, TreeFile
from sqstee.transports.folder_files import UNREADABLE, reason_of_failure
from sqstee.transports.layouts import (
    BATCH,
    BATCH_INDEX,
    DRAINED,
    HIDDEN_NAME,
    INDEX_FOLDER,
    OF_RECORDS,
    Strays,
    index_of_batch,
    recognise,
)
from sqstee.transports.read_ahead import in_order
from sqstee.transports.stored_records import stored_records

Result = TypeVar("Result")
_ATTEMPTS = 5  # of a call whose trouble may pass
_FIRST_SECONDS, _MOST_SECONDS = 0.2, 5.0


def indexed_runs(tree: FileTree, path: str) -> list[str] | None:
    """The runs in a batch's records, by their index; None where it cannot be read. Raises TransportError."""
    try:
        return [one.run for one in _read_index(tree, path)]
    except UNREADABLE as error:
        reason_of_failure(error)  # raises trouble that may pass
        return None


def _read_index(tree: FileTree, path: str) -> list[RunSummary]:
    with tree.open(index_of_batch(path)) as file:
        data = file.read(MOST_INDEX_BYTES + 1)
    if len(data) > MOST_INDEX_BYTES:
        raise ValueError("it is too large")
    return read_index(data)


def _patiently(call: Callable[[], Result]) -> Result:
    """The result of a call, which is repeated a few times while its trouble may pass. Raises its exceptions."""
    for attempt in range(1, _ATTEMPTS):
        try:
            return call()
        except TransportError as error:
            if error.kind not in (RETRY, REFRESH):
                raise
            time.sleep(full_jitter(attempt, _FIRST_SECONDS, _MOST_SECONDS))
    return call()


class LakeRuns:
    """Collects the runs in the files of `tree` whose paths begin with one of `unders`.

    Files and lines that are not sqstee's are added to `strays`, files that cannot be read to `problems`.
    """

    def __init__(self, tree: FileTree, unders: Sequence[str], strays: Strays, problems: list[str]) -> None:
        self._tree, self._unders = tree, unders
        self._strays, self._problems = strays, problems
        self._runs: dict[str, RunSummary] = {}
        self._has_read = False
        self._again: list[tuple[TreeFile, set[str]]] = []
        self._foreign: dict[str, int] = {}  # by file, its lines that are no records

    def collect(self) -> Iterator[RunSummary]:
        """The summaries. Raises OSError and TransportError."""
        for file, found in in_order(self._summaries_in, self._files(), self._tree.at_once):
            twice = {one.run for one in found if not self._add(one)}
            if twice:
                self._again.append((file, twice))
        for file, runs in self._again:
            self._add_new_lines(file, runs)
        for path, lines in self._foreign.items():
            self._strays.add_lines(path, lines)
        yield from self._runs.values()

    def _add(self, one: RunSummary) -> bool:
        """Add a file's summary of a run; False where some of its records came already: then its lines are needed."""
        mine = self._runs.get(one.run)
        if mine is None:
            mine = self._runs[one.run] = RunSummary(one.run)
        if mine.overlaps(one):
            return False
        mine.merge(one)
        return True

    def _add_new_lines(self, file: TreeFile, runs: set[str]) -> None:
        """Add those lines of these runs in a file that have not come: a batch may be written twice, in other parts."""
        try:
            for block in stored_records(self._tree.open(file.path), file.path, self._strays):
                add_bodies(self._runs, [body for body in bodies_in(block) if body.run in runs])
        except UNREADABLE as error:
            self._problems.append(f"{self._tree.name.rstrip('/')}/{file.path}: {reason_of_failure(error)}")

    def _files(self) -> Iterator[tuple[TreeFile, bool]]:
        """The files with records, and whether each has an index: both listings are in the order of their names."""
        indexes = (file.path for file in self._listed([INDEX_FOLDER]))
        index = next(indexes, None)
        for file in self._listed(self._unders):
            kind = recognise(file.path).kind
            if kind in OF_RECORDS:
                own = index_of_batch(file.path) if kind == BATCH else ""
                while own and index is not None and index < own:
                    index = next(indexes, None)
                yield file, bool(own) and index == own
            elif kind not in (HIDDEN_NAME, BATCH_INDEX, DRAINED):
                self._strays.add(file.path)

    def _listed(self, unders: Sequence[str]) -> Iterator[TreeFile]:
        for under in unders:
            after = ""
            while True:
                found, after = _patiently(partial(self._tree.page, under, after))
                yield from found
                if not after:
                    break

    def _summaries_in(self, job: tuple[TreeFile, bool]) -> tuple[TreeFile, list[RunSummary]]:
        """A file, and the summaries of the runs in it. For several threads."""
        file, has_index = job
        try:
            found = _patiently(partial(self._summaries, file, has_index))
            self._has_read = True
            return file, found
        except UNREADABLE as error:
            if is_denied(error) and not self._has_read:
                raise
            if not isinstance(error, FileNotFoundError):  # it was deleted meanwhile
                self._problems.append(f"{self._tree.name.rstrip('/')}/{file.path}: {reason_of_failure(error)}")
            return file, []

    def _summaries(self, file: TreeFile, has_index: bool) -> list[RunSummary]:
        if has_index:
            try:
                return _read_index(self._tree, file.path)
            except UNREADABLE as error:
                reason_of_failure(error)  # raises trouble that may pass; else the records say the same
        found: dict[str, RunSummary] = {}
        foreign = 0
        for block in stored_records(self._tree.open(file.path), file.path, self._strays):
            bodies = bodies_in(block)
            add_bodies(found, bodies)
            foreign += other_lines(block, bodies)
        if foreign > 0:
            self._foreign[file.path] = foreign
        return list(found.values())
