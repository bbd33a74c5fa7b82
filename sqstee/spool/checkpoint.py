"""The checkpoint of a run, its file `state`: the acknowledged position, and the plan of bodies that may have been sent.

The file has two slots, at offsets 0 and 2048, which are written in turn so that a torn write leaves the older one
intact. (A pwrite costs 1 µs, a rename 220 µs.) The intact slot with the higher generation is in force. A slot:

    magic 4s | version B | ranges in the plan B | 2 bytes of padding | generation Q | next seq Q | segment I | offset Q
    | PLAN_SLOTS ranges of first and last seq QQ | CRC-32 of all before it I

All integers are little-endian and unaligned.
"""

from __future__ import annotations

import errno
import os
import zlib
from _struct import Struct

from sqstee.fds import UNTRUSTED, open_untrusted
from sqstee.record import MAX_SEQ
from sqstee.spool.frame import HEADER_CRC, VERSION, NewerFormatError, Position, Range

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

START: Position = (1, 0)
PLAN_LIMIT = 80  # unacknowledged bodies at once: sixteen requests of four, or eight of ten
PLAN_SLOTS = 100  # ranges in the file: a divided body has several
_SLOT = Struct(f"<4sBBxxQQIQ{2 * PLAN_SLOTS}Q")
_SLOT_BYTES = 2048
_FILE_BYTES = _SLOT_BYTES + _SLOT.size + HEADER_CRC.size
_STATE_MAGIC = b"sqts"


class Checkpoint:
    """How far a run is acknowledged: every seq below `next`.

    Reading from `position` on rebuilds every seq from `next` on. `plan` has the ranges of the bodies that were handed
    to the transport and are not acknowledged. Raises NewerFormatError.
    """

    def __init__(self, folder: str) -> None:
        self._path = f"{folder}/state"
        self._fd = -1
        self._generation = 0
        self.next = 0
        self.position = START
        self.plan: list[Range] = []
        self._load()

    def save(self, next_seq: int, position: Position, plan: Sequence[Range]) -> None:
        """Write the checkpoint. Raises OSError if the disk refuses; the one before stays in force then."""
        if self._fd < 0:
            self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | UNTRUSTED, 0o600)
        numbers = [seq for pair in plan for seq in pair]
        numbers += [0] * (2 * PLAN_SLOTS - len(numbers))
        slot = _SLOT.pack(
            _STATE_MAGIC,
            VERSION,
            len(plan),
            self._generation + 1,
            next_seq,
            position[0],
            position[1],
            *numbers,
        )
        slot += HEADER_CRC.pack(zlib.crc32(slot))
        if os.pwrite(self._fd, slot, (self._generation + 1) % 2 * _SLOT_BYTES) < len(slot):  # the disk is full
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._generation += 1
        self.next, self.position, self.plan = next_seq, position, list(plan)

    def has_room(self) -> bool:
        """Whether the disk has room for the file, which is allocated; without one, no segment is ever freed."""
        try:
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | UNTRUSTED, 0o600)
            try:
                os.posix_fallocate(fd, 0, _FILE_BYTES)
            finally:
                os.close(fd)
        except OSError as error:  # any other one says nothing of room: the folder may have gone, all of it delivered
            return error.errno not in (errno.ENOSPC, errno.EDQUOT)
        return True

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _load(self) -> None:
        try:
            with open(self._path, "rb", opener=open_untrusted) as file:
                data = file.read(_FILE_BYTES)
        except FileNotFoundError:
            return
        for start in (0, _SLOT_BYTES):
            self._load_slot(data[start : start + _SLOT.size + HEADER_CRC.size])

    def _load_slot(self, slot: bytes) -> None:
        if len(slot) < _SLOT.size + HEADER_CRC.size:
            return
        if HEADER_CRC.unpack_from(slot, _SLOT.size)[0] != zlib.crc32(slot[: _SLOT.size]):
            return
        magic, version, count, generation, next_seq, segment, offset, *numbers = _SLOT.unpack_from(slot)
        if magic == _STATE_MAGIC and version > VERSION:
            raise NewerFormatError(version)
        sensible = version == VERSION and count <= PLAN_SLOTS and next_seq <= MAX_SEQ and max(numbers) <= MAX_SEQ
        if magic == _STATE_MAGIC and sensible and generation > self._generation:
            self._generation, self.next, self.position = generation, next_seq, (segment, offset)
            self.plan = [(numbers[2 * at], numbers[2 * at + 1]) for at in range(count)]
