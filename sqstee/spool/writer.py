"""What a run captures, numbered and cut into frames."""

from __future__ import annotations

import time

from sqstee.jsonbytes import encode_object
from sqstee.spool.frame import CUT, EVENT, FRESH, GAP, HEADER_BYTES, LEVEL_SHIFT, LINES, gap_fields

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sqstee.spool.segments import Segments

_GAP_BYTES = 512  # of a gap frame, at most


class Writer:
    """Numbers what a run captures and appends it to the spool.

    One sequence runs over both streams and the events. What cannot be appended is dropped in whole lines, counted,
    and covered by a gap frame as soon as one can be written: no method raises OSError.
    """

    def __init__(self, segments: Segments, max_line: int, streams: int = 3) -> None:
        self._segments = segments
        self._max_line = max_line
        self.next_seq = 0
        self.lines = 0
        self.bytes = 0
        self.dropped = 0
        self.reasons: dict[str, int] = {}  # why lines were dropped, and how many
        self.trouble = ""  # what the disk answered when it last refused something
        self.level = 0  # of the lines that are written from here on: an index into record.LEVELS
        self._partial = [0] * streams  # bytes of the unfinished line
        self._losing = [False] * streams  # the unfinished line has lost a part: drop the rest of it too
        self._fresh = [False] * streams  # the next frame must not be joined to what the spool holds of its stream
        self._gap_from = -1
        self._gap_reason = ""

    @property
    def folder(self) -> str:
        """The run's folder."""
        return self._segments.folder

    @property
    def spooled(self) -> int:
        """The spool holds every seq below this one, in a gap event at least."""
        return self.next_seq if self._gap_from < 0 else self._gap_from

    def on_append(self, callback: Callable[[], None]) -> None:
        """Have `callback` called after each frame that was appended."""
        self._segments.appended = callback

    def resume(self, next_seq: int, unfinished: Sequence[int]) -> None:
        """Go on where a dead writer was: its next seq, and the bytes of each stream's unfinished line."""
        self.next_seq = next_seq
        self._partial = list(unfinished)

    def write(self, stream: int, chunk: bytes, wait: bool = False) -> bytes:
        """Spool bytes as they were read; pieces longer than the longest line are cut here and never later.

        With `wait`, and where the spool is full and waiting is the rule, the rest is returned, to be given again later.
        """
        self.bytes += len(chunk)
        if self._losing[stream]:
            chunk = self._after_lost_line(stream, chunk)
        at = 0
        for piece, cut in self._pieces(stream, chunk):
            if not self._has_room(piece) and wait and self._segments.quota.should_wait():
                self.bytes -= len(chunk) - at
                return chunk[at:]
            self._append_lines(stream, piece, cut)
            at += len(piece)
        return b""

    def cut(self, stream: int) -> None:
        """End the unfinished line of a stream, if there is one (end of the stream, or idle for long)."""
        self._losing[stream] = False
        if self._partial[stream]:
            self._append_lines(stream, b"", True)

    def unfinished(self, stream: int) -> bool:
        """Whether the stream's last line has no newline yet."""
        return self._partial[stream] > 0

    def event(self, fields: dict[str, object]) -> bool:
        """Append an event, which takes a seq of its own; whether it could be: if not, it takes none."""
        if self._append(EVENT, encode_object(fields), 1, reserved=True):
            return True
        self.next_seq -= 1  # a gap event is about lines
        if self._gap_from == self.next_seq:
            self._gap_from = -1
        return False

    def note_exit(self) -> None:
        """The exit event is written, and more is to come: whoever closes the run after a death needs to know it."""
        self._segments.note_exit()

    def close(self) -> None:
        """Write an outstanding gap frame and close the files."""
        if self._gap_from >= 0:
            try:
                self._append_gap(time.time_ns(), self.next_seq, reserved=True)
            except OSError:
                pass
        self._segments.close()

    def _has_room(self, piece: bytes) -> bool:
        """Whether the spool is not full: both a gap frame that is due and the piece behind it can be appended."""
        size = HEADER_BYTES + len(piece)
        if self._gap_from < 0:
            return self._segments.ready(size, self.next_seq)
        return self._segments.ready(size + _GAP_BYTES, self._gap_from)

    def abandon(self) -> None:
        """Let go of the files and write nothing, in a process that has only inherited them."""
        self._segments.abandon()

    def _pieces(self, stream: int, chunk: bytes) -> Iterator[tuple[bytes, bool]]:
        """Cut `chunk` wherever more than the longest line would come without a newline."""
        start = at = 0
        quota = self._max_line - self._partial[stream]
        while len(chunk) - at > quota:
            end = chunk.rfind(b"\n", at, at + quota + 1) + 1
            if end:
                at = end
            else:
                end = _character_start(chunk, at + quota, at)
                yield chunk[start:end], True
                start = at = end
            quota = self._max_line
        if start < len(chunk):
            yield (chunk[start:] if start else chunk), False

    def _append_lines(self, stream: int, piece: bytes, cut: bool) -> None:
        lines = piece.count(b"\n") + cut
        rest = 0 if cut else len(piece) - piece.rfind(b"\n") - 1
        flags = (CUT if cut else 0) | (FRESH if self._fresh[stream] else 0) | self.level << LEVEL_SHIFT
        self._partial[stream] = rest if lines else self._partial[stream] + rest
        self.lines += lines
        if self._append(LINES, piece, lines, stream, flags, reserved=not piece):
            self._fresh[stream] = False
            return
        self._fresh[stream] = True
        if self._partial[stream]:  # its rest is still to come: this line is lost as well
            self._partial[stream] = 0
            self._losing[stream] = True
            self.lines += 1
            self.next_seq += 1
            lines += 1
        self.dropped += lines
        self.reasons[self._gap_reason] = self.reasons.get(self._gap_reason, 0) + lines

    def lose(self, stream: int, chunk: bytes, reason: str) -> None:
        """Drop the lines in `chunk`, and the rest of its last one: counted, and covered by a gap frame."""
        self._losing[stream] = not chunk.endswith(b"\n")
        lines = chunk.count(b"\n") + self._losing[stream]
        if self._gap_from < 0:
            self._gap_from, self._gap_reason = self.next_seq, reason
        self._fresh[stream], self._partial[stream] = True, 0
        self.next_seq += lines
        self.lines += lines
        self.bytes += len(chunk)
        self.dropped += lines
        self.reasons[reason] = self.reasons.get(reason, 0) + lines

    def _after_lost_line(self, stream: int, chunk: bytes) -> bytes:
        end = chunk.find(b"\n") + 1
        if not end:
            return b""
        self._losing[stream] = False
        return chunk[end:]

    def _append(
        self, kind: int, payload: bytes, lines: int, stream: int = 0, flags: int = 0, reserved: bool = False
    ) -> bool:
        first = self.next_seq
        self.next_seq += lines
        now = time.time_ns()
        try:
            if self._gap_from >= 0:
                self._append_gap(now, first, reserved)
            self._segments.append(kind, payload, first, lines, now, stream, flags, reserved)
        except OSError as error:
            self.trouble = error.strerror or "cannot be written"
            if self._gap_from < 0:
                self._gap_from, self._gap_reason = first, self.trouble
            return False
        return True

    def _append_gap(self, now: int, end: int, reserved: bool) -> None:
        first, last = self._gap_from, end - 1
        if last >= first:
            fields = gap_fields(first, last, f"spool: {self._gap_reason}")
            payload = encode_object(fields)
            self._segments.append(GAP, payload, first, last - first + 1, now, reserved=reserved)
        self._gap_from = -1


def _character_start(chunk: bytes, at: int, low: int) -> int:
    """`at` moved back, by at most three bytes, so that no UTF-8 character is cut in two; never to `low` itself."""
    start = at
    while start > low and at - start < 3 and chunk[start] & 0xC0 == 0x80:
        start -= 1
    return start if start > low and chunk[start] & 0xC0 == 0xC0 else at
