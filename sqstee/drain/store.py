"""Assembles a journal into files: the bytes of each run in order, once each, and a verdict.

    DIR/HOST/RUN.stdout …        the bytes that the command wrote (or RUN.ndjson: the records), .gz where packed
    DIR/_foreign/messages.ndjson lines that are not in the wire format
    DIR/.sqstee/state.db         for each run how far its files are final, and their sizes there
    DIR/.sqstee/*.journal        bodies that are not in final files: above a hole, or not assembled yet

A run's files are final up to its first hole. The part behind it is written anew from the journal each time, so a later
drain into the same folder fills holes. Every step can be repeated: a kill at any moment costs only time.
"""

from __future__ import annotations

import binascii
import fcntl
import json
import os
import sqlite3
from collections.abc import Callable, Iterator

from sqstee.drain.files import AppendFile, RunFiles
from sqstee.drain.index import Index, Place
from sqstee.drain.journal import Journal, journal_segments, meta_of, read_frames, sync_folder
from sqstee.drain.run_assembly import RunAssembly, UntrustedError
from sqstee.drain.verdict import Verdict
from sqstee.errors import EXIT_FAILURE, SqsteeError
from sqstee.record import is_utf8, timestamp

HIDDEN = ".sqstee"
FOREIGN = "_foreign"
_MAX_SYNCED = 64  # files synced one by one; above that one sync of the whole system is cheaper
_SCHEMA = """
CREATE TABLE IF NOT EXISTS folder (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS run (
    run TEXT PRIMARY KEY, host TEXT NOT NULL, job TEXT NOT NULL, next INTEGER NOT NULL, lines INTEGER NOT NULL,
    sizes TEXT NOT NULL, ended INTEGER NOT NULL, result TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS unfinished (run TEXT PRIMARY KEY, streams TEXT NOT NULL);
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
            hint = "wait until it ends, or choose another folder: -O DIR"
            raise SqsteeError(f"another drain is writing to {folder}", hint, EXIT_FAILURE) from None
        except OSError as error:
            hint = "choose another folder: -O DIR"
            raise SqsteeError(f"cannot use {folder}: {error.strerror}", hint) from None
        os.environ["SQLITE_TMPDIR"] = self.hidden  # sorting a long index needs space, which /tmp may not have
        state = f"{self.hidden}/state.db"
        try:
            self._database = sqlite3.connect(state, isolation_level=None)
            self._database.execute("PRAGMA synchronous = FULL")
            self._database.execute("PRAGMA cache_size = -2048")
            self._database.executescript(_SCHEMA)
            self._check_layout()
        except sqlite3.Error as error:
            hint = "free disk space if the disk is full, or choose another folder: -O DIR"
            raise SqsteeError(f"{state}: {error}", hint, EXIT_FAILURE) from None

    def close(self) -> None:
        """Unlock the folder."""
        self._database.close()
        os.close(self._lock)

    @property
    def has_journal(self) -> bool:
        """Whether anything waits to be assembled."""
        return bool(journal_segments(self.hidden))

    def assemble(
        self, on_verdict: Callable[[Verdict], None], on_lines: Callable[[int], None] = lambda lines: None
    ) -> None:
        """Write everything in the journal into files.

        `on_verdict` gets a verdict on each run that was met or has not ended, `on_lines` the number of lines written so
        far. Raises OSError, as on a full disk: then the journal stays, and a later call repeats everything.
        """
        try:
            self._assemble(on_verdict, on_lines)
        except sqlite3.Error as error:  # a full disk, most likely
            hint = "free disk space, then drain again: nothing that was received is lost"
            raise SqsteeError(f"{self.hidden}: {error}", hint, EXIT_FAILURE) from None

    def _assemble(self, on_verdict: Callable[[Verdict], None], on_lines: Callable[[int], None]) -> None:
        for trust in (True, False):
            found: list[Verdict] = []
            index = Index(f"{self.hidden}/index.db", journal_segments(self.hidden), trust)
            try:
                settings = self.folder, self._layout, self._packed, self._database
                assembly = _AssemblyPass(*settings, index, found, on_lines)
                assembly.run()
            except UntrustedError:
                continue
            else:
                self._compact(index)
                assembly.mark_assembled(journal_segments(self.hidden))
                for verdict in found:
                    on_verdict(verdict)
                return
            finally:
                index.close()
        problem = f"the journal in {self.hidden} cannot be assembled"
        raise SqsteeError(problem, "the journal stays there; please report this bug", EXIT_FAILURE)

    def _check_layout(self) -> None:
        wanted = f"{self._layout}{' --gzip' if self._packed else ''}"
        self._database.execute("INSERT OR IGNORE INTO folder VALUES ('layout', ?)", (wanted,))
        (was,) = self._database.execute("SELECT value FROM folder WHERE key = 'layout'").fetchone()
        if was != wanted:
            hint = f"use --layout {was} again, or choose another folder: -O DIR"
            raise SqsteeError(f"{self.folder} was drained into with --layout {was}", hint)

    def _compact(self, index: Index) -> None:
        """Remove from the journal the frames that are in final files."""
        retained = dict(index.retained())
        for number, path in enumerate(index.segments):
            if number in retained:
                self._rewrite(path, set(retained[number]))
            else:
                os.unlink(path)
        sync_folder(self.hidden)

    def _rewrite(self, path: str, wanted: set[int]) -> None:
        """Keep the wanted frames of a segment, and all of it where they are more than half."""
        sizes = {frame.at: frame.size for frame in read_frames(path)}
        if 2 * sum(sizes[at] for at in wanted) >= os.path.getsize(path):
            return
        journal = Journal(self.hidden)
        for frame in read_frames(path):
            if frame.at in wanted:
                journal.append([(meta_of(frame.id, frame.sent, frame.attributes), frame.body)])
        journal.sync()
        journal.close()
        os.unlink(path)


class _AssemblyPass:
    """One pass over an index: writes and syncs files, then commits the state."""

    def __init__(
        self,
        folder: str,
        layout: str,
        packed: bool,
        database: sqlite3.Connection,
        index: Index,
        found: list[Verdict],
        on_lines: Callable[[int], None],
    ) -> None:
        self._folder, self._packed = folder, packed
        self.streams = layout == "streams"
        self.index = index
        self._database, self._found = database, found
        self._on_lines = on_lines
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
            self._write_foreign()
            self.mark_assembled(self.index.segments)
            if self._files > _MAX_SYNCED:
                os.sync()
            self._database.execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:  # on a full disk SQLite has already rolled back
                self._database.execute("ROLLBACK")
            raise
        self._add_open_runs()

    def _assemble(self, run: str, places: Iterator[Place]) -> Verdict:
        assembly = RunAssembly(self, run)
        for place in places:
            assembly.add(place)
        assembly.finish()
        self._files += assembly.files
        return assembly.verdict

    def load(self, run: str) -> tuple[Verdict, dict[str, int]]:
        """The verdict on the final part of a run's files, and their sizes."""
        query = "SELECT host, job, next, lines, sizes, ended, result FROM run WHERE run = ?"
        row = self._database.execute(query, (run,)).fetchone()
        if row is None:
            return Verdict(run), {}
        verdict = Verdict(run, *row[:4])
        verdict.ended, verdict.result = bool(row[5]), row[6]
        row_of_streams = self._database.execute("SELECT streams FROM unfinished WHERE run = ?", (run,)).fetchone()
        verdict.unfinished = set(json.loads(row_of_streams[0])) if row_of_streams else set()
        return verdict, json.loads(row[4])

    def save(self, verdict: Verdict, sizes: dict[str, int]) -> None:
        """Store the verdict on the final part of a run's files, and their sizes."""
        row = (verdict.run, verdict.host, verdict.job, verdict.next, verdict.lines)
        statement = "INSERT OR REPLACE INTO run VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
        self._database.execute(statement, (*row, json.dumps(sizes), verdict.ended, verdict.result))
        if verdict.unfinished:
            streams = json.dumps(sorted(verdict.unfinished))
            self._database.execute("INSERT OR REPLACE INTO unfinished VALUES (?, ?)", (verdict.run, streams))
        else:
            self._database.execute("DELETE FROM unfinished WHERE run = ?", (verdict.run,))

    def mark_assembled(self, segments: list[str]) -> None:
        """Remember that these segments were assembled: seqs in them that are in final files have not come twice."""
        if segments:
            name = os.path.basename(segments[-1])
            self._database.execute("INSERT OR REPLACE INTO folder VALUES ('assembled', ?)", (name,))

    def count_lines(self, lines: int) -> None:
        """Add lines to the progress."""
        self._lines += lines
        self._on_lines(self._lines)

    def open(self, host: str, run: str, sizes: dict[str, int]) -> RunFiles:
        """Open a run's files."""
        return RunFiles(self._folder, host, run, sizes, self._packed)

    @property
    def syncs(self) -> bool:
        """Whether files are still synced one by one."""
        return self._files <= _MAX_SYNCED

    def _write_foreign(self) -> None:
        """Write the lines that are not in the wire format, each message once."""
        query = "SELECT value FROM folder WHERE key = 'foreign'"
        row = self._database.execute(query).fetchone()
        file: AppendFile | None = None
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
                file = AppendFile(path, int(row[0]) if row else 0, self._packed)
            fields: dict[str, object] = {"message_id": line.id, "sent": timestamp(int(line.sent * 1e9))}
            if line.attributes:
                fields["attributes"] = line.attributes
            data = self.index.read(line).rstrip(b"\n")
            fields["line"] = data.decode("utf-8", "replace")
            if not is_utf8(data):
                fields["raw"] = binascii.b2a_base64(data, newline=False).decode()
            file.write(json.dumps(fields, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
        if file is not None:
            size = file.checkpoint()
            file.close(sync=True)
            sync_folder(f"{self._folder}/{FOREIGN}")
            sync_folder(self._folder)
            self._database.execute("INSERT OR REPLACE INTO folder VALUES ('foreign', ?)", (str(size),))

    def _add_open_runs(self) -> None:
        """Add the verdicts on runs that were not met this time and have not ended."""
        met = {verdict.run for verdict in self._found}
        for (run,) in self._database.execute("SELECT run FROM run WHERE ended = 0").fetchall():
            if run not in met:
                self._found.append(self.load(run)[0])
