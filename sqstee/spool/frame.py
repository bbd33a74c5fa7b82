"""The spool's frame format, version 1. Pure: what is written by `spool`, read by `replay` and packed by `pack`.

A frame is HEADER, header CRC, payload. All integers are little-endian; CRCs are zlib's CRC-32.

    magic 4s | version B | kind B | flags B | stream B | time Q (ns since the epoch) | first seq Q | lines completed I
    | payload length I | payload CRC I | header CRC I (over all of the header before it)

LINES holds the bytes as they were read, an unfinished line included: it goes on in the stream's next frame. With CUT
the frame ends a piece that has no newline; with FRESH whatever was unfinished before it is to be forgotten. Above
LEVEL_SHIFT the flags hold the lines' level (an index into record.LEVELS). So (run, seq) of every line follows from the
frames alone.
"""

from __future__ import annotations

import zlib
from _struct import Struct

MAGIC = b"sqtf"
VERSION = 1
HEADER = Struct("<4sBBBBQQIII")
HEADER_CRC = Struct("<I")
HEADER_BYTES = HEADER.size + HEADER_CRC.size

META, LINES, EVENT, GAP = 1, 2, 3, 4
CUT, FRESH = 1, 2
LEVEL_SHIFT = 2

Position = tuple[int, int]  # segment number, offset in bytes
Range = tuple[int, int]  # first and last seq, both included


class Frame:
    """One frame: what it holds, where it starts (`position`) and where it ends (`end`)."""

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


def gap_fields(first: int, last: int, reason: str) -> dict[str, object]:
    """The fields of a gap event over the seqs `first`..`last`."""
    count = last - first + 1
    message = f"{count} line{'s' if count > 1 else ''} dropped: {reason}"
    return {"event": "gap", "message": message, "from": first, "to": last, "reason": reason}
