"""A folder that drain made, as a source: its index names the runs, and their files give the bodies.

From the NDJSON and the Parquet layout come the records as they were sent. From the streams layout records are rebuilt:
the bytes, and what the index knows of the run, are true. Not known there are the time of each line (all have the time
of the run's start) and the order between its streams (one follows the other), so the seqs are new ones: an event for
the start where it came, a hole for all lines that are missing, gap events for those that went elsewhere or were
dropped, the lines, and an event for the exit.

The folder may be shared, so nothing in it is trusted: files are found only where the index names them in the form
HOST/FILE, never through a symbolic link, and they are read in parts of bounded size.
"""

from __future__ import annotations

import binascii
import json
import os
import shlex
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice

from sqstee.at_rest.schema import PYARROW_HINT
from sqstee.errors import SqsteeError, did_you_mean
from sqstee.record import Body
from sqstee.run_summary import RunSummary, seconds_of
from sqstee.text import count, one_line
from sqstee.transports.base import QueueState, ReceivedMessage
from sqstee.transports.errors import OPEN, Failure, TransportError
from sqstee.transports.folder_files import (
    NO_FILE,
    UNREADABLE,
    identity_of,
    lines_of,
    names_in,
    parts_of,
    reason_of_failure,
    size_of,
)
from sqstee.transports.folder_runs import INDEX_NAME, DrainedRun, drained_runs

HIDDEN = ".sqstee"
FOREIGN_NAME = "_foreign"
_FOREIGN_PATH = f"{FOREIGN_NAME}/messages.ndjson"
_POLL_SECONDS = 0.1


def check_drained(path: str, text: str) -> None:
    """Raise SqsteeError where a path, which the user wrote as `text`, is no folder that drain made."""
    path = path.rstrip("/") or "/"
    drain = f"sqstee drain SOURCE -O {shlex.quote(text)}"
    hint = f"{drain} makes one"
    if not os.path.isdir(path):
        if os.path.lexists(path):
            raise SqsteeError(f"{text} is no folder", "name the folder that drain made")
        folder = os.path.dirname(path)
        with suppress(OSError):
            hint_names = [os.path.join(folder, name) for name in os.listdir(folder or ".")]
            raise SqsteeError(f"{text}: no such folder{did_you_mean(path, hint_names)}", hint)
        raise SqsteeError(f"{text}: no such folder", hint)
    if os.path.isfile(f"{path}/{INDEX_NAME}"):
        return
    if os.path.isdir(f"{path}/{HIDDEN}"):
        raise SqsteeError(f"{text} has no {INDEX_NAME} yet", f"{drain} writes it at its end")
    raise SqsteeError(f"{text} is no folder that drain made: it has no {INDEX_NAME}", hint)


class FolderReceiver:
    """Reads the runs of a drained folder in the order of its index; nothing is consumed.

    Where a drain into the folder replaces the index meanwhile, its new runs follow. Of a run that was read already new
    lines follow, except in the streams layout: there they would change the seqs of those before.
    """

    ordered = False
    follows = True
    lists_all = True  # an empty answer means that everything was returned

    def __init__(self, path: str, name: str) -> None:
        self.name = name
        self._path = path
        self._lock = threading.Lock()
        self._index: tuple[int, int, int] | None = None  # the identity of the index that was read last
        self._read: dict[str, int] = {}  # by run, a hash of its entry in the index
        self._foreign_lines = 0
        self._parts: set[str] = set()  # Parquet files that were read
        self._runs: frozenset[str] = frozenset()
        self._messages: Iterator[ReceivedMessage] = iter(())

    def narrow(self, runs: Iterable[str]) -> None:
        """Read these runs alone, named by their whole ids, and no other program's messages."""
        self._runs = frozenset(runs)

    def receive(self, limit: int, wait: float) -> list[ReceivedMessage]:
        """The next bodies; waits for a new index if there is none."""
        deadline = time.monotonic() + wait
        while True:
            try:
                with self._lock:
                    if found := list(islice(self._messages, limit)):
                        return found
                    index = identity_of(f"{self._path}/{INDEX_NAME}")
                    if index != self._index:
                        self._index = index
                        self._messages = self._all_messages()
                        continue
            except OSError as error:
                raise TransportError(OPEN, "Folder", f"{error.filename or self._path}: {error.strerror}") from error
            if time.monotonic() >= deadline:
                return []
            time.sleep(min(_POLL_SECONDS, max(0.0, deadline - time.monotonic())))

    def delete(self, messages: Sequence[ReceivedMessage]) -> list[Failure]:
        """Do nothing: the folder stays as it is."""
        return []

    def release(self, messages: Sequence[ReceivedMessage]) -> None:
        """Do nothing: the folder stays as it is."""

    def stat(self) -> QueueState:
        """The number of runs and the bytes of their files."""
        try:
            with self._folder() as folder:
                found = QueueState(0)
                found.bytes = 0
                partitions: set[str] = set()
                for run in drained_runs(folder):
                    found.visible += 1
                    if run.layout == "parquet":
                        partitions.update(run.files)
                    else:
                        found.bytes += sum(max(0, size_of(folder, file)) for file in run.files)
                found.bytes += sum(max(0, size_of(folder, path)) for path in _parts_in(folder, partitions))
        except OSError as error:
            raise TransportError(OPEN, "Folder", f"{error.filename or self._path}: {error.strerror}") from error
        return found

    def close(self) -> None:
        """Close the files."""
        with self._lock:
            self._messages = iter(())

    def summaries(self) -> Iterator[RunSummary]:
        """All runs, from the index alone. Raises OSError."""
        with self._folder() as folder:
            for run in drained_runs(folder):
                yield run.summary()

    def strays(self) -> str:
        """A remark on the files that drain did not leave there, and that are not read; empty where there are none."""
        known = {INDEX_NAME, _FOREIGN_PATH, f"{_FOREIGN_PATH}.gz"}
        with self._folder() as folder:
            known.update("/".join(file.split("/")[:2]) for run in drained_runs(folder) for file in run.files)
        number, example = 0, ""
        with suppress(OSError), os.scandir(self._path) as entries:
            for entry in entries:
                if entry.name == HIDDEN:
                    continue
                names = [entry.name]
                if entry.is_dir(follow_symlinks=False):
                    names = [f"{entry.name}/{name}" for name in os.listdir(entry.path)]
                for name in names:
                    if name not in known:
                        number, example = number + 1, min(example or name, name)
        if not number:
            return ""
        more = ", …" if number > 1 else ""
        return f"{self.name}: {count(number, 'file')} not in {INDEX_NAME}, left out: {one_line(example)}{more}"

    @contextmanager
    def _folder(self) -> Iterator[int]:
        folder = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield folder
        finally:
            os.close(folder)

    def _all_messages(self) -> Iterator[ReceivedMessage]:
        hosts: dict[str, str] = {}  # of the runs in the Parquet layout
        partitions: set[str] = set()
        with self._folder() as folder:
            for run in drained_runs(folder):
                if self._runs and run.run not in self._runs:
                    continue
                if run.layout == "parquet":
                    hosts[run.run] = run.host
                    partitions.update(run.files)
                    continue
                before = self._read.get(run.run)
                if before == run.hash or (before is not None and run.layout != "ndjson"):
                    continue
                self._read[run.run] = run.hash
                yield from self._messages_of(folder, run)
            if hosts:
                yield from self._part_messages(folder, partitions, hosts)
            if not self._runs:
                yield from self._foreign_messages(folder)

    def _messages_of(self, folder: int, run: DrainedRun) -> Iterator[ReceivedMessage]:
        attributes = Body(b"", "", run.host, 0, 0).attributes
        for number, data in enumerate(run.bodies(folder)):
            id = f"{run.run}/{run.hash:x}/{number}"
            if isinstance(data, str):
                yield self._problem(data, attributes, id)
            else:
                yield ReceivedMessage(data, attributes, id, id, run.time)

    def _part_messages(self, folder: int, partitions: set[str], hosts: dict[str, str]) -> Iterator[ReceivedMessage]:
        """The rows of the Parquet files that were not read yet."""
        try:
            from sqstee.transports.folder_parquet import BAD_PARQUET, part_bodies
        except ImportError as error:
            raise TransportError(OPEN, "Folder", f"reading Parquet needs pyarrow: {PYARROW_HINT}") from error
        attributes = Body(b"", "", "", 0, 0).attributes
        for path in _parts_in(folder, partitions):
            if path in self._parts:
                continue
            self._parts.add(path)
            try:
                for number, data in enumerate(part_bodies(folder, path, hosts)):
                    id = f"{path}/{number}"
                    yield ReceivedMessage(data, attributes, id, id)
            except FileNotFoundError:
                continue  # a drain has replaced it meanwhile, and the new index brings its rows
            except BAD_PARQUET as error:
                yield self._problem(f"{path}: {reason_of_failure(error)}", attributes, path)

    def _problem(self, text: str, attributes: dict[str, str], id: str) -> ReceivedMessage:
        message = ReceivedMessage(b"", attributes, id, id)
        message.problem = os.path.join(self._path, text)
        return message

    def _foreign_messages(self, folder: int) -> Iterator[ReceivedMessage]:
        for path in (_FOREIGN_PATH, f"{_FOREIGN_PATH}.gz"):
            if size_of(folder, path) == NO_FILE:
                continue
            try:
                for number, line in enumerate(lines_of(parts_of(folder, path))):
                    if number >= self._foreign_lines:
                        self._foreign_lines = number + 1
                        yield _foreign_message(number, line)
            except UNREADABLE as error:
                yield self._problem(f"{path}: {reason_of_failure(error)}", {}, path)


def _parts_in(folder: int, partitions: Iterable[str]) -> list[str]:
    """The Parquet files in these partitions; somebody may have removed some."""
    found = []
    for partition in sorted(partitions):
        with suppress(OSError):
            found += [f"{partition}/{name}" for name in names_in(folder, partition) if name.endswith(".parquet")]
    return found


def _foreign_message(number: int, line: bytes) -> ReceivedMessage:
    """A line that was not in the wire format when it was drained, as the message that it came in."""
    try:
        fields = json.loads(line)
        raw, found = fields.get("raw"), fields.get("attributes", {})
        data = binascii.a2b_base64(raw) if isinstance(raw, str) else fields["line"].encode("utf-8", "surrogatepass")
        attributes = {str(name): str(text) for name, text in found.items() if name != "Content-Encoding"}
        sent = seconds_of(str(fields["sent"]))
        id = f"{fields['message_id']}/{number}"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        data, attributes, sent, id = line, {}, 0.0, f"foreign/{number}"
    return ReceivedMessage(data + b"\n", attributes, id, id, sent)


__all__ = ["FOREIGN_NAME", "HIDDEN", "INDEX_NAME", "FolderReceiver", "check_drained"]
