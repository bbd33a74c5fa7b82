"""Assembles a journal into files: of each run its bytes in order, once each, and a verdict.

    DIR/HOST/RUN.stdout …        what the command wrote (or RUN.ndjson: the records), .gz where packed
    DIR/_foreign/messages.ndjson what was not in the wire format
    DIR/.sqstee/state.db         of each run how far its files are final, and their sizes there
    DIR/.sqstee/*.journal        what is not in final files: bodies above a hole, or not yet assembled

A run's files are final up to its first hole; what lies behind is made anew from the journal each time, so that a later
drain into the same folder fills holes. Everything may be repeated: a kill at any moment costs time only.
"""

from __future__ import annotations

import binascii
import fcntl
import json
import os
import sqlite3
from collections.abc import Callable, Iterator

from sqstee.drain.files import Appending, RunFiles
from sqstee.drain.index import Index, Place
from sqstee.drain.journal import Journal, frames, meta_of, segments, sync_folder
from sqstee.drain.run_assembly import UntrustedError, Writing
from sqstee.drain.verdict import Verdict
from sqstee.errors import EXIT_FAILURE, SqsteeError
from sqstee.record import is_utf8, timestamp

HIDDEN = ".sqstee"
FOREIGN = "_foreign"
_MOST_SYNCED = 64  # files that are synced one by one; above that the whole system is, which is cheaper
_SCHEMA = """
CREATE TABLE IF NOT EXISTS folder (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS run (
    run TEXT PRIMARY KEY, host TEXT NOT NULL, job TEXT NOT NULL, next INTEGER NOT NULL, lines INTEGER NOT NULL,
    sizes TEXT NOT NULL, ended INTEGER NOT NULL, result TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS foreign_message (id TEXT PRIMARY KEY);
"""


class Store:
    """A folder that is drained into; locked while it is open."""

    def __init__(self, folder: str, layout: str, packed: bool) -> None:
        self.folder = folder
        self.hidden = f"{folder}/{HIDDEN}"
        self._layout, self._packed = layout, packed
        try:
            os.makedirs(self.hidden, 0o700, exist_ok=True)
            self._lock = os.open(f"{self.hidden}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            hint = "wait for it, or choose another folder with -O DIR"
            raise SqsteeError(f"another drain is working in {folder}", hint, EXIT_FAILURE) from None
        except OSError as error:
            raise SqsteeError(f"{folder} cannot be used: {error.strerror}", "the form is -O DIR") from None
        os.environ["SQLITE_TMPDIR"] = self.hidden  # sorting a long index needs room, which /tmp may not have
        state = f"{self.hidden}/state.db"
        try:
            self._database = sqlite3.connect(state, isolation_level=None)
            self._database.execute("PRAGMA synchronous = FULL")
            self._database.execute("PRAGMA cache_size = -2048")
            self._database.executescript(_SCHEMA)
            self._check_layout()
        except sqlite3.Error as error:
            hint = "make room where the disk is full; else choose another folder with -O DIR"
            raise SqsteeError(f"{state}: {error}", hint, EXIT_FAILURE) from None

    def close(self) -> None:
        """Unlock the folder."""
        self._database.close()
        os.close(self._lock)

    @property
    def journaled(self) -> bool:
        """Whether something waits to be assembled."""
        return bool(segments(self.hidden))

    def assemble(self, tell: Callable[[Verdict], None], progress: Callable[[int], None] = lambda lines: None) -> None:
        """Put all that is in the journal into files, and tell a verdict on each run that was met or is not complete.

        `progress` is told the lines written so far. Raises OSError (a full disk): the journal stays, and a later call
        does it all.
        """
        try:
            self._assemble(tell, progress)
        except sqlite3.Error as error:  # a full disk, most likely
            hint = "make room, then drain again: nothing that came is lost"
            raise SqsteeError(f"{self.hidden}: {error}", hint, EXIT_FAILURE) from None

    def _assemble(self, tell: Callable[[Verdict], None], progress: Callable[[int], None]) -> None:
        for trust in (True, False):
            found: list[Verdict] = []
            index = Index(f"{self.hidden}/index.db", segments(self.hidden), trust)
            try:
                assembly = _Assembly(self.folder, self._layout, self._packed, self._database, index, found, progress)
                assembly.run()
            except UntrustedError:
                continue
            else:
                self._compact(index)
                assembly.note(segments(self.hidden))
                for verdict in found:
                    tell(verdict)
                return
            finally:
                index.close()
        raise SqsteeError(f"the journal in {self.hidden} cannot be assembled", "it stays there", EXIT_FAILURE)

    def _check_layout(self) -> None:
        wanted = f"{self._layout}{' --gzip' if self._packed else ''}"
        self._database.execute("INSERT OR IGNORE INTO folder VALUES ('layout', ?)", (wanted,))
        (was,) = self._database.execute("SELECT value FROM folder WHERE key = 'layout'").fetchone()
        if was != wanted:
            hint = f"go on with --layout {was}, or choose another folder with -O DIR"
            raise SqsteeError(f"{self.folder} was begun with --layout {was}", hint)

    def _compact(self, index: Index) -> None:
        """Remove from the journal what is in final files."""
        kept = dict(index.kept())
        for number, path in enumerate(index.segments):
            if number in kept:
                self._rewrite(path, set(kept[number]))
            else:
                os.unlink(path)
        sync_folder(self.hidden)

    def _rewrite(self, path: str, wanted: set[int]) -> None:
        """Keep some frames of a segment; all of it where they are most of it."""
        sizes = {frame.at: frame.size for frame in frames(path)}
        if 2 * sum(sizes[at] for at in wanted) >= os.path.getsize(path):
            return
        journal = Journal(self.hidden)
        for frame in frames(path):
            if frame.at in wanted:
                journal.append([(meta_of(frame.id, frame.sent, frame.attributes), frame.body)])
        journal.sync()
        journal.close()
        os.unlink(path)


class _Assembly:
    """One pass over an index: files are written and synced, then the state is committed."""

    def __init__(
        self,
        folder: str,
        layout: str,
        packed: bool,
        database: sqlite3.Connection,
        index: Index,
        found: list[Verdict],
        progress: Callable[[int], None],
    ) -> None:
        self._folder, self._packed = folder, packed
        self.streams = layout == "streams"
        self.index = index
        self._database, self._found = database, found
        self._progress = progress
        self._files = 0
        self._lines = 0
        row = database.execute("SELECT value FROM folder WHERE key = 'assembled'").fetchone()
        self.old = sum(os.path.basename(path) <= row[0] for path in index.segments) if row else 0

    def run(self) -> None:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            for run, places in self.index.runs():
                self._found.append(self._assemble(run, places))
            for run in self.index.runs_of_gaps():
                self._found.append(self._assemble(run, iter(())))
            self._foreign()
            self.note(self.index.segments)
            if self._files > _MOST_SYNCED:
                os.sync()
            self._database.execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:  # SQLite has rolled back by itself where the disk is full
                self._database.execute("ROLLBACK")
            raise
        self._add_open()

    def _assemble(self, run: str, places: Iterator[Place]) -> Verdict:
        writing = Writing(self, run)
        for place in places:
            writing.take(place)
        writing.finish()
        self._files += writing.files
        return writing.verdict

    def load(self, run: str) -> tuple[Verdict, dict[str, int]]:
        """A run as it is in final files, and their sizes."""
        query = "SELECT host, job, next, lines, sizes, ended, result FROM run WHERE run = ?"
        row = self._database.execute(query, (run,)).fetchone()
        if row is None:
            return Verdict(run), {}
        verdict = Verdict(run, *row[:4])
        verdict.ended, verdict.result = bool(row[5]), row[6]
        return verdict, json.loads(row[4])

    def save(self, verdict: Verdict, sizes: dict[str, int]) -> None:
        """A run as it is in final files from now on."""
        row = (verdict.run, verdict.host, verdict.job, verdict.next, verdict.lines)
        statement = "INSERT OR REPLACE INTO run VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
        self._database.execute(statement, (*row, json.dumps(sizes), verdict.ended, verdict.result))

    def note(self, segments: list[str]) -> None:
        """That these have been assembled: what of them is in final files, and still here, has not come again."""
        if segments:
            name = os.path.basename(segments[-1])
            self._database.execute("INSERT OR REPLACE INTO folder VALUES ('assembled', ?)", (name,))

    def wrote(self, lines: int) -> None:
        """Count lines for whoever watches."""
        self._lines += lines
        self._progress(self._lines)

    def open(self, host: str, run: str, sizes: dict[str, int]) -> RunFiles:
        """A run's files."""
        return RunFiles(self._folder, host, run, sizes, self._packed)

    @property
    def syncs(self) -> bool:
        """Whether files are still synced one by one."""
        return self._files <= _MOST_SYNCED

    def _foreign(self) -> None:
        """Lines that are not in the wire format, each message once."""
        query = "SELECT value FROM folder WHERE key = 'foreign'"
        row = self._database.execute(query).fetchone()
        file: Appending | None = None
        writing: tuple[int, int] | None = None  # the frame whose lines are being written
        for line in self.index.lines():
            if writing != (line.segment, line.frame):
                changes = self._database.execute("INSERT OR IGNORE INTO foreign_message VALUES (?)", (line.id,))
                if line.id and not changes.rowcount:
                    continue
                writing = line.segment, line.frame
            if file is None:
                os.makedirs(f"{self._folder}/{FOREIGN}", exist_ok=True)
                path = f"{self._folder}/{FOREIGN}/messages.ndjson{'.gz' if self._packed else ''}"
                file = Appending(path, int(row[0]) if row else 0, self._packed)
            fields: dict[str, object] = {"message_id": line.id, "sent": timestamp(int(line.sent * 1e9))}
            if line.attributes:
                fields["attributes"] = line.attributes
            data = self.index.read(line).rstrip(b"\n")
            fields["line"] = data.decode("utf-8", "replace")
            if not is_utf8(data):
                fields["raw"] = binascii.b2a_base64(data, newline=False).decode()
            file.write(json.dumps(fields, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
        if file is not None:
            size = file.mark()
            file.close(sync=True)
            sync_folder(f"{self._folder}/{FOREIGN}")
            sync_folder(self._folder)
            self._database.execute("INSERT OR REPLACE INTO folder VALUES ('foreign', ?)", (str(size),))

    def _add_open(self) -> None:
        """The runs that were not met this time and have not ended."""
        met = {verdict.run for verdict in self._found}
        for (run,) in self._database.execute("SELECT run FROM run WHERE ended = 0").fetchall():
            if run not in met:
                self._found.append(self.load(run)[0])
