"""The output of drain, in a folder or behind a prefix of a bucket, as a source: an index of runs, and their files.

The NDJSON and Parquet layouts give the records as they were sent. From the streams layout records are rebuilt: the
bytes and the run's fields in the index are exact. The time of each line is not known there (all have the time of the
run's start), nor is the order between the run's streams (one follows the other). The seqs are therefore new, in this
order: an event for the start if it came, a hole for all missing lines, gap events for lines that went elsewhere or were
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
from contextlib import suppress
from itertools import islice

from sqstee.errors import SqsteeError, did_you_mean
from sqstee.record import Body
from sqstee.run_summary import RunSummary, seconds_of
from sqstee.text import count, one_line
from sqstee.transports.base import QueueState, ReceivedMessage
from sqstee.transports.errors import OPEN, Failure, TransportError
from sqstee.transports.file_tree import NO_FILE, FileTree, FolderTree, files_of
from sqstee.transports.folder_files import UNREADABLE, lines_of, parts_of, reason_of_failure
from sqstee.transports.folder_runs import DrainedRun, drained_runs
from sqstee.transports.lake import LakeReceiver
from sqstee.transports.layouts import HIDDEN_NAME, INDEX_NAME, OF_RECORDS, Strays, inner_folder, recognise

HIDDEN = ".sqstee"
FOREIGN_NAME = "_foreign"
_FOREIGN_PATH = f"{FOREIGN_NAME}/messages.ndjson"
_MOST_LOOKED_AT = 10_000  # files of a folder among which one must be sqstee's


def open_folder(path: str, text: str) -> FolderReceiver | LakeReceiver:
    """The receiver for a folder, which the user wrote as `text`: one that drain made, or a copy of objects."""
    if os.path.isfile(f"{path}/{INDEX_NAME}"):
        return FolderReceiver(path, text)
    return LakeReceiver(FolderTree(path, text))


def check_readable(path: str, text: str) -> None:
    """Raise SqsteeError where a path, which the user wrote as `text`, is no folder with anything of sqstee's."""
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
    strays = Strays()
    try:
        for file in islice(files_of(FolderTree(path, text)), _MOST_LOOKED_AT):
            kind = recognise(file.path).kind
            if kind in OF_RECORDS:
                return
            if kind != HIDDEN_NAME:
                strays.add(file.path)
    except OSError as error:
        raise SqsteeError(f"{text}: {error.strerror}", "sqstee needs to read the folder and all in it") from None
    if not strays.foreign:
        raise SqsteeError(f"{text} is empty", hint)
    if inner := inner_folder(strays.example):
        hint = f"{inner} can be read: {shlex.quote(os.path.join(text, inner))}"
    found = f"{count(strays.foreign, FolderTree.noun)}, such as {one_line(strays.example)}"
    raise SqsteeError(f"{text} has nothing that sqstee wrote, but {found}", hint)


class FolderReceiver:
    """Reads the runs of a drained folder in the order of its index; nothing is consumed.

    Where a drain into the folder replaces the index meanwhile, its new runs follow. So do new lines of a run that was
    read already, except in the streams layout: there they would change the seqs of earlier lines. `tree`: where the
    folder is, if not at `path` on this host.
    """

    ordered = False
    follows = True
    lists_all = True  # an empty answer means that everything was returned

    def __init__(self, path: str, name: str, tree: FileTree | None = None) -> None:
        self.name = name
        self._path = path
        self._tree = tree or FolderTree(path, name)
        self._lock = threading.Lock()
        self._index: tuple[object, ...] = ()  # the identity of the index that was read last
        self._look_at = 0.0
        self._read: dict[str, int] = {}  # by run, a hash of its entry in the index
        self._foreign_lines = 0
        self._parts: set[str] = set()  # Parquet files that were read
        self._runs: frozenset[str] = frozenset()
        self._are_whole = True
        self._messages: Iterator[ReceivedMessage] = iter(())
        self._has_remarked = False

    def narrow(self, runs: Iterable[str], are_whole: bool = True) -> None:
        """Read these runs alone, named by their ids or by the first characters of these, and no foreign messages."""
        self._runs, self._are_whole = frozenset(runs), are_whole

    def receive(self, limit: int, wait: float) -> list[ReceivedMessage]:
        """The next bodies; waits for a new index if there is none."""
        deadline = time.monotonic() + wait
        while True:
            with self._lock:
                if found := self._next(limit, wait):
                    return found
            if time.monotonic() >= deadline:
                return []
            time.sleep(min(self._tree.poll_seconds, max(0.0, deadline - time.monotonic())))

    def _next(self, limit: int, wait: float) -> list[ReceivedMessage]:
        """The next bodies that are known, or those of a new index."""
        try:
            if found := list(islice(self._messages, limit)):
                return found
            if wait and self._index and time.monotonic() < self._look_at:
                return []
            self._look_at = time.monotonic() + self._tree.poll_seconds
            index = self._tree.identity(INDEX_NAME)
            if index == self._index:
                return []
            self._index = index
            self._messages = self._all_messages()
            return list(islice(self._messages, limit))
        except OSError as error:
            raise TransportError(OPEN, "Folder", f"{error.filename or self._path}: {error.strerror}") from error
        except TransportError:
            self._index = ()  # what was not read to its end is read again
            raise

    def delete(self, messages: Sequence[ReceivedMessage]) -> list[Failure]:
        """Do nothing: the folder stays as it is."""
        return []

    def release(self, messages: Sequence[ReceivedMessage]) -> None:
        """Do nothing: the folder stays as it is."""

    def stat(self) -> QueueState:
        """The number of runs and the bytes of their files."""
        found = QueueState(0)
        try:
            sizes = {file.path: file.size for file in files_of(self._tree)}
            found.visible = 0
            counted: set[str] = set()
            for run in drained_runs(self._tree):
                found.visible += 1
                counted.update(run.files)
            found.bytes = sum(size for path, size in sizes.items() if path in counted or _folder_of(path) in counted)
        except OSError as error:
            raise TransportError(OPEN, "Folder", f"{error.filename or self._path}: {error.strerror}") from error
        return found

    def close(self) -> None:
        """Close the files."""
        with self._lock:
            self._messages = iter(())

    def summaries(self, problems: list[str] | None = None) -> Iterator[RunSummary]:
        """All runs, from the index alone: that of a run needs no file of its own. Raises OSError and TransportError."""
        for run in drained_runs(self._tree):
            yield run.summary()

    def layouts(self) -> list[str]:
        """The contents of the folder, in words. Raises TransportError."""
        return [f"a drained folder: {count(self.stat().visible, 'run')}"]

    def remarks(self) -> list[str]:
        """A remark, made once, about files that drain did not leave there and that are not read."""
        if self._has_remarked or self._runs:
            return []
        self._has_remarked = True
        known = {INDEX_NAME, _FOREIGN_PATH, f"{_FOREIGN_PATH}.gz"}
        number, example = 0, ""
        with suppress(OSError, TransportError):
            known.update(file for run in drained_runs(self._tree) for file in run.files)
            for file in files_of(self._tree):
                is_known = file.path in known or _folder_of(file.path) in known
                if not is_known and recognise(file.path).kind != HIDDEN_NAME:
                    number, example = number + 1, min(example or file.path, file.path)
        if not number:
            return []
        more = ", …" if number > 1 else ""
        noun = self._tree.noun
        return [f"{self.name}: {count(number, noun)} not in {INDEX_NAME}, left out: {one_line(example)}{more}"]

    def _all_messages(self) -> Iterator[ReceivedMessage]:
        hosts: dict[str, str] = {}  # of the runs in the Parquet layout
        partitions: set[str] = set()
        for run in drained_runs(self._tree):
            if not self._is_wanted(run.run):
                continue
            if run.layout == "parquet":
                hosts[run.run] = run.host
                partitions.update(run.files)
                continue
            before = self._read.get(run.run)
            if before == run.hash or (before is not None and run.layout != "ndjson"):
                continue
            yield from self._messages_of(run)
            self._read[run.run] = run.hash
        if hosts:
            yield from self._part_messages(partitions, hosts)
        if not self._runs:
            yield from self._foreign_messages()

    def _is_wanted(self, run: str) -> bool:
        return not self._runs or (run in self._runs if self._are_whole else run.startswith(tuple(self._runs)))

    def _messages_of(self, run: DrainedRun) -> Iterator[ReceivedMessage]:
        attributes = Body(b"", "", run.host, 0, 0).attributes
        for number, data in enumerate(run.bodies(self._tree)):
            id = f"{run.run}/{run.hash:x}/{number}"
            if isinstance(data, str):
                yield self._problem(data, attributes, id)
            else:
                yield ReceivedMessage(data, attributes, id, id, run.time)

    def _part_messages(self, partitions: set[str], hosts: dict[str, str]) -> Iterator[ReceivedMessage]:
        """The rows of the Parquet files that were not read yet."""
        try:
            from sqstee.transports.folder_parquet import BAD_PARQUET, part_bodies
        except ImportError as error:
            from sqstee.extras import install_command

            hint = install_command("parquet")
            raise TransportError(OPEN, "Folder", f"reading Parquet needs pyarrow: {hint}") from error
        attributes = Body(b"", "", "", 0, 0).attributes
        for path in self._parts_in(partitions):
            if path in self._parts:
                continue
            try:
                for number, data in enumerate(part_bodies(self._tree, path, hosts)):
                    id = f"{path}/{number}"
                    yield ReceivedMessage(data, attributes, id, id)
            except FileNotFoundError:
                continue  # a drain has replaced it meanwhile, and the new index brings its rows
            except BAD_PARQUET as error:
                yield self._problem(f"{path}: {reason_of_failure(error)}", attributes, path)
            self._parts.add(path)

    def _parts_in(self, partitions: Iterable[str]) -> list[str]:
        """The Parquet files in these partitions; somebody may have removed some."""
        found: list[str] = []
        for partition in sorted(partitions):
            with suppress(OSError):
                names = (file.path for file in files_of(self._tree, [f"{partition}/"]))
                found += [name for name in names if name.endswith(".parquet") and _folder_of(name) == partition]
        return found

    def _problem(self, text: str, attributes: dict[str, str], id: str) -> ReceivedMessage:
        message = ReceivedMessage(b"", attributes, id, id)
        message.problem = os.path.join(self._path, text)
        return message

    def _foreign_messages(self) -> Iterator[ReceivedMessage]:
        for path in (_FOREIGN_PATH, f"{_FOREIGN_PATH}.gz"):
            if self._tree.size(path) == NO_FILE:
                continue
            try:
                for number, line in enumerate(lines_of(parts_of(self._tree, path))):
                    if number >= self._foreign_lines:
                        self._foreign_lines = number + 1
                        yield _foreign_message(number, line)
            except UNREADABLE as error:
                yield self._problem(f"{path}: {reason_of_failure(error)}", {}, path)


def _folder_of(path: str) -> str:
    return path.rpartition("/")[0]


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


__all__ = ["FOREIGN_NAME", "HIDDEN", "FolderReceiver", "check_readable", "open_folder"]
