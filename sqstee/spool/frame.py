"""The spool's frame format, version 1: written by `segments`, read by `reader`, packed into bodies by ship/pack. Pure.

A frame is a header, the header's CRC and a payload. All integers are little-endian; CRCs are zlib's CRC-32.

    magic 4s, version B, kind B, flags B, stream B, time Q (ns since the epoch), first seq Q, lines completed I,
    payload length I, payload CRC I, header CRC I (over the header up to here)

META describes the run: its payload is a JSON object (see run_events). LINES holds bytes as they were read; a line
that is unfinished at its end goes on in the stream's next frame. RECORD holds one line with fields of its own: the
fields of its record on the wire except time, host, run and seq, as a JSON object. EVENT and GAP hold an event likewise.

Flags of LINES: CUT, the frame completes a line that has no newline; FRESH, the reader discards the stream's unfinished
line before it adds this frame; CONTINUES, the frame's first line, or its part of one, continues a line that was cut.
The five bits from LEVEL_SHIFT on hold the lines' level (an index into record.LEVELS).

The frames alone determine (run, seq) of every line.

On a full disk no frame may be left to tell of dropped lines while the run goes on. A note does so, for recovery alone:

    end of the seqs that were given out Q, streams whose unfinished line was dropped B, CRC-32 of all before it I

Later versions keep magic, version, length and CRCs where they are, so that this one recognises them and leaves them
untouched.
"""

from __future__ import annotations

import zlib
from _struct import Struct

MAGIC = b"sqtf"
VERSION = 1
HEADER = Struct("<4sBBBBQQIII")
HEADER_CRC = Struct("<I")
HEADER_BYTES = HEADER.size + HEADER_CRC.size

_NOTE = Struct("<QB")
NOTE_BYTES = _NOTE.size + HEADER_CRC.size  # less than a header: a reader cannot take it for one

META, LINES, EVENT, GAP, RECORD = 1, 2, 3, 4, 5
STREAM_COUNT = 4  # their names are record.STREAMS
CUT, FRESH, CONTINUES = 1, 2, 128
LEVEL_SHIFT, LEVEL_MASK = 2, 31

Position = tuple[int, int]  # segment number, offset in bytes
Range = tuple[int, int]  # first and last seq, both included


class NewerFormatError(ValueError):
    """A newer version of sqstee has written a run; this one must not touch it."""

    def __init__(self, version: int) -> None:
        super().__init__(f"written by a newer sqstee (spool format {version}): use that version")


class Frame:
    """One frame: its fields, where it starts (`position`) and where it ends (`end`)."""

    __slots__ = ("end", "first", "flags", "kind", "lines", "payload", "position", "stream", "time_ns")

    def __init__(
        self,
        kind: int,
        first: int,
        lines: int,
        payload: bytes,
        time_ns: int,
        position: Position,
        end: Position,
        stream: int = 0,
        flags: int = 0,
    ) -> None:
        self.kind = kind
        self.flags = flags
        self.stream = stream
        self.time_ns = time_ns
        self.first = first
        self.lines = lines
        self.payload = payload
        self.position = position
        self.end = end


def pack_frame_header(
    kind: int, flags: int, stream: int, time_ns: int, first: int, lines: int, payload: bytes
) -> bytes:
    """The header of a frame, with both checksums."""
    header = HEADER.pack(MAGIC, VERSION, kind, flags, stream, time_ns, first, lines, len(payload), zlib.crc32(payload))
    return header + HEADER_CRC.pack(zlib.crc32(header))


def pack_note(next_seq: int, streams: int) -> bytes:
    """The note that every seq below `next_seq` was given out; `streams` has a bit for each dropped unfinished line."""
    note = _NOTE.pack(next_seq, streams)
    return note + HEADER_CRC.pack(zlib.crc32(note))


def unpack_note(rest: bytes) -> tuple[int, int] | None:
    """The note at the end of `rest`, the blank blocks behind a segment's last frame; None if there is none."""
    blank, note, crc = rest[:-NOTE_BYTES], rest[-NOTE_BYTES : -HEADER_CRC.size], rest[-HEADER_CRC.size :]
    if len(note) < _NOTE.size or blank.strip(b"\0") or HEADER_CRC.pack(zlib.crc32(note)) != crc:
        return None
    next_seq, streams = _NOTE.unpack(note)
    return next_seq, streams


def gap_fields(first: int, last: int, reason: str) -> dict[str, object]:
    """The fields of a gap event that covers the seqs `first`..`last`."""
    count = last - first + 1
    message = f"{count:,} line{'s' if count > 1 else ''} dropped: {reason}"
    return {"event": "gap", "message": message, "from": first, "to": last, "reason": reason}
