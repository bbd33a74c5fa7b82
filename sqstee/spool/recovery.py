"""Closing the spool of a run whose front died: the torn tail is cut, and an exit event says what happened."""

from __future__ import annotations

import errno
import json
import os

from sqstee.spool.checkpoint import Checkpoint
from sqstee.spool.frame import CUT, EVENT, FRESH, LINES, Frame
from sqstee.spool.reader import FrameReader, read_meta
from sqstee.spool.run_folder import lock
from sqstee.spool.segments import Segments
from sqstee.spool.writer import Writer

_STREAMS = 3


class Tail:
    """What a run's frames add up to: the next seq, where the next frame would start, and whether the run is closed."""

    def __init__(self, folder: str) -> None:
        state = Checkpoint(folder)
        # from the start of its segment, so that an acknowledged exit event is seen as well
        reader = FrameReader(folder, (state.position[0], 0))
        self.acknowledged = self.next_seq = state.next
        self.unfinished = [0] * _STREAMS
        self.open_after_exit, self.closed = _exited(folder, state.position[0]), False
        for frame in reader.frames():
            self._take(frame)
        self.end = reader.position
        if self.end < state.position:  # a power cut took what is acknowledged: reading goes on behind it
            self.end = (state.position[0] + 1, 0)
            self.unfinished = [0] * _STREAMS
        reader.close()
        state.close()

    def _take(self, frame: Frame) -> None:
        self.next_seq = max(self.next_seq, frame.first + frame.lines)
        if frame.kind == LINES:
            self._take_lines(frame)
        elif frame.kind == EVENT:
            self._take_event(json.loads(frame.payload))

    def _take_lines(self, frame: Frame) -> None:
        before = 0 if frame.flags & FRESH else self.unfinished[frame.stream]
        rest = 0 if frame.flags & CUT else len(frame.payload) - frame.payload.rfind(b"\n") - 1
        self.unfinished[frame.stream] = rest if frame.lines else before + rest

    def _take_event(self, fields: dict[str, object]) -> None:
        if fields.get("event") == "exit":
            self.open_after_exit = bool(fields.get("open"))
        self.closed = self.closed or fields.get("event") == "end"
        self.closed = self.closed or (fields.get("event") == "exit" and not self.open_after_exit)


def _exited(folder: str, segment: int) -> bool:
    """Whether the exit event was written before `segment` was begun."""
    try:
        return bool(json.loads(read_meta(folder, segment)).get("exited"))
    except (OSError, ValueError):
        return False


def close_dead_run(folder: str) -> bool:
    """Close the run in `folder`, whose `ship` lock the caller holds; whether it is closed (now, or was before).

    Nothing is done while somebody holds its `writer` lock: then the run is alive. Raises OSError where the disk
    refuses, ValueError where nothing in the folder can be read.
    """
    writing = lock(folder, "writer")
    if writing is None:
        return False
    try:
        tail = Tail(folder)
        if not tail.closed:
            _close(folder, tail, killed=os.fstat(writing).st_size > 0)
        os.ftruncate(writing, 0)  # what the dead writer had announced of the spool's room is free again
    finally:
        os.close(writing)
    return True


def _close(folder: str, tail: Tail, killed: bool) -> None:
    """Cut the torn tail and append what is missing: the end of unfinished lines, the event that closes the run.

    A writer that was not `killed` has taken its announcement back: it came to its end, which the disk refused.
    What the disk refuses is nothing to be counted as dropped: it is as if nobody had tried, and somebody will again.
    """
    disk = Segments(folder, read_meta(folder))
    disk.resume(*tail.end)
    writer = Writer(disk, max_line=0)
    writer.resume(tail.next_seq, tail.unfinished)
    if not _append_end(writer, tail.open_after_exit, killed):
        writer.abandon()
        raise OSError(errno.ENOSPC, writer.trouble)
    writer.close()


def _append_end(writer: Writer, open_after_exit: bool, killed: bool) -> bool:
    """Append what is missing, up to what the disk refuses; whether it took everything."""
    for stream in range(_STREAMS):
        writer.cut(stream)
        if writer.dropped:
            return False
    event = "end" if open_after_exit else "exit"
    message = "sqstee was killed" if open_after_exit else "sqstee was killed, and the command with it"
    if not killed:
        message = "the run has ended; how could not be written"
    return writer.event({"event": event, "message": message, "cause": "wrapper-died"})
