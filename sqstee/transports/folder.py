"""A folder that drain made, as a source: its index names the runs, and their files give the bodies.

From the NDJSON layout come the records as they were sent. From the streams layout records are rebuilt: the bytes, and
what the index knows of the run, are true. Not known there are the time of each line (all have the time of the run's
start) and the order between its streams (one follows the other), so the seqs are new ones: an event for the start
where it came, a hole for all lines that are missing, gap events for those that went elsewhere or were dropped, the
lines, and an event for the exit.

The folder may be shared, so nothing in it is trusted: files are found only where the index names them in the form
HOST/FILE, never through a symbolic link, and they are read in parts of bounded size.
"""

from __future__ import annotations

import binascii
import gzip
import json
import os
import shlex
import stat
import threading
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from urllib.parse import unquote

from sqstee.errors import SqsteeError, did_you_mean
from sqstee.record import Body, Encoder
from sqstee.run_summary import RunSummary, seconds_of
from sqstee.text import count, one_line
from sqstee.transports.base import QueueState, ReceivedMessage
from sqstee.transports.errors import OPEN, Failure, TransportError
from sqstee.wire import FALLBACK, GAP, DecodeError, Event, Record, decode

INDEX_NAME = "runs.ndjson"
HIDDEN = ".sqstee"
FOREIGN_NAME = "_foreign"
_FOREIGN_PATH = f"{FOREIGN_NAME}/messages.ndjson"
_PART_BYTES = 128 * 1024  # of a file that are read at a time
_LONGEST_LINE = 16 * 1024 * 1024  # of NDJSON: a line is joined from its pieces up to 8 MiB, before escaping
_LONGEST_ENTRY = 128 * 1024  # of the index; its texts are bounded, and every rebuilt record repeats the labels
_BODY_BYTES = 256 * 1024  # of a rebuilt body, unless one line is longer
_MOST_FILES = 100  # of one run; drain writes up to 65
_MOST_PIECES = 10_000  # that one joined line came in
_MOST_RANGES = 20
_MOST_NUMBER = 2**53
_JOINED = b'"last":'
_NONE = -2
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
    lines follow only in the NDJSON layout: in the other they would change the seqs of those before.
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
                    index = _identity(f"{self._path}/{INDEX_NAME}")
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
                for run in _runs(folder):
                    found.visible += 1
                    found.bytes += sum(max(0, _size(folder, file)) for file in run.files)
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
            for run in _runs(folder):
                yield run.summary()

    def strays(self) -> str:
        """A remark on the files that drain did not leave there, and that are not read; empty where there are none."""
        known = {INDEX_NAME, _FOREIGN_PATH, f"{_FOREIGN_PATH}.gz"}
        with self._folder() as folder:
            known.update(file for run in _runs(folder) for file in run.files)
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
        with self._folder() as folder:
            for run in _runs(folder):
                if self._runs and run.run not in self._runs:
                    continue
                before = self._read.get(run.run)
                if before == run.hash or (before is not None and run.layout != "ndjson"):
                    continue
                self._read[run.run] = run.hash
                yield from self._messages_of(folder, run)
            if not self._runs:
                yield from self._foreign_messages(folder)

    def _messages_of(self, folder: int, run: _DrainedRun) -> Iterator[ReceivedMessage]:
        attributes = Body(b"", "", run.host, 0, 0).attributes
        for number, data in enumerate(run.bodies(folder)):
            id = f"{run.run}/{run.hash:x}/{number}"
            if isinstance(data, str):
                yield self._problem(data, attributes, id)
            else:
                yield ReceivedMessage(data, attributes, id, id, run.time)

    def _problem(self, text: str, attributes: dict[str, str], id: str) -> ReceivedMessage:
        message = ReceivedMessage(b"", attributes, id, id)
        message.problem = os.path.join(self._path, text)
        return message

    def _foreign_messages(self, folder: int) -> Iterator[ReceivedMessage]:
        for path in (_FOREIGN_PATH, f"{_FOREIGN_PATH}.gz"):
            if _size(folder, path) == _NONE:
                continue
            try:
                for number, line in enumerate(_lines(_parts(folder, path))):
                    if number >= self._foreign_lines:
                        self._foreign_lines = number + 1
                        yield _foreign_message(number, line)
            except _UNREADABLE as error:
                yield self._problem(f"{path}: {_reason(error)}", {}, path)


class _DrainedRun:
    """An entry of the index.

    `files` are those in the form HOST/FILE; `time` is when the run began, in seconds since the epoch. Raises
    ValueError, KeyError, TypeError or AttributeError where the entry is not of drain's making.
    """

    __slots__ = ("_fields", "files", "hash", "host", "layout", "run", "time")

    def __init__(self, line: bytes) -> None:
        fields = json.loads(line)
        self.hash = zlib.crc32(line)
        self.run, self.host, self.layout = str(fields["run"]), str(fields["host"]), fields["layout"]
        self._fields: dict[str, object] = fields
        files = fields["files"]
        self.files = [name for name in files[:_MOST_FILES] if isinstance(name, str) and _is_plain(name)]
        self.files.sort(key=lambda name: _stream_of(name) == "stderr")  # its last lines are then those before the exit
        self.time = seconds_of(str(fields["started"])) or seconds_of(str(fields["ended"]))
        Event(self._event("start", 0))  # raises where the run or host is no text that readers accept

    def bodies(self, folder: int) -> Iterator[bytes | str]:
        """The bodies; a text is what kept a file from being read."""
        is_ndjson = self.layout == "ndjson"
        if self.files and all(_size(folder, file) == _NONE for file in self.files):
            return  # somebody has removed the run
        seq = 0
        if not is_ndjson:
            for item in self._opening():
                yield _line_of(item)
                seq = Event(item).last + 1
            seq = max(seq, self._missing_end)
        for file in self.files:
            try:
                parts = _parts(folder, file)
                if is_ndjson:
                    yield from _record_bodies(parts)
                    continue
                for data, lines in self._line_bodies(parts, _stream_of(file), seq):
                    yield data
                    seq += lines
            except _UNREADABLE as error:
                yield f"{file}: {_reason(error)}"
        if not is_ndjson and (closing := self._closing(seq)):
            yield _line_of(closing)

    def summary(self) -> RunSummary:
        """What the index knows of the run."""
        found = RunSummary(self.run)
        for item in (*self._opening()[:1], *filter(None, (self._closing(0),))):
            event = Event(item)
            if event.event != GAP:
                found.add_event(event)
        fields = self._fields
        found.add_identity(Event(self._event("start", 0)))
        found.name, found.started = self._text("name"), self._text("started")
        found.last_line, found.last_stderr = self._text("last_line"), self._text("last_stderr")
        found.heard = found.last_line_at = seconds_of(self._text("heard"))
        lines = fields.get("lines")
        for stream, number in islice(lines.items(), _MOST_FILES) if isinstance(lines, dict) else ():
            if isinstance(number, int) and 0 <= number <= _MOST_NUMBER:
                found.lines[str(stream)] = number
        self._add_seqs(found)
        found.last_line_seq = found.last if found.last_line else -1  # about: an index does not have these
        found.last_stderr_seq = found.last if found.last_stderr else -1
        return found

    def _add_seqs(self, found: RunSummary) -> None:
        """Make its ranges of missing seqs those of the index; further ones, and gaps, are put behind them."""
        missing, gaps = self._number("missing"), self._gaps()
        ranges = self._fields.get("missing_ranges")
        holes = 0
        at = 0
        for pair in ranges[:_MOST_RANGES] if isinstance(ranges, list) else ():
            if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(seq, int) for seq in pair)):
                break
            first, last = pair
            if not at <= first <= last <= _MOST_NUMBER or holes + last - first + 1 > missing:
                break
            if first > at:
                found.records.add(at, first - 1)
            holes += last - first + 1
            at = last + 1
        found.records.add(at, at)
        at += 1 + missing - holes
        for where, lines in gaps:
            found.add_items([Event(self._gap(where, at, lines))], 0.0)
            at += lines
        found.last = at - 1

    @property
    def _missing_end(self) -> int:
        """The seq behind the missing ones."""
        return self._has_start + self._number("missing") + sum(lines for _, lines in self._gaps())

    @property
    def _has_start(self) -> bool:
        return bool(self._text("version"))

    def _opening(self) -> list[dict[str, object]]:
        """The start event, where it came, and gap events behind the hole for all missing lines."""
        found = []
        if self._has_start:
            more = {name: self._fields[name] for name in ("heartbeat_s", "command") if name in self._fields}
            found.append(self._event("start", 0, version=self._text("version"), **more))
        at = self._has_start + self._number("missing")
        for where, lines in self._gaps():
            found.append(self._gap(where, at, lines))
            at += lines
        return found

    def _closing(self, seq: int) -> dict[str, object] | None:
        """The exit event, or another end, where one came."""
        names = ("exit_code", "signal", "duration_s", "bytes", "cause")
        more = {name: self._fields[name] for name in names if self._fields.get(name) is not None}
        is_open = self._fields.get("open") is not False
        if self._text("ended") or self._text("result"):
            more |= {"open": ["output"]} if is_open else {}
            return self._event("exit", seq, message=self._text("result"), **more)
        return None if is_open else self._event("end", seq, message="the run has ended")

    def _gaps(self) -> list[tuple[str, int]]:
        """Where lines went (empty: they were dropped), and how many."""
        fallbacks = self._fields.get("fallbacks")
        found = [("", self._number("dropped"))]
        for where, lines in islice(fallbacks.items(), _MOST_FILES) if isinstance(fallbacks, dict) else ():
            found.append((str(where), lines if isinstance(lines, int) and 0 < lines <= _MOST_NUMBER else 0))
        return [(where, lines) for where, lines in found if lines]

    def _gap(self, where: str, at: int, lines: int) -> dict[str, object]:
        what = {"reason": FALLBACK, "at": where} if where else {"reason": "dropped"}
        text = f"{count(lines, 'line')} {f'sent to {where}' if where else 'dropped by the sender'}"
        return self._event(GAP, at, message=text, **{"from": at, "to": at + lines - 1}, **what)

    def _event(self, event: str, seq: int, **more: object) -> dict[str, object]:
        is_end = event in ("exit", "end")
        time = (self._text("ended") if is_end else "") or self._text("started") or self._text("ended")
        found: dict[str, object] = {"timestamp": time, "host": self.host, "run": self.run}
        found |= {name: self._fields[name] for name in ("job", "labels") if self._fields.get(name)}
        found |= {"seq": seq, "event": event, "message": f"{self._text('job') or 'run'} started"}
        if name := self._text("name"):
            found["name"] = name
        return found | more

    def _text(self, name: str) -> str:
        value = self._fields.get(name)
        return value if isinstance(value, str) else ""

    def _number(self, name: str) -> int:
        value = self._fields.get(name)
        return value if isinstance(value, int) and 0 <= value <= _MOST_NUMBER else 0

    def _line_bodies(self, parts: Iterable[bytes], stream: str, seq: int) -> Iterator[tuple[bytes, int]]:
        """The bytes of a stream as bodies of records from `seq` on, and how many records each has."""
        event = Event(self._event("start", 0))
        encoder = Encoder(self.run, self.host, event.job, event.labels)
        at_once = max(1, _BODY_BYTES // (2 * len(encoder.lines(b"\n", stream, 0, 0))))
        time_ns = round(self.time * 1e6) * 1000
        for block in _blocks(parts):
            lines = block.split(b"\n")
            rest = lines.pop()
            for at in range(0, len(lines), at_once):
                some = lines[at : at + at_once]
                yield encoder.lines(b"\n".join(some) + b"\n", stream, time_ns, seq), len(some)
                seq += len(some)
            if rest:
                yield encoder.lines(rest, stream, time_ns, seq, eol=False), 1
                seq += 1


_UNREADABLE = (OSError, EOFError, ValueError, zlib.error)


def _reason(error: Exception) -> str:
    return one_line(error.strerror if isinstance(error, OSError) and error.strerror else str(error))


def _runs(folder: int) -> Iterator[_DrainedRun]:
    """The entries of the index. Raises OSError."""
    for line in _lines(_parts(folder, INDEX_NAME), _LONGEST_ENTRY):
        try:
            yield _DrainedRun(line)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue


def _is_plain(name: str) -> bool:
    """Whether a name has the form HOST/FILE, as drain gives them: nothing hidden, no way out of the folder."""
    host, slash, file = name.partition("/")
    return bool(slash and host and file) and "/" not in file and "\0" not in name and "." not in (host[0], file[0])


def _stream_of(file: str) -> str:
    """The stream of a file HOST/RUN.STREAM, whose odd characters are percent-encoded."""
    return unquote(file.removesuffix(".gz").rpartition(".")[2])


def _parts(folder: int, path: str) -> Iterator[bytes]:
    """The bytes of a file in the folder, unpacked, in parts. Raises OSError, EOFError or zlib.error."""
    fd = _open(folder, path)
    with open(fd, "rb", buffering=0) as file:
        if not path.endswith(".gz"):
            while part := file.read(_PART_BYTES):
                yield part
            return
        with gzip.GzipFile(fileobj=file) as unpacked:
            while part := unpacked.read(_PART_BYTES):
                yield part


def _open(folder: int, path: str) -> int:
    """Open a regular file without following a link, or waiting for the other end of a FIFO. Raises OSError."""
    host, slash, name = path.rpartition("/")
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    parent = os.open(host, flags | os.O_DIRECTORY, dir_fd=folder) if slash else folder
    try:
        fd = os.open(name, flags | os.O_NONBLOCK, dir_fd=parent)
    finally:
        if slash:
            os.close(parent)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(0, "no regular file", path)
    return fd


def _size(folder: int, path: str) -> int:
    """The size of a file; less than 0 where it cannot be read, _NONE where there is none."""
    try:
        fd = _open(folder, path)
    except FileNotFoundError:
        return _NONE
    except OSError:
        return -1
    try:
        return os.fstat(fd).st_size
    finally:
        os.close(fd)


def _identity(path: str) -> tuple[int, int, int]:
    found = os.stat(path)
    return found.st_ino, found.st_mtime_ns, found.st_size


def _blocks(parts: Iterable[bytes], longest: int = _PART_BYTES) -> Iterator[bytes]:
    """The same bytes in blocks that end in a newline, except the last one and where a line is longer than `longest`."""
    held = b""
    for part in parts:
        data = held + part
        cut = data.rfind(b"\n") + 1
        if not cut and len(data) > longest:
            cut = len(data)
            while cut > len(data) - 4 and data[cut - 1] & 0xC0 == 0x80:  # behind a whole character
                cut -= 1
            cut -= data[cut - 1] >= 0xC0
        if cut:
            yield data[:cut]
        held = data[cut:]
    if held:
        yield held


def _lines(parts: Iterable[bytes], longest: int = _LONGEST_LINE) -> Iterator[bytes]:
    """The lines that are not empty; a line that is too long, or does not end, is left out."""
    is_within = False  # a line that is left out
    for block in _blocks(parts, longest):
        lines = block.split(b"\n")[is_within:]
        is_within = not block.endswith(b"\n")
        yield from filter(None, lines[:-1])


def _record_bodies(parts: Iterable[bytes]) -> Iterator[bytes]:
    """NDJSON as bodies, in which a line that was joined from pieces covers all their seqs again."""
    pieces = _Pieces()
    for block in _blocks(parts, _LONGEST_LINE):
        if len(block) > _LONGEST_LINE and not block.endswith(b"\n"):
            raise ValueError(f"a line is longer than {_LONGEST_LINE:,} bytes")
        if _JOINED in block or pieces.are_due:
            block = b"".join([data for line in block.splitlines(keepends=True) for data in pieces.divided(line)])
        yield block
    if pieces.are_due:
        yield b"".join(pieces.empty())


class _Pieces:
    """Divides joined lines: all of a line is in its last piece, and the others are empty.

    Other records may have seqs within a joined line. They are written before it, except lines that were given up with
    it, which have no newline either: its empty pieces wait for these to pass, as the first record of a seq counts.
    """

    def __init__(self) -> None:
        self._due: list[tuple[dict[str, object], int, int]] = []  # the fields of a piece, and the seqs first..last
        self._taken: set[int] = set()

    @property
    def are_due(self) -> bool:
        """Whether empty pieces wait."""
        return bool(self._due)

    def divided(self, line: bytes) -> Iterator[bytes]:
        """A line of NDJSON, or the last piece of it, behind the empty pieces that are due."""
        is_given_up = b'"eol":false' in line
        if self._due and (not is_given_up or len(self._due) > _MOST_FILES):
            yield from self.empty()
        if not is_given_up and _JOINED not in line:
            yield line
            return
        try:
            (item,) = decode(line)
            fields = json.loads(line)
            last = fields.pop("last", item.seq)
        except (DecodeError, ValueError):
            yield line
            return
        if isinstance(item, Record) and isinstance(last, int) and 0 <= last - item.seq < _MOST_PIECES:
            self._taken.add(last)
            if last > item.seq:
                line = _line_of(fields | {"seq": last})
                empty = {name: value for name, value in fields.items() if name not in ("raw", "data", "level")}
                self._due.append((empty | {"message": "", "eol": False}, item.seq, last - 1))
        yield line

    def empty(self) -> Iterator[bytes]:
        """The empty pieces that are due."""
        for fields, first, last in self._due:
            for seq in range(first, last + 1):
                if seq not in self._taken:
                    self._taken.add(seq)
                    yield _line_of(fields | {"seq": seq})
        self._due.clear()
        self._taken.clear()


def _line_of(fields: dict[str, object]) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


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
