"""Assembles a journal into files: the bytes of each run in order, once each, and a verdict.

    DIR/HOST/RUN.stdout …        the bytes that the command wrote (or RUN.ndjson: the records), .gz where packed
    DIR/lines/date=…/host=…/   Parquet files of lines and events, in that layout (parquet.py)
    DIR/_foreign/messages.ndjson lines that are not in the wire format
    DIR/runs.ndjson              a verdict on each run ever drained into DIR

    DIR/.sqstee/state.db         for each run how far its files are final, and their sizes there
    DIR/.sqstee/parts/           Parquet files that are not in their places yet
    DIR/.sqstee/*.journal        bodies that are not in final files: above a hole, or not assembled yet

A run's files are final up to its first hole. The part after it is written anew from the journal each time, so a later
drain into the same folder fills holes. Every step can be repeated: a kill at any moment costs only time.
"""

from __future__ import annotations

import binascii
import fcntl
import json
import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator

from sqstee.at_rest.schema import PARQUET_FOLDER, partition_of
from sqstee.drain.files import MAX_SYNCED, AppendFile, RunFiles, file_name, folder_name
from sqstee.drain.index import Index, Place
from sqstee.drain.journal import Journal, journal_segments, meta_of, read_frames, sync_folder
from sqstee.drain.run_assembly import FinalPart, RunAssembly, RunWriter, UntrustedError
from sqstee.drain.verdict import Verdict
from sqstee.errors import EXIT_FAILURE, SqsteeError
from sqstee.fds import sync_data
from sqstee.record import is_utf8, timestamp
from sqstee.run_summary import RunSummary
from sqstee.text import short_name
from sqstee.transports.folder import FOREIGN_NAME, HIDDEN
from sqstee.transports.layouts import INDEX_NAME

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sqstee.drain.parquet import Parts

_HEAP_BYTES = 1024 * 1024
_SCHEMA = """
CREATE TABLE IF NOT EXISTS folder (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS assembled_run (
    run TEXT PRIMARY KEY, ended INTEGER NOT NULL, sizes TEXT NOT NULL, summary TEXT NOT NULL, verdict TEXT NOT NULL);
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
        self.foreign = 0  # lines not in the wire format that assemble() has written into a file of their own
        os.environ["SQLITE_TMPDIR"] = self.hidden  # sorting a long index needs space, which /tmp may not have
        state = f"{self.hidden}/state.db"
        try:
            self._database = sqlite3.connect(state, isolation_level=None)
            self._database.execute("PRAGMA synchronous = FULL")
            self._database.execute("PRAGMA cache_size = -2048")
            self._database.executescript(_SCHEMA)
            self._check_layout()
            _upgrade(self._database, layout, packed)
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
        parts = _parts(self.folder, self.hidden, self._database) if self._layout == "parquet" else None
        bytes(_HEAP_BYTES)  # glibc keeps twice as much free from here on: else each body may cost fifty page faults
        for trust in (True, False):
            index = Index(f"{self.hidden}/index.db", journal_segments(self.hidden), trust)
            try:
                settings = self.folder, self._layout, self._packed, self._database
                assembly = _AssemblyPass(*settings, index, on_lines, parts)
                assembly.run()
            except UntrustedError:
                continue
            else:
                if parts:
                    parts.publish()
                self._compact(index)
                assembly.mark_assembled(journal_segments(self.hidden))
                self.foreign = assembly.foreign
                try:
                    self._write_index()
                finally:
                    for verdict in assembly.verdicts():
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

    def _write_index(self) -> None:
        """Replace the list of all runs."""
        path = f"{self.hidden}/{INDEX_NAME}"
        with open(path, "w", encoding="ascii") as file:
            query = "SELECT verdict FROM assembled_run ORDER BY run"
            file.writelines(f"{verdict}\n" for (verdict,) in self._database.execute(query))
            file.flush()
            sync_data(file.fileno())
        os.replace(path, f"{self.folder}/{INDEX_NAME}")
        sync_folder(self.folder)

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
        on_lines: Callable[[int], None],
        parts: Parts | None,
    ) -> None:
        self._folder, self._packed = folder, packed
        self.streams, self.joins = layout == "streams", layout == "ndjson"
        self._parts = parts
        self.index = index
        self._database, self._layout = database, layout
        self._met: dict[str, None] = {}
        self._now = time.time()
        self._on_lines = on_lines
        self.foreign = 0  # lines that are not in the wire format
        self._files = 0
        self._lines = 0
        row = database.execute("SELECT value FROM folder WHERE key = 'assembled'").fetchone()
        self.old = sum(os.path.basename(path) <= row[0] for path in index.segments) if row else 0

    def run(self) -> None:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            for run, places in self.index.runs():
                self._assemble(run, places)
            for run in self.index.runs_of_gaps():
                self._assemble(run, ())
            self._judge_open_runs()
            self._write_foreign()
            self.mark_assembled(self.index.segments)
            if self._parts:
                self._parts.store()
            if self._files > MAX_SYNCED:
                os.sync()
            self._database.execute("COMMIT")
        except BaseException:
            if self._parts:
                self._parts.abandon()
            if self._database.in_transaction:  # on a full disk SQLite has already rolled back
                self._database.execute("ROLLBACK")
            raise

    def verdicts(self) -> Iterator[Verdict]:
        """Those on the runs that were met and on those that have not ended."""
        for run in self._met:
            query = "SELECT verdict FROM assembled_run WHERE run = ?"
            yield Verdict(json.loads(self._database.execute(query, (run,)).fetchone()[0]))

    def _assemble(self, run: str, places: Iterable[Place]) -> None:
        assembly = self._parts.assembly(self, run) if self._parts else RunAssembly(self, run)
        for place in places:
            assembly.add(place)
        assembly.finish()
        self._files += assembly.files
        self._met[run] = None

    def load(self, run: str) -> tuple[RunSummary, dict[str, int]]:
        """The summary of the final part of a run's files, and their sizes."""
        query = "SELECT summary, sizes FROM assembled_run WHERE run = ?"
        row = self._database.execute(query, (run,)).fetchone()
        if row is None:
            return RunSummary(run), {}
        summary = RunSummary.load(run, row[0])
        if summary is None:
            problem = f"{self._folder}/{HIDDEN}/state.db is damaged: the state of run {short_name(run)} cannot be read"
            raise SqsteeError(problem, "drain into another folder: -O DIR; the journal stays here", EXIT_FAILURE)
        return summary, json.loads(row[1])

    def save(self, final: FinalPart, summary: RunSummary, duplicates: int, suffixes: Iterable[str]) -> None:
        """Store the final part of a run, and the verdict on all of it, whose files have these suffixes."""
        files = _file_names(summary, suffixes, self._packed, self._layout)
        verdict = Verdict.of(summary, duplicates, self._layout, files, self._now)
        row = summary.run, final.is_ended, json.dumps(final.sizes), final.summary, json.dumps(verdict.fields)
        self._database.execute("INSERT OR REPLACE INTO assembled_run VALUES (?, ?, ?, ?, ?)", row)

    def _judge_open_runs(self) -> None:
        """Renew the verdicts on runs that were not met this time and have not ended: time has passed."""
        for (run,) in self._database.execute("SELECT run FROM assembled_run WHERE NOT ended").fetchall():
            if run not in self._met:
                summary, sizes = self.load(run)
                self.save(FinalPart(summary.dump(), sizes, False), summary, 0, sizes)
                self._met[run] = None

    def mark_assembled(self, segments: list[str]) -> None:
        """Remember that these segments were assembled: seqs in them that are in final files have not come twice."""
        if segments:
            name = os.path.basename(segments[-1])
            self._database.execute("INSERT OR REPLACE INTO folder VALUES ('assembled', ?)", (name,))

    def count_lines(self, lines: int) -> None:
        """Add lines to the progress."""
        self._lines += lines
        self._on_lines(self._lines)

    def open(self, host: str, run: str, sizes: dict[str, int]) -> RunWriter:
        """Open a run's files."""
        if self._parts:
            return self._parts.rows(host, run, sizes)
        return RunFiles(self._folder, host, run, sizes, self._packed)

    @property
    def syncs(self) -> bool:
        """Whether files are still synced one by one."""
        return self._files <= MAX_SYNCED

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
                os.makedirs(f"{self._folder}/{FOREIGN_NAME}", exist_ok=True)
                path = f"{self._folder}/{FOREIGN_NAME}/messages.ndjson{'.gz' if self._packed else ''}"
                file = AppendFile(path, int(row[0]) if row else 0, self._packed)
            fields: dict[str, object] = {"message_id": line.id, "sent": timestamp(int(line.sent * 1e9))}
            if line.attributes:
                fields["attributes"] = line.attributes
            data = self.index.read(line).rstrip(b"\n")
            fields["line"] = data.decode("utf-8", "replace")
            if not is_utf8(data):
                fields["raw"] = binascii.b2a_base64(data, newline=False).decode()
            self.foreign += 1
            file.write(json.dumps(fields, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
        if file is not None:
            size = file.checkpoint()
            file.close(sync=True)
            sync_folder(f"{self._folder}/{FOREIGN_NAME}")
            sync_folder(self._folder)
            self._database.execute("INSERT OR REPLACE INTO folder VALUES ('foreign', ?)", (str(size),))


def _file_names(summary: RunSummary, suffixes: Iterable[str], packed: bool, layout: str) -> list[str]:
    """The paths of a run's files in the folder, or of the partitions that have its rows."""
    if layout == "parquet":
        return [f"{PARQUET_FOLDER}/{partition_of(date, summary.host)}" for date in suffixes]
    return [f"{folder_name(summary.host)}/{file_name(summary.run, suffix, packed)}" for suffix in suffixes]


def _parts(folder: str, hidden: str, database: sqlite3.Connection) -> Parts:
    from sqstee.drain.parquet import Parts  # loads pyarrow, which no other layout needs

    return Parts(folder, hidden, database)


def _upgrade(database: sqlite3.Connection, layout: str, packed: bool) -> None:
    """Take over the runs of a state that has no summaries: neither their times nor their lines by stream are known."""
    if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'run'").fetchone():
        return
    database.execute("BEGIN IMMEDIATE")
    columns = "run, host, job, next, lines, sizes, ended, result, streams"
    rows = database.execute(f"SELECT {columns} FROM run LEFT JOIN unfinished USING (run)").fetchall()
    for run, host, job, next_seq, lines, sizes, ended, result, streams in rows:
        summary = RunSummary(run)
        summary.host, summary.job, summary.result, summary.is_ended = host, job, result, bool(ended)
        names = [name for name in json.loads(sizes) if name != "ndjson"]
        summary.lines = {names[0] if len(names) == 1 else "output": lines}
        summary.unfinished = set(json.loads(streams)) if streams else set()
        if next_seq:
            summary.records.add(0, next_seq - 1)
            summary.last = next_seq - 1
        if status := re.fullmatch("exited with status ([0-9]+)", result):
            summary.exit_code = int(status[1])
        summary.is_failed = bool(summary.exit_code)
        verdict = Verdict.of(summary, 0, layout, _file_names(summary, json.loads(sizes), packed, layout), time.time())
        row = run, ended, sizes, summary.dump(), json.dumps(verdict.fields)
        database.execute("INSERT INTO assembled_run VALUES (?, ?, ?, ?, ?)", row)
    database.execute("DROP TABLE run")
    database.execute("DROP TABLE IF EXISTS unfinished")
    database.execute("COMMIT")
