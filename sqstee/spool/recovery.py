"""Closes the spool of a run whose front died: cuts the torn tail and appends the exit event that is missing."""

from __future__ import annotations

import errno
import os

from sqstee.jsonbytes import decode_object
from sqstee.record import MAX_SEQ
from sqstee.spool import run_events
from sqstee.spool.checkpoint import Checkpoint
from sqstee.spool.frame import CUT, EVENT, FRESH, LINES, STREAM_COUNT, Frame
from sqstee.spool.reader import FrameReader, read_meta
from sqstee.spool.run_folder import lock
from sqstee.spool.segments import Segments, read_note
from sqstee.spool.writer import Writer
from sqstee.trace import trace


class Closure:
    """Whether a run is `closed`, from its events in order.

    Its exit event closes it, or its end event if the exit event names streams that were still open (`open_after_exit`).
    """

    def __init__(self, open_after_exit: bool = False) -> None:
        self.open_after_exit = open_after_exit
        self.closed = False

    def add(self, payload: bytes) -> None:
        """Add the payload of an EVENT frame. Raises ValueError if it holds no event."""
        fields = decode_object(payload)
        if not isinstance(fields.get("event"), str):
            raise ValueError("an event frame without an event")
        if fields["event"] == "exit":
            self.open_after_exit = bool(fields.get("open"))
            self.closed = self.closed or not self.open_after_exit
        self.closed = self.closed or fields["event"] == "end"


class SpoolTail:
    """The end of a run's spool, from its frames.

    `framed` follows the last frame, which ends at the position `end`; `next_seq` follows the lines that a full disk
    refused after it; `unfinished` has the bytes of each stream's unfinished line. Raises OSError or ValueError if the
    spool cannot be read.
    """

    def __init__(self, folder: str) -> None:
        checkpoint = Checkpoint(folder)
        # from the start of the segment, so that an acknowledged exit event is found too
        reader = FrameReader(folder, (checkpoint.position[0], 0))
        self.acknowledged = self.next_seq = checkpoint.next
        self.unfinished = [0] * STREAM_COUNT
        self.closure = Closure(_exited(folder, checkpoint.position[0]))
        try:
            for frame in reader.frames():
                self._add_frame(frame)
        finally:  # an agent meets a damaged run again and again
            reader.close()
            checkpoint.close()
        self.end = reader.position
        if self.end < checkpoint.position:  # a power cut took acknowledged frames: readers start behind them
            self.end = (checkpoint.position[0] + 1, 0)
            self.unfinished = [0] * STREAM_COUNT
        self.framed = self.next_seq
        self._add_dropped(folder)

    def _add_dropped(self, folder: str) -> None:
        """Add the dropped lines that have no gap frame, from the writer's note."""
        next_seq, streams = read_note(folder, *self.end) or (0, 0)
        if self.next_seq < next_seq <= MAX_SEQ:
            self.next_seq = next_seq
            self.unfinished = [0 if streams >> at & 1 else size for at, size in enumerate(self.unfinished)]

    def _add_frame(self, frame: Frame) -> None:
        self.next_seq = max(self.next_seq, frame.first + frame.lines)
        if frame.kind == LINES:
            self._add_lines(frame)
        elif frame.kind == EVENT:
            self.closure.add(frame.payload)

    def _add_lines(self, frame: Frame) -> None:
        before = 0 if frame.flags & FRESH else self.unfinished[frame.stream]
        rest = 0 if frame.flags & CUT else len(frame.payload) - frame.payload.rfind(b"\n") - 1
        self.unfinished[frame.stream] = rest if frame.lines else before + rest


def _exited(folder: str, segment: int) -> bool:
    """Whether the exit event is in a segment before `segment`."""
    try:
        return bool(decode_object(read_meta(folder, segment)).get("exited"))
    except (OSError, ValueError):
        return False


def close_dead_run(folder: str) -> bool:
    """Close the run in `folder`, whose `ship` lock the caller holds, unless it is closed already.

    Returns False, and does nothing, while another process holds its `writer` lock: the run is alive. Raises OSError if
    the disk refuses, ValueError if nothing in the folder can be read.
    """
    writing = lock(folder, "writer")
    if writing is None:
        return False
    try:
        tail = SpoolTail(folder)
        if not tail.closure.closed:
            trace("recovery", f"{folder} was left open at seq {tail.next_seq}: closing it")
            _close(folder, tail, killed=os.fstat(writing).st_size > 0)
        os.ftruncate(writing, 0)  # give back the quota that the dead writer had announced
    finally:
        os.close(writing)
    return True


def _close(folder: str, tail: SpoolTail, killed: bool) -> None:
    """Cut the torn tail, end unfinished lines, and append the event that closes the run.

    A writer that was not `killed` gave its quota back: it reached its end, but the disk refused the exit event. Raises
    OSError if the disk refuses now as well; nothing counts as dropped then, since the next process tries again.
    """
    meta = read_meta(folder)
    segments = Segments(folder, meta)
    segments.resume(*tail.end)
    writer = Writer(segments, max_line=0)
    writer.resume(tail.next_seq, tail.unfinished, tail.framed)
    is_log, name = _identity(meta)
    event = run_events.closed_by_finder(is_log, tail.closure.open_after_exit, killed, name)
    if not _append_end(writer, event):
        writer.abandon()
        raise OSError(errno.ENOSPC, writer.last_error)
    writer.close()


def _append_end(writer: Writer, event: dict[str, object]) -> bool:
    """Append the missing frames; returns False at the first one that the disk refuses."""
    for stream in range(STREAM_COUNT):
        writer.cut(stream, closing=True)
        if writer.dropped:
            return False
    return writer.event(event, closing=True)


def _identity(meta: bytes) -> tuple[bool, str]:
    """By its META frame: whether the run is a process's own log, and its name."""
    try:
        fields = decode_object(meta)
    except ValueError:
        return False, ""
    return fields.get("logging") is True, run_events.program_name(str(fields.get("name", "")))
