"""Captured bytes into frames: numbers lines, cuts long ones, and covers dropped ones by gap frames."""

from __future__ import annotations

import errno
import os
import time

from sqstee.jsonbytes import encode_object
from sqstee.spool.frame import (
    CONTINUES,
    CUT,
    EVENT,
    FRESH,
    GAP,
    HEADER_BYTES,
    LEVEL_SHIFT,
    LINES,
    RECORD,
    STREAM_COUNT,
    gap_fields,
)
from sqstee.spool.segments import CLOSING, ORDINARY, RESERVED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from sqstee.spool.long_lines import LongLines
    from sqstee.spool.rate_limit import RateLimit
    from sqstee.spool.segments import Segments

RATE_LIMIT = "rate-limit"  # the reason for lines above --rate-limit
_WHOLE, _SPOOLED, _DROPPED = range(3)  # a line that was cut: all of its pieces were spooled, or one was dropped
_ALWAYS_FITS = 128 * 1024  # bytes of a line whose record fits into a message of SQS, whatever they are
_GAP_BYTES = 512  # a gap frame takes at most this many
_GAPS_KEPT = 4096  # and so many heartbeats
_STEP_BYTES = 64 * 1024  # quota is asked for so much at once: a nearly full spool takes what still fits


class Writer:
    """Numbers a run's lines and events and appends them to the spool.

    All streams and the events share one sequence. When the spool refuses bytes, whole lines are dropped, counted, and
    covered by a gap frame as soon as one can be written: no method raises OSError.
    """

    def __init__(self, segments: Segments, max_line: int, streams: int = STREAM_COUNT) -> None:
        self._segments = segments
        self._max_line = max_line
        self._most_record_bytes = min(max_line, _ALWAYS_FITS)
        self.rate_limit: RateLimit | None = None
        self._long_lines: LongLines | None = None
        if max_line > _ALWAYS_FITS:
            from sqstee.spool.long_lines import LongLines  # not at the top: few runs need it

            self._long_lines = LongLines(max_line, streams)
        self.next_seq = 0
        self.lines = 0  # a line that is cut counts once, while each of its pieces has a seq
        self.bytes = 0
        self.dropped = 0  # lines of which a piece was dropped
        self.reasons: dict[str, int] = {}  # number of dropped lines for each reason
        self.last_error = ""  # why the spool last refused a frame
        self.level = 0  # level of the lines to come: an index into record.LEVELS
        self._partial = [0] * streams  # bytes of each stream's unfinished line
        self._dropping_rest = [False] * streams  # part of the unfinished line was dropped: drop its rest too
        self._continued = [_WHOLE] * streams  # the last line of each stream: _WHOLE, or what became of its pieces
        self._set_fresh = [False] * streams  # the stream's next frame gets the FRESH flag
        self._gap_from = -1
        self._gap_reason = ""
        self._gaps: list[tuple[int, int]] = []  # first and last seq of the latest gap events
        self._alive: list[int] = []  # the seqs of the latest heartbeats' events

    @property
    def folder(self) -> str:
        """The run's folder."""
        return self._segments.folder

    @property
    def spooled(self) -> int:
        """Every seq below this one is in the spool, as a record or covered by a gap event; from it on, none is."""
        return self.next_seq if self._gap_from < 0 else self._gap_from

    def dropped_since(self, seq: int) -> int:
        """How many of the dropped lines have this seq or a later one; lines of very many gaps ago do not count."""
        gaps = self._gaps if self._gap_from < 0 else [*self._gaps, (self._gap_from, self.next_seq - 1)]
        return sum(max(0, last + 1 - max(first, seq)) for first, last in gaps)

    def on_append(self, callback: Callable[[], None]) -> None:
        """Set the function that is called after each appended frame."""
        self._segments.on_append = callback

    def resume(self, next_seq: int, unfinished: Sequence[int], dropped_from: int) -> None:
        """Continue a dead writer's run from `next_seq` on.

        `unfinished` has the bytes of each stream's unfinished line. A gap frame is due for the seqs of the lines that
        the writer dropped, from `dropped_from` on.
        """
        self.next_seq = next_seq
        if dropped_from < next_seq:
            self._gap_from, self._gap_reason = dropped_from, os.strerror(errno.ENOSPC)
        self._partial = list(unfinished)

    def write(self, stream: int, chunk: bytes, wait: bool = False) -> bytes:
        """Spool bytes as they were read. Lines longer than `max_line` are cut here and nowhere else.

        With `wait`, when the spool is full and --on-full says to wait, the rest of `chunk` is returned: pass it to the
        next call.
        """
        if self.rate_limit:
            return self._write_within(self.rate_limit, stream, chunk, wait)
        if len(chunk) > _STEP_BYTES and not self._segments.has_room(HEADER_BYTES + len(chunk)):
            for at in range(0, len(chunk), _STEP_BYTES):
                rest = self._write(stream, chunk[at : at + _STEP_BYTES], wait)
                if rest:
                    return rest + chunk[at + _STEP_BYTES :]
            return b""
        return self._write(stream, chunk, wait)

    def _write_within(self, limit: RateLimit, stream: int, chunk: bytes, wait: bool) -> bytes:
        """As `write`, but lines above the limit are dropped: whole ones, and none that has begun to be spooled."""
        for at in range(0, len(chunk), _STEP_BYTES):
            rest = self._write_step_within(limit, stream, chunk[at : at + _STEP_BYTES], wait)
            if rest:
                return rest + chunk[at + _STEP_BYTES :]
        return b""

    def _write_step_within(self, limit: RateLimit, stream: int, chunk: bytes, wait: bool) -> bytes:
        start = 0
        if self._dropping_rest[stream]:
            start = chunk.find(b"\n") + 1 or len(chunk)
        begun = not start and (self._partial[stream] > 0 or self._continued[stream] != _WHOLE)
        end = limit.split(chunk, start, begun) if start < len(chunk) else start
        kept, over = (chunk, b"") if end == len(chunk) else (chunk[:end], chunk[end:])
        rest = self._write(stream, kept, wait)
        if rest:
            limit.give_back(rest.count(b"\n"))
            return rest + over
        if over:
            self.drop(stream, over, RATE_LIMIT)
            if limit.cover_is_due():
                self._cover_dropped(ORDINARY)
        return b""

    def _write(self, stream: int, chunk: bytes, wait: bool) -> bytes:
        self.bytes += len(chunk)
        if self._dropping_rest[stream]:
            chunk = self._after_dropped_line(stream, chunk)
        at = 0
        # A generator costs a tenth of spooling a short line, and nearly all need no cutting.
        is_short = 0 < len(chunk) <= self._max_line - self._partial[stream] and not self._long_lines
        for piece, cut in ((chunk, False),) if is_short else self._pieces(stream, chunk):
            if wait and not self._has_quota(piece) and self._segments.quota.should_wait():
                self.bytes -= len(chunk) - at
                return chunk[at:]
            self._append_lines(stream, piece, cut)
            at += len(piece)
        return b""

    def record(
        self,
        stream: int,
        fields: dict[str, object],
        encode: Callable[[dict[str, object]], bytes],
        shortened: Callable[[dict[str, object]], Iterable[dict[str, object]]],
    ) -> bool:
        """Append a line with fields of its own, among them `message`, its text, which may hold newlines.

        `encode` gives their JSON; where that is too long for a frame, `shortened` gives other fields to try in turn.
        Returns False, and does nothing, if all are too long. The stream must have no unfinished line.
        """
        payload = encode(fields)
        if len(payload) > self._most_record_bytes:
            payloads = map(encode, shortened(fields))
            payload = next((found for found in payloads if len(found) <= self._most_record_bytes), b"")
            if not payload:
                return False
        self.bytes += len(payload)
        limit = self.rate_limit
        if limit and not limit.split(b"\n", 0, False):
            self.drop(stream, b"\n", RATE_LIMIT)
            if limit.cover_is_due():
                self._cover_dropped(ORDINARY)
        elif self._append(RECORD, payload, 1, stream):
            self.lines += 1
        else:
            self._count(stream, 1, False, self._gap_reason)
            self._note_dropped()
        return True

    def cut(self, stream: int, closing: bool = False) -> None:
        """End the unfinished line of a stream, if there is one: it is old, or the stream is `closing`."""
        if closing:
            self._dropping_rest[stream] = False
        if self._partial[stream]:
            self._append_lines(stream, b"", True, CLOSING if closing else RESERVED)

    def unfinished(self, stream: int) -> bool:
        """Whether the stream's last line has no newline yet."""
        return self._partial[stream] > 0

    def event(self, fields: dict[str, object], closing: bool = False) -> bool:
        """Append an event with a seq of its own. Returns False, and uses no seq, if the spool refuses it.

        With `closing` it is the exit or the end event, for which room was reserved on the disk when the run began.
        """
        return self._event(fields, CLOSING if closing else RESERVED)

    def alive(self, fields: dict[str, object]) -> None:
        """Append a heartbeat's event, unless the spool is full.

        The reserve is for events that cannot be written later.
        """
        if self._event(fields, ORDINARY):
            self._alive.append(self.next_seq - 1)
            del self._alive[:-_GAPS_KEPT]

    def alive_since(self, seq: int) -> int:
        """How many heartbeats' events have this seq or a later one."""
        return sum(found >= seq for found in self._alive)

    def _event(self, fields: dict[str, object], priority: int) -> bool:
        if self._append(EVENT, encode_object(fields), 1, priority=priority):
            return True
        self.next_seq -= 1  # gap events cover lines only
        if self._gap_from == self.next_seq:
            self._gap_from = -1
        return False

    def mark_exited(self) -> None:
        """Note that the exit event is written and lines follow it: recovery needs to know if this process dies."""
        self._segments.mark_exited()

    def end(self, fields: dict[str, object]) -> bool:
        """Append the event that closes the run, and close the files; False if the spool refuses it.

        Then call this again once the disk may have room, or `close`.
        """
        ended = self.event(fields, closing=True)
        if ended:
            self._segments.close()
        return ended

    def close(self) -> None:
        """Write a gap frame if lines were dropped since the last one, and close the files."""
        self._cover_dropped(CLOSING)
        self._segments.close()

    def _cover_dropped(self, priority: int) -> None:
        if self._gap_from >= 0:
            try:
                self._append_gap(time.time_ns(), self.next_seq, priority)
            except OSError:  # before the next frame it is tried again
                pass

    def _has_quota(self, piece: bytes) -> bool:
        """Whether quota allows the piece, and before it the gap frame that may be due."""
        size = HEADER_BYTES + len(piece)
        if self._gap_from < 0:
            return self._segments.has_quota(size, self.next_seq)
        return self._segments.has_quota(size + _GAP_BYTES, self._gap_from)

    def abandon(self) -> None:
        """Close the files in a process that has inherited them, and write nothing."""
        self._segments.abandon()

    def _pieces(self, stream: int, chunk: bytes) -> Iterator[tuple[bytes, bool]]:
        """Split `chunk` where a line exceeds `max_line`: pieces, each with whether its last line is cut off."""
        if self._long_lines:
            yield from self._long_lines.pieces(stream, chunk, self._partial[stream], _character_start)
            return
        start = at = 0
        free = self._max_line - self._partial[stream]
        while len(chunk) - at > free:
            end = chunk.rfind(b"\n", at, at + free + 1) + 1
            if end:
                at = end
            else:
                end = _character_start(chunk, at + free, at)
                yield chunk[start:end], True
                start = at = end
            free = self._max_line
        if start < len(chunk):
            yield (chunk[start:] if start else chunk), False

    def _append_lines(self, stream: int, piece: bytes, cut: bool, priority: int = ORDINARY) -> None:
        records = piece.count(b"\n") + cut
        rest = 0 if cut else len(piece) - piece.rfind(b"\n") - 1
        flags = (CUT if cut else 0) | (FRESH if self._set_fresh[stream] else 0) | self.level << LEVEL_SHIFT
        if self._continued[stream]:
            flags |= CONTINUES
        self._partial[stream] = rest if records else self._partial[stream] + rest
        if self._append(LINES, piece, records, stream, flags, priority):
            if cut or self._continued[stream]:
                self._count(stream, records, cut)
            else:
                self.lines += records
            self._set_fresh[stream] = False
            return
        self._set_fresh[stream] = True
        self._segments.discard_unfinished(stream)
        if self._partial[stream]:  # the last line is unfinished: drop it whole
            self._partial[stream] = 0
            self._dropping_rest[stream] = True
            self.next_seq += 1
            records += 1
        self._count(stream, records, cut, self._gap_reason)
        self._note_dropped()

    def drop(self, stream: int, chunk: bytes, reason: str) -> None:
        """Drop and count the lines in `chunk` and the rest of its last line; a gap frame will cover them."""
        self._dropping_rest[stream] = not chunk.endswith(b"\n")
        records = chunk.count(b"\n") + self._dropping_rest[stream]
        if self._gap_from < 0:
            self._gap_from, self._gap_reason = self.next_seq, reason
        self._set_fresh[stream], self._partial[stream] = True, 0
        self.next_seq += records
        self.bytes += len(chunk)
        self._count(stream, records, False, reason)
        self._note_dropped()

    def _note_dropped(self) -> None:
        streams = sum(fresh << stream for stream, fresh in enumerate(self._set_fresh))
        self._segments.note_dropped(self.next_seq, streams)

    def _count(self, stream: int, records: int, cut: bool, dropped_for: str = "") -> None:
        """Count the lines of records: the first one may continue a line, and after a `cut` the next one will."""
        if not records:
            return
        before = self._continued[stream]
        self.lines += records - (before != _WHOLE)
        if dropped_for:
            dropped = records - (before == _DROPPED)
            self.dropped += dropped
            self.reasons[dropped_for] = self.reasons.get(dropped_for, 0) + dropped
        was_dropped = dropped_for or (before == _DROPPED and records == 1)
        self._continued[stream] = (_DROPPED if was_dropped else _SPOOLED) if cut else _WHOLE

    def _after_dropped_line(self, stream: int, chunk: bytes) -> bytes:
        end = chunk.find(b"\n") + 1
        if not end:
            return b""
        self._dropping_rest[stream] = False
        return chunk[end:]

    def _append(
        self, kind: int, payload: bytes, lines: int, stream: int = 0, flags: int = 0, priority: int = ORDINARY
    ) -> bool:
        first = self.next_seq
        self.next_seq += lines
        now = time.time_ns()
        try:
            if self._gap_from >= 0:
                self._append_gap(now, first, priority)
            self._segments.append(kind, payload, first, lines, now, stream, flags, priority)
        except OSError as error:
            self.last_error = error.strerror or "cannot be written"
            if self._gap_from < 0:
                self._gap_from, self._gap_reason = first, self.last_error
            elif self._gap_reason == RATE_LIMIT:  # of two reasons the one that nobody has asked for
                self._gap_reason = self.last_error
            return False
        return True

    def _append_gap(self, now: int, end: int, priority: int) -> None:
        first, last = self._gap_from, end - 1
        if last >= first:
            reason = RATE_LIMIT if self._gap_reason == RATE_LIMIT else f"spool: {self._gap_reason}"
            fields = gap_fields(first, last, reason)
            payload = encode_object(fields)
            self._segments.append(GAP, payload, first, last - first + 1, now, priority=priority)
            self._gaps.append((first, last))
            del self._gaps[:-_GAPS_KEPT]
        self._gap_from = -1


def _character_start(chunk: bytes, at: int, low: int) -> int:
    """`at`, moved back by at most three bytes so that no UTF-8 character is split; always above `low`."""
    start = at
    while start > low and at - start < 3 and chunk[start] & 0xC0 == 0x80:
        start -= 1
    return start if start > low and chunk[start] & 0xC0 == 0xC0 else at
